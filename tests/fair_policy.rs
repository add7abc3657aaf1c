//! Decisions for one VM while others flood the policy daemon: where the time of `qubesd` goes, and the log's lines.
//!
//! What a release build of these programs and one of earlier programs make of it, in one run:
//! `QREXEC_TEST_FULL=1 QREXEC_TEST_BEFORE=FOLDER cargo test --release -p qrexec-tests --test fair_policy -- --nocapture`

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

use crate::common::{self, DEADLINE, EXE, alone, eventually, full};
use serde_json::json;

/// What `qubesd` takes for an answer.
const OWN: Duration = Duration::from_millis(50);
/// Questions that one VM has open: as many as its daemon asks at once.
const OPEN: usize = 64;

/// `qubesd`, which has one thread, as the real one has for this.
struct Qubesd {
    folder: tempfile::TempDir,
    asked: Arc<AtomicUsize>,
    /// Times that it was asked while it was busy.
    overlaps: Arc<AtomicUsize>,
}

impl Qubesd {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let qubesd = Self { folder, asked: Arc::default(), overlaps: Arc::default() };
        let listener = UnixListener::bind(qubesd.folder.path().join("qubesd.internal.sock")).unwrap();
        let (asked, overlaps) = (Arc::clone(&qubesd.asked), Arc::clone(&qubesd.overlaps));
        let answer = [b"0\0", system().as_bytes()].concat();
        // It ends with the test program.
        thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let mut request = Vec::new();
                stream.read_to_end(&mut request).unwrap();
                asked.fetch_add(1, Relaxed);
                // This is the work that it is there to do.
                thread::sleep(OWN);
                overlaps.fetch_add(usize::from(is_waiting(&listener)), Relaxed);
                drop(stream.write_all(&answer));
            }
        });
        qubesd
    }
}

/// All qubes, as `qubesd` and a file tell of them.
fn system() -> String {
    let qube = json!({"type": "AppVM", "tags": [], "template_for_dispvms": false, "power_state": "Running",
        "default_dispvm": null, "icon": "app-red", "guivm": null, "internal": false,
        "uuid": "0c6e5f1e-0000-4000-8000-000000000001"});
    let mut domains = serde_json::Map::new();
    let names = ["dom0", "work", "vault"].map(str::to_owned).into_iter();
    for name in names.chain((0..8).map(|n| format!("flood{n}"))) {
        domains.insert(name, qube.clone());
    }
    json!({ "domains": domains }).to_string()
}

/// Whether the next one asks already.
fn is_waiting(listener: &UnixListener) -> bool {
    common::readable_within(listener, Duration::ZERO)
}

/// A dom0 with a policy daemon of `exe`.
struct Dom0 {
    root: tempfile::TempDir,
    qubesd: Qubesd,
    daemon: Child,
}

impl Dom0 {
    /// Where `file` is set, a file tells of the qubes, and nobody is asked.
    fn start(exe: &Path, policy: &str, file: bool) -> Self {
        let (root, qubesd) = (tempfile::tempdir().unwrap(), Qubesd::start());
        fs::create_dir(root.path().join("policy.d")).unwrap();
        fs::write(root.path().join("policy.d/30-user.policy"), policy).unwrap();
        let socket = root.path().join("sock");
        let mut command = Command::new(exe);
        command
            .arg0("qrexec-policy-daemon")
            .arg("--socket-path")
            .arg(&socket)
            .env("QREXEC_POLICY_DIR", root.path().join("policy.d"))
            .env("QREXEC_QUBESD_DIR", qubesd.folder.path())
            .env_remove("QREXEC_SYSTEM_INFO")
            .env_remove("QREXEC_LOG")
            .stdin(Stdio::null())
            .stderr(fs::File::create(root.path().join("log")).unwrap());
        if file {
            fs::write(root.path().join("system.json"), system()).unwrap();
            command.env("QREXEC_SYSTEM_INFO", root.path().join("system.json"));
        }
        let daemon = command.spawn().unwrap();
        let dom0 = Self { root, qubesd, daemon };
        eventually("the policy daemon", || UnixStream::connect(&socket).is_ok());
        dom0
    }

    fn ask(&self, source: &str) -> UnixStream {
        let mut stream = UnixStream::connect(self.root.path().join("sock")).unwrap();
        let question = format!("source={source}\nintended_target=vault\nservice_and_arg=test.Add+\n\n");
        stream.write_all(question.as_bytes()).unwrap();
        stream
    }

    fn log(&self) -> String {
        fs::read_to_string(self.root.path().join("log")).unwrap()
    }
}

impl Drop for Dom0 {
    fn drop(&mut self) {
        self.daemon.kill().unwrap();
        self.daemon.wait().unwrap();
    }
}

fn answer(mut stream: UnixStream) -> String {
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

/// What the VM `work` has of a decision while `floods` VMs ask without end.
struct Decisions {
    /// In order of their length.
    times: Vec<Duration>,
    denied: usize,
    /// How often `qubesd` was asked meanwhile, and how many of these times it was busy.
    asked: usize,
    overlaps: usize,
}

fn decisions(exe: &Path, floods: usize, rounds: usize) -> Decisions {
    let dom0 = Dom0::start(exe, "* * work vault allow\n* * @anyvm @anyvm deny\n", false);
    let (over, begun) = (AtomicBool::new(false), Barrier::new(floods + 1));
    thread::scope(|scope| {
        for n in 0..floods {
            let (dom0, over, begun) = (&dom0, &over, &begun);
            scope.spawn(move || {
                let source = format!("flood{n}");
                let mut open: Vec<_> = (0..OPEN).map(|_| dom0.ask(&source)).collect();
                begun.wait();
                while !over.load(Relaxed) {
                    open.rotate_left(1);
                    let first = open.pop().unwrap();
                    drop(answer(first));
                    open.push(dom0.ask(&source));
                }
            });
        }
        begun.wait();
        let asked = dom0.qubesd.asked.load(Relaxed);
        let mut decisions = Decisions { times: Vec::new(), denied: 0, asked: 0, overlaps: 0 };
        for _ in 0..rounds {
            let since = Instant::now();
            let allowed = answer(dom0.ask("work")).contains("result=allow");
            decisions.times.push(since.elapsed());
            decisions.denied += usize::from(!allowed);
        }
        decisions.asked = dom0.qubesd.asked.load(Relaxed) - asked;
        decisions.overlaps = dom0.qubesd.overlaps.load(Relaxed);
        over.store(true, Relaxed);
        decisions.times.sort_unstable();
        decisions
    })
}

#[test]
fn eight_floods_take_no_more_than_two_answers_of_qubesd_from_another_vm() {
    alone(DEADLINE, || {
        let Decisions { times, denied, asked, overlaps } = decisions(Path::new(EXE), 8, 11);
        assert_eq!((denied, overlaps), (0, 0), "denied, and asked while it was busy");
        assert!(asked <= 2 * times.len() + 2, "{asked} questions to qubesd in {} rounds", times.len());
        // A machine that is busy with other tests may make one of them late, not most.
        assert!(times[times.len() / 2] <= 3 * OWN, "{times:?}");
    });
}

/// How many lines about decisions for `work` are in the log, of so many, after others have flooded it.
fn lines(exe: &Path, decisions: usize) -> usize {
    // At the pace of `qubesd` no flood fills a bucket.
    let dom0 = Dom0::start(exe, "* * work vault allow\n* * @anyvm @anyvm deny\n", true);
    let flood = |count: usize| {
        let open: Vec<_> = (0..count).map(|_| dom0.ask("flood0")).collect();
        open.into_iter().for_each(|stream| drop(answer(stream)));
    };
    (0..40).for_each(|_| flood(OPEN));
    for _ in 0..decisions {
        flood(OPEN);
        assert!(answer(dom0.ask("work")).contains("result=allow"));
    }
    dom0.log().lines().filter(|line| line.contains("work -> vault")).count()
}

#[test]
fn a_flood_of_questions_takes_no_line_of_another_vms() {
    alone(DEADLINE, || assert_eq!(lines(Path::new(EXE), 31), 31));
}

#[test]
fn what_it_was_before() {
    let Some(before) = std::env::var_os("QREXEC_TEST_BEFORE").filter(|_| full()) else { return };
    let before = PathBuf::from(before).join("qrexec-policy-daemon");
    for (name, exe) in [("before", before.as_path()), ("now", Path::new(EXE))] {
        for floods in [0, 1, 4, 8] {
            let Decisions { times, denied, asked, .. } =
                decisions(exe, floods, if floods < 4 { 11 } else { 5 });
            let (median, worst) =
                (times[times.len() / 2].as_secs_f64(), times[times.len() - 1].as_secs_f64());
            println!(
                "{name}: {floods} floods: a decision takes {median:.3} s (median), {worst:.3} s (worst of {}); \
                 {denied} denied; qubesd asked {asked} times",
                times.len()
            );
        }
        println!("{name}: {} of 31 lines of another VM in the log after a flood", lines(exe, 31));
    }
}
