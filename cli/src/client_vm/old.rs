//! Asking as in R2: the program gets the agent's sockets, and begins before anything is decided.

use std::fs::OpenOptions;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use rustix::io::FdFlags;
use wire::r2::Blob;
use wire::trigger::Trigger;

use crate::failure::Failure;
use crate::local_program::{LocalProgram, PASS_STDERR, SavedStreams};

/// Where to ask: at a socket of today, else at a FIFO of R2.
pub(super) enum Place {
    /// A socket.
    Socket(PathBuf),
    /// A FIFO.
    Fifo(PathBuf),
}

/// What is there. Where the FIFO has the socket's name, the socket has another.
pub(super) fn place(socket: &Path) -> Place {
    let is = |path: &Path, kind: fn(&std::fs::FileType) -> bool| {
        std::fs::metadata(path).is_ok_and(|meta| kind(&meta.file_type()))
    };
    if !is(socket, FileTypeExt::is_fifo) {
        return Place::Socket(socket.to_owned());
    }
    let mut moved = socket.as_os_str().to_owned();
    moved.push(".sock");
    let moved = PathBuf::from(moved);
    if is(&moved, FileTypeExt::is_socket) { Place::Socket(moved) } else { Place::Fifo(socket.to_owned()) }
}

/// Asks, and becomes the program.
pub(super) fn become_program(fifo: &Path, request: &Trigger, program: &LocalProgram) -> Result<i32, Failure> {
    let asking = || Failure::during("asking the agent");
    // Before anything else is opened: their numbers have one digit.
    let saved = SavedStreams::take().map_err(Failure::during("stdin and stdout"))?;
    let folder = fifo.parent().unwrap_or(Path::new("/"));
    let mut flags = OpenOptions::new();
    // One that nobody reads is left by an agent that is gone.
    let flags = flags.write(true).custom_flags(OFlags::NONBLOCK.bits().cast_signed());
    let mut fifo = flags.open(fifo).map_err(asking())?;
    let connect = || -> io::Result<(OwnedFd, u32)> {
        let mut socket = UnixStream::from(engine::unix::connect(&folder.join("qrexec-agent-fdpass"))?);
        let mut number = [0; 4];
        socket.read_exact(&mut number)?;
        Ok((socket.into(), u32::from_ne_bytes(number)))
    };
    let sockets = [connect().map_err(asking())?, connect().map_err(asking())?, connect().map_err(asking())?];
    let numbers = sockets.each_ref().map(|(_, number)| number.to_string()).join(" ");
    let target = match request.target.keyword() {
        Some(keyword) => format!("${keyword}"),
        None => request.target.to_string(),
    };
    let blob = Blob::new(request.service.as_str(), &target, &numbers)
        .ok_or_else(|| Failure::usage("R2 knows services of 63 bytes and targets of 31 at most"))?;
    let [stdin, stdout, stderr] = sockets.map(|(socket, _)| socket);
    let taking = |result: Result<(), rustix::io::Errno>| result.map_err(|error| asking()(error.into()));
    taking(rustix::stdio::dup2_stdin(&stdin))?;
    taking(rustix::stdio::dup2_stdout(&stdout))?;
    if std::env::var_os(PASS_STDERR).is_some() {
        taking(rustix::stdio::dup2_stderr(&stderr))?;
    } else {
        // The agent sees its end when the program is gone.
        taking(rustix::io::fcntl_setfd(&stderr, FdFlags::empty()))?;
    }
    fifo.write_all(&blob.to_bytes()).map_err(asking())?;
    drop(fifo);
    Err(program.replace(&saved))
}
