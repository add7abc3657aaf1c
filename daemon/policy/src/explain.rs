//! Which lines were looked at, and why each did or did not match.

use std::fmt;

use crate::decide::Policy;
use crate::decision::{Decision, RuleRef};
use crate::matching::Outcome;
use crate::request::{Call, Request};
use crate::rule::{Rule, Verb};
use crate::system::SystemInfo;
use crate::token::Token;

/// One line that was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// Where it is.
    pub rule: RuleRef,
    /// The rule in its canonical form.
    pub text: String,
    /// Whether it is the one that decided.
    pub matched: bool,
    /// Why it did or did not match, for people.
    pub why: String,
}

/// How a decision came about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// What was seen before any rule: a target that is not in the system, a broken policy.
    pub notes: Vec<String>,
    /// The rules for this service in their order, up to the one that decided.
    pub steps: Vec<Step>,
    /// If the user is asked and the choices were collected: the rules that had a part in that, in
    /// their order. For each target the first of them decides.
    pub offers: Vec<Step>,
    /// Rules that were not looked at because they are for other services.
    pub other_services: usize,
    /// The outcome.
    pub decision: Decision,
}

impl Policy {
    /// Decides as [`decide`](Policy::decide) does, and says how it came to that.
    pub fn explain(&self, system: &SystemInfo, request: &Request<'_>) -> Explanation {
        let decision = self.decide(system, request);
        let relevant = self.for_service(request.service).count();
        let mut explanation = Explanation {
            notes: Vec::new(),
            steps: Vec::new(),
            offers: Vec::new(),
            other_services: self.rules().len().saturating_sub(relevant),
            decision,
        };
        if let Some(error) = self.error() {
            explanation.notes.push(format!("the policy is broken, so everything is denied: {error}"));
            return explanation;
        }
        match Call::new(system, request) {
            Err(deny) => explanation.notes.push(format!("denied before any rule: {}", deny.reason)),
            Ok(call) => self.trace(&call, &mut explanation),
        }
        explanation
    }

    fn trace(&self, call: &Call<'_>, explanation: &mut Explanation) {
        if let Some(name) = call.unknown_target {
            explanation.notes.push(format!("{name:?} is not in the system; taken as @default"));
        }
        if call.source.domain.is_none() {
            explanation.notes.push(format!("the source {:?} is not in the system", call.source.text));
        }
        for rule in self.for_service(call.service) {
            let outcome = rule.outcome(call);
            let ends = !matches!(outcome, Ok(Outcome::Argument | Outcome::Source | Outcome::Target));
            let (matched, why) = match outcome {
                Err(fault) => (false, format!("cannot be evaluated, so the call is denied: {}", fault.0)),
                Ok(Outcome::Matched) => (true, format!("matches: {}", verdict(rule, &explanation.decision))),
                Ok(Outcome::Argument) => (false, why_argument(rule, call)),
                Ok(Outcome::Source) => {
                    (false, why_not(&rule.source, &format!("the source {}", call.source.text)))
                }
                Ok(Outcome::Target) => (false, why_not(&rule.target, &format!("the target {}", call.asked))),
            };
            explanation.steps.push(Step { rule: RuleRef::of(rule), text: rule.to_string(), matched, why });
            if ends {
                if matched && rule.action.verb == Verb::Ask && rule.action.target.is_none() {
                    explanation.offers = self.offers(call);
                }
                return;
            }
        }
    }

    /// Which rules put targets among the choices, or keep them out.
    fn offers(&self, call: &Call<'_>) -> Vec<Step> {
        self.offering(call)
            .into_iter()
            .map(|rule| {
                let target = rule.action.target.as_ref().unwrap_or(&rule.target);
                let why = match rule.action.verb {
                    Verb::Deny => format!("keeps {target} out"),
                    Verb::Allow | Verb::Ask => format!("offers {target}"),
                };
                Step { rule: RuleRef::of(rule), text: rule.to_string(), matched: false, why }
            })
            .collect()
    }
}

fn verdict(rule: &Rule, decision: &Decision) -> String {
    match (rule.action.verb, &rule.action.target) {
        (Verb::Deny, _) => "denied".to_owned(),
        (verb, _) if matches!(decision, Decision::Deny(_)) => format!("{}, but denied", verb.as_str()),
        (Verb::Allow, None) => "allowed".to_owned(),
        (Verb::Allow, Some(target)) => format!("allowed, but to {target}"),
        (Verb::Ask, None) => "the user is asked".to_owned(),
        (Verb::Ask, Some(target)) => format!("the user is asked about {target}"),
    }
}

fn why_argument(rule: &Rule, call: &Call<'_>) -> String {
    let wanted = rule.argument.as_deref().unwrap_or("*");
    format!("the argument {} is not {wanted}", call.argument)
}

fn why_not(token: &Token, what: &str) -> String {
    match token {
        Token::AnyVm => format!("{what} is dom0, which @anyvm leaves out"),
        Token::AdminVm | Token::Dom0(_) => format!("{what} is not dom0"),
        Token::Tag(tag) => format!("{what} has no tag {tag}"),
        Token::Type(kind) => format!("{what} is not of type {kind}"),
        Token::DispVmTag(tag) => format!("{what} is no disposable of a template with tag {tag}"),
        Token::DispVmOf(name) => format!("{what} is no disposable of {name}"),
        Token::Default => format!("{what} is named, and @default matches only where none is"),
        other => format!("{what} is not {other}"),
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for note in &self.notes {
            writeln!(f, "note: {note}")?;
        }
        for step in &self.steps {
            let mark = if step.matched { "=>" } else { "  " };
            writeln!(f, "{mark} {}: {}\n     {}", step.rule, step.text, step.why)?;
        }
        for (number, step) in self.offers.iter().enumerate() {
            if number == 0 {
                writeln!(f, "   the choices come from these lines; for each target the first one decides:")?;
            }
            writeln!(f, "   {}: {}\n     {}", step.rule, step.text, step.why)?;
        }
        if self.other_services > 0 {
            writeln!(f, "   ({} rules for other services were not looked at)", self.other_services)?;
        }
        match &self.decision {
            Decision::Allow(allow) => write!(f, "allow, target {} ({})", allow.target, allow.rule),
            Decision::Ask(ask) => write!(f, "ask, choices {} ({})", ask.choices.join(" "), ask.rule),
            Decision::Deny(deny) => write!(f, "deny: {}", deny.reason),
        }
    }
}
