//! The last step of a permission: how the call gets to its target, and whether it can be made at all.
//!
//! What passes here the daemon carries out. Whatever it could not is denied, so that no log, no answer and no
//! question to the user calls something allowed that is then refused.

use wire::names::{MAX_SERVICE, ServiceName, Target};

use crate::decision::{Allow, Deny, Facts, Grant};
use crate::system::{Domain, SystemInfo};
use crate::token::is_dom0;
use crate::user::User;

/// An answer of the policy has fewer bytes than this.
pub const MAX_ANSWER: usize = 4096;
/// Longest command line that an agent takes, in bytes, with the NUL that ends it.
const MAX_COMMAND: usize = wire::control::MAX_CONTROL_BODY - wire::control::EXEC_LEN;

impl Facts {
    /// The permission in the form in which the daemon carries it out.
    pub(crate) fn carry_out(&self, system: &SystemInfo, grant: Grant<'_>) -> Result<Allow, Deny> {
        let rule = grant.rule.clone();
        self.road(system, grant).map_err(|reason| Deny {
            reason: format!("{reason} ({rule})"),
            notify: true,
            rule: Some(rule),
        })
    }

    fn road(&self, system: &SystemInfo, grant: Grant<'_>) -> Result<Allow, String> {
        let mut allow = Allow {
            target: grant.target.to_owned(),
            target_uuid: None,
            user: grant.user.map(str::to_owned),
            autostart: grant.autostart,
            requested_target: self.requested_target.clone(),
            service: None,
            policy_source: self.relayed.then(|| self.source.clone()),
            notify: grant.notify,
            rule: grant.rule,
            just_evaluated: false,
        };
        if self.source == grant.target {
            return Err(format!("{:?} cannot call itself", grant.target));
        }
        if is_dom0(grant.target) {
            allow.target = "dom0".to_owned();
        } else if let Some(template) = grant.target.strip_prefix("@dispvm:") {
            allow.target_uuid = uuid_of(known(system, template)?, "@dispvm:");
        } else {
            self.to_qube(system, grant.target, &mut allow)?;
        }
        self.check(&allow)?;
        allow.just_evaluated = self.just_evaluate;
        Ok(allow)
    }

    /// The road to a qube, which may be one of another machine.
    fn to_qube(&self, system: &SystemInfo, target: &str, allow: &mut Allow) -> Result<(), String> {
        let domain = known(system, target)?;
        let remote = domain.is_remote().then_some(domain);
        let reached = match remote {
            Some(remote) => known(system, needed(remote, remote.relayvm.as_deref(), "relayvm")?)?,
            None => domain,
        };
        if let Some(remote) = remote {
            let transport = needed(remote, remote.transport_rpc.as_deref(), "transport_rpc")?;
            // The name of the qube that was decided on: no UUID is a part of a service's name, and what was asked for
            // may have been something else.
            let Self { service, argument, .. } = self;
            allow.service = Some(format!("{transport}+{}+{service}{argument}", remote.name));
            // The user is the remote machine's business.
            allow.user = None;
            allow.target.clone_from(&reached.name);
        }
        allow.target_uuid = uuid_of(reached, "");
        Ok(())
    }

    /// Whether the daemon takes these names. It knows the service that was asked for already.
    fn check(&self, allow: &Allow) -> Result<(), String> {
        if let Some(user) = &allow.user {
            User::new(user).map_err(|why| format!("user= {why}"))?;
        }
        let names = [
            Some(&allow.target),
            allow.target_uuid.as_ref(),
            Some(&allow.requested_target),
            allow.policy_source.as_ref(),
        ];
        for name in names.into_iter().flatten() {
            Target::new(name).map_err(|error| format!("{name:?} is no name of a qube: {error}"))?;
        }
        if allow.target_uuid.as_deref().is_some_and(is_dom0_by_uuid) {
            return Err(format!("{:?} has the UUID of dom0", allow.target));
        }
        if let Some(service) = &allow.service {
            ServiceName::new(service)
                .map_err(|error| format!("no service can be made for the relay: {error}"))?;
        }
        let length = if allow.target == "dom0" { 0 } else { self.command_len(allow) };
        if length > MAX_COMMAND {
            return Err(format!("its command would have {length} bytes, a qube takes {MAX_COMMAND}"));
        }
        // All the rest of an answer is a user and four names, and fits by far.
        match &allow.service {
            Some(service) if service.len() > MAX_ANSWER / 2 && allow.answer().len() >= MAX_ANSWER => {
                Err(format!("the relay's service has {} bytes, which no answer has room for", service.len()))
            }
            _ => Ok(()),
        }
    }

    /// Bytes of `USER:QUBESRPC SERVICE+ARGUMENT SOURCE` with the final NUL.
    fn command_len(&self, allow: &Allow) -> usize {
        let service = match &allow.service {
            Some(service) => service.len(),
            None => self.service.len().saturating_add(self.argument.len()),
        };
        let user = allow.user.as_deref().unwrap_or(User::DEFAULT);
        let fixed = ":QUBESRPC  \0".len().saturating_add(user.len()).saturating_add(self.source.len());
        fixed.saturating_add(service.min(MAX_SERVICE))
    }
}

fn known<'a>(system: &'a SystemInfo, name: &str) -> Result<&'a Domain, String> {
    system.get(name).ok_or_else(|| format!("{name:?} is not in the system"))
}

fn needed<'a>(remote: &Domain, value: Option<&'a str>, what: &str) -> Result<&'a str, String> {
    value.ok_or_else(|| format!("the remote qube {:?} has no {what}", remote.name))
}

fn uuid_of(domain: &Domain, prefix: &str) -> Option<String> {
    domain.uuid.as_ref().map(|uuid| format!("{prefix}uuid:{uuid}"))
}

/// Whether a qube that is not dom0 has dom0's UUID.
fn is_dom0_by_uuid(uuid: &str) -> bool {
    is_dom0(uuid.strip_prefix("@dispvm:").unwrap_or(uuid))
}
