//! The environment of the programs that are started.

use std::ffi::{CString, OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

use wire::command::ServiceCall;

use crate::Installation;

/// The prefix of qrexec's own variables. If one of them were passed on to a service, the service could believe that
/// another qube had called it.
const PREFIX: &[u8] = b"QREXEC";

/// Variables with that prefix which a service may see.
const KEPT: [&[u8]; 2] = [b"QREXEC_SERVICE_PATH", b"QREXEC_AGENT_PID"];

/// Variables by which a lab is found; without them its services could not make calls.
const KEPT_IN_A_LAB: [&[u8]; 6] = [
    b"QREXEC_INSTALLATION",
    b"QREXEC_TRANSPORT",
    b"QREXEC_SHM_DIR",
    b"QREXEC_AGENT_SOCKET",
    b"QREXEC_SOCKET_DIR",
    b"QREXEC_ENGINE",
];

/// Names the service manager of the process that was given it, and of no other.
const NOTIFY_SOCKET: &[u8] = b"NOTIFY_SOCKET";

/// Variables, each name once.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Environment(Vec<(OsString, OsString)>);

impl Environment {
    /// The part of this process's environment that a started program inherits.
    #[must_use]
    pub fn inherited(installation: Installation) -> Self {
        Self::filtered(std::env::vars_os(), installation)
    }

    /// The variables of `all` that a started program may see.
    pub fn filtered(all: impl IntoIterator<Item = (OsString, OsString)>, installation: Installation) -> Self {
        Self(all.into_iter().filter(|(name, _)| may_pass(name.as_bytes(), installation)).collect())
    }

    /// Sets a variable.
    pub fn set(&mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) {
        self.remove(&name);
        self.0.push((name.as_ref().to_owned(), value.as_ref().to_owned()));
    }

    /// Removes a variable.
    pub fn remove(&mut self, name: impl AsRef<OsStr>) {
        self.0.retain(|(old, _)| old != name.as_ref());
    }

    /// Removes all but qrexec's own variables: the session sets the others.
    #[cfg(feature = "pam")]
    pub(super) fn keep_own(&mut self) {
        self.0.retain(|(name, _)| name.as_bytes().starts_with(PREFIX));
    }

    /// Adds what a service is told about its call.
    pub fn describe(&mut self, call: &ServiceCall) {
        for (name, value) in description(call) {
            self.set(name, value);
        }
    }

    /// The variables.
    pub fn iter(&self) -> impl Iterator<Item = (&OsStr, &OsStr)> {
        self.0.iter().map(|(name, value)| (name.as_os_str(), value.as_os_str()))
    }

    /// `NAME=value` strings for exec. A string with a NUL cannot be passed, and is left out.
    #[must_use]
    pub fn to_strings(&self) -> Vec<CString> {
        let pairs = self.iter().map(|(name, value)| [name.as_bytes(), b"=", value.as_bytes()].concat());
        pairs.filter_map(|pair| CString::new(pair).ok()).collect()
    }
}

fn may_pass(name: &[u8], installation: Installation) -> bool {
    match name {
        NOTIFY_SOCKET => false,
        name if !name.starts_with(PREFIX) => true,
        name => KEPT.contains(&name) || (installation.is_lab() && KEPT_IN_A_LAB.contains(&name)),
    }
}

/// Every variable that [`description`] may set: a login shell's start-up files must not decide their values.
pub(super) const DESCRIPTION: [&str; 6] = [
    "QREXEC_REMOTE_DOMAIN",
    "QREXEC_SERVICE_FULL_NAME",
    "QREXEC_SERVICE_ARGUMENT",
    "QREXEC_REQUESTED_TARGET_TYPE",
    "QREXEC_REQUESTED_TARGET",
    "QREXEC_REQUESTED_TARGET_KEYWORD",
];

/// What a service is told about its call.
pub(super) fn description(call: &ServiceCall) -> Vec<(&'static str, &str)> {
    use wire::command::Requested;
    let [source, full_name, argument, requested_type, requested_name, requested_keyword] = DESCRIPTION;
    let mut told = vec![
        (source, call.source.as_str()),
        (full_name, call.service.as_str()),
        (requested_type, call.requested.as_ref().map_or("", Requested::type_word)),
    ];
    told.extend(call.service.argument().map(|value| (argument, value)));
    told.extend(call.requested.as_ref().map(|requested| match requested {
        Requested::Name(target) => (requested_name, target.as_str()),
        Requested::Keyword(target) => (requested_keyword, target.as_str()),
    }));
    told
}

#[cfg(test)]
mod tests {
    use super::*;
    use wire::command::{Command, CommandKind};

    fn call(cmdline: &str) -> ServiceCall {
        match Command::parse_without_user(cmdline.as_bytes()).expect(cmdline).kind {
            CommandKind::Service(call) => call,
            CommandKind::Shell(_) => panic!("{cmdline} is no service"),
        }
    }

    fn pairs(list: &[(&str, &str)]) -> Vec<(OsString, OsString)> {
        list.iter().map(|(name, value)| (name.into(), value.into())).collect()
    }

    #[test]
    fn only_ours_is_dropped() {
        let all = pairs(&[
            ("PATH", "/bin"),
            ("QREXEC_REMOTE_DOMAIN", "forged"),
            ("QREXECX", "1"),
            ("QREXEC_SERVICE_PATH", "/x"),
            ("QREXEC_AGENT_PID", "1"),
            ("QREXEC_SHM_DIR", "/y"),
            ("XQREXEC", "2"),
            ("NOTIFY_SOCKET", "/z"),
        ]);
        let names = |installation| {
            let kept = Environment::filtered(all.clone(), installation);
            kept.iter().map(|(name, _)| name.to_string_lossy().into_owned()).collect::<Vec<_>>()
        };
        assert_eq!(
            names(Installation::System),
            ["PATH", "QREXEC_SERVICE_PATH", "QREXEC_AGENT_PID", "XQREXEC"]
        );
        assert!(names(Installation::Lab).contains(&"QREXEC_SHM_DIR".to_owned()));
        assert_eq!(names(Installation::Lab).len(), 5);
    }

    #[test]
    fn in_a_vm_the_requested_target_is_not_told() {
        let mut environment =
            Environment::filtered(pairs(&[("QREXEC_AGENT_PID", "1")]), Installation::System);
        environment.describe(&call("QUBESRPC test.Add+1+2 work"));
        let strings = environment.to_strings();
        let strings: Vec<_> = strings.iter().map(|string| string.to_str().expect("text")).collect();
        assert_eq!(
            strings,
            [
                "QREXEC_AGENT_PID=1",
                "QREXEC_REMOTE_DOMAIN=work",
                "QREXEC_SERVICE_FULL_NAME=test.Add+1+2",
                "QREXEC_REQUESTED_TARGET_TYPE=",
                "QREXEC_SERVICE_ARGUMENT=1+2",
            ]
        );
    }

    #[test]
    fn in_dom0_it_is() {
        let name = call("QUBESRPC test.Add work name dom0");
        assert!(description(&name).contains(&("QREXEC_REQUESTED_TARGET", "dom0")));
        assert!(description(&name).contains(&("QREXEC_REQUESTED_TARGET_TYPE", "name")));
        assert!(!description(&name).iter().any(|(variable, _)| *variable == "QREXEC_SERVICE_ARGUMENT"));
        let keyword = call("QUBESRPC test.Add+ work keyword adminvm");
        assert!(description(&keyword).contains(&("QREXEC_REQUESTED_TARGET_KEYWORD", "adminvm")));
        assert!(description(&keyword).contains(&("QREXEC_SERVICE_ARGUMENT", "")));
    }
}
