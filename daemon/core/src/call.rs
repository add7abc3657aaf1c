//! A call that the VM asked for, from its trigger to its end.
//!
//! Policy is asked; then either the target's daemon hands out a port, or a service is started in
//! dom0; then the caller's agent is told where to meet it. Whatever fails before that refuses the
//! caller, whatever fails after it is seen on the data link.

mod target;

use std::sync::Arc;

use wire::command::{Command, CommandKind, Requested, ServiceCall};
use wire::control::{EXEC_LEN, Endpoint, ExecParams, Message, PeerInfo, ServiceParams};
use wire::error::{Breach, PeerError};
use wire::escape::{Escaped, LOG_LIMIT};
use wire::frame::Frame;
use wire::handshake::hello;
use wire::header::ty;
use wire::names::{DomainId, Ident, Port, ServiceName, Target};
use wire::top::{Route, Way};
use wire::trigger::Trigger;
use wire::version::Version;

use super::{
    ANSWER_LIMIT, CallId, Core, HELLO_LIMIT, Known, Level, LocalService, MESSAGE_LIMIT, Moved, Now, Output,
    PREPARE_LIMIT, Preparation, Reason, Timer, fits_the_target, with_endpoint,
};
use crate::question::{Allow, Question, Verdict, caller};
pub(super) use tally::Tally;

mod tally;

/// What a caller's exit status is when it is refused.
const EXIT_REFUSED: i32 = 126;

/// One call.
#[derive(Debug)]
pub(super) struct Call {
    ident: Ident,
    /// The qube in whose name the caller says that it calls.
    claimed: Option<Target>,
    target: Target,
    /// Whole until policy has decided, and shared with the question; then as much as the log shows.
    service: Arc<ServiceName>,
    begun: Now,
    /// The domain whose daemon was asked, once there is one.
    to: Option<Target>,
    /// What policy calls that domain, if its daemon was asked under another name.
    named: Option<Target>,
    /// The rule that allowed it, once one did and is known.
    rule: Option<String>,
    /// Where the caller was told to meet its service.
    port: Option<Port>,
    help: Help,
    stage: Stage,
}

impl Call {
    fn to(&self) -> &str {
        self.named.as_ref().or(self.to.as_ref()).map_or("dom0", Target::as_str)
    }

    /// What became of it, `how` it ended included.
    fn fate(&self, how: &str) -> String {
        let Some(port) = self.port else { return format!("not answered, {how}") };
        let rule = self.rule.as_ref().map(|rule| format!(" by {}", Escaped::new(rule))).unwrap_or_default();
        format!("allowed to {}{rule}, {how}, port {port}", self.to())
    }

    /// Whether it goes on without the caller's agent, and has an end that must be seen.
    fn outlives_agent(&self) -> bool {
        match self.stage {
            Stage::Served => true,
            Stage::Watched => self.help == Help::Disposable,
            _ => false,
        }
    }
}

/// What a call may need beside its target's daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Help {
    /// Nothing.
    None,
    /// A target that does not run may be started.
    MayStart,
    /// It is being started, or has been.
    Started,
    /// A disposable, which goes with the call.
    Disposable,
}

/// How far a call is.
#[derive(Debug)]
enum Stage {
    /// Policy has not decided yet.
    Deciding,
    /// An older policy program has made the call itself, and the local client that tells us where is on its way.
    Made,
    /// The target is being started or made; then its daemon gets this request.
    Preparing { request: Vec<u8> },
    /// The target's daemon owes its HELLO; then it gets this request.
    Greeting { request: Vec<u8> },
    /// The target's daemon owes a port.
    Asking,
    /// A service in dom0 is being started for this port.
    Starting { port: Port },
    /// Answered; the target's daemon closes its connection at the end.
    Watched,
    /// Answered; the service's process is a child of ours.
    Served,
}

impl Stage {
    /// Whether the caller still waits for an answer.
    fn is_pending(&self) -> bool {
        !matches!(self, Self::Watched | Self::Served)
    }
}

impl Core {
    /// The VM asks for a service.
    pub(super) fn call_wanted(&mut self, now: Now, trigger: Trigger) {
        let id = CallId(self.next_id());
        let Trigger { source, target, service, ident } = trigger;
        let service = Arc::new(service);
        let call = Call {
            ident,
            claimed: source.clone(),
            target: target.clone(),
            service: Arc::clone(&service),
            begun: now,
            to: None,
            named: None,
            rule: None,
            port: None,
            help: Help::None,
            stage: Stage::Deciding,
        };
        if let Err(why) = self.tally.room_for(&call, self.settings.max_open) {
            let line = self.line(&call, &format!("refused, {why}"));
            self.log(Level::Warn, line);
            self.send_agent(&Message::Refused(ident));
            return;
        }
        self.tally.count(&call);
        let asked_by = caller(self.settings.name.as_str(), source.as_ref());
        let route = Route::new(Way::Asked, 0, &asked_by, target.as_str(), &service.with_plus());
        self.ledger.begins(now, Known::OfVm(id), route);
        self.calls.insert(id, call);
        let own = self.settings.name.clone();
        let question = Question { source: own, requested_source: source, target, service, ident };
        self.put(Output::Ask(id, question));
    }

    /// Changes a call, and with it what is counted.
    fn change<T>(&mut self, id: CallId, with: impl FnOnce(&mut Call) -> T) -> Option<T> {
        let call = self.calls.get_mut(&id)?;
        self.tally.uncount(call);
        let result = with(call);
        self.tally.count(call);
        Some(result)
    }

    /// Policy has decided.
    pub fn handle_decided(&mut self, now: Now, id: CallId, verdict: Verdict) {
        self.latest = now;
        let Some(call) = self.calls.get_mut(&id) else { return };
        if !matches!(call.stage, Stage::Deciding) {
            return;
        }
        if let Verdict::Allow(allow) = &verdict {
            call.rule.clone_from(&allow.rule);
            let renamed = allow.target_uuid.is_some() && allow.target.keyword().is_none();
            call.named = renamed.then(|| allow.target.clone());
        }
        match verdict {
            Verdict::Deny(reason) => {
                self.refuse(id, &format!("denied: {}", Escaped::new(&reason.to_string())))
            }
            Verdict::Made => {
                self.set_call_stage(id, Stage::Made);
                self.timers.set(Timer::Call(id), now.saturating_add(MESSAGE_LIMIT));
            }
            Verdict::Allow(allow) if allow.is_for_dom0() => self.start_service(id, *allow),
            Verdict::Allow(allow) => self.open_target(now, id, *allow),
        }
    }

    /// A service's process has been started, or could not be, for this reason.
    pub fn handle_service_started(&mut self, id: CallId, result: Result<(), Reason>) {
        let Some(&Call { stage: Stage::Starting { port }, .. }) = self.calls.get(&id) else { return };
        match result {
            Ok(()) => {
                self.answered(id, Endpoint { domain: DomainId::DOM0, port }, Stage::Served);
            }
            Err(reason) => {
                self.ports.release(DomainId::DOM0, port);
                let reason = reason.to_string();
                let reason = Escaped::new(&reason);
                self.refuse(id, &format!("allowed, but the service cannot be started: {reason}"));
            }
        }
    }

    /// A service's process has ended with this status: a warning if it failed. The port is free when the agent says so.
    pub fn handle_service_ended(&mut self, now: Now, id: CallId, status: i32, moved: Option<Moved>) {
        if !matches!(self.calls.get(&id), Some(Call { stage: Stage::Served, .. })) {
            return;
        }
        let counted = moved.map(Into::into);
        let moved = moved
            .map(|Moved { bytes_in, bytes_out }| format!(", {bytes_in} bytes in, {bytes_out} bytes out"));
        let level = if status == 0 { Level::Info } else { Level::Warn };
        self.ledger.ended(now, Known::OfVm(id), Some(status), counted);
        self.ended(now, id, level, &format!("exit code {status}{}", moved.unwrap_or_default()));
    }

    /// The call that waits for an answer under this id.
    pub(super) fn pending_call(&self, ident: Ident) -> Option<CallId> {
        let mut calls = self.calls.iter();
        calls.find(|(_, call)| call.stage.is_pending() && call.ident == ident).map(|(id, _)| *id)
    }

    /// A local client answers this pending call in our place, with the call's id in these bytes.
    pub(super) fn taken_over(&mut self, now: Now, id: CallId, endpoint: Endpoint, ident: &[u8]) {
        self.abandon(id);
        if let Some(call) = self.remove(id) {
            self.put(Output::SendAgent(with_endpoint(ty::SERVICE_CONNECT, endpoint, ident)));
            let waited = now.saturating_sub(call.begun).as_millis();
            let what = format!("connected by a local client to domain {} after {waited} ms", endpoint.domain);
            let line = self.line(&call, &what);
            self.log(Level::Info, line);
        }
    }

    /// The agent is gone, and with it whoever waits. Services in dom0 and in disposables run on until they
    /// end.
    pub(super) fn forget_calls(&mut self) {
        let gone: Vec<CallId> =
            self.calls.iter().filter(|(_, call)| !call.outlives_agent()).map(|(id, _)| *id).collect();
        for id in gone {
            self.abandon(id);
            self.ends_unseen(id, "the agent is gone");
        }
    }

    /// Stops whatever is under way for a call.
    fn abandon(&mut self, id: CallId) {
        self.timers.clear(Timer::Call(id));
        match self.calls.get(&id).map(|call| &call.stage) {
            Some(Stage::Deciding) => self.put(Output::CancelQuestion(id)),
            Some(Stage::Greeting { .. } | Stage::Asking | Stage::Watched) => {
                self.put(Output::CloseTarget(id));
            }
            Some(Stage::Made | Stage::Preparing { .. } | Stage::Starting { .. } | Stage::Served) | None => {}
        }
    }

    /// Forgets a call, and releases what was started or made for it.
    fn remove(&mut self, id: CallId) -> Option<Call> {
        let call = self.calls.remove(&id)?;
        self.tally.uncount(&call);
        self.ledger.ended(self.latest, Known::OfVm(id), None, None);
        if matches!(call.help, Help::Started | Help::Disposable) {
            self.put(Output::Release(id));
        }
        Some(call)
    }

    fn start_service(&mut self, id: CallId, allow: Allow) {
        let Some(requested) = Requested::new(&allow.requested_target) else {
            return self.refuse(id, "allowed, but the requested target is not a name");
        };
        let Some(call) = self.service_call(id, &allow, Some(requested)) else { return };
        let Some(port) = self.ports.reserve(DomainId::DOM0) else {
            return self.refuse(id, "allowed, but no data port is free");
        };
        self.set_call_stage(id, Stage::Starting { port });
        let endpoint = Endpoint { domain: self.settings.id, port };
        self.put(Output::StartService(id, Box::new(LocalService { endpoint, call })));
    }

    fn open_target(&mut self, now: Now, id: CallId, allow: Allow) {
        let Some(call) = self.service_call(id, &allow, None) else { return };
        let user = Some(allow.user.as_str().to_owned());
        let cmdline = Command { user, nogui: false, kind: CommandKind::Service(call) }.to_cmdline();
        let params = ExecParams { connect_domain: self.settings.id, connect_port: Port(0), cmdline };
        let request = match (Message::Exec { just: false, params }).encode(Version::LOCAL_DAEMON) {
            Ok(request) => request,
            Err(error) => return self.refuse(id, &format!("allowed, but {error}")),
        };
        if let Err(too_long) = fits_the_target(&request, &allow.user) {
            return self
                .refuse(id, &format!("allowed, but the target's agent would not read it: {too_long}"));
        }
        let to = allow.daemon();
        if let Some(template) = to.as_str().strip_prefix("@dispvm:") {
            return match Target::new(template) {
                Ok(template) if allow.autostart => self.make_disposable(now, id, template, request),
                _ => self.refuse(id, "allowed, but no disposable may be started"),
            };
        }
        if to.keyword().is_some() {
            return self.refuse(id, "allowed, but the target is no qube");
        }
        if let Some(call) = self.calls.get_mut(&id).filter(|_| allow.autostart) {
            call.help = Help::MayStart;
        }
        self.greet(now, id, to.clone(), request);
    }

    fn make_disposable(&mut self, now: Now, id: CallId, template: Target, request: Vec<u8>) {
        self.change(id, |call| {
            call.help = Help::Disposable;
            call.stage = Stage::Preparing { request };
        });
        self.timers.set(Timer::Call(id), now.saturating_add(PREPARE_LIMIT));
        self.put(Output::Prepare(id, Preparation::Disposable(template)));
    }

    /// Asks the daemon of a target.
    fn greet(&mut self, now: Now, id: CallId, to: Target, request: Vec<u8>) {
        self.change(id, |call| {
            call.to = Some(to.clone());
            call.stage = Stage::Greeting { request };
        });
        self.timers.set(Timer::Call(id), now.saturating_add(HELLO_LIMIT));
        self.put(Output::OpenTarget(id, to));
    }

    /// The service as policy settled it, or as it was asked for. Of its name only what the log shows is kept.
    fn service_call(
        &mut self,
        id: CallId,
        allow: &Allow,
        requested: Option<Requested>,
    ) -> Option<ServiceCall> {
        let asked = self.change(id, |call| {
            let shown = call.service.as_str().get(..=LOG_LIMIT).and_then(|name| ServiceName::new(name).ok());
            let shown = shown.map_or_else(|| Arc::clone(&call.service), Arc::new);
            std::mem::replace(&mut call.service, shown)
        })?;
        // A call without an argument is a call with an empty one: nothing tells the two apart.
        let service = allow.service.as_ref().unwrap_or(&asked);
        let service = ServiceName::new(&service.with_plus()).unwrap_or_else(|_| service.clone());
        let source = allow.policy_source.clone().unwrap_or_else(|| Target::from(&self.settings.name));
        Some(ServiceCall::new(service, source, requested))
    }

    fn target_hello(&mut self, now: Now, id: CallId, frame: &Frame) -> Result<(), PeerError> {
        if frame.ty != ty::HELLO {
            return Err(Breach::UnexpectedType(frame.ty).into());
        }
        let theirs = PeerInfo::decode(&frame.body)?.version;
        Version::negotiate_between(Version::LOCAL_DAEMON, Version::LOCAL_DAEMON, theirs)?;
        // Only called in this stage.
        let before = self.change(id, |call| std::mem::replace(&mut call.stage, Stage::Asking));
        let Some(Stage::Greeting { request }) = before else { return Ok(()) };
        self.timers.set(Timer::Call(id), now.saturating_add(ANSWER_LIMIT));
        self.put(Output::SendTarget(id, hello(Version::LOCAL_DAEMON).to_vec()));
        self.put(Output::SendTarget(id, request));
        Ok(())
    }

    fn target_answer(&mut self, id: CallId, frame: &Frame) -> Result<(), PeerError> {
        if frame.ty != ty::EXEC_CMDLINE {
            return Err(Breach::UnexpectedType(frame.ty).into());
        }
        let Ok(bytes) = <[u8; EXEC_LEN]>::try_from(frame.body.as_slice()) else {
            return Err(Breach::BodyLength { ty: frame.ty, len: frame.body.len() }.into());
        };
        let endpoint = Endpoint::from_bytes(bytes);
        if !endpoint.port.is_data() || endpoint.domain == DomainId::DOM0 {
            self.put(Output::CloseTarget(id));
            self.refuse(id, "allowed, but the target's daemon names an impossible place");
            return Ok(());
        }
        self.timers.clear(Timer::Call(id));
        self.answered(id, endpoint, Stage::Watched);
        let watched = self.tally.watched();
        let disposable = self.calls.get(&id).is_some_and(|call| call.help == Help::Disposable);
        if watched > self.settings.max_watched && !disposable {
            self.abandon(id);
            self.ends_unseen(id, "one of too many to be watched");
        }
        Ok(())
    }

    /// Tells the caller where its service is.
    fn answered(&mut self, id: CallId, endpoint: Endpoint, stage: Stage) {
        self.set_call_stage(id, stage);
        let Some(call) = self.calls.get_mut(&id) else { return };
        let ident = call.ident;
        call.port = Some(endpoint.port);
        self.ledger.allowed(Known::OfVm(id), call.to(), call.rule.as_deref());
        let fate = call.fate("begins");
        if let Some(call) = self.calls.get(&id) {
            let line = self.line(call, &fate);
            self.log(Level::Debug, line);
        }
        self.send_agent(&Message::ServiceConnect(ServiceParams { endpoint, ident }));
    }

    fn refuse(&mut self, id: CallId, why: &str) {
        self.timers.clear(Timer::Call(id));
        self.ledger.refused(self.latest, Known::OfVm(id), EXIT_REFUSED);
        let Some(call) = self.remove(id) else { return };
        // A denial is said as everybody says it.
        let what = if why.starts_with("denied") { why.to_owned() } else { format!("refused, {why}") };
        let line = self.line(&call, &what);
        self.log(Level::Info, line);
        self.send_agent(&Message::Refused(call.ident));
    }

    /// The one line about a call that came about.
    fn ended(&mut self, now: Now, id: CallId, level: Level, how: &str) {
        let Some(call) = self.remove(id) else { return };
        let lasted = now.saturating_sub(call.begun).as_secs_f64();
        let how = if how.is_empty() { String::new() } else { format!(", {how}") };
        let line = self.line(&call, &call.fate(&format!("ended after {lasted:.3} s{how}")));
        self.log(level, line);
    }

    /// The same of one whose end will not be known.
    fn ends_unseen(&mut self, id: CallId, why: &str) {
        let Some(call) = self.remove(id) else { return };
        let line = self.line(&call, &call.fate(&format!("its end is not seen: {why}")));
        self.log(Level::Info, line);
    }

    fn set_call_stage(&mut self, id: CallId, stage: Stage) {
        self.change(id, |call| call.stage = stage);
    }

    /// `qrexec: service: source -> target: what happened`, as upstream says it and others look for it. All of them are of a harmless alphabet already, but
    /// a service name may be very long.
    fn line(&self, call: &Call, what: &str) -> String {
        let Call { claimed, target, service, .. } = call;
        let caller = caller(self.settings.name.as_str(), claimed.as_ref());
        format!("qrexec: {}: {caller} -> {target}: {what}", Escaped::new(&*service.with_plus()))
    }
}
