//! What one VM leaves of another to the others: calls at once, services whose links were cut, calls that nobody comes for.
//!
//! What a release build of these programs and one of earlier programs make of it, in one run:
//! `QREXEC_TEST_FULL=1 QREXEC_TEST_BEFORE=FOLDER cargo test --release -p qrexec-tests --test fair_target -- --nocapture
//! --test-threads=1`

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::common::{self, DEADLINE, Said, alone, call, eventually, full, lab, run, skipped};
use lab::{Builder, Lab};
use wire::control::{ExecParams, Message};
use wire::handshake::hello;
use wire::names::{DomainId, Port};
use wire::version::Version;

/// A service that says that it runs, and does so until its input ends.
const WAITS: &str = "#!/bin/sh\necho up\nexec cat\n";
/// One that goes on when its caller is gone.
const STAYS: &str = "#!/bin/sh\necho up\nexec sleep 600\n";

/// A lab of three VMs, with the programs of `before` if there are any.
fn three(before: Option<&Path>) -> Builder {
    let lab = lab().vm("vault").vm("flood").vm("work");
    let lab = lab.script("vault", "test.Waits", WAITS).script("vault", "test.Stays", STAYS);
    let lab = lab.script("vault", "test.Echo", "#!/bin/sh\ncat\n");
    match before {
        Some(folder) => lab.bin_dir(folder),
        None => lab,
    }
}

/// A caller in `flood`, and the first line of its service; empty if there is none.
fn caller(lab: &Lab, service: &str) -> (Child, String) {
    let mut command = lab.command("flood", ["qrexec-client-vm", "vault", service]).unwrap();
    let piped = Stdio::piped;
    let mut client = command.stdin(piped()).stdout(piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(client.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    (client, line)
}

fn end(mut client: Child) -> i32 {
    drop(client.stdin.take());
    common::code(client.wait().unwrap())
}

/// What another VM and dom0 get of `vault`, and how long it takes them.
fn others(lab: &Lab) -> ([Said; 2], Duration) {
    let since = Instant::now();
    let of_vm = call(lab, "work", "vault", "test.Echo", b"word");
    let of_dom0 = run(lab, "dom0", &["qrexec-client", "-d", "vault", "DEFAULT:cat"], b"word");
    ([of_vm, of_dom0], since.elapsed())
}

fn are_served(said: &[Said; 2]) -> bool {
    said.iter().all(|said| said.code == 0 && said.text() == "word")
}

#[test]
fn who_calls_without_end_has_a_part_and_is_told_so() {
    alone(DEADLINE, || {
        // Three of these are dom0's, so one source has eleven.
        let lab = three(None).env("QREXEC_MAX_SERVED", "24").start().unwrap();
        let callers: Vec<_> = thread::scope(|scope| {
            let callers: Vec<_> = (0..40).map(|_| scope.spawn(|| caller(&lab, "test.Waits"))).collect();
            callers.into_iter().map(|caller| caller.join().unwrap()).collect()
        });
        let (said, _) = others(&lab);
        assert!(are_served(&said), "{said:?}");
        let running = |line: &str| line == "up\n";
        assert_eq!(callers.iter().filter(|(_, line)| running(line)).count(), 11);
        for (client, line) in callers {
            let code = end(client);
            assert_eq!(code, if running(&line) { 0 } else { 125 });
        }
        let log = fs::read_to_string(lab.layout().log("vault").join("agent.log")).unwrap();
        let refused: Vec<_> = log.lines().filter(|line| line.contains("more are refused")).collect();
        assert_eq!(refused.len(), 29, "one line for each: {refused:?}");
        // What was given back is there again.
        eventually("a place", || call(&lab, "flood", "vault", "test.Echo", b"").code == 0);
    });
}

/// Services of `flood` that run while it calls and hangs up, so many times.
fn cut(lab: &Lab, times: usize) -> usize {
    for _ in 0..times {
        let (mut client, _) = caller(lab, "test.Stays");
        client.kill().unwrap();
        client.wait().unwrap();
    }
    lab.processes().iter().filter(|process| process.program == "sleep").count()
}

#[test]
fn a_service_whose_link_was_cut_counts_until_it_ends() {
    alone(DEADLINE, || {
        let lab = three(None).env("QREXEC_MAX_SERVED", "16").start().unwrap();
        let services = cut(&lab, 20);
        assert!((1..=7).contains(&services), "{services} services run");
        let (said, _) = others(&lab);
        assert!(are_served(&said), "{said:?}");
        // Their links are over, and dom0 knows: no port is theirs any more.
        let read = || fs::read_to_string(lab.layout().log("dom0").join("daemon-vault.log")).unwrap();
        let ended = |log: &str| log.matches("test.Stays+: flood -> vault: ended after").count();
        eventually("the ends of all links", || ended(&read()) == 20);
        // When they end, there is room again.
        assert_eq!(caller(&lab, "test.Stays").1, "");
        for process in lab.processes().iter().filter(|process| process.program == "sleep") {
            let pid = rustix::process::Pid::from_raw(process.pid).unwrap();
            rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
        }
        eventually("a place", || call(&lab, "flood", "vault", "test.Echo", b"").code == 0);
    });
}

/// dom0 has so many commands started in `vault` for callers that never come.
fn nobody_comes(lab: &Lab, calls: u32) -> Vec<UnixStream> {
    let user = String::from_utf8(run(lab, "dom0", &["id", "-un"], b"").stdout).unwrap();
    (0..calls)
        .map(|_| {
            let mut daemon = UnixStream::connect(lab.layout().daemon_socket("vault")).unwrap();
            let params = ExecParams {
                connect_domain: DomainId(0),
                connect_port: Port(0),
                cmdline: format!("{}:true", user.trim()).into_bytes(),
            };
            daemon.write_all(&hello(Version::V3)).unwrap();
            let message = Message::Exec { just: false, params };
            daemon.write_all(&message.encode(Version::V3).unwrap()).unwrap();
            // Its HELLO, and the port.
            daemon.read_exact(&mut [0; 12 + 16]).unwrap();
            daemon
        })
        .collect()
}

/// Processor time that the processes of `vault` use, in processors, and how many they are, with so many calls waiting.
fn waiting(lab: &Lab, calls: u32) -> (f64, usize) {
    let waiting = nobody_comes(lab, calls);
    let processes = || lab.processes().into_iter().filter(|process| process.vm == "vault");
    // By then nobody looks often any more.
    thread::sleep(Duration::from_secs(2));
    let used = || processes().map(|process| ticks(process.pid)).sum::<f64>();
    let (before, since) = (used(), Instant::now());
    // That nothing happens is what is measured.
    thread::sleep(Duration::from_secs(2));
    let busy = (used() - before) / since.elapsed().as_secs_f64();
    drop(waiting);
    (busy, processes().count())
}

/// Seconds of processor time that a process has used.
fn ticks(pid: i32) -> f64 {
    let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else { return 0.0 };
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_ascii_whitespace().collect();
    (fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap())
        / rustix::param::clock_ticks_per_second() as f64
}

/// Set in a process whose user has no inotify instances left.
const ROOM: &str = "QREXEC_TEST_WITHOUT_WATCHES";

/// Runs this test once more where the user's inotify instances are used up; `true`: this is there.
fn without_watches(test: &str) -> bool {
    if std::env::var_os(ROOM).is_some() {
        return true;
    }
    // The lab itself takes one.
    let take = "echo 1 >/proc/sys/user/max_inotify_instances && exec \"$0\" \"$@\"";
    let room = |command: &[&str]| {
        let mut room = Command::new("unshare");
        room.args(["--user", "--map-root-user", "sh", "-c", take]).args(command).env(ROOM, "1");
        room
    };
    let possible = room(&["true"]).stderr(Stdio::null()).status().is_ok_and(|status| status.success());
    if !possible {
        skipped("a user without inotify instances: no user namespace to be had");
        return false;
    }
    let own = std::env::current_exe().unwrap();
    let status = room(&[own.to_str().unwrap(), "--exact", test, "--nocapture"]).status().unwrap();
    assert!(status.success(), "without watches");
    false
}

#[test]
fn calls_that_nobody_comes_for_cost_nothing() {
    let here = without_watches("calls_that_nobody_comes_for_cost_nothing");
    alone(DEADLINE, move || {
        let lab = three(None).start().unwrap();
        let (busy, processes) = waiting(&lab, 177);
        assert!(busy < 0.05, "{busy} processors, without watches: {here}");
        assert_eq!(processes, 1, "the agent alone");
        assert!(are_served(&others(&lab).0));
    });
}

#[test]
fn what_it_was_before() {
    let Some(before) = std::env::var_os("QREXEC_TEST_BEFORE").map(PathBuf::from).filter(|_| full()) else {
        return;
    };
    let few = without_watches("what_it_was_before");
    for (name, folder) in [("before", Some(before.as_path())), ("now", None)] {
        let lab = three(folder).start().unwrap();
        let (busy, processes) = waiting(&lab, 177);
        let watches = if few { "no inotify instances" } else { "inotify instances as usual" };
        println!("{name}: 177 calls wait, {watches}: {busy:.3} processors, {processes} processes");
        drop(lab);
        if few {
            continue;
        }
        // The descriptors of agents and daemons are few.
        let lab = three(folder).env("QREXEC_MAX_SERVED", "150").start().unwrap();
        let mut callers = Vec::new();
        for _ in 0..300 {
            let mut command = lab.command("flood", ["qrexec-client-vm", "vault", "test.Waits"]).unwrap();
            let piped = Stdio::piped;
            callers.push(command.stdin(piped()).stdout(piped()).stderr(Stdio::null()).spawn().unwrap());
        }
        thread::sleep(Duration::from_secs(5));
        let services = lab.processes().iter().filter(|process| process.program == "cat").count();
        let (said, took) = others(&lab);
        println!(
            "{name}: 300 calls of one VM, 150 allowed: {services} services; another VM and dom0 are served: {}, in \
             {:.3} s",
            are_served(&said),
            took.as_secs_f64()
        );
        for client in callers {
            end(client);
        }
        drop(lab);
        let lab = three(folder).env("QREXEC_MAX_SERVED", "16").start().unwrap();
        println!("{name}: 40 links cut, 16 calls allowed: {} services run on", cut(&lab, 40));
    }
}
