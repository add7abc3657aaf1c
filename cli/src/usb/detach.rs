//! The service `qubes.USBDetach`, in either VM, and `usb-detach-all`.

use std::ffi::OsString;
use std::time::Duration;
use std::{fs, thread};

use clap::{CommandFactory, Parser};

use super::attach::{read_request, state_file};
use super::export::{AVAILABLE, RELEASE, USED};
use super::import::Imported;
use super::names::{DeviceId, PortId, is_vm};
use super::tree::{DEVICES, EXPORTER, IMPORTER, Tree, wait_for};
use super::{Reason, because, complain};
use crate::usage;

/// How long all devices may take together: a suspend waits for it.
const ALL: Duration = Duration::from_secs(2);

/// The service; gives the exit status.
#[must_use]
pub fn main(_args: Vec<OsString>) -> i32 {
    let tree = Tree::here();
    let detached = read_request().and_then(|(first, second)| match second {
        Some(port) => from_import(&tree, &first, &port),
        None => from_export(&tree, &first),
    });
    detached.map_or_else(|reason| complain(&reason), |()| 0)
}

/// Takes back every USB device that another VM has, as before a suspend.
#[derive(Debug, Parser)]
#[command(name = "usb-detach-all", version)]
struct Cli {}

/// Its command line.
#[must_use]
pub fn command() -> clap::Command {
    Cli::command()
}

/// `usb-detach-all`; gives the exit status.
#[must_use]
pub fn all(args: Vec<OsString>) -> i32 {
    if let Err(code) = usage::parse::<Cli>("usb-detach-all", args) {
        return code;
    }
    let tree = Tree::here();
    let names = tree.names(DEVICES);
    let folders: Vec<_> =
        names.iter().filter_map(|name| tree.folder(&format!("{DEVICES}/{name}")).ok()).collect();
    let is_used =
        |folder: &super::tree::Folder<'_>| folder.read("usbip_status").is_ok_and(|status| status == USED);
    let used: Vec<_> = folders.iter().filter(|folder| is_used(folder)).collect();
    // The kernel resets each device before the write returns, so they are let go of side by side.
    thread::scope(|scope| {
        for folder in &used {
            scope.spawn(|| folder.write("usbip_sockfd", "-1"));
        }
    });
    match wait_for(ALL, || (!used.iter().any(|folder| is_used(folder))).then_some(())) {
        Some(()) => 0,
        None => complain("the kernel does not let go of every device"),
    }
}

fn invalid(id: &str) -> Reason {
    format!("Invalid device format: {id}")
}

/// In the VM that has got it.
fn from_import(tree: &Tree, vm: &str, id: &str) -> Result<(), Reason> {
    if !is_vm(vm) {
        return Err(format!("{vm} cannot be the name of a VM"));
    }
    let id = DeviceId::parse(id).ok_or_else(|| invalid(id))?;
    let state = state_file(tree, vm, &id)?;
    let none = || format!("Device {} from domain {vm} not attached!", id.as_str());
    let imported = Imported::read(&state).ok_or_else(none)?;
    if !imported.is_there(tree) {
        // Its port is another device's by now, or nobody's.
        let _ = fs::remove_file(&state);
        return Err(none());
    }
    let controller = tree.folder(IMPORTER).map_err(because("vhci_hcd"))?;
    controller.write("detach", &imported.port.to_string()).map_err(because("detach"))?;
    let _ = fs::remove_file(&state);
    imported.wait_until_gone(tree)
}

/// In the VM that it belongs to.
fn from_export(tree: &Tree, id: &str) -> Result<(), Reason> {
    let id = PortId::parse(id).ok_or_else(|| invalid(id))?;
    let none = || format!("Device {} not found or not attached to any VM!", id.as_str());
    let folder = tree.folder(&format!("{DEVICES}/{}", id.as_str())).map_err(|_| none())?;
    // Older kernels mind if a device is let go of that nobody has.
    if folder.read("usbip_status").map_err(|_| none())? != USED {
        return Err(none());
    }
    folder.write("usbip_sockfd", "-1").map_err(because("usbip_sockfd"))?;
    let is_free = || !folder.read("usbip_status").is_ok_and(|status| status == USED);
    wait_for(RELEASE, || is_free().then_some(()))
        .ok_or_else(|| format!("the kernel does not let go of device {}", id.as_str()))?;
    if tree.path("run/qubes-service/usb-keep-bound").exists()
        || folder.read("usbip_status").is_ok_and(|status| status != AVAILABLE)
    {
        return Ok(());
    }
    // The kernel has reset it just now: its own driver may have it back.
    let back = |what: &str| format!("Failed to {what} USB device {}", id.as_str());
    let driver = tree.folder(EXPORTER).map_err(because(back("unbind")))?;
    driver.write("unbind", id.as_str()).map_err(because(back("unbind")))?;
    let bus = tree.folder("sys/bus/usb").map_err(because(back("reload")))?;
    bus.write("drivers_probe", id.as_str()).map_err(because(back("reload")))
}
