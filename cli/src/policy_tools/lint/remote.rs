//! Lines by which qubes of other machines may call, too: `@anyvm` is every qube, and a remote one is a qube.

use std::collections::BTreeSet;
use std::sync::Arc;

use policy::{Rule, SystemInfo, Token, Verb};

use super::cover::covers;

/// What is known of the relays of remote qubes, and what the lines so far deny them.
#[derive(Debug, Default)]
pub struct Relays {
    names: BTreeSet<String>,
    denials: Vec<Rule>,
}

impl Relays {
    /// The relays of this system.
    #[must_use]
    pub fn of(system: &SystemInfo) -> Self {
        let remote = system.domains().iter().filter(|domain| domain.is_remote());
        Self { names: remote.filter_map(|domain| domain.relayvm.clone()).collect(), denials: Vec::new() }
    }

    /// What is to be said about a rule; the rules come in the policy's order.
    pub(super) fn look(&mut self, rule: &Rule) -> Option<String> {
        if rule.action.verb == Verb::Deny {
            self.denials.push(rule.clone());
            return None;
        }
        if !matches!(rule.source, Token::Any | Token::AnyVm) {
            return None;
        }
        let shut_in = |name: &&String| !self.is_shut_out(name, rule);
        let open: Vec<&str> = self.names.iter().filter(shut_in).map(String::as_str).collect();
        let first = *open.first()?;
        let dom0 = matches!(rule.target, Token::Any | Token::AdminVm | Token::Dom0(_));
        let others = match open.len() {
            1 => String::new(),
            more => format!(", and the same for {} more", more.saturating_sub(1)),
        };
        let target = if dom0 { "*" } else { "@anyvm" };
        Some(format!(
            "remote qubes of {first} may call by this line, too; unless they shall, put before it \
             `* * @tag:relayvm-{first} {target} deny`{others}"
        ))
    }

    /// Whether lines before it deny whatever this rule would let qubes of the relay do.
    fn is_shut_out(&self, relay: &str, rule: &Rule) -> bool {
        let tag = Token::Tag(Arc::from(format!("relayvm-{relay}")));
        let denied = |target: Token| {
            let wanted = Rule { source: tag.clone(), target, ..rule.clone() };
            self.denials.iter().any(|denial| {
                let everybody = matches!(denial.source, Token::Any | Token::AnyVm);
                let all_qubes = matches!(denial.target, Token::AnyVm)
                    && matches!(wanted.target, Token::Tag(_) | Token::Uuid(_) | Token::Type(_));
                let mut denial = denial.clone();
                if everybody {
                    denial.source = Token::Any;
                }
                if all_qubes {
                    denial.target = Token::Any;
                }
                covers(&denial, &wanted)
            })
        };
        match &rule.target {
            Token::Any => denied(Token::Any) || denied(Token::AnyVm) && denied(Token::AdminVm),
            Token::Dom0(_) => denied(rule.target.clone()) || denied(Token::AdminVm),
            target => denied(target.clone()),
        }
    }
}
