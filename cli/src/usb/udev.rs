//! `usb-device-list`: what udev knows of a device, written where dom0 looks for devices.

use std::ffi::OsString;
use std::process::{Command, Stdio};

use clap::{CommandFactory, Parser, ValueEnum};

use super::names::PortId;
use super::tree::Tree;
use super::{Reason, because, complain};
use crate::usage;

/// Where dom0 looks, and what it watches.
const LIST: &str = "/qubes-usb-devices";

/// Writes into qubesdb that a USB device has come, changed or gone: a rule of udev runs it.
///
/// Environment, by udev: DEVPATH, DEVTYPE, TYPE, ID_VENDOR_ID, ID_MODEL_ID, ID_VENDOR_ENC, ID_MODEL_ENC, ID_SERIAL_SHORT,
/// ID_USB_INTERFACES.
#[derive(Debug, Parser)]
#[command(name = "usb-device-list", version)]
struct Cli {
    /// What has happened
    #[arg(value_enum)]
    action: Action,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Action {
    /// It is there
    Add,
    /// It is another than before, as after a driver took it
    Change,
    /// It is not there any more
    Remove,
}

/// Its command line.
#[must_use]
pub fn command() -> clap::Command {
    Cli::command()
}

/// The program; gives the exit status.
#[must_use]
pub fn main(args: Vec<OsString>) -> i32 {
    let action = match usage::parse("usb-device-list", args) {
        Ok(Cli { action }) => action,
        Err(code) => return code,
    };
    let property = |name: &str| std::env::var_os(name).map(|value| value.to_string_lossy().into_owned());
    let done = listed(&property).map_or(Ok(()), |port| match action {
        Action::Add | Action::Change => {
            let version = version(&property("DEVPATH").unwrap_or_default());
            run("qubesdb-write", &keys(&port, action, &version, &property))
        }
        Action::Remove => {
            // The slash at its end: with all that is below it.
            let gone = run("qubesdb-rm", &[format!("{LIST}/{}/", port.key())]);
            gone.and(run("qubesdb-write", &[LIST.to_owned(), String::new()]))
        }
    });
    done.map_or_else(|reason| complain(&reason), |()| 0)
}

/// The port of a device that belongs into the list: no interface, no hub, and nothing that is another VM's.
fn listed(property: &impl Fn(&str) -> Option<String>) -> Option<PortId> {
    let path = property("DEVPATH")?;
    let is_device = property("DEVTYPE").is_some_and(|kind| kind == "usb_device");
    let is_hub = property("TYPE").is_some_and(|kind| kind.split('/').next() == Some("9"));
    if !is_device || is_hub || path.contains("/vhci_hcd") {
        return None;
    }
    PortId::parse(path.rsplit('/').next()?)
}

/// The major number of the device's USB version.
fn version(path: &str) -> String {
    let folder = path.trim_start_matches('/');
    let text = std::fs::read_to_string(Tree::here().path("sys").join(folder).join("version"));
    text.unwrap_or_default().trim().split('.').next().unwrap_or_default().to_owned()
}

/// Keys and values, one after the other; the last is what dom0 watches.
fn keys(
    port: &PortId,
    action: Action,
    version: &str,
    property: &impl Fn(&str) -> Option<String>,
) -> Vec<String> {
    // Four fields: a blank in one of them would make five, and dom0 would show the port only.
    let field = |name: &str| property(name).unwrap_or_default().replace(' ', r"\x20");
    let fields = ["ID_VENDOR_ID", "ID_MODEL_ID", "ID_VENDOR_ENC", "ID_MODEL_ENC", "ID_SERIAL_SHORT"];
    let [vendor, product, maker, model, serial] = fields.map(field);
    let key = |name: &str| format!("{LIST}/{}/{name}", port.key());
    let description = format!("{vendor}:{product} {maker} {model} {serial}");
    let mut keys = vec![key("desc"), description, key("usb-ver"), version.to_owned()];
    let interfaces = property("ID_USB_INTERFACES").unwrap_or_default();
    // A device that usbip-host has just got has none before its first import: what the list says stays true.
    if action == Action::Add || interfaces.bytes().any(|byte| byte.is_ascii_hexdigit()) {
        keys.extend([key("interfaces"), interfaces]);
    }
    keys.extend([LIST.to_owned(), String::new()]);
    keys
}

fn run(program: &str, args: &[String]) -> Result<(), Reason> {
    // What it prints would be properties of the device to udev.
    let mut command = Command::new(program);
    let status = command.args(args).stdin(Stdio::null()).stdout(Stdio::null()).status();
    let status = status.map_err(because(program))?;
    if status.success() { Ok(()) } else { Err(format!("{program}: {status}")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stick(name: &str) -> Option<String> {
        let value = match name {
            "DEVPATH" => "/devices/pci0000:00/0000:00:14.0/usb2/2-1/2-1.4",
            "DEVTYPE" => "usb_device",
            "TYPE" => "0/0/0",
            "ID_VENDOR_ID" => "1209",
            "ID_MODEL_ID" => "0001",
            "ID_VENDOR_ENC" => r"Two\x20Words",
            "ID_MODEL_ENC" => "a stick",
            "ID_USB_INTERFACES" => ":080650:",
            _ => return None,
        };
        Some(value.to_owned())
    }

    #[test]
    fn the_keys_are_those_that_dom0_reads() {
        let wanted = [
            "/qubes-usb-devices/2-1_4/desc",
            r"1209:0001 Two\x20Words a\x20stick ",
            "/qubes-usb-devices/2-1_4/usb-ver",
            "3",
            "/qubes-usb-devices/2-1_4/interfaces",
            ":080650:",
            "/qubes-usb-devices",
            "",
        ];
        assert_eq!(keys(&listed(&stick).unwrap(), Action::Add, "3", &stick), wanted);
    }

    #[test]
    fn a_change_without_interfaces_leaves_those_of_the_list() {
        let port = listed(&stick).unwrap();
        let bound = |name: &str| if name == "ID_USB_INTERFACES" { Some(":".into()) } else { stick(name) };
        let has = |action| keys(&port, action, "3", &bound).iter().any(|key| key.ends_with("/interfaces"));
        assert!(has(Action::Add) && !has(Action::Change));
    }

    #[test]
    fn hubs_interfaces_and_imported_devices_are_not_listed() {
        let with = |which: &str, value: &str| {
            listed(&|name: &str| if name == which { Some(value.to_owned()) } else { stick(name) })
        };
        assert_eq!(with("TYPE", "0/0/0").unwrap().as_str(), "2-1.4");
        assert_eq!(with("TYPE", "9/0/1"), None);
        assert_eq!(with("DEVTYPE", "usb_interface"), None);
        assert_eq!(with("DEVPATH", "/devices/platform/vhci_hcd.0/usb4/4-1"), None);
        assert_eq!(with("DEVPATH", "/devices/pci0000:00/usb2"), None);
    }
}
