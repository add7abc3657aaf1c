//! Whether one rule speaks about one call.

use crate::asked::{Asked, Fault, Party, default_template};
use crate::request::Call;
use crate::rule::Rule;
use crate::system::SystemInfo;
use crate::token::Token;

/// Where a rule stopped to match.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Matched,
    Argument,
    Source,
    Target,
}

impl Rule {
    /// Everything but the target; the service is the index's business.
    pub(crate) fn matches_but_target(&self, call: &Call<'_>) -> Result<(), Outcome> {
        if self.argument.as_deref().is_some_and(|argument| argument != call.argument) {
            return Err(Outcome::Argument);
        }
        if !call.source.matches(call.system, &self.source) {
            return Err(Outcome::Source);
        }
        Ok(())
    }

    /// Whether this rule decides the call.
    pub(crate) fn outcome(&self, call: &Call<'_>) -> Result<Outcome, Fault> {
        if let Err(outcome) = self.matches_but_target(call) {
            return Ok(outcome);
        }
        let matched = target_matches(&self.target, call)?;
        Ok(if matched { Outcome::Matched } else { Outcome::Target })
    }
}

fn target_matches(token: &Token, call: &Call<'_>) -> Result<bool, Fault> {
    let system = call.system;
    Ok(match token {
        Token::Any => true,
        Token::AnyVm => !call.asked.is_dom0(),
        Token::AdminVm | Token::Dom0(_) => call.asked.is_dom0(),
        Token::Default => call.asked == Asked::Default,
        Token::DispVm => call.asked == Asked::DispVm,
        Token::DispVmOf(name) => match call.asked {
            Asked::DispVm => match default_template(&call.source)? {
                Some(template) => template == &**name,
                None => return Err(Fault(format!("{:?} has no default_dispvm", call.source.text))),
            },
            Asked::Template(template) => Party::new(system, template).is(system, name),
            _ => false,
        },
        Token::DispVmTag(tag) => match call.asked {
            Asked::DispVm => match default_template(&call.source)? {
                Some(template) => is_tagged_template(system, template, tag)?,
                None => false,
            },
            Asked::Template(template) => is_tagged_template(system, template, tag)?,
            _ => false,
        },
        Token::Name(_) | Token::Uuid(_) | Token::Tag(_) | Token::Type(_) => {
            call.target.is_some_and(|target| target.matches(system, token))
        }
    })
}

fn is_tagged_template(system: &SystemInfo, name: &str, tag: &str) -> Result<bool, Fault> {
    match system.get(name) {
        Some(domain) => Ok(domain.template_for_dispvms && domain.has_tag(tag)),
        None => Err(Fault(format!("the template {name:?} is not in the system"))),
    }
}
