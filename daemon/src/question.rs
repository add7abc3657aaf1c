//! What policy is asked and what it may answer, as the daemon's core sees it.

use std::sync::Arc;

use wire::names::{DomainName, Ident, ServiceName, Target};

/// May this call be made?
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// The VM that asks: the one whose daemon this is.
    pub source: DomainName,
    /// On behalf of whom it says it asks (protocol 4). Policy believes it of a relay only.
    pub requested_source: Option<Target>,
    /// The target as the caller named it.
    pub target: Target,
    /// The service, with its argument if there is one.
    pub service: Arc<ServiceName>,
    /// The id of the request, for policy programs that make the call themselves.
    pub ident: Ident,
}

/// The decision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// The call may be made, in this way.
    Allow(Box<Allow>),
    /// It may not, for this reason. The reason goes to the log, never to the caller.
    Deny(String),
    /// It may, and whoever decided says that it has made the call itself: a local client takes it over, or has done so.
    Made,
}

impl Verdict {
    /// A refusal.
    pub fn deny(reason: impl Into<String>) -> Self {
        Self::Deny(reason.into())
    }
}

/// How an allowed call is to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Allow {
    /// The user that the service runs as; `DEFAULT` leaves it to the target's daemon.
    pub user: User,
    /// Where the service runs: a domain, a name of dom0, or `@dispvm:NAME` for a new disposable.
    pub target: Target,
    /// The same place by `uuid:…`, which survives a rename.
    pub target_uuid: Option<Target>,
    /// Whether a target that does not run may be started.
    pub autostart: bool,
    /// What the caller asked for, after policy made sense of it; a service in dom0 is told.
    pub requested_target: Target,
    /// The service to run in place of the one asked for.
    pub service: Option<ServiceName>,
    /// The source to name in place of this daemon's VM.
    pub policy_source: Option<Target>,
    /// The rule that allowed it, as far as that is known; for the log.
    pub rule: Option<String>,
}

impl Allow {
    /// Whether the service runs in dom0.
    #[must_use]
    pub fn is_for_dom0(&self) -> bool {
        self.target.is_dom0()
    }

    /// The name under which the target's daemon is found.
    #[must_use]
    pub fn daemon(&self) -> &Target {
        self.target_uuid.as_ref().unwrap_or(&self.target)
    }
}

/// A user name that can stand in front of the colon of a command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User(String);

impl User {
    /// The name that the target's daemon replaces by its VM's default user.
    pub const DEFAULT: &'static str = "DEFAULT";

    /// Accepts a name that is neither empty nor longer than 255 bytes and holds no colon, slash or
    /// control character: a command line is cut at its first colon.
    #[must_use]
    pub fn new(name: &str) -> Option<Self> {
        let bad = |c: char| c.is_control() || matches!(c, ':' | '/');
        let good = !name.is_empty() && name.len() <= 255 && !name.contains(bad);
        good.then(|| Self(name.to_owned()))
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for User {
    fn default() -> Self {
        Self(Self::DEFAULT.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_cannot_leave_its_place() {
        assert_eq!(User::new("user").map(|user| user.as_str().to_owned()), Some("user".to_owned()));
        for bad in ["", "root:nogui", "a\nb", "a\0b", "../x", &"x".repeat(256)] {
            assert_eq!(User::new(bad), None, "{bad:?}");
        }
    }
}
