//! The last step of a permission: how the call gets to its target, and whether it can be made at all.
//!
//! What passes here the daemon carries out. Whatever it could not is denied, so that no log, no answer and no
//! question to the user calls something allowed that is then refused.

use wire::names::{MAX_SERVICE, NameError, ServiceName, Target};

use crate::decision::{Allow, Deny, Facts, Grant};
use crate::system::{Domain, SystemInfo};
use crate::token::is_dom0;
use crate::user::{BadUser, User};

/// An answer of the policy has fewer bytes than this.
pub const MAX_ANSWER: usize = 4096;
/// Longest command line that an agent takes, in bytes, with the NUL that ends it.
const MAX_COMMAND: usize = wire::control::MAX_CONTROL_BODY - wire::control::EXEC_LEN;

/// Why the daemon could not carry a permission out.
#[derive(Debug, thiserror::Error)]
enum NoRoute {
    #[error("{0:?} cannot call itself")]
    Itself(String),
    #[error("{0:?} is not in the system")]
    Unknown(String),
    #[error("the remote qube {qube:?} has no {what}")]
    Unset { qube: String, what: &'static str },
    #[error("user= {0}")]
    User(#[from] BadUser),
    #[error("{name:?} is no name of a qube: {why}")]
    Name { name: String, why: NameError },
    #[error("{0:?} has the UUID of dom0")]
    Dom0ByUuid(String),
    #[error("no service can be made for the relay: {0}")]
    Service(NameError),
    #[error("its command would have {0} bytes, a qube takes {MAX_COMMAND}")]
    Command(usize),
    #[error("the relay's service has {0} bytes, which no answer has room for")]
    Answer(usize),
}

impl Facts {
    /// The permission in the form in which the daemon carries it out.
    pub(crate) fn carry_out(&self, system: &SystemInfo, grant: Grant<'_>) -> Result<Allow, Deny> {
        let rule = grant.rule.clone();
        self.route(system, grant).map_err(|reason| Deny {
            reason: format!("{reason} ({rule})"),
            notify: true,
            rule: Some(rule),
        })
    }

    fn route(&self, system: &SystemInfo, grant: Grant<'_>) -> Result<Allow, NoRoute> {
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
            return Err(NoRoute::Itself(grant.target.to_owned()));
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

    /// The route to a qube, which may be one of another machine.
    fn to_qube(&self, system: &SystemInfo, target: &str, allow: &mut Allow) -> Result<(), NoRoute> {
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
    fn check(&self, allow: &Allow) -> Result<(), NoRoute> {
        if let Some(user) = &allow.user {
            User::new(user)?;
        }
        let names = [
            Some(&allow.target),
            allow.target_uuid.as_ref(),
            Some(&allow.requested_target),
            allow.policy_source.as_ref(),
        ];
        for name in names.into_iter().flatten() {
            Target::new(name).map_err(|why| NoRoute::Name { name: name.clone(), why })?;
        }
        if allow.target_uuid.as_deref().is_some_and(is_dom0_by_uuid) {
            return Err(NoRoute::Dom0ByUuid(allow.target.clone()));
        }
        if let Some(service) = &allow.service {
            ServiceName::new(service).map_err(NoRoute::Service)?;
        }
        let length = if allow.target == "dom0" { 0 } else { self.command_len(allow) };
        if length > MAX_COMMAND {
            return Err(NoRoute::Command(length));
        }
        // All the rest of an answer is a user and four names, and fits by far.
        match &allow.service {
            Some(service) if service.len() > MAX_ANSWER / 2 && allow.answer().len() >= MAX_ANSWER => {
                Err(NoRoute::Answer(service.len()))
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

fn known<'a>(system: &'a SystemInfo, name: &str) -> Result<&'a Domain, NoRoute> {
    system.get(name).ok_or_else(|| NoRoute::Unknown(name.to_owned()))
}

fn needed<'a>(remote: &Domain, value: Option<&'a str>, what: &'static str) -> Result<&'a str, NoRoute> {
    value.ok_or_else(|| NoRoute::Unset { qube: remote.name.clone(), what })
}

fn uuid_of(domain: &Domain, prefix: &str) -> Option<String> {
    domain.uuid.as_ref().map(|uuid| format!("{prefix}uuid:{uuid}"))
}

/// Whether a qube that is not dom0 has dom0's UUID.
fn is_dom0_by_uuid(uuid: &str) -> bool {
    is_dom0(uuid.strip_prefix("@dispvm:").unwrap_or(uuid))
}
