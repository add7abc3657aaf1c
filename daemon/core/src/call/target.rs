//! The other end of a call between VMs: the target's daemon.

use wire::control::Message;
use wire::error::Breach;
use wire::escape::Escaped;
use wire::frame::Frame;
use wire::header::ty;
use wire::names::{Ident, Target};

use super::{Help, Stage};
use crate::{CallId, Core, Level, Now, Output, PREPARE_LIMIT, Preparation, Reason, Timer};

impl Core {
    /// The target's daemon sent a message.
    pub fn handle_target_frame(&mut self, now: Now, id: CallId, frame: &Frame) {
        let result = match self.calls.get(&id).map(|call| &call.stage) {
            Some(Stage::Greeting { .. }) => self.target_hello(now, id, frame),
            Some(Stage::Asking) => self.target_answer(id, frame),
            Some(Stage::Watched) if frame.ty == ty::SERVICE_REFUSED => {
                self.put(Output::CloseTarget(id));
                return self.target_lost(now, id);
            }
            // After its answer it has no further message.
            Some(Stage::Watched) => Err(Breach::Trailing.into()),
            _ => Ok(()),
        };
        if let Err(error) = result {
            self.put(Output::CloseTarget(id));
            self.handle_target_closed(now, id, &error.to_string());
        }
    }

    /// The connection to the target's daemon is gone, or could not be made: the end of a call that
    /// runs, and the refusal of one that does not run yet.
    pub fn handle_target_closed(&mut self, now: Now, id: CallId, reason: &str) {
        let Some(call) = self.calls.get(&id) else { return };
        match call.stage {
            Stage::Greeting { .. } | Stage::Asking => {
                let why = format!("allowed, but the daemon of {}: {}", call.to(), Escaped::new(reason));
                self.refuse(id, &why);
            }
            // As it should: the target's daemon closes it when the call is over.
            Stage::Watched => self.ended(now, id, Level::Info, ""),
            Stage::Deciding
            | Stage::Made
            | Stage::Preparing { .. }
            | Stage::Starting { .. }
            | Stage::Served => {}
        }
    }

    /// The target's agent is gone. The caller may still wait for the data link, and hears that none will come if its agent
    /// does not mistake that for something else.
    fn target_lost(&mut self, now: Now, id: CallId) {
        if let Some(ident) = self.calls.get(&id).map(|call| call.ident).filter(Ident::is_looked_up) {
            self.send_agent(&Message::Refused(ident));
        }
        self.ended(now, id, Level::Info, "its target's agent is gone");
    }

    /// The target has no daemon: it does not run.
    pub fn handle_target_absent(&mut self, now: Now, id: CallId) {
        let prepared = self.change(id, |call| {
            let (Stage::Greeting { request }, Help::MayStart, Some(to)) =
                (&mut call.stage, call.help, &call.to)
            else {
                return None;
            };
            let (request, to) = (std::mem::take(request), to.clone());
            call.help = Help::Started;
            call.stage = Stage::Preparing { request };
            Some(to)
        });
        let Some(Some(to)) = prepared else {
            return self.handle_target_closed(now, id, "it does not run");
        };
        self.timers.set(Timer::Call(id), now.saturating_add(PREPARE_LIMIT));
        self.put(Output::Prepare(id, Preparation::Start(to)));
    }

    /// The target has been started or made, and is to be found under this name; or it could not be.
    pub fn handle_prepared(&mut self, now: Now, id: CallId, result: Result<Target, Reason>) {
        let request = self.change(id, |call| match &mut call.stage {
            Stage::Preparing { request } => Some(std::mem::take(request)),
            _ => None,
        });
        let Some(Some(request)) = request else { return };
        match result {
            Ok(to) => self.greet(now, id, to, request),
            Err(reason) => self.refuse(id, &format!("allowed, but {}", Escaped::new(&reason.to_string()))),
        }
    }

    pub(crate) fn target_too_slow(&mut self, id: CallId) {
        let why = match self.calls.get(&id).map(|call| &call.stage) {
            None => return,
            Some(Stage::Made) => "allowed, but the policy program has not made the call",
            Some(Stage::Preparing { .. }) => "allowed, but the target does not come up",
            Some(_) => {
                self.put(Output::CloseTarget(id));
                "allowed, but the target's daemon does not answer"
            }
        };
        self.refuse(id, why);
    }
}
