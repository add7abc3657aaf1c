//! The service `qubes.USBAttach`: dom0 says which device of which VM; this gets it.
//!
//! The call is made over one socket from the start: one end is `qrexec-client-vm`'s, the other the kernel's. Nothing but
//! the call itself stays behind.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, BufRead, Read, Seek};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use rustix::fs::MemfdFlags;

use super::import::{Imported, import};
use super::names::{DeviceId, is_vm};
use super::tree::Tree;
use super::{Reason, because, complain};
use crate::status::{NOT_FOUND, REFUSED};

/// The program; gives the exit status.
#[must_use]
pub fn main(_args: Vec<OsString>) -> i32 {
    let tree = Tree::here();
    let attached = request().and_then(|(vm, device)| {
        let device = device.ok_or("expected a VM and a device")?;
        attach(&tree, &vm, &device)
    });
    match attached {
        Ok(()) => 0,
        Err(Failed { code, reason }) => {
            complain(&reason);
            code
        }
    }
}

/// Why not, and with which exit status.
struct Failed {
    code: i32,
    reason: Reason,
}

impl<T: Into<Reason>> From<T> for Failed {
    fn from(reason: T) -> Self {
        Self { code: 1, reason: reason.into() }
    }
}

/// What dom0 asks for: a VM and a device, or one word, of which [`super::detach`] knows what it is.
fn request() -> Result<(String, Option<DeviceId>), Failed> {
    let (first, second) = read_request()?;
    let device =
        second.as_deref().map(|id| DeviceId::parse(id).ok_or_else(|| format!("Invalid device format: {id}")));
    if !is_vm(&first) {
        return Err(format!("{first} cannot be the name of a VM").into());
    }
    Ok((first, device.transpose()?))
}

/// One or two words, from a line that may lack its end.
pub(super) fn read_request() -> Result<(String, Option<String>), Reason> {
    let mut text = Vec::new();
    // The line is all: who sends it need not end the stream.
    io::stdin().lock().take(512).read_until(b'\n', &mut text).map_err(because("stdin"))?;
    let text = String::from_utf8_lossy(&text);
    let mut words = text.lines().next().unwrap_or_default().split_ascii_whitespace().map(str::to_owned);
    let first = words.next().ok_or("expected a line with a device")?;
    let second = words.next();
    if words.next().is_some() { Err("expected two words at most".into()) } else { Ok((first, second)) }
}

/// Where it is written down which port a device has.
pub(super) fn state_file(tree: &Tree, vm: &str, device: &DeviceId) -> Result<PathBuf, Reason> {
    let folder = tree.run_folder().map_err(because("run folder"))?;
    Ok(folder.join(format!("usb-import-{vm}-{}.state", device.as_str())))
}

fn attach(tree: &Tree, vm: &str, device: &DeviceId) -> Result<(), Failed> {
    forget_the_dead(tree);
    let state = state_file(tree, vm, device)?;
    // Whether somebody has the device, the export knows: what is still here may be on its way out.
    let (ours, theirs) = UnixStream::pair().map_err(because::<io::Error>("socket"))?;
    let said = rustix::fs::memfd_create("client", MemfdFlags::CLOEXEC).map_err(because("memory"))?;
    let mut call = call(vm, device, theirs.into(), &said)?;
    match import(tree, ours.as_fd(), &state) {
        Ok(_) => Ok(()),
        Err(reason) => {
            drop(ours);
            Err(explain(&mut call, File::from(said), reason))
        }
    }
}

/// The call that carries the device. It outlives this process.
fn call(vm: &str, device: &DeviceId, socket: OwnedFd, said: &OwnedFd) -> Result<Child, Reason> {
    let service = format!("qubes.USB+{}", device.as_str());
    let stderr = said.try_clone().map_err(because::<io::Error>("memory"))?;
    let mut command = Command::new("qrexec-client-vm");
    command.args(["--use-stdin-socket", vm, &service]).process_group(0);
    command.stdin(socket).stdout(Stdio::null()).stderr(stderr);
    // Of a call that this service is, not of one that it makes.
    command.env_remove("QREXEC_AGENT_PID");
    command.spawn().map_err(because("qrexec-client-vm"))
}

/// What failed: the call, with its code and text, or what came out of it.
fn explain(call: &mut Child, mut said: File, reason: Reason) -> Failed {
    let code = call.wait().ok().and_then(|status| status.code());
    match code {
        Some(code @ (REFUSED | NOT_FOUND)) => {
            let mut text = String::new();
            let _ = said.rewind().and_then(|()| said.take(400).read_to_string(&mut text));
            let text = text.lines().next().unwrap_or_default().to_owned();
            let usual = if code == REFUSED { "Request refused" } else { "The other VM has no qubes.USB" };
            Failed { code, reason: if text.is_empty() { usual.into() } else { text } }
        }
        _ => reason.into(),
    }
}

/// Removes state files of devices that are gone.
fn forget_the_dead(tree: &Tree) {
    for name in tree.names(super::tree::RUN) {
        let path = tree.path(super::tree::RUN).join(&name);
        let ours = name.starts_with("usb-import-") && name.ends_with(".state");
        if ours && Imported::read(&path).is_some_and(|imported| !imported.is_there(tree)) {
            let _ = fs::remove_file(path);
        }
    }
}
