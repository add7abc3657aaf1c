//! Many calls at once: what they cost, and what happens when there are too many.

use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};

use crate::common::{self, DEADLINE, alone, call, full, lab, within_deadline};
use lab::Lab;
use serde_json::Value;

/// A service that says that it runs, and does so until its input ends.
const WAITS: &str = "#!/bin/sh\necho up\nexec cat\n";

/// A call that runs.
fn running(lab: &Lab) -> Child {
    let mut command = lab.command("work", ["qrexec-client-vm", "vault", "test.Waits"]).unwrap();
    let mut client = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(client.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "up\n");
    client
}

#[test]
fn a_call_beyond_the_ceiling_is_refused_and_no_other() {
    within_deadline(|| {
        let lab = lab().script("vault", "test.Waits", WAITS).env("QREXEC_MAX_CALLS", "2").start().unwrap();
        let mut clients = [running(&lab), running(&lab)];
        let said = call(&lab, "work", "vault", "test.Waits", b"");
        assert!(said.code == 126 && said.stderr.ends_with("Request refused\n"), "{said:?}");
        for client in &mut clients {
            assert_eq!(client.try_wait().unwrap(), None, "an earlier call is not affected");
            drop(client.stdin.take());
            assert!(client.wait().unwrap().success());
        }
        // The agent may see their ends a moment after we do.
        let again =
            (0..1000).map(|_| call(&lab, "work", "vault", "test.Waits", b"")).find(|said| said.code != 126);
        assert_eq!(again.map(|said| said.code), Some(0));
    });
}

/// KiB that each client has of its executable for itself, because the linker wrote addresses into it. The one that has every program
/// has far more of them than the installed client, so they are not part of what is bounded here.
fn relocated() -> f64 {
    let lab = lab().script("vault", "test.Waits", WAITS).start().unwrap();
    let mut client = running(&lab);
    let executable = std::fs::read_link(format!("/proc/{}/exe", client.id())).unwrap();
    let smaps = std::fs::read_to_string(format!("/proc/{}/smaps", client.id())).unwrap();
    let mut is_executables = false;
    let mut dirty = 0.0;
    for line in smaps.lines() {
        if let Some(amount) = line.strip_prefix("Private_Dirty:").filter(|_| is_executables) {
            dirty += amount.trim().strip_suffix(" kB").unwrap().parse::<f64>().unwrap();
        } else if line.split(' ').next().is_some_and(|range| range.contains('-')) {
            is_executables = line.ends_with(executable.to_str().unwrap());
        }
    }
    drop(client.stdin.take());
    assert!(client.wait().unwrap().success());
    dirty
}

/// The median of a metric of the scenario.
fn median(recording: &Value, name: &str) -> f64 {
    let metrics = recording["scenarios"][0]["results"][0]["metrics"].as_array().unwrap();
    let metric = metrics.iter().find(|metric| metric["name"] == name).unwrap_or_else(|| panic!("no {name}"));
    metric["median"].as_f64().unwrap()
}

/// More than upstream has ports for between two VMs. The bounds are those for 2,000 calls, taken down.
#[test]
fn idle_calls_are_small() {
    if !full() {
        return;
    }
    alone(DEADLINE, || {
        const CALLS: f64 = 200.0;
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("scale.json");
        let bench = common::called("qrexec-bench")
            .args(["--scenario=scale", "--runs=1", "--idle-calls=200", "--json"])
            .arg(&file)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        assert!(bench.status.success(), "{}", String::from_utf8_lossy(&bench.stderr));
        let recording: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
        let (own, all) = (median(&recording, "USS per call"), median(&recording, "PSS of all"));
        let relocated = relocated();
        assert!(own - relocated <= 320.0, "{own} KiB a call, {relocated} of them the executable's");
        let relocated_of_all = relocated / 1024.0 * CALLS;
        assert!(
            all - relocated_of_all <= 512.0 / 2000.0 * CALLS + 24.0,
            "{all} MiB in all, {relocated_of_all} of them the executable's, agents and daemons included"
        );
        eprintln!("{own} KiB a call, {relocated} of them the executable's; {all} MiB in all");
        let busy = median(&recording, "CPU of all");
        assert!(busy <= 20.0, "{busy} ms in 10 s");
    });
}
