//! `usb-export DEVICE`: gives a device of this machine to the kernel's USB/IP, and the socket on stdin with it.

use std::ffi::OsString;
use std::os::fd::AsFd;
use std::process::{Command, Stdio};
use std::time::Duration;
use std::{fs, io};

use clap::{CommandFactory, Parser};
use engine::{localfd, say, usb};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{SendFlags, send};
use rustix::process::{Pid, Signal, kill_process};

use super::names::{PortId, vendor_product};
use super::tree::{DEVICES, EXPORTER, Folder, Tree, wait_for};
use super::{Reason, because, complain};
use crate::usage;

/// `usbip_status` of a device that nobody uses, that is in use, and that must be bound anew.
pub(super) const AVAILABLE: &str = "1";
pub(super) const USED: &str = "2";
const BROKEN: &str = "3";

/// How long the kernel may take to let go of a device.
pub(super) const RELEASE: Duration = Duration::from_secs(10);
/// How long the end of a connection may take from one VM to the other.
const SETTLE: Duration = Duration::from_secs(1);
/// How long a device may be away that comes back when its driver is taken from it.
const RETURN: Duration = Duration::from_secs(3);

/// Where a VM says that every device is to be reset before another VM gets it.
const RESET_ON_ATTACH: &str = "run/qubes-service/usb-reset-on-attach";

/// The word with which the line begins that says why there is no device. Upstream's import takes it for a bad number.
pub(super) const ERROR: &str = "error ";

/// Gives a USB device of this VM to whoever is at the other end of standard input, a socket, until either side lets go.
///
/// Environment: QREXEC_AGENT_PID, if set, is asked by a signal to make the streams of the call one socket;
/// QREXEC_REMOTE_DOMAIN is who gets the device.
#[derive(Debug, Parser)]
#[command(name = "usb-export", version)]
struct Cli {
    /// Where it is plugged in (2-1.4), or its vendor and product (0x1209.0x0001)
    #[arg(value_name = "DEVICE")]
    device: String,
}

/// Its command line.
#[must_use]
pub fn command() -> clap::Command {
    Cli::command()
}

/// The program; gives the exit status.
#[must_use]
pub fn main(args: Vec<OsString>) -> i32 {
    match usage::parse("usb-export", args) {
        Ok(Cli { device }) => run(&device),
        Err(code) => code,
    }
}

fn run(device: &str) -> i32 {
    let tree = Tree::here();
    match hand_over().and_then(|()| export(&tree, device)) {
        Ok(()) => 0,
        Err(reason) => {
            tell_import(&reason);
            complain(&reason)
        }
    }
}

/// The service `qubes.USB`: the same for its argument, as root.
#[must_use]
pub fn service(args: Vec<OsString>) -> i32 {
    let Some(device) = args.get(1) else {
        return complain("You must give device id as a service argument");
    };
    if rustix::process::geteuid().is_root() || Tree::here().is_stand_in() {
        return run(&device.to_string_lossy());
    }
    use std::os::unix::process::CommandExt;
    // -E: QREXEC_AGENT_PID has to survive.
    let error = Command::new("sudo").args(["-E", "--", "/usr/lib/qubes/usb-export"]).arg(device).exec();
    complain(&format!("sudo: {error}"))
}

/// Makes the two streams of the call one socket, by the signal that asks for it.
pub(super) fn hand_over() -> Result<(), Reason> {
    let Some(pid) = std::env::var_os("QREXEC_AGENT_PID") else { return Ok(()) };
    let pid = pid.to_str().and_then(|pid| pid.parse().ok()).and_then(Pid::from_raw);
    let pid = pid.filter(|pid| !pid.is_init()).ok_or("QREXEC_AGENT_PID is not a process")?;
    kill_process(pid, Signal::USR1).map_err(because("cannot ask for one socket"))
}

/// Says why at the other end, where somebody waits for it. Ours shows it; upstream's says that it is no device's number.
fn tell_import(reason: &str) {
    let line: String = reason.chars().filter(|c| !c.is_control()).take(200).collect();
    let _ = send(rustix::stdio::stdin(), format!("{ERROR}{line}\n").as_bytes(), SendFlags::NOSIGNAL);
}

fn export(tree: &Tree, device: &str) -> Result<(), Reason> {
    load(tree, "usbip-host");
    let id = find(tree, device)?;
    let folder = open(tree, &id)?;
    if !settles(&folder) {
        let to = qubesdb_read(&connected_key(&id)).map_or_else(String::new, |to| format!(" to {to}"));
        return Err(format!("Device {} is attached{to} already", id.as_str()));
    }
    let folder = bind(tree, &id, folder)?;
    reset_if_asked(tree, &id, &folder)?;
    let status = folder.read("usbip_status").map_err(because(format!("Device {}", id.as_str())))?;
    if status != AVAILABLE {
        return Err(format!("Device {} not available: its state is {status}", id.as_str()));
    }
    let _ = quiet("usbguard", &["allow-device", &format!("via-port \"{}\"", id.as_str())]);
    connect(&folder, &id)?;
    remember(tree, &id);
    wait_for_the_end();
    let released = release(tree, &id, &folder);
    forget(tree, &id);
    released
}

/// Whether nobody has the device. Who has just let go of it in another VM may ask before the kernel here has seen that.
fn settles(folder: &Folder<'_>) -> bool {
    let is_free = || !folder.read("usbip_status").is_ok_and(|status| status == USED);
    wait_for(SETTLE, || is_free().then_some(())).is_some()
}

/// The port that is meant.
fn find(tree: &Tree, device: &str) -> Result<PortId, Reason> {
    if let Some((vendor, product)) = vendor_product(device) {
        let is_it = |name: &String| {
            let folder = tree.folder(&format!("{DEVICES}/{name}")).ok();
            let says = |attribute, wanted: &str| {
                folder.as_ref().and_then(|folder| folder.read(attribute).ok()).is_some_and(|id| id == wanted)
            };
            says("idVendor", &vendor) && says("idProduct", &product)
        };
        let mut found = tree.names(DEVICES).into_iter().filter(is_it).filter_map(|name| PortId::parse(&name));
        return match (found.next(), found.next()) {
            (Some(id), None) => Ok(id),
            (None, _) => Err(format!("No such device: {vendor}:{product}")),
            _ => Err(format!("Multiple devices matching {vendor}:{product}, aborting!")),
        };
    }
    if device.contains(['_', ':']) && device.contains('-') {
        return Err("You cannot export a specific device interface!".into());
    }
    PortId::parse(device).ok_or_else(|| format!("Invalid device format: {device}"))
}

/// The device's folder; not of a hub, nor of a device that is itself imported.
fn open<'a>(tree: &'a Tree, id: &PortId) -> Result<Folder<'a>, Reason> {
    let id = id.as_str();
    let folder = tree.folder(&format!("{DEVICES}/{id}")).map_err(|_| format!("No such device: {id}"))?;
    let path = folder.real_path().map_err(because(id))?;
    if path.components().any(|part| part.as_os_str().to_string_lossy().starts_with("vhci_hcd")) {
        return Err(format!("Device {id} belongs to another VM"));
    }
    match folder.read("bDeviceClass").map_err(because(id))?.as_str() {
        "09" => Err(format!("Device {id} is a hub, which cannot be exported")),
        _ => Ok(folder),
    }
}

/// Gives the device to the driver that exports.
fn bind<'a>(tree: &'a Tree, id: &PortId, folder: Folder<'a>) -> Result<Folder<'a>, Reason> {
    if folder.read("usbip_status").is_ok_and(|status| status != BROKEN) {
        return Ok(folder);
    }
    let driver = tree.folder(EXPORTER).map_err(because("usbip-host is not there"))?;
    let id = id.as_str();
    // Fails if no driver has it, which is as good.
    let _ = tree.folder(&format!("{DEVICES}/{id}/driver")).and_then(|driver| driver.write("unbind", id));
    if driver.write("match_busid", &format!("add {id}")).is_err() {
        empty_table(tree)?;
        let driver = tree.folder(EXPORTER).map_err(because("usbip-host is not there"))?;
        driver
            .write("match_busid", &format!("add {id}"))
            .map_err(because("usbip-host takes no more ports"))?;
    }
    // Some devices go away when their driver does, and come back at the same port. usbip-host takes them then itself.
    let mut why = "it is away".to_owned();
    let bound = wait_for(RETURN, || {
        let bound = tree.folder(EXPORTER).and_then(|driver| driver.write("bind", id));
        why = bound.err().map_or_else(|| "it is away".to_owned(), |error| error.to_string());
        tree.folder(&format!("{DEVICES}/{id}")).ok().filter(|folder| folder.read("usbip_status").is_ok())
    });
    bound.ok_or_else(|| format!("Device {id} cannot be bound: {why}"))
}

/// Resets a device that a rule of udev or this VM's settings ask it for, before another VM has it.
fn reset_if_asked(tree: &Tree, id: &PortId, folder: &Folder<'_>) -> Result<(), Reason> {
    if !(tree.path(RESET_ON_ATTACH).exists() || has_reset_rule(tree, id)) {
        return Ok(());
    }
    reset(tree, id, folder).map_err(because(format!("Device {} could not be reset", id.as_str())))
}

fn reset(tree: &Tree, id: &PortId, folder: &Folder<'_>) -> io::Result<()> {
    if tree.is_stand_in() {
        return tree.folder(EXPORTER)?.write("reset", id.as_str());
    }
    let number = |name| folder.read(name)?.parse::<u32>().map_err(io::Error::other);
    let node = format!("dev/bus/usb/{:03}/{:03}", number("busnum")?, number("devnum")?);
    usb::reset(fs::File::options().write(true).open(tree.path(&node))?)
}

/// Whether udev has `QUBES_USB_RESET` among the device's properties.
fn has_reset_rule(tree: &Tree, id: &PortId) -> bool {
    if tree.is_stand_in() {
        return false;
    }
    let mut udevadm = Command::new("udevadm");
    udevadm.args(["info", "--query=property", &format!("--path=/{DEVICES}/{}", id.as_str())]);
    let output = udevadm.stdin(Stdio::null()).stderr(Stdio::null()).output();
    output.is_ok_and(|output| asks_for_reset(&String::from_utf8_lossy(&output.stdout)))
}

/// Whether the lines `NAME=VALUE` have the property with any value.
fn asks_for_reset(properties: &str) -> bool {
    properties.lines().filter_map(|line| line.strip_prefix("QUBES_USB_RESET=")).any(|value| !value.is_empty())
}

/// The driver remembers 16 ports for the life of its module, and forgets none when told to.
fn empty_table(tree: &Tree) -> Result<(), Reason> {
    let used = tree.names(DEVICES).into_iter().any(|name| {
        let folder = tree.folder(&format!("{DEVICES}/{name}"));
        folder.and_then(|folder| folder.read("usbip_status")).is_ok_and(|status| status == USED)
    });
    if used {
        return Err("usbip-host has seen 16 ports and takes no more until every device is detached".into());
    }
    if tree.is_stand_in() {
        let driver = tree.folder(EXPORTER).map_err(because("usbip-host"))?;
        return driver.write("reload", "1").map_err(because("usbip-host"));
    }
    quiet("modprobe", &["-r", "usbip-host"]).map_err(because("modprobe -r usbip-host"))?;
    load(tree, "usbip-host");
    Ok(())
}

/// Says what the device is and gives the socket away.
fn connect(folder: &Folder<'_>, id: &PortId) -> Result<(), Reason> {
    let number = |name| {
        let text = folder.read(name).map_err(because(name))?;
        text.parse::<u32>().map_err(because(name))
    };
    let devid = number("busnum")? << 16 | number("devnum")?;
    let speed = folder.read("speed").map_err(because("speed"))?;
    // A limit that somebody has left on the socket would end the device after as long a silence.
    for limit in [Timeout::Recv, Timeout::Send] {
        let _ = set_socket_timeout(rustix::stdio::stdin(), limit, None);
    }
    localfd::widen_for_urbs(rustix::stdio::stdin());
    let line = format!("{devid} {speed}\n");
    let sent = send(rustix::stdio::stdin(), line.as_bytes(), SendFlags::NOSIGNAL);
    sent.map_err(because("stdin is not the socket of a call"))?;
    let socket = rustix::stdio::stdin();
    folder
        .write_about("usbip_sockfd", "0", Some(socket))
        .map_err(because(format!("Device {} cannot be attached", id.as_str())))
}

/// Waits until the kernel, or the other end, lets go of the socket: an event, however long it takes.
fn wait_for_the_end() {
    let socket = rustix::stdio::stdin();
    while let Err(rustix::io::Errno::INTR) | Ok(0) =
        poll(&mut [PollFd::from_borrowed_fd(socket.as_fd(), PollFlags::empty())], None)
    {}
}

/// Waits until the driver is done with the device, and mends it if it is broken.
fn release(tree: &Tree, id: &PortId, folder: &Folder<'_>) -> Result<(), Reason> {
    // Of a device that was unplugged there is no file.
    let ended = wait_for(RELEASE, || match folder.read("usbip_status") {
        Ok(status) if status == USED => None,
        ended => Some(ended.unwrap_or_default()),
    });
    if ended.as_deref() == Some(BROKEN) {
        let driver = tree.folder(EXPORTER).map_err(because("usbip-host"))?;
        let anew = driver.write("unbind", id.as_str()).and_then(|()| driver.write("bind", id.as_str()));
        anew.map_err(because(format!("Device {} could not be reset", id.as_str())))?;
        say::error(format_args!("Device {} could not be reset and was bound anew", id.as_str()));
    }
    match ended {
        Some(_) => Ok(()),
        None => Err(format!("the kernel does not let go of device {}", id.as_str())),
    }
}

fn connected_key(id: &PortId) -> String {
    format!("/qubes-usb-devices/{}/connected-to", id.key())
}

/// Who has it, for dom0, and which process watches.
fn remember(tree: &Tree, id: &PortId) {
    let pid = std::process::id().to_string();
    if let Ok(folder) = tree.run_folder() {
        let _ = fs::write(folder.join(format!("usb-export-{}.pid", id.as_str())), &pid);
    }
    let remote = std::env::var("QREXEC_REMOTE_DOMAIN").unwrap_or_default();
    let remote = remote.strip_suffix("-dm").unwrap_or(&remote);
    let pid_key = format!("/qubes-usb-devices/{}/x-pid", id.key());
    let _ = quiet("qubesdb-write", &[&connected_key(id), remote, &pid_key, &pid]);
    let _ = quiet("qubesdb-write", &["/qubes-usb-devices", ""]);
}

/// Takes that back, unless the device has been given to somebody else since.
fn forget(tree: &Tree, id: &PortId) {
    let file = tree.path(super::tree::RUN).join(format!("usb-export-{}.pid", id.as_str()));
    if fs::read_to_string(&file).is_ok_and(|pid| pid != std::process::id().to_string()) {
        return;
    }
    let _ = fs::remove_file(file);
    let pid_key = format!("/qubes-usb-devices/{}/x-pid", id.key());
    let _ = quiet("qubesdb-rm", &[&connected_key(id), &pid_key]);
    let _ = quiet("qubesdb-write", &["/qubes-usb-devices", ""]);
}

fn qubesdb_read(key: &str) -> Option<String> {
    let mut read = Command::new("qubesdb-read");
    let output = read.arg(key).stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?.trim().to_owned();
    super::names::is_vm(&text).then_some(text)
}

/// Loads a module, where there are modules. What is missing shows when it is used.
pub(super) fn load(tree: &Tree, module: &str) {
    if !tree.is_stand_in() {
        let _ = quiet("modprobe", &[module]);
    }
}

/// Runs a command of the system to its end.
pub(super) fn quiet(program: &str, args: &[&str]) -> io::Result<()> {
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let status = command.status()?;
    if status.success() { Ok(()) } else { Err(io::Error::other(status.to_string())) }
}

#[cfg(test)]
mod tests {
    use super::asks_for_reset;

    #[test]
    fn a_rule_asks_for_a_reset_by_any_value() {
        assert!(asks_for_reset("DEVTYPE=usb_device\nQUBES_USB_RESET=1\nBUSNUM=001\n"));
        for other in ["", "QUBES_USB_RESET=\n", "X_QUBES_USB_RESET=1\n", "QUBES_USB_RESETS=1\n"] {
            assert!(!asks_for_reset(other), "{other:?}");
        }
    }
}
