//! The engine: first match decides.

use crate::asked::{Asked, Fault, default_template};
use crate::choices;
use crate::compile;
use crate::decision::{Ask, Decision, Deny, Facts, Grant, RuleRef};
use crate::entry::Sets;
use crate::error::PolicyError;
use crate::index::Index;
use crate::load::Source;
use crate::matching::Outcome;
use crate::request::{Call, Request};
use crate::rule::{Rule, Verb};
use crate::system::SystemInfo;
use crate::token::{Token, is_dom0};

/// A compiled policy. Cheap to ask, never changes.
#[derive(Clone, Debug)]
pub struct Policy {
    rules: Vec<Rule>,
    index: Index,
    broken: Option<PolicyError>,
}

impl Policy {
    /// Reads and compiles everything that the source has. One error anywhere is an error of all.
    ///
    /// # Errors
    ///
    /// The first thing that is wrong: a folder that is missing, a file with a bad name or that
    /// cannot be read, a line that is not understood, an include that leads nowhere or in a circle.
    pub fn compile(source: &dyn Source) -> Result<Self, PolicyError> {
        compile::rules(source).map(Self::from_rules)
    }

    /// As [`compile`](Self::compile), with a policy that denies everything in place of an error.
    pub fn compile_or_deny(source: &dyn Source) -> Self {
        Self::compile(source).unwrap_or_else(Self::broken)
    }

    /// The policy that denies everything, because the real one has this error.
    pub fn broken(error: PolicyError) -> Self {
        Self { rules: Vec::new(), index: Index::default(), broken: Some(error) }
    }

    pub(crate) fn from_rules(mut rules: Vec<Rule>) -> Self {
        rules.shrink_to_fit();
        let index = Index::new(&rules);
        Self { rules, index, broken: None }
    }

    /// Why this policy denies everything, if it does.
    pub fn error(&self) -> Option<&PolicyError> {
        self.broken.as_ref()
    }

    /// All rules in their order.
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// The rules for a service, all of them.
    pub(crate) fn for_service(&self, service: &str) -> impl Iterator<Item = &Rule> {
        self.index.for_service(&self.rules, service)
    }

    /// What a call's source is offered to choose from, and what is kept from it: for each target the
    /// first rule.
    pub(crate) fn offering(&self, call: &Call<'_>) -> Vec<&Rule> {
        self.index.first_for_each_target(&self.rules, call)
    }

    /// Decides a request on the system of this moment.
    pub fn decide(&self, system: &SystemInfo, request: &Request<'_>) -> Decision {
        let mut decision = self.first_match(system, request).unwrap_or_else(Decision::Deny);
        if request.just_evaluate
            && let Decision::Deny(deny) = &mut decision
        {
            deny.notify = false;
        }
        decision
    }

    fn first_match(&self, system: &SystemInfo, request: &Request<'_>) -> Result<Decision, Deny> {
        if let Some(error) = &self.broken {
            return Err(Deny {
                reason: format!("the policy is broken: {error}"),
                notify: !error.syntax,
                rule: None,
            });
        }
        let call = Call::new(system, request)?;
        let sets = Sets::of(&call);
        for rule in self.index.for_call(&self.rules, &call, &sets) {
            let outcome = rule.outcome(&call).map_err(|fault| Deny::by(rule, true, fault.0))?;
            if outcome == Outcome::Matched {
                return self.apply(rule, &call, request);
            }
        }
        Err(Deny::bad_request("no rule matches"))
    }

    fn apply(&self, rule: &Rule, call: &Call<'_>, request: &Request<'_>) -> Result<Decision, Deny> {
        match rule.action.verb {
            Verb::Deny => Err(Deny::by(rule, rule.action.notify, "denied by the policy")),
            Verb::Allow => allow(rule, call, request),
            Verb::Ask => self.ask(rule, call, request),
        }
    }

    fn ask(&self, rule: &Rule, call: &Call<'_>, request: &Request<'_>) -> Result<Decision, Deny> {
        let action = &rule.action;
        let fault = |fault: Fault| Deny::by(rule, true, fault.0);
        let mut choices = match &action.target {
            Some(target) => as_choice(target, call).map_err(fault)?.into_iter().collect(),
            None => choices::collect(self.offering(call), call).map_err(fault)?,
        };
        if !action.autostart {
            // One choice that is not in the system spoils the question.
            let mut running = Vec::new();
            for choice in choices {
                if may_do_without_start(call.system, &choice, rule)? {
                    running.push(choice);
                }
            }
            choices = running;
        }
        let facts = facts(call, request);
        // Nobody is asked about what could not be done.
        let mut impossible = None;
        choices.retain(|target| match facts.carry_out(call.system, grant(rule, target)) {
            Ok(_) => true,
            Err(deny) => {
                impossible.get_or_insert(deny);
                false
            }
        });
        if choices.is_empty() {
            return Err(impossible
                .unwrap_or_else(|| Deny::by(rule, true, "the user would have nothing to choose from")));
        }
        let default_target = match &action.default_target {
            Some(token) => as_choice(token, call).map_err(fault)?,
            None => None,
        };
        let ask = Ask {
            default_target: default_target.filter(|target| choices.contains(target)),
            choices,
            user: action.user.as_deref().map(str::to_owned),
            autostart: action.autostart,
            notify: action.notify,
            rule: RuleRef::of(rule),
            facts,
        };
        if request.assume_yes {
            return Ok(ask.choose(call.system, &ask.facts.requested_target));
        }
        if request.just_evaluate {
            return Err(Deny::by(rule, false, "the user would have to be asked"));
        }
        Ok(Decision::Ask(ask))
    }
}

fn allow(rule: &Rule, call: &Call<'_>, request: &Request<'_>) -> Result<Decision, Deny> {
    let action = &rule.action;
    let wanted = action.target.as_ref().and_then(Asked::redirected).unwrap_or(call.asked);
    let known = wanted.verify(call.system).map_err(|deny| Deny::by(rule, true, deny.reason))?;
    let target = match known {
        Asked::Default => {
            let reason = match wanted {
                Asked::Qube(name) => format!("allowed, but {name:?} is not in the system"),
                _ => "allowed, but neither the caller nor the policy names a target".to_owned(),
            };
            return Err(Deny::by(rule, true, reason));
        }
        Asked::DispVm => {
            let template = default_template(&call.source).map_err(|fault| Deny::by(rule, true, fault.0))?;
            let Some(template) = template else {
                let reason = format!("{:?} has no default_dispvm", call.source.text);
                return Err(Deny::by(rule, true, reason));
            };
            format!("@dispvm:{template}")
        }
        Asked::Admin => "dom0".to_owned(),
        known => known.to_string(),
    };
    if !action.autostart && !may_do_without_start(call.system, &target, rule)? {
        let reason = format!("{target:?} does not run and may not be started");
        return Err(Deny::by(rule, action.notify, reason));
    }
    facts(call, request).carry_out(call.system, grant(rule, &target)).map(Decision::Allow)
}

fn grant<'a>(rule: &'a Rule, target: &'a str) -> Grant<'a> {
    Grant {
        target,
        user: rule.action.user.as_deref(),
        autostart: rule.action.autostart,
        notify: rule.action.notify,
        rule: RuleRef::of(rule),
    }
}

/// `target=` or `default_target=` as it stands among the choices, where qubes have their names. `None` if the
/// caller has no disposables.
fn as_choice(token: &Token, call: &Call<'_>) -> Result<Option<String>, Fault> {
    if token.is_dom0() {
        return Ok(Some("dom0".to_owned()));
    }
    let named = |text: &str| match text.strip_prefix("uuid:").and_then(|_| call.system.get(text)) {
        Some(domain) => domain.name.clone(),
        None => text.to_owned(),
    };
    Ok(match Asked::redirected(token) {
        Some(Asked::DispVm) => {
            let template = default_template(&call.source)?;
            template.map(|template| format!("@dispvm:{template}"))
        }
        Some(Asked::Template(template)) => Some(format!("@dispvm:{}", named(template))),
        _ => Some(named(&token.to_string())),
    })
}

/// With `autostart=no` a target must run: dom0 always does, a new disposable never.
fn may_do_without_start(system: &SystemInfo, target: &str, rule: &Rule) -> Result<bool, Deny> {
    if is_dom0(target) {
        return Ok(true);
    }
    if target.starts_with("@dispvm") {
        return Ok(false);
    }
    match system.get(target) {
        Some(domain) => Ok(domain.is_running()),
        None => Err(Deny::by(rule, true, format!("{target:?} is not in the system"))),
    }
}

fn facts(call: &Call<'_>, request: &Request<'_>) -> Facts {
    Facts {
        source: call.source.text.to_owned(),
        requested_target: call.asked.to_string(),
        service: call.service.to_owned(),
        argument: call.argument.to_owned(),
        relayed: call.relayed,
        just_evaluate: request.just_evaluate,
    }
}
