//! USB devices over calls, without a kernel: a simulated device as the service, a stand-in for the kernel as the client.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Child, Stdio};
use std::time::Duration;

use lab::{Lab, Part};
use rustix::process::{Pid, Signal, kill_process};
use usb_sim::host::{Content, Disk, Host, Request, Stream, Way, control_transfers, describe, keys, stream};

use super::common;
use super::common::{eventually, leftovers, within_deadline};

/// What every kind of device is served by, as the argument says.
const DEVICE: &str = "#!/bin/sh\nexec qrexec-usb-sim \"$1\" --size 4 --keys 20\n";

/// The same behind a filter on each side: on the service's by its configuration, on the caller's by an option.
fn import_filtered(lab: &Lab, kind: &str) -> (Host, Child) {
    import_by(
        lab,
        &["qrexec-client-vm", "--filter", "usbip no-firmware one-configuration"],
        "lab.Filtered",
        kind,
    )
}

fn lab_with_devices() -> Lab {
    let lab = common::lab().script("vault", "lab.Usb", DEVICE).script("vault", "lab.Filtered", DEVICE);
    let lab = lab.script("vault", "lab.Silent", "#!/bin/sh\nexec qrexec-usb-sim keyboard\n");
    lab.config("vault", "lab.Filtered", "filter='usbip classes=03,08,ff'\n").start().unwrap()
}

/// A device of VM vault that VM work has imported, and the call that carries it.
fn import(lab: &Lab, kind: &str) -> (Host, Child) {
    import_by(lab, &["qrexec-client-vm"], "lab.Usb", kind)
}

/// A keyboard on which nobody types.
fn import_silent(lab: &Lab) -> (Host, Child) {
    import_by(lab, &["qrexec-client-vm"], "lab.Silent", "keyboard")
}

fn import_by(lab: &Lab, client: &[&str], service: &str, kind: &str) -> (Host, Child) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let service = format!("{service}+{kind}");
    let argv = [client, &["--use-stdin-socket", "vault", &service]].concat();
    let mut command = lab.command("work", argv).unwrap();
    command.stdin(OwnedFd::from(theirs)).stdout(Stdio::null());
    let call = command.spawn().unwrap();
    drop(command);
    (Host::attach(ours.into(), Duration::from_secs(30)).unwrap(), call)
}

/// Lets go of a device: the call ends, and nothing is left.
fn release(lab: &Lab, host: Host, mut call: Child) {
    drop(host);
    common::wait_within(&mut call, Duration::from_secs(10)).unwrap();
    assert_eq!(leftovers(lab, Duration::from_secs(10)), []);
}

#[test]
fn a_stick_is_read_and_written_over_a_call() {
    devices_work_as_sticks(import);
}

/// A filter on each side refuses nothing of it.
#[test]
fn a_stick_works_behind_filters() {
    devices_work_as_sticks(import_filtered);
}

fn devices_work_as_sticks(import: fn(&Lab, &str) -> (Host, Child)) {
    within_deadline(move || {
        let lab = lab_with_devices();
        let (mut host, call) = import(&lab, "stick");
        describe(&mut host).unwrap();
        control_transfers(&mut host, 50).unwrap();
        let mut disk = Disk::open(&mut host, Content::Pattern).unwrap();
        for length in [4 << 10, 120 << 10, 1 << 20] {
            disk.measure(Way::Read, length, 1 << 20).unwrap();
            disk.measure(Way::Write, length, 1 << 20).unwrap();
            disk.measure(Way::Read, length, 4 << 20).unwrap();
        }
        release(&lab, host, call);
    });
}

#[test]
fn a_camera_and_a_keyboard_work_over_a_call() {
    cameras_and_keyboards_work(import);
}

#[test]
fn a_camera_and_a_keyboard_work_behind_filters() {
    cameras_and_keyboards_work(import_filtered);
}

fn cameras_and_keyboards_work(import: fn(&Lab, &str) -> (Host, Child)) {
    within_deadline(move || {
        let lab = lab_with_devices();
        let (mut host, call) = import(&lab, "camera");
        describe(&mut host).unwrap();
        let seen = stream(&mut host, Stream::webcam(Duration::from_millis(200))).unwrap();
        assert_eq!((seen.wrong, host.pending()), (0, 0), "{seen:?}");
        assert!(seen.answers > 5, "{seen:?}");
        release(&lab, host, call);

        let (mut host, call) = import(&lab, "keyboard");
        describe(&mut host).unwrap();
        assert_eq!(keys(&mut host, 4).unwrap(), [4, 4]);
        release(&lab, host, call);
    });
}

/// The client and the agent's process of the only call.
fn carriers(lab: &Lab) -> [i32; 2] {
    let extras = common::extras(lab);
    ["qrexec-client-vm", "qrexec-agent"].map(|program| {
        let found = extras.iter().find(|process| process.program == program);
        found.unwrap_or_else(|| panic!("{program}: {extras:?}")).pid
    })
}

fn status(pid: i32, field: &str) -> String {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    line.unwrap_or_else(|| panic!("no {field}")).trim().to_owned()
}

/// Case 29.
#[test]
fn a_device_stays_while_agents_and_daemons_are_restarted() {
    within_deadline(|| {
        let lab = lab_with_devices();
        let (mut host, call) = import(&lab, "stick");
        describe(&mut host).unwrap();
        let mut disk = Disk::open(&mut host, Content::Pattern).unwrap();
        for (vm, part) in
            [("vault", Part::Agent), ("work", Part::Agent), ("vault", Part::Daemon), ("work", Part::Daemon)]
        {
            lab.restart(vm, part).unwrap();
            disk.measure(Way::Write, 120 << 10, 1 << 20).unwrap();
            disk.measure(Way::Read, 120 << 10, 1 << 20).unwrap();
        }
        // And what is attached afterwards is another call.
        let (mut other, mut second) = import(&lab, "keyboard");
        describe(&mut other).unwrap();
        drop(other);
        common::wait_within(&mut second, Duration::from_secs(10)).unwrap();
        release(&lab, host, call);
    });
}

/// Case 30, as far as a machine that stands still is like one whose processes do: nothing is lost, nothing gives up.
#[test]
fn a_side_that_stands_still_loses_nothing() {
    within_deadline(|| {
        let lab = lab_with_devices();
        let (mut host, call) = import(&lab, "stick");
        describe(&mut host).unwrap();
        let carriers = carriers(&lab);
        let signal = |pid: i32, signal| kill_process(Pid::from_raw(pid).unwrap(), signal).unwrap();
        for pid in carriers.into_iter().chain(carriers) {
            signal(pid, Signal::STOP);
            eventually("it stands still", || status(pid, "State").starts_with('T'));
            // More than a request waits, both ways.
            let read = Request { setup: [0x80, 6, 0, 1, 0, 0, 18, 0], ..Request::from_device(0, 18) };
            let asked: Vec<u32> = (0..20).map(|_| host.submit(&read).unwrap()).collect();
            signal(pid, Signal::CONT);
            let answered: Vec<u32> = asked.iter().map(|_| host.answer().unwrap().seqnum).collect();
            assert_eq!(answered, asked);
        }
        let mut disk = Disk::open(&mut host, Content::Pattern).unwrap();
        disk.measure(Way::Read, 120 << 10, 1 << 20).unwrap();
        release(&lab, host, call);
    });
}

/// Case 23 but for the hour: who waits for a key is not woken, and neither process looks.
#[test]
fn an_idle_device_wakes_nobody() {
    within_deadline(|| {
        let lab = lab_with_devices();
        for kind in ["stick", "keyboard"] {
            let (mut host, call) = if kind == "stick" { import(&lab, kind) } else { import_silent(&lab) };
            describe(&mut host).unwrap();
            // As after lively use.
            control_transfers(&mut host, 300).unwrap();
            if kind == "keyboard" {
                host.submit(&Request::from_device(1, 8)).unwrap();
            }
            let carriers = carriers(&lab);
            let woken = || {
                carriers.map(|pid| {
                    ["voluntary", "nonvoluntary"].map(|how| status(pid, &format!("{how}_ctxt_switches")))
                })
            };
            // Time is what is tried here: that in so long nothing happens. There is no event to wait for.
            let second = || std::thread::sleep(Duration::from_millis(1200));
            // Once, a second after its last use, a call gives back what it does not need.
            eventually("it rests", || {
                let before = woken();
                second();
                before == woken()
            });
            let before = woken();
            second();
            assert_eq!(woken(), before, "{kind}");
            if kind == "stick" {
                control_transfers(&mut host, 5).unwrap();
            }
            release(&lab, host, call);
        }
    });
}

#[test]
fn the_lab_tries_a_device_by_itself() {
    within_deadline(|| {
        let mut command = common::called("qrexec-lab");
        command.args(["usb", "keyboard"]);
        let said = common::talk(command, b"");
        assert_eq!(said.code, 0, "{said:?}");
        assert!(said.stderr.contains("control: ") && said.stderr.contains("keys: 1"), "{said:?}");
    });
}

/// The way of upstream's scripts: both programs are children, and each asks for one socket by a signal.
#[test]
fn a_host_that_the_client_starts_gets_one_socket_by_a_signal() {
    within_deadline(|| {
        let lab = lab_with_devices();
        let report = lab.layout().home("work").join("report");
        let report_option = format!("--report={}", report.display());
        let program = lab.layout().bin().join("qrexec-usb-sim");
        let host = [program.to_str().unwrap(), "host", "--amount=1", &report_option];
        let argv = [&["qrexec-client-vm", "vault", "lab.Usb+stick"][..], &host].concat();
        let said = common::run(&lab, "work", &argv, b"");
        assert_eq!(said.code, 0, "{said:?}");
        let report: serde_json::Value = serde_json::from_slice(&std::fs::read(report).unwrap()).unwrap();
        assert_eq!(report["control"]["waits"]["count"], 200, "{report}");
        assert_eq!(report["disk"].as_array().unwrap().len(), 6, "{report}");
        assert_eq!(leftovers(&lab, Duration::from_secs(10)), []);
    });
}
