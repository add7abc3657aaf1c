//! Small promises to the programs and people around: readiness, error output, long paths, versions.

use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::common::{
    self, DEADLINE, EXE, call, eventually_within, full, lab, leftovers, run, within, within_deadline,
};
use lab::{DOM0, Lab};
use rustix::process::{Pid, Signal, kill_process};

/// How long the last processes may take to go.
const GONE: Duration = Duration::from_secs(10);

/// A service manager, as far as it is told who is ready.
struct Manager {
    folder: tempfile::TempDir,
    socket: UnixDatagram,
}

impl Manager {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let socket = UnixDatagram::bind(folder.path().join("notify")).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        Self { folder, socket }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("notify")
    }

    fn hears_that_one_is_ready(&self) {
        let mut word = [0; 64];
        let length = self.socket.recv(&mut word).unwrap();
        assert_eq!(String::from_utf8_lossy(&word[..length]).trim_end(), "READY=1");
    }
}

#[test]
fn the_policy_daemon_tells_the_service_manager_when_its_socket_is_there() {
    within_deadline(|| {
        let manager = Manager::new();
        let socket = manager.folder.path().join("policy.sock");
        let mut command = Command::new(EXE);
        command.arg0("qrexec-policy-daemon").arg("--socket-path").arg(&socket).stderr(Stdio::null());
        let mut daemon = command.env("NOTIFY_SOCKET", manager.path()).spawn().unwrap();
        manager.hears_that_one_is_ready();
        let connected = UnixStream::connect(&socket);
        daemon.kill().unwrap();
        daemon.wait().unwrap();
        connected.unwrap();
    });
}

#[test]
fn an_agent_tells_the_service_manager_when_it_takes_requests() {
    within_deadline(|| {
        let manager = Manager::new();
        let lab = lab().env("NOTIFY_SOCKET", manager.path().to_str().unwrap()).start().unwrap();
        // Its daemon does, too, when the agent is there.
        for _ in 0..lab.plan().vms.len() * 2 {
            manager.hears_that_one_is_ready();
        }
        // A service does not inherit who is told.
        let said = run(&lab, DOM0, &["qrexec-client", "-d", "work", "DEFAULT:echo [$NOTIFY_SOCKET]"], b"");
        assert_eq!(said.text(), "[]\n");
    });
}

fn log(lab: &Lab, vm: &str, name: &str) -> String {
    std::fs::read_to_string(lab.layout().log(vm).join(name)).unwrap()
}

#[test]
fn error_output_goes_where_it_belongs() {
    within_deadline(|| {
        let complains = |word: &str| format!("#!/bin/sh\necho {word} >&2\n");
        let lab = lab()
            .policy("* * @anyvm @anyvm allow\n* * @anyvm @adminvm allow\n")
            .script("vault", "test.Complains", &complains("of-a-service"))
            .script("vault", "test.Alone", &complains("of-one-alone"))
            .script(DOM0, "test.Complains", &complains("of-dom0"))
            .start()
            .unwrap();
        // A service in a VM: to the caller and to the log where it runs.
        assert_eq!(call(&lab, "work", "vault", "test.Complains", b"").stderr, "of-a-service\n");
        // A command: to the caller.
        let argv = ["qrexec-client", "-d", "vault", "DEFAULT:echo of-a-command >&2"];
        assert_eq!(run(&lab, DOM0, &argv, b"").stderr, "of-a-command\n");
        // A service that is only started: to the log, since there is no caller to hear it.
        let only_started = ["qrexec-client", "-e", "-d", "vault", "DEFAULT:QUBESRPC test.Alone dom0"];
        let said = run(&lab, DOM0, &only_started, b"");
        assert_eq!((said.code, said.stderr.as_str()), (0, ""));
        // A service in dom0: to the daemon's log.
        assert_eq!(call(&lab, "work", DOM0, "test.Complains", b"").stderr, "");
        assert_eq!(leftovers(&lab, GONE), []);
        let vault = log(&lab, "vault", "agent.log");
        for word in ["of-a-service", "of-one-alone"] {
            assert!(vault.lines().any(|line| line == word), "{vault}");
        }
        assert!(!vault.lines().any(|line| line == "of-a-command"), "{vault}");
        let daemon = log(&lab, DOM0, "daemon-work.log");
        assert!(daemon.lines().any(|line| line.ends_with(" test.Complains+ for work: of-dom0")), "{daemon}");
    });
}

/// Takes one call and answers what it heard.
fn answer_once(path: &Path) -> std::thread::JoinHandle<()> {
    let listener = UnixListener::bind(path).unwrap();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut heard = Vec::new();
        std::io::Read::read_to_end(&mut stream, &mut heard).unwrap();
        std::io::Write::write_all(&mut stream, &heard).unwrap();
    })
}

#[test]
fn socket_services_may_have_longer_paths_than_a_socket_address() {
    within_deadline(|| {
        let lab = lab().start().unwrap();
        let services = lab.layout().services("vault");
        let short = tempfile::tempdir().unwrap();
        let service = answer_once(&short.path().join("socket"));
        // More than the 107 bytes of an address, in the folder itself; and a link that leads there.
        let name = format!("test.{}", "x".repeat(150));
        std::fs::rename(short.path().join("socket"), services.join(&name)).unwrap();
        let said = call(&lab, "work", "vault", &name, b"in");
        assert_eq!((said.code, said.text()), (0, format!("{name}+ work\0in")), "{said:?}");
        service.join().unwrap();

        let service = answer_once(&short.path().join("socket"));
        std::os::unix::fs::symlink(short.path().join("socket"), services.join("test.Link")).unwrap();
        let said = call(&lab, "work", "vault", "test.Link+a", b"in");
        assert_eq!((said.code, said.text().as_str()), (0, "test.Link+a work\0in"), "{said:?}");
        service.join().unwrap();
        assert_eq!(leftovers(&lab, GONE), []);
    });
}

#[test]
fn the_service_of_a_lost_caller_is_not_killed() {
    within_deadline(|| {
        let script = "#!/bin/sh\necho there\ncat >/dev/null\necho went on >\"$HOME/proof\"\n";
        let lab = lab().script("vault", "test.GoesOn", script).start().unwrap();
        let mut command = lab.command("work", ["qrexec-client-vm", "vault", "test.GoesOn"]).unwrap();
        let piped = std::process::Stdio::piped;
        let mut caller = command.stdin(piped()).stdout(piped()).spawn().unwrap();
        let mut word = [0; 6];
        std::io::Read::read_exact(caller.stdout.as_mut().unwrap(), &mut word).unwrap();
        caller.kill().unwrap();
        caller.wait().unwrap();
        assert_eq!(leftovers(&lab, GONE), []);
        let proof = std::fs::read_to_string(lab.layout().home("vault").join("proof")).unwrap();
        assert_eq!(proof, "went on\n");
    });
}

fn signal_agent(lab: &Lab, vm: &str, signal: Signal) {
    let processes = lab.processes();
    let agent = processes.iter().find(|process| process.vm == vm && process.program == "qrexec-agent");
    kill_process(Pid::from_raw(agent.unwrap().pid).unwrap(), signal).unwrap();
}

/// The other end of a data link never comes: each of our programs gives up when it should and says why. That takes two
/// minutes, so only a full run does it.
#[test]
fn whoever_waits_for_a_data_link_gives_up_with_a_reason() {
    if !full() {
        println!("skipped: takes two minutes, QREXEC_TEST_FULL=1 runs it");
        return;
    }
    within(3 * DEADLINE, || {
        let lab = lab().vm("work").vm("vault").vm("slow").script("vault", "test.Any", "#!/bin/sh\n").start();
        let lab = lab.unwrap();
        signal_agent(&lab, "vault", Signal::STOP);
        signal_agent(&lab, "slow", Signal::STOP);
        let begun = Instant::now();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let said = call(&lab, "work", "vault", "test.Any", b"");
                assert_eq!(said.code, 125, "{said:?}");
                assert!(said.stderr.contains("no vchan peer within 120s"), "{said:?}");
                let took = begun.elapsed().as_secs();
                assert!((120..130).contains(&took), "{took} s");
            });
            scope.spawn(|| {
                let said = run(&lab, DOM0, &["qrexec-client", "-d", "slow", "DEFAULT:true"], b"");
                assert_eq!(said.code, 125, "{said:?}");
                assert!(said.stderr.contains("no vchan peer within 10s"), "{said:?}");
                // Now its agent looks for a caller that is gone.
                signal_agent(&lab, "slow", Signal::CONT);
            });
        });
        // The agent itself waits for that caller: no process of the call does.
        let late = "no data link to domain 0, port 513: its caller did not come";
        eventually_within(Duration::from_secs(130), late, || log(&lab, "slow", "agent.log").contains(late));
        assert_eq!(leftovers(&lab, Duration::from_secs(5)), []);
    });
}

/// Every program says which version it is, and takes a level for its log.
#[test]
fn every_program_has_a_version_and_a_log_level() {
    within_deadline(|| {
        let programs = [cli::programs::PROGRAMS, lab::PROGRAMS, bench::PROGRAMS].into_iter().flatten();
        for name in programs.filter(|program| program.page.is_some()).map(|program| program.name) {
            let ask = |args: &[&str]| {
                let mut command = common::called(name);
                command.args(args);
                common::talk(command, b"")
            };
            let said = ask(&["--log-level=debug", "--version"]);
            assert_eq!(said.code, 0, "{name}: {said:?}");
            assert!(said.text().contains(env!("CARGO_PKG_VERSION")), "{name}: {said:?}");
            let said = ask(&["--log-level=loud", "--version"]);
            assert_eq!(said.code, 2, "{name}: {said:?}");
            assert!(said.stderr.contains("loud"), "{name}: {said:?}");
        }
    });
}

/// A shell may have started something before it became the client; only the program's own end counts.
#[test]
fn a_child_that_was_there_before_the_call_is_not_its_program() {
    within_deadline(|| {
        let lab = lab()
            .script("vault", "test.Cat", "#!/bin/sh\nexec cat\n")
            .program("work", "ends", "#!/bin/sh\necho word\nread word\nexit 4\n")
            .start()
            .unwrap();
        let program = lab.layout().programs("work").join("ends");
        let line = format!("sh -c 'exit 9' & exec qrexec-client-vm vault test.Cat {}", program.display());
        assert_eq!(run(&lab, "work", &["sh", "-c", &line], b"").code, 4);
        lab.down().unwrap();
    });
}
