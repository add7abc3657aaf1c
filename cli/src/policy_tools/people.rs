//! Asking the user and telling them, by way of the qube that shows their windows.
//!
//! In dom0 that is the socket service `policy.Ask` or `policy.Notify`, spoken to directly; in another
//! qube it is the service of that name, called with `qrexec-client`.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Write};
use std::net::Shutdown;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use engine::process::own_executable;
use policy::{Ask, SystemInfo};
use serde::{Deserialize, Serialize};

use super::reply::{Ended, read_reply};

/// The service that asks.
pub const ASK: &str = "policy.Ask";
/// The service that asks whether a policy is to be made; only machines of R3 and before need it.
pub const NEW: &str = "policy.New";
/// The service that tells.
pub const NOTIFY: &str = "policy.Notify";

/// How long a notice may take.
const NOTICE_LIMIT: Duration = Duration::from_secs(10);
/// Where services are found if nothing else is said.
const SERVICE_PATH: &str = "/run/qubes-rpc:/usr/local/etc/qubes-rpc:/etc/qubes-rpc";

/// What the user is asked: the JSON of `policy.Ask`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Prompt {
    /// Who calls.
    pub source: String,
    /// What is called.
    pub service: String,
    /// Its argument with the `+`.
    pub argument: String,
    /// What may be chosen.
    pub targets: Vec<String>,
    /// What to offer first; may be empty.
    pub default_target: String,
    /// Names of icons by qube and `@dispvm:QUBE`.
    #[serde(default)]
    pub icons: BTreeMap<String, String>,
    /// Whether the answer may be for all further calls as well. Agents that do not know of it never do that.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub always: bool,
}

/// A service was called for which there is no policy: the JSON of `policy.New`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewPolicy {
    /// Who calls.
    pub source: String,
    /// What is called, without argument.
    pub service: String,
}

/// What the user is told: the JSON of `policy.Notify`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Notice {
    /// `allow`, `deny` or `fail`.
    pub resolution: String,
    /// What was called.
    pub service: String,
    /// Its argument with the `+`.
    pub argument: String,
    /// Who called.
    pub source: String,
    /// Where the call went or was to go.
    pub target: String,
}

/// The user's word.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// Allowed, to this target.
    Allow(String),
    /// Allowed, to this target, and so are all further calls.
    Always(String),
    /// Refused.
    Deny,
}

impl Prompt {
    /// The question that a decision needs.
    #[must_use]
    pub fn new(ask: &Ask, system: &SystemInfo, service: &str, argument: &str) -> Self {
        let mut icons = BTreeMap::new();
        for domain in system.domains() {
            icons.insert(domain.name.clone(), domain.icon.clone());
            if domain.template_for_dispvms {
                icons.insert(format!("@dispvm:{}", domain.name), domain.icon.replace("app", "disp"));
            }
        }
        Self {
            source: ask.source().to_owned(),
            service: service.to_owned(),
            argument: argument.to_owned(),
            targets: ask.choices.clone(),
            default_target: ask.default_target.clone().unwrap_or_default(),
            icons,
            always: false,
        }
    }
}

/// The way to the user.
#[derive(Debug)]
pub struct People {
    services: Vec<PathBuf>,
}

impl People {
    /// Services are looked up where `QREXEC_SERVICE_PATH` says.
    #[must_use]
    pub fn from_env() -> Self {
        let path = std::env::var_os("QREXEC_SERVICE_PATH").filter(|path| !path.is_empty());
        Self { services: std::env::split_paths(&path.unwrap_or_else(|| SERVICE_PATH.into())).collect() }
    }

    /// Asks, without a limit of time: the user may think. Ends when the other end of `caller` is closed,
    /// if that is given.
    ///
    /// # Errors
    /// Nobody could be asked, or the reply makes no sense. Both deny.
    pub fn ask(&self, guivm: &str, prompt: &Prompt, caller: Option<BorrowedFd<'_>>) -> io::Result<Reply> {
        let text = self.talk(guivm, ASK, &serde_json::to_vec(prompt)?, caller, None)?;
        match text.split_once(':') {
            Some(("allow", target)) => Ok(Reply::Allow(target.to_owned())),
            Some(("always", target)) if prompt.always => Ok(Reply::Always(target.to_owned())),
            None if text == "deny" => Ok(Reply::Deny),
            _ => Err(io::Error::other(format!("{text:?} is no reply"))),
        }
    }

    /// Asks whether a policy is to be made, likewise.
    ///
    /// # Errors
    /// As for [`ask`](Self::ask).
    pub fn ask_for_new(
        &self,
        guivm: &str,
        new: &NewPolicy,
        caller: Option<BorrowedFd<'_>>,
    ) -> io::Result<bool> {
        match self.talk(guivm, NEW, &serde_json::to_vec(new)?, caller, None)?.as_str() {
            "allow" => Ok(true),
            "deny" => Ok(false),
            text => Err(io::Error::other(format!("{text:?} is no reply"))),
        }
    }

    /// Tells. Whether anybody listened is of no importance to the call.
    pub fn notify(&self, guivm: &str, notice: &Notice) {
        let told = serde_json::to_vec(notice)
            .map_err(io::Error::from)
            .and_then(|text| self.talk(guivm, NOTIFY, &text, None, Some(NOTICE_LIMIT)));
        if let Err(error) = told {
            tracing::warn!("cannot notify the user in {guivm}: {error}");
        }
    }

    fn talk(
        &self,
        guivm: &str,
        service: &str,
        text: &[u8],
        caller: Option<BorrowedFd<'_>>,
        limit: Option<Duration>,
    ) -> io::Result<String> {
        if guivm == "dom0" {
            let mut stream = self.connect(service)?;
            stream.write_all(format!("{service} dom0 name dom0\0").as_bytes())?;
            stream.write_all(text)?;
            stream.shutdown(Shutdown::Write)?;
            return read_reply(OwnedFd::from(stream).into(), caller, limit);
        }
        let (mut client, output) = start_client(guivm, service, text)?;
        let reply = read_reply(output, caller, limit)?;
        match client.status()? {
            0 => Ok(reply),
            status => Err(io::Error::other(format!("{service} in {guivm}: exit status {status}"))),
        }
    }

    /// Whether something takes questions in dom0, so far as can be seen without asking one.
    #[must_use]
    pub fn are_in_dom0(&self) -> bool {
        self.services.iter().any(|folder| folder.join(ASK).exists())
    }

    fn connect(&self, service: &str) -> io::Result<UnixStream> {
        let path = self.services.iter().map(|folder| folder.join(service)).find(|path| path.exists());
        let path = path.ok_or_else(|| io::Error::other(format!("{service} does not run in dom0")))?;
        let connected = engine::unix::connect(&path);
        connected
            .map(UnixStream::from)
            .map_err(|error| io::Error::other(format!("{}: {error}", path.display())))
    }
}

/// This executable as `qrexec-client`, with `text` to read.
fn start_client(guivm: &str, service: &str, text: &[u8]) -> io::Result<(Ended, File)> {
    let command = format!("DEFAULT:QUBESRPC {service} dom0");
    let words = ["qrexec-client", "-d", guivm, &command].map(OsString::from);
    Ended::start(&own_executable(), &words, Some(text))
}
