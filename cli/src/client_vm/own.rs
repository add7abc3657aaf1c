//! A call that a command makes in its own process, without `qrexec-client-vm`.

use std::ffi::OsStr;
use std::path::PathBuf;

use engine::datalink;
use engine::direct::Client;
use engine::pump::Outcome;
use ring::Transport;

use super::args::{Args, SOCKET, SOCKET_VARIABLE};
use super::{report, request};
use crate::failure::Failure;
use crate::status;

/// A call that was allowed, up to its HELLO.
#[derive(Debug)]
pub struct Call {
    /// The caller's end of its data.
    pub client: Client,
    /// The agent considers the call ended when this is dropped.
    pub held: Held,
}

/// What makes a call last.
#[derive(Debug)]
pub struct Held(#[allow(dead_code, reason = "held, not read")] request::Allowed);

/// Asks for a service and waits for it.
///
/// # Errors
/// The exit status; why was said on stderr.
pub fn open(target: &OsStr, service: &OsStr) -> Result<Call, i32> {
    ask(target, service).map_err(|failure| report(&failure))
}

fn ask(target: &OsStr, service: &OsStr) -> Result<Call, Failure> {
    let socket = std::env::var_os(SOCKET_VARIABLE).filter(|path| !path.is_empty());
    let socket = PathBuf::from(socket.unwrap_or_else(|| SOCKET.into()));
    let transport = Transport::from_env().map_err(Failure::during("no transport"))?;
    let asked = request::ask(&socket, &Args::request(target, service, None)?)?;
    // Policy decides meanwhile.
    let rings = transport.data_rings(None).map_err(Failure::during("making rings"))?;
    let allowed = asked.answer()?;
    let (domain, port) = (allowed.endpoint.domain.0, allowed.endpoint.port.0);
    let (channel, version) = datalink::serve_with(&transport, domain, port, rings, datalink::WAIT_VM)
        .map_err(Failure::during(format_args!("waiting for the service of domain {domain}")))?;
    Ok(Call { client: Client::new(channel, version), held: Held(allowed) })
}

/// The exit status of a call that has ended, by the one rule; trouble is said on stderr.
pub fn status(outcome: &Outcome) -> i32 {
    status::of_call(outcome).unwrap_or_else(|failure| report(&failure))
}
