//! The system's files that these programs read and write, through one root.
//!
//! In a lab the root may be a folder with a stand-in for the kernel in it: what is written to an attribute goes to the
//! socket `kernel` there, together with the socket that the attribute is about. Outside of a lab the variable that says
//! so means nothing.

use std::fs::{self, File, OpenOptions};
use std::io::{self, IoSlice, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags, openat};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

/// The longest attribute: `status` of a controller has 30 lines.
const ATTRIBUTE: u64 = 64 << 10;

/// All devices.
pub(super) const DEVICES: &str = "sys/bus/usb/devices";
/// The driver that exports.
pub(super) const EXPORTER: &str = "sys/bus/usb/drivers/usbip-host";
/// The virtual controllers.
pub(super) const IMPORTER: &str = "sys/devices/platform/vhci_hcd.0";
/// Where state files are.
pub(super) const RUN: &str = "var/run/qubes";

/// How often the kernel's files are looked at while something is waited for: it announces no change of theirs.
const TICK: Duration = Duration::from_millis(10);

/// Looks until there is an answer, at least once and no longer than `limit`.
pub(super) fn wait_for<T>(limit: Duration, mut look: impl FnMut() -> Option<T>) -> Option<T> {
    let began = Instant::now();
    loop {
        let found = look();
        if found.is_some() || began.elapsed() > limit {
            return found;
        }
        // Not an event: attributes of sysfs say nothing to inotify, `poll` of these drivers' files never returns, and a
        // device has a folder before it has an address. Only while something is about to change is this here at all.
        thread::sleep(TICK);
    }
}

/// The system, or a lab's stand-in for it.
#[derive(Debug)]
pub(super) struct Tree {
    root: PathBuf,
    stand_in: bool,
}

impl Tree {
    /// The system. In a lab: what the lab says, if it says anything.
    pub(super) fn here() -> Self {
        let is_lab = std::env::var_os("QREXEC_INSTALLATION").is_some_and(|what| what == "lab");
        let vm =
            std::env::var_os("QUBES_LAB_VM").filter(|_| is_lab && std::env::var_os("QUBES_LAB").is_some());
        match vm.zip(std::env::var_os("QUBES_USB_ROOT")) {
            Some((vm, root)) => Self { root: Path::new(&root).join(vm), stand_in: true },
            None => Self { root: "/".into(), stand_in: false },
        }
    }

    /// The system below a folder, to be read only.
    pub(super) fn at(root: &Path) -> Self {
        Self { root: root.to_owned(), stand_in: false }
    }

    /// Whether no kernel is behind it.
    pub(super) const fn is_stand_in(&self) -> bool {
        self.stand_in
    }

    pub(super) fn path(&self, below: &str) -> PathBuf {
        self.root.join(below)
    }

    /// A folder, held open: whatever takes its name later is not meant.
    pub(super) fn folder(&self, below: &str) -> io::Result<Folder<'_>> {
        let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
        let fd = rustix::fs::open(self.path(below), flags, Mode::empty())?;
        Ok(Folder { tree: self, below: below.to_owned(), fd })
    }

    /// Names of what is in a folder.
    pub(super) fn names(&self, below: &str) -> Vec<String> {
        let entries = fs::read_dir(self.path(below)).into_iter().flatten().flatten();
        entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
    }

    /// Hands a write to the stand-in and waits for what it makes of it.
    fn ask(&self, attribute: &str, text: &str, socket: Option<BorrowedFd<'_>>) -> io::Result<()> {
        let mut kernel = UnixStream::connect(self.path("kernel"))?;
        let message = format!("{attribute}\n{text}\n");
        let sockets = socket.map(|socket| [socket]);
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if let Some(sockets) = &sockets {
            ancillary.push(SendAncillaryMessage::ScmRights(sockets));
        }
        sendmsg(&kernel, &[IoSlice::new(message.as_bytes())], &mut ancillary, SendFlags::NOSIGNAL)?;
        let mut answer = [0; 4];
        kernel.read_exact(&mut answer)?;
        match i32::from_le_bytes(answer) {
            0 => Ok(()),
            error => Err(io::Error::from_raw_os_error(error)),
        }
    }

    /// Makes the folder for state files.
    pub(super) fn run_folder(&self) -> io::Result<PathBuf> {
        let path = self.path(RUN);
        fs::create_dir_all(&path)?;
        Ok(path)
    }
}

/// An open folder of attributes.
#[derive(Debug)]
pub(super) struct Folder<'a> {
    tree: &'a Tree,
    below: String,
    fd: OwnedFd,
}

impl Folder<'_> {
    /// What an attribute says, without blanks at its ends.
    pub(super) fn read(&self, name: &str) -> io::Result<String> {
        let file = File::from(openat(&self.fd, name, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?);
        let mut text = String::new();
        file.take(ATTRIBUTE).read_to_string(&mut text)?;
        Ok(text.trim().to_owned())
    }

    /// Writes an attribute.
    pub(super) fn write(&self, name: &str, text: &str) -> io::Result<()> {
        self.write_about(name, text, None)
    }

    /// Writes an attribute that names a descriptor of this process.
    pub(super) fn write_about(
        &self,
        name: &str,
        text: &str,
        socket: Option<BorrowedFd<'_>>,
    ) -> io::Result<()> {
        if self.tree.is_stand_in() {
            return self.tree.ask(&format!("{}/{name}", self.below), text, socket);
        }
        let flags = OFlags::WRONLY | OFlags::CLOEXEC;
        File::from(openat(&self.fd, name, flags, Mode::empty())?).write_all(text.as_bytes())
    }

    /// Where it really is, once its links are followed.
    pub(super) fn real_path(&self) -> io::Result<PathBuf> {
        use std::os::fd::AsRawFd;
        fs::read_link(format!("/proc/self/fd/{}", self.fd.as_fd().as_raw_fd()))
    }
}

/// Holds what only one process may do at a time, until it is dropped.
pub(super) fn lock(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path)?;
    file.lock()?;
    Ok(file)
}
