//! One question as a line of JSON, and its answer as another.

use std::collections::BTreeMap;

use policy::{Decision, Files, Policy, Request, SystemInfo, split_service};
use serde::{Deserialize, Serialize};

/// A policy, a system and a request, all in one line.
#[derive(Debug, Deserialize)]
pub(super) struct Question {
    /// Files of `policy.d` by name.
    policy: BTreeMap<String, String>,
    /// Files of the old folder, for `!compat-4.0`.
    compat: Option<BTreeMap<String, String>>,
    /// Files to include, by the name that the directive gives.
    include: Option<BTreeMap<String, String>>,
    system_info: SystemInfo,
    source: String,
    target: String,
    /// With its argument if `argument` is missing.
    service: String,
    argument: Option<String>,
    requested_source: Option<String>,
    assume_yes: Option<bool>,
    just_evaluate: Option<bool>,
    /// What the user answers if they are asked.
    choice: Option<String>,
}

/// The decision; fields that have no meaning for this result are `null`.
#[derive(Debug, Default, Serialize)]
pub(super) struct Answer {
    /// `allow`, `ask`, `deny`, or `error` for a question or policy that could not be read.
    pub(super) result: &'static str,
    target: Option<String>,
    user: Option<String>,
    autostart: Option<bool>,
    notify: Option<bool>,
    targets_for_ask: Option<Vec<String>>,
    default_target: Option<String>,
    /// `FILE:LINE` of the line that decided.
    rule: Option<String>,
    /// What the policy socket would answer; `null` as long as the user was not asked.
    answer: Option<String>,
    /// Why it was denied, or what is wrong.
    reason: Option<String>,
    /// Which lines were looked at; only when that was wanted.
    #[serde(skip_serializing_if = "Option::is_none")]
    explanation: Option<String>,
}

impl Answer {
    /// Something that could not be understood denies.
    pub(super) fn error(reason: impl ToString) -> Self {
        Self {
            result: "error",
            answer: Some("result=deny".to_owned()),
            reason: Some(reason.to_string()),
            ..Self::default()
        }
    }

    pub(super) fn of(decision: &Decision) -> Self {
        match decision {
            Decision::Allow(allow) => Self {
                result: "allow",
                target: Some(allow.target.clone()),
                user: allow.user.clone(),
                autostart: Some(allow.autostart),
                notify: Some(allow.notify),
                rule: Some(allow.rule.to_string()),
                answer: Some(decision.answer()),
                ..Self::default()
            },
            Decision::Ask(ask) => Self {
                result: "ask",
                user: ask.user.clone(),
                autostart: Some(ask.autostart),
                notify: Some(ask.notify),
                targets_for_ask: Some(ask.choices.clone()),
                default_target: ask.default_target.clone(),
                rule: Some(ask.rule.to_string()),
                ..Self::default()
            },
            Decision::Deny(deny) => Self {
                result: "deny",
                notify: Some(deny.notify),
                rule: deny.rule.as_ref().map(ToString::to_string),
                answer: Some(decision.answer()),
                reason: Some(deny.reason.clone()),
                ..Self::default()
            },
        }
    }
}

impl Question {
    /// Decides, and explains if that is wanted.
    pub(super) fn answer(&self, explain: bool) -> Answer {
        let policy = match Policy::compile(&self.files()) {
            Ok(policy) => policy,
            Err(error) => return Answer::error(error),
        };
        let request = self.request();
        let mut decision = policy.decide(&self.system_info, &request);
        if let (Decision::Ask(ask), Some(choice)) = (&decision, &self.choice) {
            decision = ask.choose(&self.system_info, choice);
        }
        let explanation = explain.then(|| policy.explain(&self.system_info, &request).to_string());
        Answer { explanation, ..Answer::of(&decision) }
    }

    fn files(&self) -> Files {
        let each = |files: &Option<BTreeMap<String, String>>| files.clone().unwrap_or_default().into_iter();
        let files =
            self.policy.iter().fold(Files::new(), |files, (name, text)| files.policy(name, text.as_str()));
        let files = each(&self.include).fold(files, |files, (name, text)| files.include(name, text));
        each(&self.compat).fold(files, |files, (name, text)| files.compat(name, text))
    }

    fn request(&self) -> Request<'_> {
        let (service, argument) = match &self.argument {
            Some(argument) => (self.service.as_str(), argument.as_str()),
            None => split_service(&self.service),
        };
        Request {
            source: &self.source,
            target: &self.target,
            service,
            argument,
            requested_source: self.requested_source.as_deref(),
            assume_yes: self.assume_yes.unwrap_or_default(),
            just_evaluate: self.just_evaluate.unwrap_or_default(),
        }
    }
}
