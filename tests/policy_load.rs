//! How fast policy decides, alone and while it is edited. The numbers in docs/policy.md come from
//! `cargo test --release -p qrexec-tests --test policy_load -- --ignored --nocapture --test-threads=1`.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::common::{DEADLINE, EXE, alone, call, eventually, lab};
use daemon::policy_source::PolicyStore;
use policy::{Decision, Files, Policy, Request, SystemInfo};
use serde_json::json;

/// How long the mixed load lasts, and how often the policy is replaced meanwhile.
const LOAD: Duration = Duration::from_secs(if cfg!(debug_assertions) { 1 } else { 5 });
const PAUSE: Duration = Duration::from_millis(100);

/// A policy of so many rules, as people write them: a few for each of many services.
fn spread(rules: usize) -> String {
    let rule = |i: usize| format!("demo.S{} * qube{} qube{} allow\n", i / 10, i % 97, i % 89);
    (0..rules).map(rule).collect::<String>() + "demo.Add * work vault allow user=u0\n"
}

/// So many rules for one service, of which only the last matches the call; `columns` are argument, source and
/// target of each.
fn one_service(rules: usize, columns: impl Fn(usize) -> String) -> String {
    let rule = |i: usize| format!("demo.Add {} allow\n", columns(i));
    (0..rules).map(rule).collect::<String>() + "demo.Add * work vault allow user=u0\n"
}

/// The same, with a tag of its own in each column.
fn tagged(rules: usize) -> String {
    one_service(rules, |i| format!("* @tag:t{i} @tag:u{i}"))
}

/// Policies of 1,000 rules by what keeps all but the last from matching.
fn policies() -> [(&'static str, String); 6] {
    [
        ("100 services", spread(1000)),
        ("one service, tags", tagged(1000)),
        ("one service, names", one_service(1000, |i| format!("* qube{} vault", i % 97))),
        ("one service, arguments", one_service(1000, |i| format!("+x{i} @anyvm @anyvm"))),
        ("one service, types", one_service(1000, |i| format!("* @anyvm @type:T{i}"))),
        (
            "one service, uuids and disposables",
            one_service(1000, |i| match i % 2 {
                0 => format!("* uuid:{i:08x} @dispvm:qube{i}"),
                _ => format!("* work uuid:{i:08x}"),
            }),
        ),
    ]
}

fn system() -> String {
    let qube = |tags: &[&str]| json!({"type": "AppVM", "tags": tags, "template_for_dispvms": false, "power_state": "Running", "uuid": "1-2"});
    let mut domains = serde_json::Map::new();
    domains.insert("dom0".to_owned(), qube(&[]));
    for name in
        ["work".to_owned(), "vault".to_owned()].into_iter().chain((0..100).map(|i| format!("qube{i}")))
    {
        domains.insert(name, qube(&["created-by-dom0", "audiovm-dom0", "guivm-dom0"]));
    }
    json!({ "domains": domains }).to_string()
}

fn report(what: &str, mut times: Vec<Duration>) {
    times.sort_unstable();
    let at = |share: usize| times[(times.len() - 1) * share / 1000].as_nanos() as f64 / 1000.0;
    println!(
        "{what}: p50 {:.2} µs, p99 {:.2} µs, p99.9 {:.2} µs, longest {:.1} µs of {}",
        at(500),
        at(990),
        at(999),
        at(1000),
        times.len()
    );
}

fn times(count: usize, mut once: impl FnMut()) -> Vec<Duration> {
    let one = |once: &mut dyn FnMut()| {
        let begun = Instant::now();
        once();
        begun.elapsed()
    };
    (0..count / 10).for_each(|_| once());
    (0..count).map(|_| one(&mut once)).collect()
}

struct Daemon {
    child: Child,
    root: tempfile::TempDir,
}

impl Daemon {
    fn start(policy: &str) -> Self {
        Self::start_by(Command::new(EXE).arg0("qrexec-policy-daemon"), policy)
    }

    /// The same, as a command that may have a say in how it runs.
    fn start_by(command: &mut Command, policy: &str) -> Self {
        let root = tempfile::tempdir().unwrap();
        let path = |name: &str| root.path().join(name);
        fs::create_dir(path("policy.d")).unwrap();
        fs::write(path("policy.d/30-user.policy"), policy).unwrap();
        fs::write(path("system.json"), system()).unwrap();
        let child = command
            .arg("--socket")
            .arg(path("sock"))
            .env("QREXEC_POLICY_DIR", path("policy.d"))
            .env("QREXEC_SYSTEM_INFO", path("system.json"))
            .env("QREXEC_LOG", "cli::policy_tools::daemon=info,warn")
            .stderr(fs::File::create(path("log")).unwrap())
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let daemon = Self { child, root };
        eventually("the policy daemon", || UnixStream::connect(daemon.root.path().join("sock")).is_ok());
        daemon
    }

    fn ask(&self) -> String {
        ask(&self.root.path().join("sock"))
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn ask(socket: &Path) -> String {
    let mut stream = UnixStream::connect(socket).unwrap();
    stream.write_all(b"source=work\nintended_target=vault\nservice_and_arg=demo.Add+1\n\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
#[ignore = "a measurement"]
fn decisions() {
    let system = SystemInfo::from_json(system().as_bytes()).unwrap();
    for (name, text) in policies() {
        let policy = Policy::compile(&Files::new().policy("30-user.policy", text.as_str())).unwrap();
        let request = Request::new("work", "vault", "demo.Add+1");
        let decide = || assert!(matches!(policy.decide(&system, &request), Decision::Allow(_)));
        report(&format!("in-process, 1,000 rules, {name}"), times(100_000, decide));
    }
    // The system says of no qube which disposables it gets.
    let disposables = one_service(1000, |i| format!("* qube{} @dispvm:qube{}", i % 97, i % 89));
    let policy = Policy::compile(&Files::new().policy("30-user.policy", disposables.as_str())).unwrap();
    let request = Request::new("work", "@dispvm", "demo.Add+1");
    let decide = || assert!(matches!(policy.decide(&system, &request), Decision::Deny(_)));
    report("in-process, 1,000 rules, a disposable for a qube without a default", times(100_000, decide));
    let ask = tagged(1000) + "demo.Add * work * ask\n";
    let policy = Policy::compile(&Files::new().policy("30-user.policy", ask.as_str())).unwrap();
    let request = Request::new("work", "qube1", "demo.Add+1");
    let decide = || assert!(matches!(policy.decide(&system, &request), Decision::Ask(_)));
    report("in-process, 1,000 rules, the user is asked and may choose from 100 qubes", times(20_000, decide));
}

#[test]
#[ignore = "a measurement"]
fn decisions_through_the_socket() {
    for (name, text) in policies() {
        let daemon = Daemon::start(&text);
        let decide = || assert!(daemon.ask().starts_with("user=u0\nresult=allow\n"));
        report(&format!("through the socket, 1,000 rules, {name}"), times(20_000, decide));
    }
}

/// What of the time is the machine's own: a server that reads and answers without a thought.
#[test]
#[ignore = "a measurement"]
fn a_socket_without_decisions() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("sock");
    let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    // Ends with the test program.
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let _ = stream.read(&mut [0; 4096]);
            let _ = stream.write_all(b"user=u0\nresult=allow\n");
        }
    });
    report("through a socket without a decision", times(20_000, || assert!(!ask(&socket).is_empty())));
}

#[test]
#[ignore = "a measurement"]
fn reload() {
    for (name, text) in [("1,000 services", spread(10_000)), ("one service, tags", tagged(10_000))] {
        let root = tempfile::tempdir().unwrap();
        let file = root.path().join("30-user.policy");
        let mut store = PolicyStore::watching(vec![root.path().to_owned()]);
        let mut taken = Vec::new();
        for _ in 0..100 {
            fs::write(&file, &text).unwrap();
            let begun = Instant::now();
            assert!(store.current().rules().len() > 10_000);
            taken.push(begun.elapsed());
        }
        report(&format!("reload of 10,000 rules, {name}"), taken);
    }
}

/// The memory of a hundred daemons, each of which has decided, in MiB: the sum of their proportional shares.
fn memory_of_daemons(policy: &str) -> (usize, f64) {
    let names: Vec<String> = (0..100).map(|i| format!("qube{i}")).collect();
    let builder = names.iter().fold(lab().policy(policy), |builder, name| builder.vm(name));
    let lab = builder.script("qube0", "test.Echo", "#!/bin/sh\nexec cat\n").start().unwrap();
    for name in &names[1..] {
        assert_eq!(call(&lab, name, "qube0", "test.Echo", b"x").code, 0, "{name}");
    }
    let daemons = lab.processes().into_iter().filter(|process| process.program == "qrexec-daemon");
    let shares: Vec<u64> = daemons.map(|daemon| proportional(daemon.pid)).collect();
    (shares.len(), shares.iter().sum::<u64>() as f64 / 1024.0)
}

/// A process's proportional share of memory, in KiB.
fn proportional(pid: i32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

#[test]
#[ignore = "a measurement"]
fn memory() {
    for (name, rules) in
        [("10,000 rules of 1,000 services", spread(10_000)), ("10,000 rules of one service", tagged(10_000))]
    {
        let policy = rules + "test.Echo * @anyvm qube0 allow\n";
        let (count, mib) = memory_of_daemons(&policy);
        println!("{count} daemons that decide themselves, {name}: {mib:.1} MiB PSS");
        assert!(count >= 100 && mib <= 300.0, "{count} daemons, {mib} MiB");
    }
}

/// Every answer must be that of a policy that held between the question and the answer.
fn edit_while_answers_are_given(daemon: &Daemon, rules: usize) {
    let (sock, folder) = (daemon.root.path().join("sock"), daemon.root.path().join("policy.d"));
    let (begun, done, asked) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
    let over = AtomicBool::new(false);
    let client = || {
        while !over.load(Ordering::Relaxed) {
            let oldest = done.load(Ordering::SeqCst);
            let answer = ask(&sock);
            let newest = begun.load(Ordering::SeqCst);
            let user = answer.strip_prefix("user=u").and_then(|rest| rest.split('\n').next());
            let version: u64 = user.unwrap_or_else(|| panic!("{answer:?}")).parse().unwrap();
            assert!((oldest..=newest).contains(&version), "{version} not in {oldest}..={newest}");
            asked.fetch_add(1, Ordering::Relaxed);
        }
    };
    std::thread::scope(|scope| {
        (0..3).for_each(|_| drop(scope.spawn(client)));
        let start = Instant::now();
        for version in 1.. {
            let text = spread(rules).replace("user=u0", &format!("user=u{version}"));
            let new = folder.join(".new");
            fs::write(&new, text).unwrap();
            begun.store(version, Ordering::SeqCst);
            fs::rename(&new, folder.join("30-user.policy")).unwrap();
            done.store(version, Ordering::SeqCst);
            std::thread::sleep(
                PAUSE.saturating_sub(start.elapsed().saturating_sub(PAUSE * (version as u32 - 1))),
            );
            if start.elapsed() >= LOAD {
                break;
            }
        }
        over.store(true, Ordering::Relaxed);
    });
    let rate = asked.load(Ordering::Relaxed) as f64 / LOAD.as_secs_f64();
    println!(
        "{rate:.0} decisions/s while {rules} rules are replaced {} times in {LOAD:?}, none wrong",
        done.load(Ordering::Relaxed)
    );
}

#[test]
fn no_answer_is_stale_while_the_policy_is_edited() {
    alone(DEADLINE, || {
        let rules = if cfg!(debug_assertions) { 1_000 } else { 10_000 };
        edit_while_answers_are_given(&Daemon::start(&spread(rules)), rules);
    });
}

/// In a user namespace without a single inotify instance.
#[test]
fn no_answer_is_stale_where_inotify_is_used_up() {
    const WITHOUT: &str = "echo 0 > /proc/sys/user/max_inotify_instances && exec \"$0\" \"$@\"";
    alone(DEADLINE, || {
        let mut allowed = Command::new("unshare");
        let allowed = allowed.args(["-Ur", "sh", "-c", WITHOUT, "true"]).stderr(Stdio::null()).status();
        if !allowed.is_ok_and(|status| status.success()) {
            return eprintln!("not tried: this system gives no user namespaces");
        }
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("qrexec-policy-daemon");
        std::os::unix::fs::symlink(EXE, &program).unwrap();
        let mut command = Command::new("unshare");
        command.args(["-Ur", "sh", "-c", WITHOUT]).arg(&program);
        let daemon = Daemon::start_by(&mut command, &spread(200));
        let log = fs::read_to_string(daemon.root.path().join("log")).unwrap();
        assert!(log.contains("cannot be watched"), "{log}");
        edit_while_answers_are_given(&daemon, 200);
    });
}
