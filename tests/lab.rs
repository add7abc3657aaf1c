//! `qrexec-lab` as a program: what it runs, and that nothing of it survives, however it ends.

use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Output, Stdio};
use std::time::Duration;

use crate::common::{EXE, ended_within, eventually, readable_within, skipped, within_deadline};
use lab::{Layout, Plan, processes};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};

/// How long a dying lab may take to take everything along.
const GONE: Duration = Duration::from_secs(10);

/// With namespaces where the system has them, and without.
const MODES: [&[&str]; 2] = [&[], &["--no-namespace"]];

/// Leaves two processes behind: one in a session of its own, one that has lost the lab's marker too. Both hold standard
/// output, so that its end is the end of all of them. Then says that it is there and stays.
const CLINGING: &str = "setsid sleep 1000 & env -i setsid sleep 1000 & echo there; exec sleep 1000";

/// A lab whose folder of labs is a folder of this test.
fn qrexec_lab(home: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(EXE);
    command.args(args).env("XDG_RUNTIME_DIR", home).env_remove("QUBES_LAB_NO_NAMESPACE");
    command
}

fn said(home: &Path, args: &[&str]) -> Output {
    qrexec_lab(home, args).stdin(Stdio::null()).output().unwrap()
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A running lab whose command clings to life.
fn clinging(home: &Path, mode: &[&str]) -> (Child, BufReader<ChildStdout>) {
    let mut args = vec!["run"];
    args.extend(mode);
    args.extend(["--", "sh", "-c", CLINGING]);
    let mut command = qrexec_lab(home, &args);
    let mut child = command.process_group(0).stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    stdout.read_line(&mut line).unwrap();
    assert_eq!(line, "there\n");
    (child, stdout)
}

fn pid(child: &Child) -> Pid {
    Pid::from_child(child)
}

/// Waits until the last holder of the command's output is gone, and the lab's folder with it.
fn assert_all_gone(home: &Path, mut stdout: BufReader<ChildStdout>) {
    assert!(readable_within(stdout.get_ref(), GONE), "something still holds the output");
    let mut rest = Vec::new();
    stdout.read_to_end(&mut rest).unwrap();
    let output = said(home, &["status"]);
    assert_eq!(text(&output), "no lab is running\n");
}

#[test]
fn runs_a_command_in_the_first_vm_and_returns_its_exit_code() {
    within_deadline(|| {
        for mode in MODES {
            let home = tempfile::tempdir().unwrap();
            let script = "echo $QUBES_LAB_VM; command -v qrexec-client-vm >/dev/null && exit 42";
            let mut args = vec!["run", "--vm", "alpha", "--vm", "beta"];
            args.extend(mode);
            args.extend(["--", "sh", "-c", script]);
            let output = said(home.path(), &args);
            assert_eq!((text(&output).as_str(), output.status.code()), ("alpha\n", Some(42)), "{output:?}");
            assert_eq!(std::fs::read_dir(home.path().join("qrexec-lab")).unwrap().count(), 0);
        }
    });
}

/// As for the first process of a container, whose process group has no number there.
#[test]
fn it_runs_where_its_process_group_is_outside() {
    let apart = |program: &str| {
        let mut command = Command::new("unshare");
        command.args(["--user", "--map-root-user", "--pid", "--fork", "--kill-child", program]);
        command.stdin(Stdio::null());
        command
    };
    let possible = apart("true").stderr(Stdio::null()).status().is_ok_and(|status| status.success());
    if !possible {
        return skipped("a process group outside: no user namespace to be had");
    }
    within_deadline(move || {
        let home = tempfile::tempdir().unwrap();
        let mut run = apart(EXE);
        run.args(["run", "--", "sh", "-c", "exit 7"]);
        run.env("XDG_RUNTIME_DIR", home.path()).env_remove("QUBES_LAB_NO_NAMESPACE");
        let output = run.output().unwrap();
        assert_eq!(output.status.code(), Some(7), "{output:?}");
    });
}

#[test]
fn a_command_that_cannot_start_says_why() {
    within_deadline(|| {
        let home = tempfile::tempdir().unwrap();
        let output = said(home.path(), &["run", "--", "no-such-program"]);
        assert_eq!(output.status.code(), Some(127));
        assert!(String::from_utf8_lossy(&output.stderr).contains("no-such-program"), "{output:?}");
        assert_eq!(said(home.path(), &["run"]).status.code(), Some(2));
        assert_eq!(said(home.path(), &["run", "--vm", "dom0", "--", "true"]).status.code(), Some(125));
        assert_eq!(
            said(home.path(), &["run", "--service", "none:a=/bin/sh", "--", "true"]).status.code(),
            Some(125)
        );
    });
}

#[test]
fn everything_ends_with_the_command() {
    within_deadline(|| {
        for mode in MODES {
            let home = tempfile::tempdir().unwrap();
            let script = "setsid sleep 1000 & env -i setsid sleep 1000 & exit 7";
            let mut args = vec!["run"];
            args.extend(mode);
            args.extend(["--", "sh", "-c", script]);
            // `output` returns when the last holder of the pipes is gone.
            assert_eq!(said(home.path(), &args).status.code(), Some(7));
        }
    });
}

#[test]
fn everything_ends_when_the_lab_is_killed() {
    within_deadline(|| {
        for mode in MODES {
            let home = tempfile::tempdir().unwrap();
            let (mut child, stdout) = clinging(home.path(), mode);
            child.kill().unwrap();
            child.wait().unwrap();
            assert!(readable_within(stdout.get_ref(), GONE));
            await_empty(home.path());
            assert_all_gone(home.path(), stdout);
        }
    });
}

#[test]
fn everything_ends_when_its_process_group_is_killed() {
    within_deadline(|| {
        for mode in MODES {
            let home = tempfile::tempdir().unwrap();
            let (mut child, stdout) = clinging(home.path(), mode);
            kill_process_group(pid(&child), Signal::KILL).unwrap();
            child.wait().unwrap();
            assert!(readable_within(stdout.get_ref(), GONE));
            await_empty(home.path());
            assert_all_gone(home.path(), stdout);
        }
    });
}

#[test]
fn an_interrupt_ends_the_lab_and_shows_in_the_exit_code() {
    within_deadline(|| {
        for mode in MODES {
            for (signal, expected) in [(Signal::INT, 130), (Signal::TERM, 143)] {
                let home = tempfile::tempdir().unwrap();
                let (mut child, stdout) = clinging(home.path(), mode);
                kill_process(pid(&child), signal).unwrap();
                assert_eq!(child.wait().unwrap().code(), Some(expected));
                assert_all_gone(home.path(), stdout);
            }
        }
    });
}

/// The one lab in `home`, and the plan that it was built from.
fn only_lab(home: &Path) -> (Layout, Plan) {
    let mut entries = std::fs::read_dir(home.join("qrexec-lab")).unwrap();
    let layout = Layout::new(&entries.next().unwrap().unwrap().path());
    let plan = serde_json::from_slice(&std::fs::read(layout.plan()).unwrap()).unwrap();
    (layout, plan)
}

/// The keeper removes the folder last of all, so its end is the folder's end.
fn await_empty(home: &Path) {
    let Some(entry) = std::fs::read_dir(home.join("qrexec-lab")).unwrap().next() else { return };
    let lock = std::fs::read_to_string(Layout::new(&entry.unwrap().path()).lock()).unwrap_or_default();
    if let Ok(keeper) = lock.trim().parse() {
        assert!(ended_within(keeper, GONE), "the keeper hangs");
    }
}

#[test]
fn a_lab_that_stays_can_be_used_and_ended() {
    within_deadline(|| {
        for mode in MODES {
            let home = tempfile::tempdir().unwrap();
            let mut args = vec!["up", "--name", "one"];
            args.extend(mode);
            let output = said(home.path(), &args);
            assert!(output.status.success(), "{output:?}");
            let (_, plan) = only_lab(home.path());

            assert_eq!(
                said(home.path(), &["up", "--name", "one"]).status.code(),
                Some(125),
                "it is there already"
            );
            let status = text(&said(home.path(), &["status"]));
            for word in
                ["lab one", "dom0 (id 0)", "work (id 1)", "vault (id 2)", "qrexec-agent", "qrexec-daemon"]
            {
                assert!(status.contains(word), "{word} is missing in {status}");
            }
            let exec = |vm: &str| {
                let script = "echo $QUBES_LAB_VM $VCHAN_DOMAIN; setsid sleep 1000 >/dev/null 2>&1 & exit 5";
                said(home.path(), &["exec", "--name", "one", vm, "sh", "-c", script])
            };
            for (vm, line) in [("vault", "vault 2\n"), ("dom0", "dom0 0\n")] {
                let output = exec(vm);
                assert_eq!((text(&output).as_str(), output.status.code()), (line, Some(5)));
            }
            assert_eq!(exec("nobody").status.code(), Some(125));
            // One that is just becoming `sleep` has no environment to be known by for a moment.
            eventually("those that go on", || processes(&plan.token).len() >= 4 + 2);
            assert_eq!(said(home.path(), &["down", "--name", "one"]).status.code(), Some(0));
            assert_eq!(processes(&plan.token), []);
            assert_eq!(said(home.path(), &["down", "--name", "one"]).status.code(), Some(125));
        }
    });
}

/// Both processes that watch over a lab killed at once is the worst that can happen: what they leave without a namespace
/// is found by its marker.
#[test]
fn a_lab_without_its_keepers_is_recognised_and_buried() {
    within_deadline(|| {
        let home = tempfile::tempdir().unwrap();
        assert!(said(home.path(), &["up", "--no-namespace"]).status.success());
        let (layout, plan) = only_lab(home.path());
        let keeper: i32 = std::fs::read_to_string(layout.lock()).unwrap().trim().parse().unwrap();
        let children = std::fs::read_to_string(format!("/proc/{keeper}/task/{keeper}/children")).unwrap();
        let supervisor: i32 = children.trim().parse().unwrap();
        kill_process(Pid::from_raw(supervisor).unwrap(), Signal::STOP).unwrap();
        kill_process(Pid::from_raw(keeper).unwrap(), Signal::KILL).unwrap();
        kill_process(Pid::from_raw(supervisor).unwrap(), Signal::KILL).unwrap();
        assert!(ended_within(supervisor, GONE) && ended_within(keeper, GONE));
        assert!(!processes(&plan.token).is_empty(), "this test needs something to find");

        assert_eq!(text(&said(home.path(), &["status"])), "no lab is running\n");
        assert_eq!(processes(&plan.token), []);
        assert!(said(home.path(), &["up"]).status.success(), "its name is free again");
        assert!(said(home.path(), &["down"]).status.success());
    });
}

/// One of the two killed: the other cleans up.
#[test]
fn either_watcher_is_enough() {
    within_deadline(|| {
        for mode in MODES {
            for victim in ["__keeper", "__supervisor"] {
                let home = tempfile::tempdir().unwrap();
                let mut args = vec!["up"];
                args.extend(mode);
                assert!(said(home.path(), &args).status.success());
                let (layout, plan) = only_lab(home.path());
                let root = layout.root().as_os_str().as_encoded_bytes().to_vec();
                let family: Vec<i32> = watchers(&root);
                let killed = *family.iter().find(|pid| role_of(**pid).as_deref() == Some(victim)).unwrap();
                let members = processes(&plan.token);
                kill_process(Pid::from_raw(killed).unwrap(), Signal::KILL).unwrap();
                for pid in family.into_iter().chain(members.iter().map(|process| process.pid)) {
                    assert!(ended_within(pid, GONE), "{pid} survived the death of {victim}");
                }
                said(home.path(), &["status"]);
                assert!(!layout.root().exists());
            }
        }
    });
}

fn cmdline(pid: i32) -> Option<Vec<Vec<u8>>> {
    let bytes = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    Some(bytes.split(|b| *b == 0).map(<[u8]>::to_vec).collect())
}

fn role_of(pid: i32) -> Option<String> {
    String::from_utf8(cmdline(pid)?.into_iter().nth(1)?).ok()
}

/// The lab's own processes: they name its folder in their arguments and carry no marker.
fn watchers(root: &[u8]) -> Vec<i32> {
    let entries = std::fs::read_dir("/proc").unwrap();
    let pids = entries.filter_map(|entry| entry.unwrap().file_name().to_str()?.parse::<i32>().ok());
    pids.filter(|pid| cmdline(*pid).is_some_and(|args| args.get(2).is_some_and(|arg| arg == root))).collect()
}
