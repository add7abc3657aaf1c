//! The side that exports: devices, and the driver `usbip-host`.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::{fs, io, thread};

use rustix::io::Errno;

use super::{Outcome, State, files, hang_up, locked};
use crate::machine::{Kind, Machine};
use crate::medium::{Medium, pattern};
use crate::run_controller;

/// How many ports the driver remembers.
const TABLE: usize = 16;
/// The size of a stick.
const STICK: usize = 16 << 20;

/// A device that is plugged in.
#[derive(Debug, Clone)]
pub struct Plugged {
    /// Where.
    pub port: String,
    /// A device, for each connection anew: each connection resets it.
    pub make: fn() -> Machine,
}

impl Plugged {
    /// A device of a kind that has a name: `stick`, `camera`, `keyboard`.
    #[must_use]
    pub fn new(port: &str, kind: &str) -> Option<Self> {
        let make: fn() -> Machine = match kind {
            "stick" => || Machine::new(Kind::Stick(Medium::Memory(pattern(STICK))), None),
            "camera" => || Machine::new(Kind::Camera, None),
            "keyboard" => || Machine::new(Kind::Keyboard(None), None),
            _ => return None,
        };
        Some(Self { port: port.to_owned(), make })
    }
}

#[derive(Debug)]
pub(super) struct Exporter {
    root: PathBuf,
    table: BTreeSet<String>,
    devices: BTreeMap<String, Device>,
}

#[derive(Debug)]
struct Device {
    folder: PathBuf,
    make: fn() -> Machine,
    bound: bool,
    connection: Option<OwnedFd>,
}

impl Exporter {
    pub(super) fn new(root: &Path, plugged: Vec<Plugged>) -> io::Result<Self> {
        fs::create_dir_all(root.join("sys/bus/usb/drivers/usbip-host"))?;
        fs::create_dir_all(root.join("sys/bus/usb/drivers/usb"))?;
        fs::create_dir_all(root.join("sys/bus/usb/devices"))?;
        let mut devices = BTreeMap::new();
        for Plugged { port, make } in plugged {
            let line = make().line();
            let (bus, number) = ((line.devid >> 16).to_string(), (line.devid & 0xffff).to_string());
            let attributes = [
                ("busnum", bus.as_str()),
                ("devnum", &number),
                ("speed", line.speed.text()),
                ("bDeviceClass", "00"),
                ("version", " 2.10"),
                ("idVendor", "1209"),
                ("idProduct", "0001"),
            ];
            let folder = files::device(root, "sys/devices/pci0/usb1", &port, &attributes)?;
            std::os::unix::fs::symlink(root.join("sys/bus/usb/drivers/usb"), folder.join("driver"))?;
            devices.insert(port, Device { folder, make, bound: false, connection: None });
        }
        Ok(Self { root: root.to_owned(), table: BTreeSet::new(), devices })
    }

    pub(super) fn in_use(&self) -> usize {
        self.devices.values().filter(|device| device.connection.is_some()).count()
    }

    pub(super) fn unplug(&mut self, id: &str) {
        if let Some(device) = self.devices.remove(id) {
            files::remove(&self.root, &device.folder, id);
            if let Some(socket) = device.connection {
                hang_up(&socket);
            }
        }
    }

    /// A write to an attribute of the driver.
    pub(super) fn driver(&mut self, attribute: &str, value: &str) -> Outcome {
        match (attribute, value.split_once(' ')) {
            ("match_busid", Some(("add", id))) if self.table.contains(id) || self.table.len() < TABLE => {
                self.table.insert(id.to_owned());
                Ok(())
            }
            ("match_busid", _) => Err(Errno::NOSPC),
            ("reload", _) if self.in_use() == 0 => {
                self.table.clear();
                Ok(())
            }
            ("reset", _) => {
                let device = self.devices.get(value).filter(|device| device.bound).ok_or(Errno::NODEV)?;
                fs::write(device.folder.join("was_reset"), "1\n").map_err(|_| Errno::IO)
            }
            ("bind", _) => {
                let device =
                    self.devices.get_mut(value).filter(|_| self.table.contains(value)).ok_or(Errno::NODEV)?;
                if device.folder.join("driver").exists() {
                    return Err(Errno::BUSY);
                }
                device.bound = true;
                device.say("1")
            }
            ("unbind", _) => {
                let device = self.devices.get_mut(value).filter(|device| device.bound).ok_or(Errno::NODEV)?;
                device.bound = false;
                if let Some(socket) = &device.connection {
                    hang_up(socket);
                }
                fs::remove_file(device.folder.join("usbip_status")).map_err(|_| Errno::IO)
            }
            _ => Err(Errno::INVAL),
        }
    }

    /// A device loses its own driver.
    pub(super) fn unbind(&mut self, id: &str) -> Outcome {
        let device = self.devices.get(id).ok_or(Errno::NODEV)?;
        fs::remove_file(device.folder.join("driver")).map_err(|_| Errno::NODEV)
    }

    /// A device may have a driver of its own again.
    pub(super) fn probe(&mut self, id: &str) -> Outcome {
        let device = self.devices.get(id).filter(|device| !device.bound).ok_or(Errno::NODEV)?;
        let link = device.folder.join("driver");
        std::os::unix::fs::symlink(self.root.join("sys/bus/usb/drivers/usb"), link).map_err(|_| Errno::EXIST)
    }

    /// A device gets a connection, or loses it.
    pub(super) fn connect(
        &mut self,
        state: &Arc<Mutex<State>>,
        id: &str,
        value: &str,
        socket: Option<OwnedFd>,
    ) -> Outcome {
        let device = self.devices.get_mut(id).filter(|device| device.bound).ok_or(Errno::NODEV)?;
        if value == "-1" {
            device.connection.as_ref().map(hang_up);
            return Ok(());
        }
        let socket = socket.filter(|_| device.connection.is_none()).ok_or(Errno::INVAL)?;
        device.connection = Some(socket.try_clone().map_err(|_| Errno::NFILE)?);
        device.say("2")?;
        // It has sent its line already: whoever gave the socket has.
        let mut machine = (device.make)();
        let line = machine.output().len();
        machine.handle_sent(line);
        let (state, id) = (Arc::clone(state), id.to_owned());
        thread::spawn(move || {
            let _ = run_controller(&mut machine, &socket);
            // Free first: who sees the end may look at once.
            if let Some(device) = locked(&state).exporter.devices.get_mut(&id) {
                device.connection = None;
                if device.bound {
                    let _ = device.say("1");
                }
            }
            hang_up(&socket);
        });
        Ok(())
    }
}

impl Device {
    fn say(&self, status: &str) -> Outcome {
        files::put(&self.folder.join("usbip_status"), status).map_err(|_| Errno::IO)
    }
}
