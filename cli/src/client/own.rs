//! A call of dom0's that a command makes in its own process.

use std::ffi::{OsStr, OsString};
use std::os::fd::AsFd;
use std::path::PathBuf;

use engine::datalink;
use ring::Transport;
use wire::names::DomainId;

use super::about;
pub(crate) use super::args::SOCKET_DIR;
use super::args::{SOCKET_DIR_VARIABLE, domain};
use super::daemon::Daemon;
use crate::failure::Failure;
use crate::own::Call;

/// The folder of the daemons' sockets, if the environment says where that is.
pub(crate) fn told_folder() -> Option<PathBuf> {
    std::env::var_os(SOCKET_DIR_VARIABLE).filter(|folder| !folder.is_empty()).map(PathBuf::from)
}

/// Asks the daemon of `target` for a service, as its default user, and waits for it.
///
/// # Errors
/// Why there is none.
pub fn open(target: &OsStr, service: &str) -> Result<Call, Failure> {
    let target = domain(OsString::from(target))?;
    let folder = told_folder().unwrap_or_else(|| SOCKET_DIR.into());
    let transport = Transport::from_env().map_err(Failure::during("no transport"))?;
    let mut daemon = Daemon::connect(&folder, &target).map_err(about(&target))?;
    let command = format!("DEFAULT:QUBESRPC {service} dom0");
    let endpoint = daemon.exec(false, DomainId::DOM0, command.as_bytes()).map_err(about(&target))?;
    let rings = transport.data_rings(None).map_err(Failure::during("making rings"))?;
    let (peer, port) = (endpoint.domain.0, endpoint.port.0);
    let promise = datalink::Promise::Open(daemon.as_fd());
    let link = datalink::serve_while(&transport, peer, port, rings, datalink::WAIT_CLIENT, promise)
        .map_err(Failure::during(format_args!("waiting for {target} to connect")))?;
    Ok(Call::new(link, daemon))
}
