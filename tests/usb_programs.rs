//! The programs that export and import USB devices, without a kernel: a folder stands for each machine's system.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use lab::Lab;
use rustix::process::{Pid, Signal, kill_process};
use usb_sim::kernel::{Kernel, Plugged};
use usb_sim::{Kind, Machine, Medium, pattern};

use super::common;
use super::common::{Said, eventually, full, leftovers, within_deadline};

/// The services of both machines, each of which is the program of its name.
fn services(lab: lab::Builder) -> lab::Builder {
    let names = ["qubes.USB", "qubes.USBAttach", "qubes.USBDetach"];
    ["vault", "work"].into_iter().fold(lab, |lab, vm| {
        names
            .into_iter()
            .fold(lab, |lab, name| lab.script(vm, name, &format!("#!/bin/sh\nexec {name} \"$@\"\n")))
    })
}

struct System {
    lab: Lab,
    exports: Kernel,
    imports: Kernel,
    root: tempfile::TempDir,
    /// What is in the meeting places while nobody calls.
    places: Vec<String>,
}

fn stick() -> Machine {
    Machine::new(Kind::Stick(Medium::Memory(pattern(1 << 20))), None)
}

fn keyboard() -> Machine {
    Machine::new(Kind::Keyboard(None), None)
}

/// VM vault has these ports, VM work two controllers of two ports of each speed.
fn system(ports: &[&str]) -> System {
    let root = tempfile::tempdir().unwrap();
    let folder = |vm: &str| {
        let folder = root.path().join(vm);
        fs::create_dir(&folder).unwrap();
        folder
    };
    let make = |port: &&str| if port.starts_with('9') { keyboard as fn() -> Machine } else { stick };
    let plugged = ports.iter().map(|port| Plugged { port: (*port).to_owned(), make: make(port) }).collect();
    let exports = Kernel::start(&folder("vault"), plugged, 1, 2).unwrap();
    let imports = Kernel::start(&folder("work"), Vec::new(), 2, 2).unwrap();
    let keys = root.path().join("keys");
    let note = |name: &str| format!("#!/bin/sh\nprintf '%s\n' \"{name} $*\" >> {}\n", keys.display());
    let lab = services(common::lab())
        .env("QUBES_USB_ROOT", root.path().to_str().unwrap())
        .program("vault", "qubesdb-write", &note("write"))
        .program("vault", "qubesdb-rm", &note("rm"))
        .start()
        .unwrap();
    let places = common::meeting_places(&lab);
    System { lab, exports, imports, root, places }
}

impl System {
    fn request(&self, vm: &str, service: &str, line: &str) -> Said {
        let argv = ["qrexec-client", "-d", vm, &format!("DEFAULT:QUBESRPC {service} dom0")];
        common::run(&self.lab, "dom0", &argv, line.as_bytes())
    }

    fn attach(&self, port: &str) -> Said {
        self.request("work", "qubes.USBAttach", &format!("vault {port}\n"))
    }

    fn attached(&self, port: &str) {
        let said = self.attach(port);
        assert_eq!((said.code, said.stderr.as_str()), (0, ""), "{port}: {said:?}");
    }

    fn refused(&self, port: &str, reason: &str) {
        let said = self.attach(port);
        assert_eq!(said.code, 1, "{port}: {said:?}");
        assert!(said.stderr.contains(reason) && said.stderr.trim().lines().count() == 1, "{port}: {said:?}");
    }

    fn detach_in_import(&self, port: &str) -> Said {
        self.request("work", "qubes.USBDetach", &format!("vault {port}\n"))
    }

    fn detach_in_export(&self, port: &str) -> Said {
        self.request("vault", "qubes.USBDetach", &format!("{port}\n"))
    }

    fn path(&self, vm: &str, below: &str) -> PathBuf {
        self.root.path().join(vm).join(below)
    }

    /// Neither side has anything of any device; no process is left.
    fn clean(&self) {
        eventually("both sides let go", || {
            self.exports.in_use() == (0, 0) && self.imports.in_use() == (0, 0)
        });
        assert_eq!(leftovers(&self.lab, Duration::from_secs(10)), []);
        assert_eq!(common::meeting_places(&self.lab), self.places);
    }
}

/// The folder of the only imported device.
fn imported(system: &System) -> PathBuf {
    let devices = fs::read_dir(system.path("work", "sys/bus/usb/devices")).unwrap();
    let paths: Vec<_> = devices.map(|entry| entry.unwrap().path()).collect();
    assert_eq!(paths.len(), 1, "{paths:?}");
    paths[0].clone()
}

fn text(path: &Path) -> String {
    fs::read_to_string(path).unwrap().trim().to_owned()
}

/// Cases 1, 4, 5, 6.
#[test]
fn a_stick_is_attached_read_and_detached_by_the_import() {
    within_deadline(|| {
        let system = system(&["1-1"]);
        system.attached("1-1");
        let folder = imported(&system);
        eventually("the content is compared", || folder.join("content").exists());
        assert_eq!(text(&folder.join("content")), "as expected");
        assert_eq!(text(&folder.join("power/control")), "on");
        let said = system.detach_in_import("1-1");
        assert_eq!(said.code, 0, "{said:?}");
        assert!(!folder.exists());
        system.clean();
        let keys = text(&system.root.path().join("keys"));
        assert!(keys.starts_with("write /qubes-usb-devices/1-1/connected-to work"), "{keys}");
        assert!(
            keys.contains("rm /qubes-usb-devices/1-1/connected-to /qubes-usb-devices/1-1/x-pid"),
            "{keys}"
        );
        assert_eq!(system.detach_in_import("1-1").code, 1, "twice");
    });
}

/// Case 7, and 17th port ids (section 3).
#[test]
fn the_export_lets_go_and_the_device_has_its_own_driver_again() {
    within_deadline(|| {
        let ports: Vec<String> = (1..=18).map(|port| format!("1-{port}")).collect();
        let system = system(&ports.iter().map(String::as_str).collect::<Vec<_>>());
        for port in &ports {
            system.attached(port);
            let said = system.detach_in_export(port);
            assert_eq!(said.code, 0, "{port}: {said:?}");
            assert!(system.path("vault", &format!("sys/bus/usb/devices/{port}/driver")).exists());
            eventually("the import lets go", || system.imports.in_use() == (0, 0));
        }
        let said = system.detach_in_export("1-1");
        assert!(said.code == 1 && said.stderr.contains("not attached to any VM"), "{said:?}");
        system.clean();
    });
}

/// A VM may say that devices are to be reset before others get them.
#[test]
fn a_device_is_reset_before_it_is_attached_where_the_vm_says_so() {
    within_deadline(|| {
        let system = system(&["1-1", "1-2"]);
        let was_reset =
            |port: &str| system.path("vault", &format!("sys/bus/usb/devices/{port}/was_reset")).exists();
        system.attached("1-1");
        assert!(!was_reset("1-1"));
        let folder = system.path("vault", "run/qubes-service");
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("usb-reset-on-attach"), "").unwrap();
        system.attached("1-2");
        assert!(was_reset("1-2") && !was_reset("1-1"));
        assert_eq!([system.detach_in_import("1-1").code, system.detach_in_import("1-2").code], [0, 0]);
        system.clean();
    });
}

/// Case 8, 9, 10, 17, 20.
#[test]
fn what_cannot_be_attached_is_refused_with_a_reason() {
    within_deadline(|| {
        let system = system(&["1-1", "1-1.4.2", "1-3", "1-4", "1-5"]);
        system.refused("1-2", "No such device: 1-2");
        system.refused("../../x", "Invalid device format");
        system.refused("1-1:1.0", "Invalid device format");
        system.attached("1-1");
        system.refused("1-1", "attached already");
        for port in ["1-1.4.2", "1-3", "1-4"] {
            system.attached(port);
        }
        system.refused("1-5", "No unused port found! All 4 ports");
        // The others are as they were.
        assert_eq!((system.exports.in_use().0, system.imports.in_use().1), (4, 4));
        for port in ["1-1", "1-1.4.2", "1-3", "1-4"] {
            assert_eq!(system.detach_in_import(port).code, 0, "{port}");
        }
        system.clean();
    });
}

/// Case 11.
#[test]
fn a_call_that_policy_refuses_is_refused_with_its_code() {
    within_deadline(|| {
        let system = system(&["1-1"]);
        let said = system.request("work", "qubes.USBAttach", "nobody 1-1\n");
        assert_eq!(said.code, 126, "{said:?}");
        assert!(said.stderr.to_lowercase().contains("refused"), "{said:?}");
        system.clean();
    });
}

fn the_call(system: &System, program: &str, vm: &str) -> i32 {
    let processes = system.lab.processes();
    let found = processes.iter().find(|process| process.program == program && process.vm == vm);
    found.unwrap_or_else(|| panic!("{program} in {vm}: {processes:?}")).pid
}

/// Case 13.
#[test]
fn a_killed_data_process_of_the_export_leaves_both_sides_clean() {
    within_deadline(|| {
        let system = system(&["1-1"]);
        system.attached("1-1");
        let is_data = |process: &&lab::Process| process.program == "qrexec-agent" && process.vm == "vault";
        let extras = common::extras(&system.lab);
        let pid = extras.iter().find(is_data).unwrap_or_else(|| panic!("{extras:?}")).pid;
        kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
        system.clean();
        let keys = text(&system.root.path().join("keys"));
        assert!(keys.contains("rm /qubes-usb-devices/1-1/connected-to"), "{keys}");
    });
}

/// Cases 12 and 14.
#[test]
fn a_killed_call_and_an_unplugged_device_leave_both_sides_clean() {
    within_deadline(|| {
        let system = system(&["1-1", "9-2"]);
        system.attached("1-1");
        let began = Instant::now();
        let client = the_call(&system, "qrexec-client-vm", "work");
        kill_process(Pid::from_raw(client).unwrap(), Signal::KILL).unwrap();
        system.clean();
        assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());

        system.attached("9-2");
        system.exports.unplug("9-2");
        system.clean();
    });
}

/// Case 15: all at once.
#[test]
fn all_devices_are_detached_before_a_suspend() {
    within_deadline(|| {
        let system = system(&["1-1", "1-2", "1-3"]);
        for port in ["1-1", "1-2", "1-3"] {
            system.attached(port);
        }
        let said = common::run(&system.lab, "vault", &["usb-detach-all"], b"");
        assert_eq!(said.code, 0, "{said:?}");
        system.clean();
        system.attached("1-1");
        assert_eq!(system.detach_in_export("1-1").code, 0);
        system.clean();
    });
}

/// Case 18.
#[test]
fn devices_that_are_attached_at_the_same_moment_get_a_port_each() {
    within_deadline(|| {
        let ports = ["1-1", "1-2", "1-3", "1-4"];
        let system = system(&ports);
        std::thread::scope(|scope| {
            let attaches = ports.map(|port| scope.spawn(|| system.attached(port)));
            for attach in attaches {
                attach.join().unwrap();
            }
        });
        assert_eq!(system.imports.in_use().1, 4);
        for port in ports {
            assert_eq!(system.detach_in_import(port).code, 0, "{port}");
        }
        system.clean();
    });
}

/// Case 31.
#[test]
fn a_state_file_of_another_device_at_the_port_detaches_nothing() {
    within_deadline(|| {
        let system = system(&["1-1", "1-2"]);
        system.attached("1-1");
        let state = system.path("work", "var/run/qubes/usb-import-vault-1-1.state");
        let old = fs::read(&state).unwrap();
        assert_eq!(system.detach_in_export("1-1").code, 0);
        eventually("the port is free", || system.imports.in_use() == (0, 0));
        system.attached("1-2");
        fs::write(&state, old).unwrap();
        let said = system.detach_in_import("1-1");
        assert!(said.code == 1 && said.stderr.contains("not attached"), "{said:?}");
        assert_eq!(system.imports.in_use().1, 1, "the other device stays");
        assert!(!state.exists());
        assert_eq!(system.detach_in_import("1-2").code, 0);
        system.clean();
    });
}

/// By vendor and product in place of a port: from dom0's line to the export and back (section 1.2).
#[test]
fn a_device_is_attached_and_detached_by_vendor_and_product() {
    within_deadline(|| {
        let only = "0x1209.0x0001";
        let one = system(&["1-1"]);
        one.attached(only);
        assert_eq!(text(&one.path("vault", "sys/bus/usb/devices/1-1/usbip_status")), "2");
        assert!(one.path("work", &format!("var/run/qubes/usb-import-vault-{only}.state")).exists());
        let said = one.detach_in_import(only);
        assert_eq!(said.code, 0, "{said:?}");
        one.clean();
        one.refused("0x1209.0x0002", "No such device: 1209:0002");
        one.refused("0x1209.1", "Invalid device format");

        let two = system(&["1-1", "1-2"]);
        two.refused(only, "Multiple devices matching 1209:0001");
        two.clean();
    });
}

/// What a rule of udev runs (section 1.6), with stand-ins for qubesdb.
#[test]
fn the_list_of_devices_is_written_as_udev_tells() {
    within_deadline(|| {
        let system = system(&["1-1.4"]);
        let keys = system.root.path().join("keys");
        let heard = |action: &str, more: &[&str]| {
            let usual = [
                "env",
                "DEVPATH=/devices/pci0/usb1/1-1.4",
                "DEVTYPE=usb_device",
                "TYPE=0/0/0",
                "ID_VENDOR_ID=1209",
                "ID_MODEL_ID=0001",
                "ID_VENDOR_ENC=A\\x20Maker",
                "ID_MODEL_ENC=Stick",
                "ID_SERIAL_SHORT=42",
                "ID_USB_INTERFACES=:080650:",
            ];
            let argv = [&usual[..], more, &["usb-device-list", action]].concat();
            let said = common::run(&system.lab, "vault", &argv, b"");
            assert_eq!((said.code, said.stdout.as_slice()), (0, &b""[..]), "{said:?}");
            let written = fs::read_to_string(&keys).unwrap_or_default();
            let _ = fs::remove_file(&keys);
            written
        };
        let list = "/qubes-usb-devices";
        let all = format!(
            "write {list}/1-1_4/desc 1209:0001 A\\x20Maker Stick 42 {list}/1-1_4/usb-ver 2 \
             {list}/1-1_4/interfaces :080650: {list} \n"
        );
        assert_eq!(heard("add", &[]), all);
        assert_eq!(heard("change", &[]), all);
        let without = heard("change", &["ID_USB_INTERFACES="]);
        assert!(without.contains("/desc") && !without.contains("interfaces"), "{without}");
        assert_eq!(heard("remove", &[]), format!("rm {list}/1-1_4/\nwrite {list} \n"));
        for not_listed in
            ["TYPE=9/0/1", "DEVTYPE=usb_interface", "DEVPATH=/devices/platform/vhci_hcd.0/usb4/4-1"]
        {
            assert_eq!(heard("add", &[not_listed]), "", "{not_listed}");
            assert_eq!(heard("remove", &[not_listed]), "", "{not_listed}");
        }
    });
}

/// Cases 16 and 32.
#[test]
fn many_attaches_and_detaches_leave_nothing() {
    let rounds = if full() { 1000 } else { 20 };
    common::within(Duration::from_secs(if full() { 900 } else { 120 }), move || {
        let system = system(&["1-1"]);
        for round in 0..rounds {
            system.attached("1-1");
            let said =
                if round % 2 == 0 { system.detach_in_import("1-1") } else { system.detach_in_export("1-1") };
            assert_eq!(said.code, 0, "{said:?}");
        }
        system.clean();
        let left = fs::read_dir(system.path("work", "var/run/qubes")).unwrap().count();
        assert!(left <= 2, "the lock, and the state of the last device that the export took back: {left}");
        assert_eq!(fs::read_dir(system.path("vault", "var/run/qubes")).unwrap().count(), 0);
    });
}
