//! A question to the policy, and the first checks on it.

use crate::asked::{Asked, Party};
use crate::decision::Deny;
use crate::system::SystemInfo;

/// A question: may this qube call this service there?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request<'a> {
    /// The calling qube.
    pub source: &'a str,
    /// What it asked for: a name, `uuid:…`, or one of the keywords a caller may use. Empty means
    /// `@default`.
    pub target: &'a str,
    /// The service, without argument.
    pub service: &'a str,
    /// The argument with its `+`; `+` alone is the empty one.
    pub argument: &'a str,
    /// The remote qube in whose name a relay calls. `None` and empty are the same.
    pub requested_source: Option<&'a str>,
    /// Take a question to the user as answered with the asked-for target.
    pub assume_yes: bool,
    /// Only say whether the call would be allowed; a question counts as a denial.
    pub just_evaluate: bool,
}

impl<'a> Request<'a> {
    /// A plain call; `service` is `SERVICE` or `SERVICE+ARGUMENT`.
    pub fn new(source: &'a str, target: &'a str, service: &'a str) -> Self {
        let (service, argument) = split_service(service);
        Self {
            source,
            target,
            service,
            argument,
            requested_source: None,
            assume_yes: false,
            just_evaluate: false,
        }
    }
}

impl Request<'_> {
    /// Whose call it is: the remote qube's if its relay calls in its name, else the caller's.
    pub fn speaker(&self, system: &SystemInfo) -> &str {
        self.requested_source.filter(|name| system.speaks_for(self.source, name)).unwrap_or(self.source)
    }
}

/// `SERVICE+ARGUMENT` into service and argument with its `+`; a missing argument is the empty one.
pub fn split_service(full: &str) -> (&str, &str) {
    full.find('+').map_or((full, "+"), |plus| full.split_at(plus))
}

/// A request after the checks that need no rule.
#[derive(Clone, Debug)]
pub(crate) struct Call<'a> {
    pub(crate) system: &'a SystemInfo,
    pub(crate) source: Party<'a>,
    /// What was asked for; a name that is not in the system has become `@default`.
    pub(crate) asked: Asked<'a>,
    /// The same, if it is a qube.
    pub(crate) target: Option<Party<'a>>,
    pub(crate) service: &'a str,
    pub(crate) argument: &'a str,
    /// A relay calls in the name of `source`.
    pub(crate) relayed: bool,
    /// The name that was asked for but is not in the system.
    pub(crate) unknown_target: Option<&'a str>,
}

impl<'a> Call<'a> {
    pub(crate) fn new(system: &'a SystemInfo, request: &Request<'a>) -> Result<Self, Deny> {
        check_text(request)?;
        let (asked, unknown_target) = verify_target(system, request.target)?;
        let requested = request.requested_source.filter(|name| !name.is_empty());
        if let Some(name) = requested {
            check_relay(system, request.source, name)?;
        }
        Ok(Self {
            system,
            source: Party::new(system, requested.unwrap_or(request.source)),
            asked,
            target: match asked {
                Asked::Qube(name) => Some(Party::new(system, name)),
                _ => None,
            },
            service: request.service,
            argument: request.argument,
            relayed: requested.is_some(),
            unknown_target,
        })
    }
}

/// Control characters would forge lines in answers and logs; an argument has its `+`.
fn check_text(request: &Request<'_>) -> Result<(), Deny> {
    let texts = [
        request.source,
        request.target,
        request.service,
        request.argument,
        request.requested_source.unwrap_or_default(),
    ];
    if texts.iter().any(|text| text.chars().any(char::is_control)) {
        return Err(Deny::bad_request("the request has control characters in it"));
    }
    if !request.argument.starts_with('+') {
        return Err(Deny::bad_request("the argument does not begin with `+`"));
    }
    Ok(())
}

/// The target as rules will see it, and the name that was replaced by `@default`.
fn verify_target<'a>(system: &SystemInfo, target: &'a str) -> Result<(Asked<'a>, Option<&'a str>), Deny> {
    let target = if target.is_empty() { "@default" } else { target };
    match Asked::read(target) {
        // Upstream takes this for an error of syntax, of which it never notifies.
        None => Err(Deny::silent(format!("{target:?} cannot be the target of a call"))),
        Some(asked) => asked.verify(system).map(|verified| {
            let unknown = matches!((&asked, &verified), (Asked::Qube(_), Asked::Default));
            (verified, unknown.then_some(target))
        }),
    }
}

/// Only the relay of a remote qube may call in its name.
fn check_relay(system: &SystemInfo, relay: &str, name: &str) -> Result<(), Deny> {
    let Some(domain) = system.get(name) else {
        return Err(Deny::bad_request(format!("the requested source {name:?} is not known")));
    };
    if !domain.is_remote() {
        return Err(Deny::bad_request(format!("the requested source {name:?} is no RemoteVM")));
    }
    if domain.relayvm.as_deref() != Some(relay) {
        return Err(Deny::bad_request(format!("{relay:?} is not the relay of {name:?}")));
    }
    Ok(())
}
