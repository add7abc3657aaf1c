//! How fast policy decides, alone and while it is edited. The numbers in docs/policy.md come from
//! `cargo test --release -p qrexec-cli --test policy_load -- --ignored --nocapture --test-threads=1`.

mod common;

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use common::within_deadline;
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

/// So many rules for one service, of which only the last matches, and none can be passed over by a name.
fn dense(rules: usize) -> String {
    let rule = |i: usize| format!("demo.Add * @tag:t{i} @tag:u{i} allow\n");
    (0..rules).map(rule).collect::<String>() + "demo.Add * work vault allow user=u0\n"
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
    println!("{what}: p50 {:.1} µs, p99 {:.1} µs, p99.9 {:.1} µs", at(500), at(990), at(999));
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
        let root = tempfile::tempdir().unwrap();
        let path = |name: &str| root.path().join(name);
        fs::create_dir(path("policy.d")).unwrap();
        fs::write(path("policy.d/30-user.policy"), policy).unwrap();
        fs::write(path("system.json"), system()).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_qrexec-lab"))
            .arg0("qrexec-policy-daemon")
            .arg("--socket")
            .arg(path("sock"))
            .env("QREXEC_POLICY_DIR", path("policy.d"))
            .env("QREXEC_SYSTEM_INFO", path("system.json"))
            .env("QREXEC_LOG", "warn")
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let daemon = Self { child, root };
        let until = Instant::now() + Duration::from_secs(20);
        while UnixStream::connect(daemon.root.path().join("sock")).is_err() {
            assert!(Instant::now() < until, "no policy daemon");
            std::thread::sleep(Duration::from_millis(2));
        }
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
    for (name, text) in [("spread over services", spread(1000)), ("for one service", dense(1000))] {
        let policy = Policy::compile(&Files::new().policy("30-user.policy", text.as_str())).unwrap();
        let request = Request::new("work", "vault", "demo.Add+1");
        let decide = || assert!(matches!(policy.decide(&system, &request), Decision::Allow(_)));
        report(&format!("in-process, 1,000 rules {name}"), times(100_000, decide));
        let daemon = Daemon::start(&text);
        let decide = || assert!(daemon.ask().starts_with("user=u0\nresult=allow\n"));
        report(&format!("through the socket, 1,000 rules {name}"), times(20_000, decide));
    }
}

#[test]
#[ignore = "a measurement"]
fn reload() {
    for (name, text) in [("spread over services", spread(10_000)), ("for one service", dense(10_000))] {
        let root = tempfile::tempdir().unwrap();
        let file = root.path().join("30-user.policy");
        let mut store = PolicyStore::watching(vec![root.path().to_owned()]);
        let mut taken = Vec::new();
        for _ in 0..50 {
            fs::write(&file, &text).unwrap();
            let begun = Instant::now();
            assert!(store.current().rules().len() > 10_000);
            taken.push(begun.elapsed());
        }
        report(&format!("reload of 10,000 rules {name}"), taken);
    }
}

/// Every answer must be that of a policy that held between the question and the answer.
#[test]
fn no_answer_is_stale_while_the_policy_is_edited() {
    within_deadline(|| {
        let rules = if cfg!(debug_assertions) { 1_000 } else { 10_000 };
        let daemon = Daemon::start(&spread(rules));
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
    });
}
