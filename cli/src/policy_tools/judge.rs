//! One question to the policy, from its text to its answer: decided, taken to the user, told, logged.

use std::os::fd::BorrowedFd;
use std::sync::Arc;

use policy::{Ask, Decision, Policy, Request, SystemInfo, split_service};
use wire::escape::Escaped;

use super::people::{Notice, People, Prompt, Reply};

/// The answer to whatever is not allowed.
pub const DENY: &str = "result=deny";

/// A question as it came, none of it checked: the policy does that.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Question {
    /// The calling qube.
    pub source: String,
    /// What it asked for.
    pub target: String,
    /// `SERVICE` or `SERVICE+ARGUMENT`.
    pub service: String,
    /// The remote qube in whose name it calls.
    pub requested_source: Option<String>,
    /// Take a question to the user as answered with the asked-for target.
    pub assume_yes: bool,
    /// Only the verdict; nobody is asked or told.
    pub just_evaluate: bool,
}

impl Question {
    /// In the engine's terms.
    #[must_use]
    pub fn request(&self) -> Request<'_> {
        let mut request = Request::new(&self.source, &self.target, &self.service);
        request.requested_source = self.requested_source.as_deref();
        request.assume_yes = self.assume_yes;
        request.just_evaluate = self.just_evaluate;
        request
    }

    /// `SOURCE -> TARGET: SERVICE`; in front of the relay that calls stands in whose name it does.
    fn shown(&self) -> String {
        let [source, target, service] = [&self.source, &self.target, &self.service].map(Escaped::new);
        match self.requested_source.as_deref().filter(|name| !name.is_empty()).map(Escaped::new) {
            Some(claimed) => format!("{claimed} (by {source}) -> {target}: {service}"),
            None => format!("{source} -> {target}: {service}"),
        }
    }

    fn log(&self, what: &str) {
        tracing::info!("{}: {what}", self.shown());
    }
}

/// A question and what the policy says to it.
#[derive(Debug)]
pub struct Case {
    question: Question,
    decision: Decision,
    system: Arc<SystemInfo>,
    /// On a machine of R3: where to ask for qubes that name no GUI qube.
    home: Option<&'static str>,
    /// Whether the user may say yes to all further calls.
    always: bool,
}

/// A case that is closed.
#[derive(Debug)]
pub struct Closed {
    /// The answer text.
    pub answer: String,
    /// Whom to tell about it.
    pub told: Option<Told>,
    /// The question and the target that the user chose for all further calls, too.
    pub always: Option<(Ask, String)>,
}

/// A notice and the qube where it is to be shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// Where.
    pub guivm: String,
    /// What.
    pub notice: Notice,
}

impl Case {
    /// Decides by the rules.
    #[must_use]
    pub fn new(policy: &Policy, system: Arc<SystemInfo>, question: Question) -> Self {
        let decision = policy.decide(&system, &question.request());
        Self { question, decision, system, home: None, always: false }
    }

    /// The same on a machine of R3, which has no GUI qubes: dom0 asks for those that name none, and may
    /// offer to `always` allow such calls.
    #[must_use]
    pub fn of_r3(self, always: bool) -> Self {
        Self { home: Some("dom0"), always, ..self }
    }

    /// Who asks.
    #[must_use]
    pub fn source(&self) -> &str {
        &self.question.source
    }

    /// The question that the user would have to answer.
    #[must_use]
    pub fn asks(&self) -> Option<&Ask> {
        match &self.decision {
            Decision::Ask(ask) => Some(ask),
            _ => None,
        }
    }

    /// The answer, if it needs nobody to be asked or told; else the case again.
    ///
    /// # Errors
    /// The case, to be closed with [`Case::close`].
    pub fn settle(self) -> Result<String, Box<Self>> {
        if matches!(self.decision, Decision::Ask(_)) || self.told().is_some() {
            return Err(Box::new(self));
        }
        Ok(self.answer())
    }

    /// The answer, after the user was asked if they had to be, and whom to tell about it afterwards. Gives
    /// up when the other end of `caller` is closed.
    pub fn close(mut self, people: &People, caller: Option<BorrowedFd<'_>>) -> Closed {
        let mut always = None;
        if let Decision::Ask(ask) = &self.decision {
            let (service, argument) = split_service(&self.question.service);
            let prompt = Prompt { always: self.always, ..Prompt::new(ask, &self.system, service, argument) };
            let reply = match self.guivm(ask.source()) {
                Some(guivm) => people.ask(guivm, &prompt, caller).map_err(|error| error.to_string()),
                None => Err(format!("{:?} has no guivm", ask.source())),
            };
            self.decision = match reply {
                Ok(Reply::Allow(target)) => ask.choose(&self.system, &target),
                Ok(Reply::Always(target)) => {
                    let decision = ask.choose(&self.system, &target);
                    always = matches!(decision, Decision::Allow(_)).then(|| (ask.clone(), target));
                    decision
                }
                Ok(Reply::Deny) => Decision::Deny(ask.refuse()),
                Err(reason) => {
                    let mut deny = ask.refuse();
                    deny.reason = format!("the user could not be asked by {}: {reason}", ask.rule);
                    deny.notify = true;
                    Decision::Deny(deny)
                }
            };
        }
        Closed { answer: self.answer(), told: self.told(), always }
    }

    /// The answer text, logged with all there is to say in one line.
    fn answer(&self) -> String {
        let unknown = self.system.note_on(&self.question.target);
        let what = match &self.decision {
            Decision::Allow(allow) => format!("allowed to {} by {}", allow.target, allow.rule),
            Decision::Ask(ask) => format!("denied, {} was not answered", ask.rule),
            Decision::Deny(deny) => format!("denied: {}", deny.reason),
        };
        self.question.log(&format!("{what}{unknown}"));
        self.decision.answer()
    }

    fn guivm(&self, qube: &str) -> Option<&str> {
        let home = self.home.filter(|_| self.system.get(qube).is_some());
        self.system.asked_in(qube).or(home)
    }

    fn told(&self) -> Option<Told> {
        let Question { target, service, just_evaluate, .. } = &self.question;
        let source = self.question.request().speaker(&self.system).to_owned();
        let source = source.as_str();
        let (resolution, target) = match &self.decision {
            Decision::Allow(allow) if allow.notify => ("allow", allow.target.as_str()),
            Decision::Deny(deny) if deny.notify => ("deny", target.as_str()),
            _ => return None,
        };
        let guivm = self.guivm(source).filter(|_| !just_evaluate)?.to_owned();
        let (service, argument) = split_service(service);
        let notice = Notice {
            resolution: resolution.to_owned(),
            service: service.to_owned(),
            argument: argument.to_owned(),
            source: source.to_owned(),
            target: target.to_owned(),
        };
        Some(Told { guivm, notice })
    }
}

impl Told {
    /// That the call which was allowed did not come about.
    #[must_use]
    pub fn of_failure(&self) -> Self {
        let notice = Notice { resolution: "fail".to_owned(), ..self.notice.clone() };
        Self { guivm: self.guivm.clone(), notice }
    }

    /// Shows it.
    pub fn show(&self, people: &People) {
        people.notify(&self.guivm, &self.notice);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SYSTEM: &str = r#"{"domains": {
        "dom0": {"type": "AdminVM", "tags": [], "template_for_dispvms": false},
        "vault": {"type": "AppVM", "tags": [], "template_for_dispvms": false},
        "relay": {"type": "AppVM", "tags": [], "template_for_dispvms": false, "guivm": "gui"},
        "far": {"type": "RemoteVM", "tags": [], "template_for_dispvms": false, "relayvm": "relay", "transport_rpc": "t"}}}"#;

    fn case(source: &str, claimed: Option<&str>, policy: &str) -> Case {
        let policy = policy::Policy::compile(&policy::Files::new().policy("1.policy", policy)).unwrap();
        let question = Question {
            source: source.to_owned(),
            target: "vault".to_owned(),
            service: "a.B".to_owned(),
            requested_source: claimed.map(str::to_owned),
            ..Question::default()
        };
        Case::new(&policy, Arc::new(SystemInfo::from_json(SYSTEM.as_bytes()).unwrap()), question)
    }

    #[test]
    fn calls_are_logged_and_told_under_the_name_that_is_believed() {
        for (source, claimed, shown, told) in [
            ("relay", Some("far"), "far (by relay) -> vault: a.B", Some(("gui", "far"))),
            ("relay", Some(""), "relay -> vault: a.B", Some(("gui", "relay"))),
            ("relay", Some("vault"), "vault (by relay) -> vault: a.B", Some(("gui", "relay"))),
            ("vault", Some("far"), "far (by vault) -> vault: a.B", None),
            ("dom0", None, "dom0 -> vault: a.B", Some(("dom0", "dom0"))),
        ] {
            let case = case(source, claimed, "* * * * deny\n");
            assert_eq!(case.question.shown(), shown);
            let there = case.told().map(|told| (told.guivm, told.notice.source));
            assert_eq!(there, told.map(|(guivm, source)| (guivm.to_owned(), source.to_owned())), "{shown}");
        }
        assert!(!case("relay\n", Some("f\x1bar"), "").question.shown().contains(['\n', '\x1b']));
    }

    #[test]
    fn a_question_is_asked_where_the_one_who_calls_is_shown() {
        let asked_in = |source, claimed| {
            let case = case(source, claimed, "* * * * ask\n");
            let source = case.asks().map(|ask| ask.source().to_owned())?;
            case.guivm(&source).map(str::to_owned)
        };
        assert_eq!(asked_in("relay", Some("far")).as_deref(), Some("gui"));
        assert_eq!(asked_in("dom0", None).as_deref(), Some("dom0"));
        assert_eq!(asked_in("vault", Some("far")), None);
    }
}
