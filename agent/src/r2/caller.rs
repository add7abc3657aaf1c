//! A program that has asked as in R2, on a link with a current protocol: a process does the work of its
//! `qrexec-client-vm`.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Instant;

use engine::confine::Confinement;
use engine::process::{Child, EXIT_TROUBLE, FileLimit, close_inherited, fork_keeping};
use engine::pump::Call;
use engine::{call as steps, datalink, localfd};
use ring::{Channel, Transport};
use rustix::net::{RecvFlags, recv};
use wire::control::Endpoint;
use wire::names::{Ident, ServiceName, Target};
use wire::r2::Blob;
use wire::stream::Role;
use wire::trigger::{BadTrigger, Trigger};
use wire::version::Version;

use super::entrance::Caller;
use crate::ground::ended;

/// How much of a caller's error output is read at once.
const DRAINED: usize = 1 << 16;

/// The blob's request in its current form. The core gives it an id of its own.
pub(crate) fn trigger(blob: &Blob) -> Result<Trigger, BadTrigger> {
    let ident = Ident::numbered(0);
    let target = match blob.target() {
        // Keywords began with another character.
        [b'$', keyword @ ..] => Target::sanitize(&[b"@", keyword].concat()),
        name => Target::sanitize(name),
    };
    let service = ServiceName::sanitize(blob.service())
        .map_err(|error| BadTrigger { ident: ident.to_bytes(), reason: wire::Breach::Service(error) })?;
    Ok(Trigger { source: None, target, service, ident })
}

/// Starts the process that moves an allowed call's bytes between the caller's sockets and the data link.
pub(crate) fn start(
    transport: &Transport,
    streams: &[OwnedFd; 2],
    endpoint: Endpoint,
    label: &str,
    (confinement, files): (Confinement, FileLimit),
) -> std::io::Result<Child> {
    let kept = [streams[0].as_fd(), streams[1].as_fd()];
    fork_keeping(&kept, || {
        files.restore();
        let streams = match own(kept) {
            Ok(streams) => streams,
            Err(error) => {
                tracing::error!("{label}: {error}");
                return EXIT_TROUBLE;
            }
        };
        match open(transport, endpoint) {
            Ok((channel, version)) => run(channel, version, streams, endpoint.port.0, label, confinement),
            Err(why) => {
                tracing::error!("{label}: {why}");
                EXIT_TROUBLE
            }
        }
    })
}

/// In the new process: the only copies there of the caller's streams, so that the caller sees their ends when the pump
/// closes them.
fn own(kept: [BorrowedFd<'_>; 2]) -> std::io::Result<[OwnedFd; 2]> {
    let own = [kept[0].try_clone_to_owned()?, kept[1].try_clone_to_owned()?];
    close_inherited(&own.each_ref().map(AsFd::as_fd))?;
    Ok(own)
}

fn open(transport: &Transport, endpoint: Endpoint) -> Result<(Channel, Version), datalink::Error> {
    let rings = transport.data_rings(None)?;
    datalink::serve_with(transport, endpoint.domain.0, endpoint.port.0, rings, datalink::WAIT_VM)
}

fn run(
    channel: Channel,
    version: Version,
    [sink, source]: [OwnedFd; 2],
    port: u32,
    label: &str,
    confinement: Confinement,
) -> i32 {
    let Ok(stderr) = localfd::copy_stderr() else { return EXIT_TROUBLE };
    let since = Instant::now();
    let call = Call {
        sink: Some(sink),
        source: Some(source),
        // The caller has no stream for the service's error output; it had none in R2 either.
        stderr: Some(stderr),
        filter_stderr: true,
        ..Call::new(Role::Client, version)
    };
    let outcome = steps::run(channel, call, confinement);
    ended(&outcome, label, port, since)
}

/// The error output of a caller, for which there is no place on a current link. It is read all the same, so that the
/// caller need not wait.
#[derive(Debug)]
pub(crate) struct Errors(OwnedFd);

impl Errors {
    /// The caller's third socket as its error output. Also returns the other two.
    pub(crate) fn of(caller: Caller) -> ([OwnedFd; 2], Self) {
        let [reads, writes, errors] = caller.streams;
        ([reads, writes], Self(errors))
    }

    /// Reads what is there. `true`: it has ended.
    pub(crate) fn drain(&self) -> bool {
        let mut buffer = vec![0; DRAINED];
        match recv(&self.0, buffer.as_mut_slice(), RecvFlags::DONTWAIT) {
            Ok((0, _)) => true,
            Ok(_) | Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => false,
            Err(_) => true,
        }
    }
}

impl AsFd for Errors {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
