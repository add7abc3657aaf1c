//! What the end-to-end tests share: a lab of the programs under test, deadlines, and calls with their output.

mod bare;
pub(crate) mod caller;
mod eventually;
pub(crate) mod machines;
mod pattern;

use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{PoisonError, RwLock, mpsc};
use std::time::{Duration, Instant};

use lab::{Builder, Lab, Transport};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, getpgid, pidfd_open};

pub(crate) use bare::{folder, program};
pub(crate) use eventually::{eventually, eventually_within};
pub(crate) use pattern::Pattern;

/// The executable under test; it plays every role.
pub(crate) const EXE: &str = env!("CARGO_BIN_EXE_qrexec-tested");

/// The executable under test as the program of this name.
pub(crate) fn called(name: &str) -> Command {
    let mut command = Command::new(EXE);
    std::os::unix::process::CommandExt::arg0(&mut command, name);
    command
}

/// How long one test may take. Far more than any needs: it turns a hang into a failure.
pub(crate) const DEADLINE: Duration = Duration::from_secs(if cfg!(debug_assertions) { 120 } else { 600 });

/// Held shared by every test with a deadline, and by nobody else while a test runs [`alone`].
static MACHINE: RwLock<()> = RwLock::new(());

/// Runs a test; if it is not done within [`DEADLINE`], the test fails. What it left running ends with the test program,
/// because the labs' lifelines do.
pub(crate) fn within_deadline(test: impl FnOnce() + Send + 'static) {
    within(DEADLINE, test);
}

/// The same for a test that needs longer.
pub(crate) fn within(limit: Duration, test: impl FnOnce() + Send + 'static) {
    let _shared = MACHINE.read().unwrap_or_else(PoisonError::into_inner);
    ends_within(limit, test);
}

/// A test that measures, or that uses up what the machine has for all: no other test of this program with a deadline
/// runs beside it.
pub(crate) fn alone(limit: Duration, test: impl FnOnce() + Send + 'static) {
    let _whole = MACHINE.write().unwrap_or_else(PoisonError::into_inner);
    ends_within(limit, test);
}

fn ends_within(limit: Duration, test: impl FnOnce() + Send + 'static) {
    let (done, ended) = mpsc::channel();
    let body = std::thread::spawn(move || {
        test();
        let _ = done.send(());
    });
    match ended.recv_timeout(limit) {
        Err(mpsc::RecvTimeoutError::Timeout) => panic!("the test hangs: not done in {limit:?}"),
        _ => {
            if let Err(panic) = body.join() {
                std::panic::resume_unwind(panic);
            }
        }
    }
}

/// Whether to go through every round: `cargo xtask suites` says so, `cargo test` does not.
pub(crate) fn full() -> bool {
    std::env::var_os("QREXEC_TEST_FULL").is_some()
}

/// Says that something was not tried, and lets `.ci/run` say so again at its end.
pub(crate) fn skipped(why: &str) {
    println!("skipped: {why}");
    if let Some(list) = std::env::var_os("CI_SKIPPED") {
        let mut list = std::fs::File::options().append(true).open(list).unwrap();
        writeln!(list, "SKIPPED: {why}").unwrap();
    }
}

/// A lab of the programs under test. `QREXEC_TEST_TRANSPORT=socket` and `QUBES_LAB_NO_NAMESPACE=1` run the same tests
/// on the other transport and without namespaces.
pub(crate) fn lab() -> Builder {
    let socket = std::env::var("QREXEC_TEST_TRANSPORT").is_ok_and(|value| value == "socket");
    let transport = if socket { Transport::Socket } else { Transport::Shm };
    let namespace = std::env::var_os("QUBES_LAB_NO_NAMESPACE").is_none();
    Lab::builder().exe(EXE).transport(transport).namespace(namespace)
}

/// What a finished command said.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) code: i32,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: String,
}

impl Said {
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }
}

/// Runs a command in a machine of the lab with `input` on its standard input.
pub(crate) fn run(lab: &Lab, vm: &str, argv: &[&str], input: &[u8]) -> Said {
    talk(lab.command(vm, argv).unwrap(), input)
}

/// `qrexec-client-vm TARGET SERVICE` in `vm`.
pub(crate) fn call(lab: &Lab, vm: &str, target: &str, service: &str, input: &[u8]) -> Said {
    run(lab, vm, &["qrexec-client-vm", target, service], input)
}

/// Runs a command to its end.
pub(crate) fn talk(mut command: Command, input: &[u8]) -> Said {
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    // A command need not read what it is given, so a broken pipe is no failure here.
    let writer = std::thread::spawn(move || drop(stdin.write_all(&input)));
    let mut stderr = child.stderr.take().unwrap();
    let errors = std::thread::spawn(move || {
        let mut text = Vec::new();
        stderr.read_to_end(&mut text).unwrap();
        String::from_utf8_lossy(&text).into_owned()
    });
    let mut stdout = Vec::new();
    child.stdout.take().unwrap().read_to_end(&mut stdout).unwrap();
    let status = child.wait().unwrap();
    writer.join().unwrap();
    Said { code: code(status), stdout, stderr: errors.join().unwrap() }
}

/// A shell's view of an exit status.
pub(crate) fn code(status: ExitStatus) -> i32 {
    use std::os::unix::process::ExitStatusExt;
    status.code().or(status.signal().map(|signal| 128 + signal)).unwrap()
}

/// Waits for a child, at most so long.
pub(crate) fn wait_within(child: &mut Child, limit: Duration) -> Option<i32> {
    assert!(ended_within(child.id() as i32, limit) || child.try_wait().unwrap().is_some(), "still running");
    child.wait().ok().map(code)
}

/// Time that a process has taken from the processors so far.
pub(crate) fn processor_time(pid: u32) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let words = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
    Duration::from_millis(words.skip(11).take(2).map(|ticks| ticks.parse::<u64>().unwrap() * 10).sum())
}

/// Whether a process ends within `limit`. Waits for the event, not for the clock.
pub(crate) fn ended_within(pid: i32, limit: Duration) -> bool {
    let Ok(handle) = pidfd_open(Pid::from_raw(pid).unwrap(), PidfdFlags::empty()) else { return true };
    readable_within(&handle, limit)
}

/// Whether there is something to read (an end counts) within `limit`.
pub(crate) fn readable_within(fd: &impl AsFd, limit: Duration) -> bool {
    let until = Instant::now() + limit;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let timeout = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: i64::from(left.subsec_nanos()) };
        match poll(&mut [PollFd::new(fd, PollFlags::IN)], Some(&timeout)) {
            Ok(0) => return false,
            Ok(_) => return true,
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => panic!("poll: {error}"),
        }
    }
}

/// The lab's processes that are not part of it at rest: calls, services, commands. Those on their way out are waited
/// for; what is still there after `limit` is returned.
pub(crate) fn leftovers(lab: &Lab, limit: Duration) -> Vec<lab::Process> {
    let until = Instant::now() + limit;
    loop {
        let extra = extras(lab);
        let Some(first) = extra.first() else { return extra };
        if !ended_within(first.pid, until.saturating_duration_since(Instant::now())) {
            return extra;
        }
    }
}

/// Everything but the agents and daemons. Those lead process groups, to which the processes of their calls belong.
pub(crate) fn extras(lab: &Lab) -> Vec<lab::Process> {
    let resident = |process: &lab::Process| {
        let main = ["qrexec-agent", "qrexec-daemon"].contains(&process.program.as_str());
        main && Pid::from_raw(process.pid).is_some_and(|pid| getpgid(Some(pid)) == Ok(pid))
    };
    lab.processes().into_iter().filter(|process| !resident(process)).collect()
}

/// Sockets and other files that calls have left in the meeting places of the transports.
pub(crate) fn meeting_places(lab: &Lab) -> Vec<String> {
    let list = |folder: &Path| -> Vec<String> {
        let entries = std::fs::read_dir(folder).unwrap();
        entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect()
    };
    let mut names = list(&lab.layout().shm());
    names.extend(list(&lab.layout().vchan()));
    names.sort();
    names
}

/// Tells the policy of qubes that do not run, and of which each may be a template for disposables.
pub(crate) fn add_qubes(lab: &Lab, names: &[&str]) {
    let path = lab.layout().system_info();
    let mut system: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    for name in names {
        let qube = serde_json::json!({
            "type": "AppVM", "tags": [], "template_for_dispvms": true, "power_state": "Halted",
        });
        system["domains"][*name] = qube;
    }
    std::fs::write(path, system.to_string()).unwrap();
}
