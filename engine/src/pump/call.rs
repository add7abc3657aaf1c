#![forbid(unsafe_code)]
//! What a call begins with.

use std::os::fd::OwnedFd;

use wire::stream::Role;
use wire::usbip::Rules;
use wire::version::Version;

use super::stderr_copy::StderrCopy;
use crate::meter::Meter;
use crate::process::{Child, Signals};

/// Everything that a call needs once its data link is open.
#[derive(Debug)]
pub struct Call {
    /// Which side of the link this is.
    pub role: Role,
    /// What the HELLOs agreed on.
    pub version: Version,
    /// Where incoming bytes are written: the service's stdin, or the caller's stdout. `None`: nowhere, so a client's
    /// call fails as soon as there are some.
    pub sink: Option<OwnedFd>,
    /// Where the bytes to be sent are read: the service's stdout, or the caller's stdin. `None`: it has ended.
    pub source: Option<OwnedFd>,
    /// The service's stderr, read and sent; or the caller's, written. `None`: ended, or discarded.
    pub stderr: Option<OwnedFd>,
    /// The local process: a service's exit code is the call's, a client's `PROGRAM` is waited for.
    pub child: Option<Child>,
    /// Replace unsafe bytes of what is written to [`Call::sink`] (a client's stdout).
    pub filter_sink: bool,
    /// Replace unsafe bytes of what is written to a client's stderr.
    pub filter_stderr: bool,
    /// Sent before anything is read from [`Call::source`].
    pub prefix: Vec<u8>,
    /// A copy of the service's stderr for the local log.
    pub log_stderr: Option<StderrCopy>,
    /// The service side ends the call with code 0 when the caller's data end.
    pub exit_on_client_eof: bool,
    /// The service side ends the call with code 0 when the service's data end.
    pub exit_on_service_eof: bool,
    /// [`Call::sink`] is a pipe whose reader copies what it reads and does not pass pages on: ring pages may be lent
    /// to it. Without effect unless it is a pipe of this process's own.
    pub splice: bool,
    /// Both directions are USB over IP and are checked by these rules.
    pub usbip: Option<Rules>,
    /// Readable when the service asks for one socket, its stdin, to carry both directions.
    pub one_socket: Option<Signals>,
    /// To be done once if the link has ended and the local process still runs, before that process is waited for.
    pub outlived: Option<Outlived>,
    /// Where the call shows how much it has moved.
    pub meter: Option<Meter>,
}

/// What is to be done if a local process outlives its link.
pub struct Outlived(Box<dyn FnOnce() + Send>);

impl Outlived {
    /// Does `todo`, at most once.
    pub fn then(todo: impl FnOnce() + Send + 'static) -> Self {
        Self(Box::new(todo))
    }

    pub(super) fn happens(self) {
        (self.0)();
    }
}

impl std::fmt::Debug for Outlived {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Outlived")
    }
}

impl Call {
    /// A call without streams.
    pub fn new(role: Role, version: Version) -> Call {
        Call {
            role,
            version,
            sink: None,
            source: None,
            stderr: None,
            child: None,
            filter_sink: false,
            filter_stderr: false,
            prefix: Vec::new(),
            log_stderr: None,
            exit_on_client_eof: false,
            exit_on_service_eof: false,
            splice: false,
            usbip: None,
            one_socket: None,
            outlived: None,
            meter: None,
        }
    }
}
