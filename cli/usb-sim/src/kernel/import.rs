//! The side that imports: virtual controllers, and a driver for each device.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use std::{fs, io, thread};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use wire::usbip::{AttachLine, Speed};

use super::{Outcome, State, files, hang_up, locked};
use crate::host::{Class, Content, Disk, Host, Trouble, Way, describe};

/// The virtual controllers' folder.
const FOLDER: &str = "sys/devices/platform/vhci_hcd.0";
/// States of a port.
const FREE: u32 = 4;
const NO_ADDRESS: u32 = 5;
const USED: u32 = 6;
/// How long a device may take to answer.
const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Debug)]
pub(super) struct Importer {
    root: PathBuf,
    controllers: u32,
    ports: u32,
    /// Devices so far: each gets a number of its own.
    count: u32,
    used: BTreeMap<u32, Used>,
}

/// A port with a device.
#[derive(Debug)]
struct Used {
    state: u32,
    line: AttachLine,
    name: String,
    connection: OwnedFd,
}

impl Importer {
    pub(super) fn new(root: &Path, controllers: u32, ports: u32) -> io::Result<Self> {
        fs::create_dir_all(root.join(FOLDER))?;
        let new = Self { root: root.to_owned(), controllers, ports, count: 0, used: BTreeMap::new() };
        new.say()?;
        Ok(new)
    }

    pub(super) fn in_use(&self) -> usize {
        self.used.len()
    }

    /// Writes down which ports are in use.
    fn say(&self) -> io::Result<()> {
        for controller in 0..self.controllers {
            let mut text = String::from("hub port sta spd dev      sockfd local_busid\n");
            for number in controller * 2 * self.ports..(controller + 1) * 2 * self.ports {
                let hub = if self.is_super(number) { "ss" } else { "hs" };
                let (state, devid, name) = self
                    .used
                    .get(&number)
                    .map_or((FREE, 0, "0-0"), |used| (used.state, used.line.devid, used.name.as_str()));
                let _ = writeln!(text, "{hub}  {number:04} {state:03} 000 {devid:08x} 000000 {name}");
            }
            let name = if controller == 0 { "status".to_owned() } else { format!("status.{controller}") };
            files::put(&self.root.join(FOLDER).join(name), text.trim_end())?;
        }
        Ok(())
    }

    const fn is_super(&self, number: u32) -> bool {
        number % (2 * self.ports) >= self.ports
    }

    /// `PORT DESCRIPTOR DEVID SPEED`.
    pub(super) fn attach(&mut self, state: &Arc<Mutex<State>>, value: &str, socket: OwnedFd) -> Outcome {
        let words: Vec<u32> = value.split(' ').map_while(|word| word.parse().ok()).collect();
        let [number, _, devid, speed] = words[..] else { return Err(Errno::INVAL) };
        let speed = Speed::ALL.into_iter().find(|known| u32::from(known.number(true)) == speed);
        let line = AttachLine { devid, speed: speed.ok_or(Errno::INVAL)? };
        if number >= self.controllers * 2 * self.ports {
            return Err(Errno::INVAL);
        }
        if self.used.contains_key(&number) {
            return Err(Errno::BUSY);
        }
        let connection = socket.try_clone().map_err(|_| Errno::NFILE)?;
        self.used.insert(number, Used { state: NO_ADDRESS, line, name: "0-0".into(), connection });
        self.say().map_err(|_| Errno::IO)?;
        let state = Arc::clone(state);
        thread::spawn(move || {
            let folder = use_device(&state, number, line, &socket);
            let mut now = locked(&state);
            let used = now.importer.used.remove(&number);
            if let (Some(folder), Some(used)) = (folder, used) {
                files::remove(&now.root, &folder, &used.name);
            }
            let _ = now.importer.say();
            hang_up(&socket);
        });
        Ok(())
    }

    pub(super) fn detach(&self, value: &str) -> Outcome {
        let number: u32 = value.parse().map_err(|_| Errno::INVAL)?;
        hang_up(&self.used.get(&number).ok_or(Errno::INVAL)?.connection);
        Ok(())
    }

    /// A device has its address: it gets a folder and a name.
    fn settle(&mut self, number: u32, line: AttachLine) -> Option<PathBuf> {
        self.count += 1;
        let (bus, place) = (4 + number / self.ports, number % self.ports + 1);
        let name = format!("{bus}-{place}");
        let (bus, devnum) = (bus.to_string(), self.count.to_string());
        let attributes = [
            ("busnum", bus.as_str()),
            ("devnum", &devnum),
            ("speed", line.speed.text()),
            ("bDeviceClass", "00"),
        ];
        let folder = files::device(&self.root, &format!("{FOLDER}/usb{bus}"), &name, &attributes).ok()?;
        let used = self.used.get_mut(&number)?;
        (used.state, used.name) = (USED, name);
        self.say().ok()?;
        Some(folder)
    }
}

/// Uses a device as long as it is there. Its folder, if it has come that far.
fn use_device(state: &Mutex<State>, number: u32, line: AttachLine, socket: &OwnedFd) -> Option<PathBuf> {
    let mut host = Host::adopt(socket.try_clone().ok()?, line, PATIENCE).ok()?;
    let described = describe(&mut host).ok()?;
    let folder = locked(state).importer.settle(number, line)?;
    let content = match described.class {
        Class::Disk => {
            compare(&mut host).map_or_else(|trouble| trouble.to_string(), |()| "as expected".into())
        }
        _ => "none".into(),
    };
    let _ = files::put(&folder.join("content"), &content);
    while let Err(Errno::INTR) = poll(&mut [PollFd::new(socket, PollFlags::IN)], None) {}
    Some(folder)
}

/// Reads the begin of a disk and compares it.
fn compare(host: &mut Host) -> Result<(), Trouble> {
    let mut disk = Disk::open(host, Content::Pattern)?;
    disk.measure(Way::Read, 64 << 10, 256 << 10).map(|_| ())
}
