//! What the user may choose from when a rule asks.

use crate::asked::{Fault, Party, default_template};
use crate::request::Call;
use crate::rule::{Rule, Verb};
use crate::system::{Domain, SystemInfo};
use crate::token::{Token, is_dom0};

/// All targets that `offering`, the rules for this source and service, would allow or ask about, sorted.
///
/// The rules are gone through from last to first: `allow` and `ask` add their targets, `deny` takes
/// its own away, so that for each target the first rule in the policy decides. `@adminvm` and a
/// `dom0` found by name are kept apart until the end, as upstream does.
pub(crate) fn collect(offering: Vec<&Rule>, call: &Call<'_>) -> Result<Vec<String>, Fault> {
    let system = call.system;
    let Some(source) = call.source.domain else {
        return Err(Fault(format!("the source {:?} is not in the system", call.source.text)));
    };
    let mut choices = Choices::none(system);
    for rule in offering.into_iter().rev() {
        let target = rule.action.target.as_ref().unwrap_or(&rule.target);
        choices.set(system, target, rule.action.verb != Verb::Deny)?;
    }
    choices.resolve(system, &call.source, source)
}

/// A set of targets.
struct Choices {
    /// By position in the system.
    qubes: Vec<bool>,
    /// New disposables by their template's position.
    templates: Vec<bool>,
    admin: bool,
    dispvm: bool,
}

impl Choices {
    fn none(system: &SystemInfo) -> Self {
        let count = system.domains().len();
        Self { qubes: vec![false; count], templates: vec![false; count], admin: false, dispvm: false }
    }

    /// Puts in or takes out all that a target column, or a `target=`, stands for.
    fn set(&mut self, system: &SystemInfo, token: &Token, on: bool) -> Result<(), Fault> {
        match token {
            Token::Any | Token::AnyVm => {
                let all = *token == Token::Any;
                for ((qube, template), domain) in
                    self.qubes.iter_mut().zip(&mut self.templates).zip(system.domains())
                {
                    if all || !is_dom0(&domain.name) {
                        *qube = on;
                    }
                    if domain.template_for_dispvms {
                        *template = on;
                    }
                }
                self.dispvm = on;
            }
            Token::AdminVm => self.admin = on,
            Token::Default => {}
            Token::DispVm => self.dispvm = on,
            Token::DispVmOf(name) => {
                let Some(position) = system.position(name) else {
                    return Err(Fault(format!("a rule offers @dispvm:{name}, which is not in the system")));
                };
                self.set_templates(system, &[position], on);
            }
            Token::DispVmTag(tag) => self.set_templates(system, system.tagged(tag), on),
            Token::Tag(tag) => self.set_qubes(system.tagged(tag), on),
            Token::Type(kind) => self.set_qubes(system.of_kind(kind), on),
            Token::Dom0(name) | Token::Uuid(name) | Token::Name(name) => {
                self.set_qubes(system.position(name).as_slice(), on);
            }
        }
        Ok(())
    }

    fn set_qubes(&mut self, positions: &[usize], on: bool) {
        for &position in positions {
            if let Some(slot) = self.qubes.get_mut(position) {
                *slot = on;
            }
        }
    }

    /// Those of the qubes that are templates for disposables.
    fn set_templates(&mut self, system: &SystemInfo, positions: &[usize], on: bool) {
        for &position in positions {
            let is_template =
                system.domains().get(position).is_some_and(|domain| domain.template_for_dispvms);
            if let Some(slot) = self.templates.get_mut(position).filter(|_| is_template) {
                *slot = on;
            }
        }
    }

    /// Expands the keywords and leaves out what must not be offered.
    fn resolve(self, system: &SystemInfo, caller: &Party<'_>, source: &Domain) -> Result<Vec<String>, Fault> {
        let mut names: Vec<String> = Vec::new();
        for (position, domain) in system.domains().iter().enumerate() {
            let is_set = |set: &[bool]| set.get(position).copied().unwrap_or_default();
            if is_set(&self.qubes) && domain.name != source.name {
                names.push(domain.name.clone());
            }
            if is_set(&self.templates) {
                names.push(format!("@dispvm:{}", domain.name));
            }
        }
        if self.admin && source.name != "dom0" {
            names.push("dom0".to_owned());
        }
        if self.dispvm
            && let Some(template) = default_template(caller)?
        {
            names.push(format!("@dispvm:{template}"));
        }
        names.sort_unstable();
        names.dedup();

        let mut offered = Vec::with_capacity(names.len());
        for name in names {
            let key = name.strip_prefix("@dispvm:").unwrap_or(&name);
            match system.get(key) {
                Some(domain) if domain.internal => {}
                Some(_) => offered.push(name),
                None => return Err(Fault(format!("{key:?} would be offered but is not in the system"))),
            }
        }
        Ok(offered)
    }
}
