//! A folder that looks like a system with USB: a stand-in for the files and for what the kernel makes of writes to them.
//!
//! The programs that export and import devices read files below the folder, and hand what they write, with the socket
//! that it is about, to the socket `kernel` in it; only in a lab. Devices there are [`Machine`](crate::Machine)s, and
//! what is imported is used by the drivers of [`host`](crate::host).

mod export;
mod files;
mod import;

use std::io::{self, IoSliceMut, Write};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use rustix::io::Errno;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, Shutdown, recvmsg, shutdown};

use export::Exporter;
use import::Importer;

pub use export::Plugged;

/// The longest write: a path and a line.
const WRITE: usize = 1024;

/// A system of devices and virtual controllers, as long as it is held.
#[derive(Debug)]
pub struct Kernel {
    state: Arc<Mutex<State>>,
    socket: PathBuf,
}

#[derive(Debug)]
struct State {
    root: PathBuf,
    exporter: Exporter,
    importer: Importer,
}

/// What a write came to.
type Outcome = Result<(), Errno>;

impl Kernel {
    /// A system below `root`, with these devices, and with `ports` ports of each speed at each of `controllers`.
    ///
    /// # Errors
    /// The files cannot be made.
    pub fn start(root: &Path, devices: Vec<Plugged>, controllers: u32, ports: u32) -> io::Result<Self> {
        let exporter = Exporter::new(root, devices)?;
        let importer = Importer::new(root, controllers, ports)?;
        let state = Arc::new(Mutex::new(State { root: root.to_owned(), exporter, importer }));
        let socket = root.join("kernel");
        let listener = UnixListener::bind(&socket)?;
        let answering = Arc::clone(&state);
        thread::spawn(move || {
            for writer in listener.incoming() {
                let Ok(writer) = writer else { return };
                answer(&answering, writer);
            }
        });
        Ok(Self { state, socket })
    }

    /// Pulls a device out.
    pub fn unplug(&self, port: &str) {
        locked(&self.state).exporter.unplug(port);
    }

    /// How many devices are in use, on the side that exports and on the one that imports.
    #[must_use]
    pub fn in_use(&self) -> (usize, usize) {
        let state = locked(&self.state);
        (state.exporter.in_use(), state.importer.in_use())
    }
}

impl Drop for Kernel {
    fn drop(&mut self) {
        // The thread stays until the program ends; nobody finds it any more.
        let _ = std::fs::remove_file(&self.socket);
    }
}

fn locked(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Takes one write and says what it came to.
fn answer(state: &Arc<Mutex<State>>, mut writer: UnixStream) {
    let Ok((text, socket)) = receive(&writer) else { return };
    let mut lines = text.lines();
    let outcome = match (lines.next(), lines.next()) {
        (Some(path), Some(value)) => write(state, path, value, socket),
        _ => Err(Errno::INVAL),
    };
    let number = outcome.err().map_or(0, Errno::raw_os_error);
    let _ = writer.write_all(&number.to_le_bytes());
}

fn receive(writer: &UnixStream) -> io::Result<(String, Option<OwnedFd>)> {
    let mut bytes = [0; WRITE];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let came =
        recvmsg(writer, &mut [IoSliceMut::new(&mut bytes)], &mut ancillary, RecvFlags::CMSG_CLOEXEC)?.bytes;
    let sockets = ancillary.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(sockets) => Some(sockets),
        _ => None,
    });
    let socket = sockets.flatten().next();
    Ok((String::from_utf8_lossy(bytes.get(..came).unwrap_or_default()).into_owned(), socket))
}

/// Does what the kernel does when `value` is written to an attribute.
fn write(state: &Arc<Mutex<State>>, path: &str, value: &str, socket: Option<OwnedFd>) -> Outcome {
    let mut now = locked(state);
    if let Some(attribute) = path.strip_prefix("sys/devices/platform/vhci_hcd.0/") {
        return match (attribute, socket) {
            ("attach", Some(socket)) => now.importer.attach(state, value, socket),
            ("detach", _) => now.importer.detach(value),
            _ => Err(Errno::INVAL),
        };
    }
    if let Some(attribute) = path.strip_prefix("sys/bus/usb/drivers/usbip-host/") {
        return now.exporter.driver(attribute, value);
    }
    if path == "sys/bus/usb/drivers_probe" {
        return now.exporter.probe(value);
    }
    let attribute = path.strip_prefix("sys/bus/usb/devices/").and_then(|path| path.split_once('/'));
    match attribute {
        Some((id, "driver/unbind")) => now.exporter.unbind(id),
        Some((id, "usbip_sockfd")) => now.exporter.connect(state, id, value, socket),
        Some((_, "power/control")) => files::put(&now.root.join(path), value).map_err(|_| Errno::IO),
        _ => Err(Errno::INVAL),
    }
}

/// Lets go of a connection: whoever is at either end of it sees the end.
fn hang_up(socket: &OwnedFd) {
    let _ = shutdown(socket, Shutdown::Both);
}
