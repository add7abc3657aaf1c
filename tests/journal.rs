//! What reaches systemd's journal: a real one, which only this test sees.

use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use crate::common::{eventually, folder, program, skipped, talk, wait_within, within_deadline};

const JOURNALD: &str = "/lib/systemd/systemd-journald";
const STREAMS: &str = "/run/systemd/journal/stdout";

/// Set where the journal is the test's own.
const PRIVATE: &str = "QREXEC_TEST_JOURNAL";

/// Folders that nobody else sees, in which the journal keeps all that it has; then this test again. All that it starts
/// ends with it.
const PRIVATE_RUN: &str = "
mount -t tmpfs none /run || exit 77
mkdir -p /run/systemd/journal /run/log/journal /run/systemd/journald.conf.d
printf '[Journal]\\nStorage=volatile\\nReadKMsg=no\\nAudit=no\\n' >/run/systemd/journald.conf.d/test.conf
exec \"$@\"
";

#[test]
fn the_journal_knows_the_agents_lines_and_the_services() {
    if !Path::new(JOURNALD).exists() {
        return skipped(&format!("there is no {JOURNALD}"));
    }
    if std::env::var_os(PRIVATE).is_some() {
        return within_deadline(with_a_journal);
    }
    let root = rustix::process::geteuid().is_root();
    let mut command = Command::new("unshare");
    command.args(["--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]);
    command.args((!root).then_some("--map-root-user")).args(["sh", "-c", PRIVATE_RUN, "sh"]);
    command.arg(std::env::current_exe().unwrap()).env(PRIVATE, "1");
    command.args(["--exact", "the_journal_knows_the_agents_lines_and_the_services", "--nocapture"]);
    match command.status().map(|status| status.code()) {
        Ok(Some(0)) => {}
        Ok(Some(1 | 77)) | Err(_) => skipped("there is no mount namespace for a journal"),
        other => panic!("{other:?}"),
    }
}

/// Ends a process with the test, however that ends.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn with_a_journal() {
    let mut journal =
        Running(Command::new(JOURNALD).stdin(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
    let mut has_ended = || journal.0.try_wait().unwrap().is_some();
    // Its first entry is its own: it has begun, and goes on.
    eventually("a journal", || has_ended() || (Path::new(STREAMS).exists() && has_entries()));
    if has_ended() {
        return skipped(&format!("{JOURNALD} does not run here"));
    }
    let root = folder();
    let root = root.path();
    let service = root.join("test.Complains");
    std::fs::write(&service, "#!/bin/sh\necho '<3>in the log' >&2\nprintf 'the end' >&2\nexit 5\n").unwrap();
    std::fs::set_permissions(&service, PermissionsExt::from_mode(0o755)).unwrap();

    // As systemd starts it: its standard error is a stream of the journal.
    let stream = stream_of_systemd("qrexec-agent");
    let stat = rustix::fs::fstat(&stream).unwrap();
    let mut agent = program(root, "3", &["qrexec-agent"]);
    agent.env("JOURNAL_STREAM", format!("{}:{}", stat.st_dev, stat.st_ino)).stderr(stream);
    let _agent = Running(agent.spawn().unwrap());
    // Who runs this is root in here.
    let mut daemon = program(root, "0", &["qrexec-daemon", "3", "work", "root"]);
    assert_eq!(wait_within(&mut daemon.spawn().unwrap(), Duration::from_secs(60)), Some(0));

    let heard = "<3>in the log\nthe end";
    let client = |options: &[&str], call: &str| {
        let options = [&["qrexec-client", "-d", "work"], options, &[call]].concat();
        talk(program(root, "0", &options), b"")
    };
    let said = client(&[], "DEFAULT:QUBESRPC test.Complains+x dom0");
    assert_eq!((said.code, said.stderr.as_str()), (5, heard));
    complained("test.Complains+x-dom0");
    eventually("the agent's line, with its priority", || {
        let mut lines = entries("qrexec-agent").into_iter();
        lines.any(|(priority, text)| {
            priority == 6 && text.contains("test.Complains+x dom0") && text.contains("exit code 5")
        })
    });
    // One that nobody listens to, and one that a foreign agent starts.
    assert_eq!(client(&["-e"], "DEFAULT:QUBESRPC test.Complains+e dom0").code, 0);
    complained("test.Complains+e-dom0");
    let mut multiplexer = program(root, "3", &["qubes-rpc-multiplexer", "test.Complains+m", "work"]);
    multiplexer.env("QREXEC_TRANSPORT", "xen");
    let said = talk(multiplexer, b"");
    assert_eq!((said.code, said.stderr.as_str()), (5, heard));
    complained("test.Complains+m-work");
    // What is embedded and does not log into the journal itself leaves it alone.
    let said = talk(program(root, "3", &["qubes-rpc-multiplexer", "test.Complains+s", "work"]), b"");
    assert_eq!((said.code, said.stderr.as_str()), (5, heard));
    assert_eq!(entries("test.Complains+s-work"), []);
}

/// A service has a name of its own in the journal, and the priority that logger(1) gives; nothing that it says is taken
/// for another.
fn complained(tag: &str) {
    let lines = [(5, "<3>in the log".to_owned()), (5, "the end".to_owned())];
    eventually("the service's lines", || entries(tag) == lines);
}

/// A stream of the journal whose lines may begin with their priority.
fn stream_of_systemd(identifier: &str) -> OwnedFd {
    let mut stream = UnixStream::connect(STREAMS).unwrap();
    write!(stream, "{identifier}\n\n6\n1\n0\n0\n0\n").unwrap();
    stream.into()
}

fn journalctl(args: &[&str]) -> Output {
    Command::new("journalctl").args(["--directory=/run/log/journal", "--quiet"]).args(args).output().unwrap()
}

fn has_entries() -> bool {
    !journalctl(&["-t", "systemd-journald"]).stdout.is_empty()
}

/// Priority and text of all that the journal has from this one.
fn entries(identifier: &str) -> Vec<(u8, String)> {
    let output = journalctl(&["--output=json", "-t", identifier]);
    assert!(output.status.success(), "{output:?}");
    let entry = |line: &str| {
        let entry: serde_json::Value = serde_json::from_str(line).unwrap();
        let text = |name: &str| entry[name].as_str().unwrap().to_owned();
        (text("PRIORITY").parse().unwrap(), text("MESSAGE"))
    };
    String::from_utf8(output.stdout).unwrap().lines().map(entry).collect()
}
