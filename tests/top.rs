//! `qrexec-top`: what it shows of real calls, in dom0 and in the VMs on both sides, and while they run.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Stdio};

use lab::{DOM0, Lab};
use serde_json::Value;

use crate::common::{call, eventually, lab, run, within_deadline};

/// Says that it is there, reads what it gets, answers with the count and ends with 3.
const COUNTS: &str = "#!/bin/sh\necho up\nwc -c\nexit 3\n";

/// What `qrexec-top` shows in a machine: the row of this service.
fn row(lab: &Lab, vm: &str, service: &str) -> Option<Value> {
    let said = run(lab, vm, &["qrexec-top", "--json", "--delay", "0.1"], b"");
    assert_eq!(said.code, 0, "{said:?}");
    let all: Value = serde_json::from_slice(&said.stdout).unwrap();
    let calls = all["calls"].as_array().unwrap();
    calls.iter().find(|call| call["service"] == service).cloned()
}

/// Waits until the row of this service is as it shall be.
fn becomes(lab: &Lab, vm: &str, service: &str, is_so: impl Fn(&Value) -> bool) -> Value {
    let mut seen = Value::Null;
    eventually(&format!("{service} in {vm}"), || {
        seen = row(lab, vm, service).unwrap_or_default();
        is_so(&seen)
    });
    seen
}

/// A call that runs and has sent `bytes`.
fn running(lab: &Lab, target: &str, service: &str, bytes: &[u8]) -> Child {
    let mut command = lab.command("work", ["qrexec-client-vm", target, service]).unwrap();
    let mut client = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::with_capacity(1, client.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "up\n");
    client.stdin.as_mut().unwrap().write_all(bytes).unwrap();
    client
}

#[test]
fn a_call_is_seen_while_it_runs_and_when_it_has_ended() {
    within_deadline(|| {
        let lab = lab().script("vault", "test.Counts", COUNTS).start().unwrap();
        let service = "test.Counts+a";
        let mut client = running(&lab, "vault", service, &[0; 5000]);

        // In the VM that serves it: its bytes, while it runs.
        let served = becomes(&lab, "vault", service, |row| row["bytes_to_service"] == 5000);
        assert_eq!(
            (&served["way"], &served["source"], &served["target"]),
            (&"served".into(), &"work".into(), &"vault".into())
        );
        assert_eq!((&served["running"], &served["bytes_to_caller"]), (&1.into(), &3.into()));
        assert!(served["age_seconds"].as_f64().is_some() && served["rule"].is_null());
        // In dom0: the rule.
        let decided = becomes(&lab, DOM0, service, |row| row["running"] == 1);
        assert_eq!((&decided["source"], &decided["target"]), (&"work".into(), &"vault".into()));
        assert!(decided["rule"].as_str().unwrap().ends_with("policy:1"), "{decided}");
        assert!(decided["bytes_to_service"].is_null(), "its bytes do not pass through dom0");
        // In the VM that asked for it.
        let asked = becomes(&lab, "work", service, |row| row["running"] == 1);
        assert_eq!(
            (&asked["way"], &asked["source"], &asked["last_exit_code"]),
            (&"asked".into(), &"work".into(), &Value::Null)
        );

        drop(client.stdin.take());
        assert_eq!(client.wait().unwrap().code(), Some(3));
        for vm in ["vault", "work"] {
            let ended = becomes(&lab, vm, service, |row| row["running"] == 0 && row["last_exit_code"] == 3);
            assert_eq!(ended["bytes_to_service"], 5000, "{ended}");
            assert_eq!(ended["bytes_to_caller"], "up\n5000\n".len(), "{ended}");
            assert!(ended["age_seconds"].is_null());
        }
        becomes(&lab, DOM0, service, |row| row["running"] == 0 && row["calls"] == 1);
    });
}

#[test]
fn of_services_in_dom0_everything_is_known_there() {
    within_deadline(|| {
        let policy = "* * @anyvm @adminvm allow\n* * @anyvm @anyvm deny\n";
        let lab = lab().policy(policy).script(DOM0, "test.Counts", COUNTS).start().unwrap();
        let mut client = running(&lab, "dom0", "test.Counts", &[0; 700]);
        let row = becomes(&lab, DOM0, "test.Counts+", |row| row["bytes_to_service"] == 700);
        assert_eq!((&row["running"], &row["bytes_to_caller"]), (&1.into(), &3.into()));
        drop(client.stdin.take());
        assert_eq!(client.wait().unwrap().code(), Some(3));
        becomes(&lab, DOM0, "test.Counts+", |row| row["last_exit_code"] == 3 && row["running"] == 0);
        // One that is refused was asked for, and is told as refused.
        assert_eq!(call(&lab, "work", "vault", "test.None", b"").code, 126);
        for vm in [DOM0, "work"] {
            let row = becomes(&lab, vm, "test.None+", |row| row["refused"] == 1);
            assert_eq!(
                (&row["running"], &row["calls"], &row["last_exit_code"]),
                (&0.into(), &1.into(), &126.into())
            );
        }
    });
}

#[test]
fn commands_of_dom0_are_its_own_and_nobody_sees_what_they_say() {
    within_deadline(|| {
        let lab = lab().start().unwrap();
        let command = ["qrexec-client", "-d", "work", "DEFAULT:echo secret; exit 5"];
        assert_eq!(run(&lab, DOM0, &command, b"").code, 5);
        let of_dom0 = becomes(&lab, DOM0, "(a command)", |row| row["running"] == 0);
        assert_eq!((&of_dom0["source"], &of_dom0["target"]), (&"dom0".into(), &"work".into()));
        becomes(&lab, "work", "(a command)", |row| row["last_exit_code"] == 5 && row["bytes_to_caller"] == 7);
        for vm in [DOM0, "work"] {
            let table = run(&lab, vm, &["qrexec-top", "--once"], b"").text();
            assert!(table.contains("(a command)") && !table.contains("secret"), "{table}");
        }
    });
}

#[test]
fn a_table_and_sums_for_prometheus() {
    within_deadline(|| {
        let lab = lab().script("vault", "test.Counts", COUNTS).start().unwrap();
        assert_eq!(call(&lab, "work", "vault", "test.Counts", b"12345").code, 3);
        becomes(&lab, "vault", "test.Counts+", |row| row["running"] == 0 && row["last_exit_code"] == 3);
        // Without a terminal it is one table, whatever was asked for.
        let table = run(&lab, "vault", &["qrexec-top"], b"").text();
        let heads = table.lines().nth(1).unwrap_or_default();
        assert!(heads.starts_with("SOURCE") && heads.ends_with("RULE"), "{table}");
        let line = table.lines().find(|line| line.contains("test.Counts+")).unwrap();
        let words: Vec<&str> = line.split_whitespace().collect();
        assert_eq!(words[..6], ["work", "vault", "test.Counts+", "0", "1", "5B"], "{table}");
        let metrics = run(&lab, "vault", &["qrexec-top", "--metrics"], b"").text();
        let labels = "machine=\"\",way=\"served\",user=\"";
        for (name, end) in [
            ("qrexec_calls_total", "1"),
            ("qrexec_calls_running", "0"),
            ("qrexec_last_exit_code", "3"),
            ("qrexec_bytes_total", "5"),
        ] {
            let start = format!("{name}{{{labels}");
            let found =
                metrics.lines().any(|line| line.starts_with(&start) && line.ends_with(&format!("}} {end}")));
            assert!(found, "{name} in {metrics}");
        }
    });
}

#[test]
fn where_nobody_can_be_asked_it_says_so() {
    within_deadline(|| {
        let folder = tempfile::tempdir().unwrap();
        let mut command = crate::common::called("qrexec-top");
        command.env_remove("QREXEC_AGENT_SOCKET").env("QREXEC_SOCKET_DIR", folder.path()).arg("--once");
        let said = crate::common::talk(command, b"");
        assert_eq!(said.code, 1, "{said:?}");
        assert!(said.stderr.contains("neither an agent nor a daemon can be asked here"), "{said:?}");
        assert_eq!(said.stderr.lines().count(), 1);
    });
}
