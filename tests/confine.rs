//! The processes of calls are confined, of whatever program they are, and what they have started is not.

use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};

use crate::common::{eventually, extras, lab, wait_within, within_deadline};
use lab::{DOM0, Lab};

/// Says that it runs, starts a program, and ends with its input.
const HOLD: &str = "#!/bin/sh\necho here\necho heard >&2\ncat\n";

/// What holds a process: whether it gains privileges by programs, and its filters.
#[derive(Debug, PartialEq, Eq)]
struct Bonds {
    no_new_privs: u32,
    filters: u32,
}

impl Bonds {
    /// `None`: the process has ended.
    fn of(pid: &str) -> Option<Self> {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let value = |name: &str| {
            let line =
                status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_else(|| panic!("{name}"));
            line.trim().parse().unwrap()
        };
        Some(Self { no_new_privs: value("NoNewPrivs:"), filters: value("Seccomp_filters:") })
    }

    /// As tight as a call's process, whatever holds this test already.
    fn of_a_call(outside: &Self) -> Self {
        Self { no_new_privs: 1, filters: outside.filters + 1 }
    }
}

/// A call under way: bytes have come all the way.
fn held(lab: &Lab, vm: &str, argv: &[&str]) -> Child {
    let mut command = lab.command(vm, argv).unwrap();
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "here\n", "{argv:?}");
    child
}

/// Those of the lab that have to do with a call, by program: `true` for a call's own.
fn bonds(lab: &Lab) -> Vec<(String, bool, Bonds)> {
    let mut found: Vec<_> = extras(lab)
        .into_iter()
        .filter_map(|process| {
            let own = process.program.starts_with("qrexec-") || process.program.starts_with("qvm-");
            Some((process.program, own, Bonds::of(&process.pid.to_string())?))
        })
        .collect();
    found.sort_by(|one, other| one.0.cmp(&other.0));
    found
}

fn end(mut call: Child) {
    drop(call.stdin.take());
    assert_eq!(wait_within(&mut call, crate::common::DEADLINE), Some(0));
}

#[test]
fn every_process_of_a_call_is_confined_and_no_service_is() {
    within_deadline(|| {
        let lab = lab()
            .policy("* * @anyvm @anyvm allow\n* * @anyvm @adminvm allow\n")
            .script("vault", "test.Hold", HOLD)
            .script(DOM0, "test.Hold", HOLD)
            .start()
            .unwrap();
        let outside = Bonds::of("self").unwrap();
        // A caller and a service in VMs; a service in dom0, with its log; a caller in dom0.
        for (vm, argv, programs) in [
            (
                "work",
                &["qrexec-client-vm", "vault", "test.Hold"][..],
                &["qrexec-agent", "qrexec-client-vm"][..],
            ),
            (
                "work",
                &["qrexec-client-vm", "@adminvm", "test.Hold"],
                &["qrexec-client-vm", "qrexec-daemon", "qrexec-daemon"],
            ),
            (
                DOM0,
                &["qrexec-client", "-d", "vault", "DEFAULT:QUBESRPC test.Hold dom0"],
                &["qrexec-agent", "qrexec-client"],
            ),
        ] {
            let call = held(&lab, vm, argv);
            // What reads a service's error output confines itself beside the call.
            eventually(&format!("{programs:?} of {argv:?}, confined, and a service that is not"), || {
                let bonds = bonds(&lab);
                let own = bonds.iter().filter(|(_, own, _)| *own).map(|(name, ..)| name.as_str());
                let expected =
                    |own: bool| if own { Bonds::of_a_call(&outside) } else { Bonds::of("self").unwrap() };
                own.eq(programs.iter().copied())
                    && bonds.iter().all(|(_, own, bonds)| *bonds == expected(*own))
            });
            end(call);
        }
        lab.down().unwrap();
    });
}

#[test]
fn both_ends_of_a_file_copy_are_confined_in_the_calls_own_process() {
    within_deadline(|| {
        let outside = Bonds::of("self").unwrap();
        let are_confined = |lab: &Lab, programs: &[&str]| {
            eventually(&format!("{programs:?}, confined"), || {
                let bonds = bonds(lab);
                let own: Vec<_> = bonds.iter().filter(|(_, own, _)| *own).collect();
                own.iter().map(|(name, ..)| name.as_str()).eq(programs.iter().copied())
                    && own.iter().all(|(.., bonds)| *bonds == Bonds::of_a_call(&outside))
            });
        };
        // A receiver that waits for more.
        let lab = lab().start().unwrap();
        let mut command = lab.command("work", ["qrexec-client-vm", "vault", "qubes.Filecopy"]).unwrap();
        let mut call =
            command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        are_confined(&lab, &["qrexec-agent", "qrexec-client-vm"]);
        drop(call.stdin.take());
        // It has said that there was no end.
        assert_eq!(wait_within(&mut call, crate::common::DEADLINE), Some(121));
        lab.down().unwrap();
        // A sender whose receiver takes nothing.
        let lab = crate::common::lab().script("vault", "qubes.Filecopy", "#!/bin/sh\nexec sleep 1000\n");
        let lab = lab.start().unwrap();
        let _ = std::fs::remove_file(lab.layout().config("vault").join("qubes.Filecopy"));
        let home = lab.layout().home("work");
        std::fs::File::create(home.join("large")).unwrap().set_len(64 << 20).unwrap();
        let mut command = lab.command("work", ["qvm-copy", "--to", "vault", "large"]).unwrap();
        let command = command.current_dir(home).stdin(Stdio::null()).stderr(Stdio::null());
        let mut call = command.spawn().unwrap();
        are_confined(&lab, &["qrexec-agent", "qvm-copy"]);
        call.kill().unwrap();
        call.wait().unwrap();
        lab.down().unwrap();
    });
}

#[test]
fn it_can_be_left_out_for_debugging() {
    within_deadline(|| {
        let policy = "* * @anyvm @anyvm allow\n";
        let lab = lab().policy(policy).script("vault", "test.Hold", HOLD).env("QREXEC_CONFINE", "off");
        let lab = lab.start().unwrap();
        let call = held(&lab, "work", &["qrexec-client-vm", "vault", "test.Hold"]);
        let outside = Bonds::of("self").unwrap();
        assert!(bonds(&lab).into_iter().all(|(_, _, bonds)| bonds == outside));
        end(call);
        let confined = ["env", "QREXEC_CONFINE=on", "qrexec-client-vm"];
        for (option, expected) in
            [(&[][..], Bonds::of_a_call(&outside)), (&["--no-confine"], Bonds::of("self").unwrap())]
        {
            let argv = [&confined[..], option, &["vault", "test.Hold"]].concat();
            let call = held(&lab, "work", &argv);
            let client = bonds(&lab).into_iter().find(|(name, ..)| name == "qrexec-client-vm").unwrap();
            assert_eq!(client.2, expected);
            end(call);
        }
        lab.down().unwrap();
    });
}
