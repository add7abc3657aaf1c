//! A qube's call that a command makes in its own process.

use std::ffi::OsStr;
use std::os::fd::AsFd;
use std::path::PathBuf;

use engine::datalink;
use ring::Transport;

pub(crate) use super::args::SOCKET;
use super::args::{ClientVmArgs, SOCKET_VARIABLE};
use super::{report, request};
use crate::failure::Failure;
use crate::own::Call;
use crate::why::Called;

/// Asks the agent for a service and waits for it.
///
/// # Errors
/// The exit status; why was said on stderr.
pub fn open(target: &OsStr, service: &OsStr) -> Result<Call, i32> {
    ask(target, service).map_err(|failure| report(&failure))
}

/// Whether there is an agent to ask: dom0 has none.
pub fn has_agent() -> bool {
    std::fs::symlink_metadata(socket()).is_ok()
}

/// The agent's socket, if the environment says where that is.
pub(crate) fn told_socket() -> Option<PathBuf> {
    std::env::var_os(SOCKET_VARIABLE).filter(|path| !path.is_empty()).map(PathBuf::from)
}

fn socket() -> PathBuf {
    told_socket().unwrap_or_else(|| SOCKET.into())
}

fn ask(target: &OsStr, service: &OsStr) -> Result<Call, Failure> {
    let transport = Transport::from_env().map_err(Failure::during("no transport"))?;
    let request = ClientVmArgs::request(target, service, None)?;
    let called = Called::now(&request.target, &request.service);
    let asked = request::ask(&socket(), &request, &called)?;
    // Policy decides meanwhile.
    let rings = transport.data_rings(None).map_err(Failure::during("making rings"))?;
    let allowed = asked.answer()?;
    let (domain, port) = (allowed.endpoint.domain.0, allowed.endpoint.port.0);
    let promise = datalink::Promise::Silent(allowed.agent.as_fd());
    let link = datalink::serve_while(&transport, domain, port, rings, datalink::WAIT_VM, promise)
        .map_err(Failure::during(format_args!("waiting for the service of domain {domain}")))?;
    Ok(Call::new(link, allowed))
}
