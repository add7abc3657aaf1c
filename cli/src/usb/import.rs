//! `usb-import STATEFILE`: gives the socket on stdin to the kernel, which gets a device from it.

use std::ffi::OsString;
use std::fs::{self, OpenOptions};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{CommandFactory, Parser};
use engine::localfd;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{RecvFlags, recv};
use rustix::process::{Pid, Signal, kill_process};
use wire::usbip::{AttachLine, Speed};

use super::export::{ERROR, RELEASE, hand_over, load};
use super::ports::{Port, parse};
use super::tree::{DEVICES, IMPORTER, Tree, lock, wait_for};
use super::{Reason, because, complain};
use crate::usage;

/// The longest line, of which most is a reason.
const LINE: usize = 512;
/// How long a device may take to appear: a control transfer that nobody answers takes the kernel 5 s.
const APPEAR: Duration = Duration::from_secs(15);

/// A device that the kernel has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Imported {
    pub(super) port: u32,
    pub(super) devid: u32,
    /// Its folder below `/sys/bus/usb/devices`.
    pub(super) name: String,
    /// The number that the kernel has given to it, and gives to none that comes to the same port later.
    pub(super) devnum: String,
}

impl Imported {
    /// What a state file says: the port, which is all that upstream's programs read, and what it was then.
    fn text(&self) -> String {
        format!("{:04}\n{:08x} {} {}\n", self.port, self.devid, self.name, self.devnum)
    }

    fn from_text(text: &str) -> Option<Self> {
        let mut words = text.split_ascii_whitespace();
        let port = words.next()?.parse().ok()?;
        let devid = u32::from_str_radix(words.next()?, 16).ok()?;
        Some(Self { port, devid, name: words.next()?.to_owned(), devnum: words.next()?.to_owned() })
    }

    /// What a state file says.
    pub(super) fn read(path: &Path) -> Option<Self> {
        Self::from_text(&fs::read_to_string(path).ok()?)
    }

    /// Whether the kernel still has it.
    pub(super) fn is_there(&self, tree: &Tree) -> bool {
        let port = ports(tree).into_iter().find(|port| port.number == self.port);
        port.is_some_and(|port| port.devid == self.devid && port.folder() == Some(&self.name))
            && devnum(tree, &self.name).is_some_and(|devnum| devnum == self.devnum)
    }

    /// Waits until it is gone.
    pub(super) fn wait_until_gone(&self, tree: &Tree) -> Result<(), Reason> {
        let is_gone = || {
            let is_listed = tree.path(&format!("{DEVICES}/{}", self.name)).exists()
                && devnum(tree, &self.name).as_ref() == Some(&self.devnum);
            !self.is_there(tree) && !is_listed
        };
        wait_for(RELEASE, || is_gone().then_some(()))
            .ok_or_else(|| format!("the kernel does not let go of {}", self.name))
    }
}

fn devnum(tree: &Tree, name: &str) -> Option<String> {
    tree.folder(&format!("{DEVICES}/{name}")).ok()?.read("devnum").ok()
}

/// Gives a USB device of another VM to this one's kernel: the device at the other end of standard input, a socket.
///
/// Environment: QREXEC_AGENT_PID, if set, is asked by a signal to make the streams of the call one socket;
/// SERVICE_ATTACH_PID, if set, hears by SIGHUP that the device is there, and has this program's errors on its own stderr.
#[derive(Debug, Parser)]
#[command(name = "usb-import", version)]
struct Cli {
    /// Where to write down which port of the kernel the device has
    #[arg(value_name = "STATEFILE")]
    state: PathBuf,
}

/// Its command line.
#[must_use]
pub fn command() -> clap::Command {
    Cli::command()
}

/// The program, as upstream's service starts it; gives the exit status.
#[must_use]
pub fn main(args: Vec<OsString>) -> i32 {
    let Cli { state } = match usage::parse("usb-import", args) {
        Ok(cli) => cli,
        Err(code) => return code,
    };
    let waits =
        std::env::var("SERVICE_ATTACH_PID").ok().and_then(|pid| pid.parse().ok()).and_then(Pid::from_raw);
    if let Some(pid) = waits {
        borrow_stderr(pid);
    }
    let tree = Tree::here();
    let socket = rustix::stdio::stdin();
    let imported = hand_over().and_then(|()| import(&tree, socket, &state));
    match imported {
        Ok(imported) => {
            if let Some(pid) = waits {
                let _ = kill_process(pid, Signal::HUP);
            }
            wait_for_the_end(socket);
            let _ = imported.wait_until_gone(&tree);
            0
        }
        Err(reason) => complain(&reason),
    }
}

/// Errors are to be seen where the service's are.
fn borrow_stderr(pid: Pid) {
    let path = format!("/proc/{}/fd/2", pid.as_raw_nonzero());
    if let Ok(file) = OpenOptions::new().append(true).open(path) {
        let _ = rustix::stdio::dup2_stderr(file);
    }
}

fn wait_for_the_end(socket: BorrowedFd<'_>) {
    while let Err(Errno::INTR) | Ok(0) =
        poll(&mut [PollFd::from_borrowed_fd(socket, PollFlags::empty())], None)
    {}
}

/// Attaches the device at the other end of the socket and writes down where.
pub(super) fn import(tree: &Tree, socket: BorrowedFd<'_>, state: &Path) -> Result<Imported, Reason> {
    load(tree, "vhci-hcd");
    let line = read_line(socket)?;
    for limit in [Timeout::Recv, Timeout::Send] {
        let _ = set_socket_timeout(socket, limit, None);
    }
    localfd::widen_for_urbs(socket);
    let port = attach(tree, socket, line)?;
    let appeared = wait_until_there(tree, port, line.devid);
    let Some(imported) = appeared else {
        if let Ok(controller) = tree.folder(IMPORTER) {
            let _ = controller.write("detach", &port.to_string());
        }
        return Err("Attach timeout, check kernel log for details.".into());
    };
    // A device that is sent to sleep by the kernel loses the request that a key would answer.
    let power = tree.folder(&format!("{DEVICES}/{}/power", imported.name));
    let _ = power.and_then(|power| power.write("control", "on"));
    fs::write(state, imported.text()).map_err(because(state.display()))?;
    Ok(imported)
}

/// Reads the line and not a byte more: what follows is the kernel's.
fn read_line(socket: BorrowedFd<'_>) -> Result<AttachLine, Reason> {
    let mut line = Vec::new();
    loop {
        let mut byte = [0];
        match recv(socket, &mut byte, RecvFlags::empty()) {
            Ok((0, _)) => {
                return Err(
                    "No device info received, connection failed, check backend side for details".into()
                );
            }
            Ok(_) if byte == *b"\n" => break,
            Ok(_) => line.extend(byte),
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => {
                let _ = poll(&mut [PollFd::new(&socket, PollFlags::IN)], None);
            }
            Err(error) => return Err(format!("stdin: {error}")),
        }
        if line.len() > LINE {
            return Err("the export's first line is too long".into());
        }
    }
    let text = String::from_utf8_lossy(&line);
    if let Some(reason) = text.strip_prefix(ERROR) {
        return Err(reason.to_owned());
    }
    parse_line(&line).ok_or_else(|| format!("the export's first line is not a device's: {text}"))
}

/// Faster than all that is known counts as the fastest.
fn parse_line(line: &[u8]) -> Option<AttachLine> {
    AttachLine::parse(line).or_else(|| {
        let text = std::str::from_utf8(line).ok()?;
        let (devid, rest) = text.split_once(' ')?;
        let speed: u32 = rest.split(' ').next()?.parse().ok()?;
        let known = AttachLine::parse(format!("{devid} 5000").as_bytes())?;
        (speed > 5000).then_some(AttachLine { speed: Speed::SuperPlus, ..known })
    })
}

/// All ports of all controllers.
pub(super) fn ports(tree: &Tree) -> Vec<Port> {
    let Ok(controller) = tree.folder(IMPORTER) else { return Vec::new() };
    let mut ports = controller.read("status").map(|status| parse(&status)).unwrap_or_default();
    // The files of the other controllers are beside that of the first.
    for number in 1..64 {
        let Ok(status) = controller.read(&format!("status.{number}")) else { break };
        ports.extend(parse(&status));
    }
    ports
}

/// Takes a free port, and the next one if somebody was quicker.
fn attach(tree: &Tree, socket: BorrowedFd<'_>, line: AttachLine) -> Result<u32, Reason> {
    let controller =
        tree.folder(IMPORTER).map_err(|_| "this kernel has no vhci_hcd: no device can be imported")?;
    let folder = tree.run_folder().map_err(because("run folder"))?;
    // Whoever else imports waits; upstream's programs do not, so a port may be taken all the same.
    let _alone = lock(&folder.join("usb-import.lock")).map_err(because("lock"))?;
    let all: Vec<_> = ports(tree).into_iter().filter(|port| port.is_super == line.speed.is_super()).collect();
    let speed = line.speed.number(has_super_plus());
    for port in all.iter().filter(|port| port.is_free()) {
        let text = format!("{} {} {} {speed}", port.number, socket.as_raw_fd(), line.devid);
        match controller.write_about("attach", &text, Some(socket.as_fd())) {
            Ok(()) => return Ok(port.number),
            Err(error) if error.raw_os_error() == Some(Errno::BUSY.raw_os_error()) => {}
            Err(error) => return Err(format!("the kernel does not take the device: {error}")),
        }
    }
    Err(format!("No unused port found! All {} ports of this speed are in use", all.len()))
}

fn wait_until_there(tree: &Tree, number: u32, devid: u32) -> Option<Imported> {
    // It may be free again before it was there: then nothing will come.
    wait_for(APPEAR, || {
        let port = ports(tree).into_iter().find(|port| port.number == number).filter(|port| !port.is_free());
        let Some(port) = port else { return Some(None) };
        let (name, devnum) = port.folder().and_then(|name| Some((name.to_owned(), devnum(tree, name)?)))?;
        Some(Some(Imported { port: number, devid, name, devnum }))
    })?
}

/// Speeds above 5 Gbit/s have a number of their own since Linux 6.12.
fn has_super_plus() -> bool {
    let name = rustix::system::uname();
    let release = name.release().to_string_lossy().into_owned();
    let mut numbers = release.split(['.', '-']).map_while(|number| number.parse::<u32>().ok());
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= (6, 12)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_file_says_what_was_attached_and_upstreams_only_the_port() {
        let imported = Imported { port: 15, devid: 0x10002, name: "4-1".into(), devnum: "7".into() };
        assert!(imported.text().starts_with("0015\n"));
        assert_eq!(Imported::from_text(&imported.text()), Some(imported));
        assert_eq!(Imported::from_text("0015\n"), None);
    }

    #[test]
    fn speeds_that_nobody_knows_yet_count_as_the_fastest() {
        assert_eq!(parse_line(b"65538 40000").unwrap().speed, Speed::SuperPlus);
        assert_eq!(parse_line(b"65538 480 more").unwrap().speed, Speed::High);
        assert_eq!(parse_line(b"65538 900"), None);
        assert_eq!(parse_line(b"x 40000"), None);
    }
}
