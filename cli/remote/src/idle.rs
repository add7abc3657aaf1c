//! Idle sessions of a machine that nobody can connect to, at the end where calls to it are made: each is a process that
//! listens on a socket in the link's folder, and is taken by one call.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use cli::failure::Failure;
use engine::unix;
use rustix::event::{PollFd, PollFlags, poll};

use crate::beside::beside;
use crate::bytes;
use crate::link::Link;

/// Where idle sessions of a link can be taken.
fn places(link: &Link) -> PathBuf {
    link.file("waiting")
}

/// The end of an idle session on the machine that was connected to: offers it to one call here.
///
/// # Errors
/// The place cannot be made.
pub(crate) fn offer(link: &Link, from: OwnedFd, to: OwnedFd) -> Result<i32, Failure> {
    let folder = places(link);
    let during = || Failure::during(format!("waiting in {}", folder.display()));
    fs::create_dir_all(&folder).map_err(during())?;
    let place = unix::Bound::new(&folder.join(std::process::id().to_string()), 0o600).map_err(during())?;
    let Some(call) = first_call(&place, &from).map_err(during())? else {
        return Ok(0);
    };
    place.withdraw().map_err(during())?;
    rustix::io::ioctl_fionbio(&call, false).map_err(|error| during()(error.into()))?;
    let back = call.try_clone().map_err(during())?;
    beside(move || bytes::copy(&call, &to))?;
    bytes::copy(&from, &back);
    Ok(0)
}

/// Waits for a call, or for the end of the session.
fn first_call(place: &unix::Bound, session: &OwnedFd) -> io::Result<Option<OwnedFd>> {
    loop {
        let mut fds = [PollFd::new(place, PollFlags::IN), PollFd::new(session, PollFlags::IN)];
        match poll(&mut fds, None) {
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => continue,
            Err(error) => return Err(error.into()),
        }
        if !fds.iter().skip(1).all(|fd| fd.revents().is_empty()) {
            return Ok(None);
        }
        if let Some(call) = place.accept()? {
            return Ok(Some(call));
        }
    }
}

/// Connections to the sessions that wait, one after the other. A socket that nobody listens on is removed: its process was
/// killed.
pub(crate) fn sessions(link: &Link) -> impl Iterator<Item = OwnedFd> {
    let entries = fs::read_dir(places(link)).map(|entries| entries.flatten().collect::<Vec<_>>());
    entries.unwrap_or_default().into_iter().filter_map(|entry| {
        let socket = unix::connect(&entry.path());
        if socket.is_err() {
            let _ = fs::remove_file(entry.path());
        }
        socket.ok()
    })
}
