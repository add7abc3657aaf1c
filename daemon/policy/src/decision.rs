//! What comes out: allowed, to be asked, or denied; and the answer text of each.

use std::fmt;
use std::sync::Arc;

use crate::rule::Rule;
use crate::system::SystemInfo;

/// The line that decided, shown as `FILE:LINE`, or `FILE:implied` for what the old format implies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleRef {
    /// The file as the loader names it.
    pub file: Arc<str>,
    /// The line from 1.
    pub line: Option<u32>,
}

impl RuleRef {
    pub(crate) fn of(rule: &Rule) -> Self {
        Self { file: rule.file.clone(), line: rule.line }
    }
}

impl fmt::Display for RuleRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            Some(line) => write!(f, "{}:{line}", self.file),
            None => write!(f, "{}:implied", self.file),
        }
    }
}

/// The policy's word on a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// The call goes through.
    Allow(Allow),
    /// The user decides.
    Ask(Ask),
    /// The call is refused.
    Deny(Deny),
}

impl Decision {
    /// The answer of the policy socket and the policy program, without final newline. A question
    /// that nobody was asked is a denial.
    pub fn answer(&self) -> String {
        match self {
            Self::Allow(allow) => allow.answer(),
            Self::Ask(_) | Self::Deny(_) => "result=deny".to_owned(),
        }
    }
}

/// An allowed call: where it goes and as what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Allow {
    /// Where the call goes: `dom0`, a qube (the relay, for a remote one), or `@dispvm:TEMPLATE` for
    /// a new disposable.
    pub target: String,
    /// The same as `uuid:…` or `@dispvm:uuid:…`. Never for dom0; not there in systems without
    /// UUIDs. Prefer it to `target`: names can be reused.
    pub target_uuid: Option<String>,
    /// Who runs the service; `None` is the target's default user.
    pub user: Option<String>,
    /// Whether a target that does not run may be started.
    pub autostart: bool,
    /// What the caller asked for, `@default` if that is no qube.
    pub requested_target: String,
    /// The call to make instead of the one asked for, `SERVICE+ARGUMENT`: for a remote qube, the
    /// transport of its relay.
    pub service: Option<String>,
    /// The source that the service must be told instead of the caller: the remote qube in whose
    /// name a relay calls.
    pub policy_source: Option<String>,
    /// Whether the user is to be told.
    pub notify: bool,
    /// The line that allowed it.
    pub rule: RuleRef,
    /// Only the verdict was asked for: the answer has nothing else.
    pub just_evaluated: bool,
}

impl Allow {
    /// The answer text; see [`Decision::answer`].
    pub fn answer(&self) -> String {
        if self.just_evaluated {
            return "result=allow".to_owned();
        }
        let user = self.user.as_deref().unwrap_or("DEFAULT");
        let mut text = format!("user={user}\nresult=allow\ntarget={}", self.target);
        let mut add = |key: &str, value: &str| {
            text.push('\n');
            text.push_str(key);
            text.push('=');
            text.push_str(value);
        };
        if let Some(uuid) = &self.target_uuid {
            add("target_uuid", uuid);
        }
        add("autostart", if self.autostart { "True" } else { "False" });
        add("requested_target", &self.requested_target);
        if let Some(service) = &self.service {
            add("service", service);
        }
        if let Some(source) = &self.policy_source {
            add("policy_source", source);
        }
        text
    }
}

/// A call that the user must decide about. Holds all that is needed to go on when they have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ask {
    /// What they may choose from, sorted: names, `dom0`, `@dispvm:TEMPLATE`. Never empty.
    pub choices: Vec<String>,
    /// The choice to offer first; one of `choices`.
    pub default_target: Option<String>,
    /// Who runs the service; `None` is the target's default user.
    pub user: Option<String>,
    /// Whether a target that does not run may be started.
    pub autostart: bool,
    /// Whether the user is to be told of the outcome.
    pub notify: bool,
    /// The line that asks.
    pub rule: RuleRef,
    pub(crate) facts: Facts,
}

impl Ask {
    /// The calling qube as the policy sees it; [`SystemInfo::asked_in`] says where its questions are asked.
    pub fn source(&self) -> &str {
        &self.facts.source
    }

    /// The user allowed the call to `target`. A target that is not among the choices denies.
    pub fn choose(&self, system: &SystemInfo, target: &str) -> Decision {
        if !self.choices.iter().any(|choice| choice == target) {
            let reason = format!("{target:?} is not among the choices of {}", self.rule);
            return Decision::Deny(Deny { reason, notify: true, rule: Some(self.rule.clone()) });
        }
        let grant = Grant {
            target,
            user: self.user.as_deref(),
            autostart: self.autostart,
            notify: self.notify,
            rule: self.rule.clone(),
        };
        self.facts.carry_out(system, grant).map_or_else(Decision::Deny, Decision::Allow)
    }

    /// The user refused, or could not be asked.
    pub fn refuse(&self) -> Deny {
        let reason = format!("denied by the user, asked by {}", self.rule);
        Deny { reason, notify: self.notify, rule: Some(self.rule.clone()) }
    }
}

/// A refused call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deny {
    /// For the log; names of the other side in it are quoted and escaped.
    pub reason: String,
    /// Whether the user is to be told.
    pub notify: bool,
    /// The line that denied it, if one did.
    pub rule: Option<RuleRef>,
}

impl Deny {
    pub(crate) fn bad_request(reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), notify: true, rule: None }
    }

    pub(crate) fn silent(reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), notify: false, rule: None }
    }

    pub(crate) fn by(rule: &Rule, notify: bool, reason: impl fmt::Display) -> Self {
        let rule = RuleRef::of(rule);
        Self { reason: format!("{reason} ({rule})"), notify, rule: Some(rule) }
    }
}

/// What of the call is still needed once its target is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Facts {
    pub(crate) source: String,
    pub(crate) requested_target: String,
    pub(crate) service: String,
    pub(crate) argument: String,
    pub(crate) relayed: bool,
    pub(crate) just_evaluate: bool,
}

/// A permission for one target, before it is known how to get there.
#[derive(Clone)]
pub(crate) struct Grant<'a> {
    pub(crate) target: &'a str,
    pub(crate) user: Option<&'a str>,
    pub(crate) autostart: bool,
    pub(crate) notify: bool,
    pub(crate) rule: RuleRef,
}
