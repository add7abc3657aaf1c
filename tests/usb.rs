//! USB devices over calls, without a kernel: a simulated device as the service, a stand-in for the kernel as the client.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Child, Stdio};
use std::time::Duration;

use lab::Lab;
use usb_sim::host::{Content, Disk, Host, Stream, Way, control_transfers, describe, keys, stream};

use super::common;
use super::common::{leftovers, within_deadline};

/// What every kind of device is served by, as the argument says.
const DEVICE: &str = "#!/bin/sh\nexec qrexec-usb-sim \"$1\" --size 4 --keys 20\n";

fn lab_with_devices() -> Lab {
    common::lab().script("vault", "lab.Usb", DEVICE).start().unwrap()
}

/// A device of VM vault that VM work has imported, and the call that carries it.
fn import(lab: &Lab, kind: &str) -> (Host, Child) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let service = format!("lab.Usb+{kind}");
    let argv = ["qrexec-client-vm", "--use-stdin-socket", "vault", &service];
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
    within_deadline(|| {
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
    within_deadline(|| {
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
