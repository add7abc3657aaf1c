//! What `qrexec-lab` tells of a lab, and notices: logs, parts that have ended, a folder that was removed, mistakes before the
//! start.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use crate::common::{self, EXE, ended_within, eventually, within_deadline};
use rustix::process::{Pid, Signal, kill_process};

/// A lab whose folder of labs is a folder of this test.
struct Home(tempfile::TempDir);

impl Home {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(EXE);
        command.args(args).env("XDG_RUNTIME_DIR", self.path());
        command
    }

    fn says(&self, args: &[&str]) -> Output {
        self.command(args).stdin(Stdio::null()).output().unwrap()
    }

    /// What a command that does its work prints.
    fn does(&self, args: &[&str]) -> String {
        let output = self.says(args);
        assert!(output.status.success(), "{args:?}: {output:?}");
        text(&output.stdout)
    }

    /// The lines on stderr of one that is refused with 125.
    fn refuses(&self, args: &[&str]) -> String {
        let output = self.says(args);
        assert_eq!(output.status.code(), Some(125), "{args:?}: {output:?}");
        assert!(!self.path().join("qrexec-lab/lab").exists(), "{args:?}: a lab was made");
        text(&output.stderr)
    }

    fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path().join(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
        path
    }

    fn root(&self, lab: &str) -> PathBuf {
        self.path().join("qrexec-lab").join(lab)
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        for lab in ["lab", "two"] {
            let _ = self.says(&["down", lab]);
        }
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn status(home: &Home) -> serde_json::Value {
    serde_json::from_str(&home.does(&["status", "--json"])).unwrap()
}

#[test]
fn logs_are_shown_and_followed_to_the_lab_s_end() {
    within_deadline(|| {
        let home = Home::new();
        home.does(&["up", "-q", "two"]);
        home.does(&["exec", "--name", "two", "work", "qrexec-client-vm", "vault", "qubes.GetDate"]);
        let line = |logs: &str, file: &str| {
            let found = logs.lines().find(|line| line.starts_with(file) && line.contains("qubes.GetDate"));
            found.map(str::to_owned)
        };
        eventually("both logs have the call", || {
            let logs = home.does(&["logs", "--name", "two"]);
            line(&logs, "dom0/daemon-work.log: ").is_some() && line(&logs, "vault/agent.log: ").is_some()
        });
        let logs = home.does(&["logs", "--name", "two", "work"]);
        assert!(line(&logs, "dom0/daemon-work.log: ").is_some(), "{logs}");
        assert!(line(&logs, "vault/").is_none(), "{logs}");
        assert_eq!(home.says(&["logs", "--name", "two", "nobody"]).status.code(), Some(125));

        let mut follower =
            home.command(&["logs", "--name", "two", "-f"]).stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(follower.stdout.take().unwrap()).lines().map(Result::unwrap);
        lines.find(|line| line.contains("qubes.GetDate")).unwrap();
        home.says(&["exec", "--name", "two", "work", "qrexec-client-vm", "vault", "test.Missing"]);
        lines.find(|line| line.contains("test.Missing")).unwrap();
        home.does(&["down", "two"]);
        let _rest: Vec<String> = lines.collect();
        assert_eq!(common::wait_within(&mut follower, Duration::from_secs(20)), Some(0));
    });
}

#[test]
fn a_part_that_was_killed_is_named_and_comes_back() {
    within_deadline(|| {
        let home = Home::new();
        home.does(&["up"]);
        let ended = |home: &Home| status(home)[0]["machines"][1]["ended"].clone();
        let agent = || {
            let processes = status(&home)[0]["machines"][1]["processes"].clone();
            processes.as_array().unwrap().iter().find_map(|process| process["pid"].as_i64())
        };
        kill_process(Pid::from_raw(agent().unwrap() as i32).unwrap(), Signal::KILL).unwrap();
        eventually("it is named", || ended(&home)[0]["code"] == 137);
        let said = home.does(&["status"]);
        assert!(said.contains("qrexec-agent of work, with 137"), "{said}");
        assert!(said.contains("\"qrexec-lab restart work\""), "{said}");
        home.does(&["restart", "work"]);
        assert_eq!(ended(&home).as_array().unwrap().len(), 0);
        home.does(&["exec", "work", "qrexec-client-vm", "vault", "qubes.GetDate"]);
        home.does(&["restart", "--daemon", "work"]);
        home.does(&["exec", "work", "qrexec-client-vm", "vault", "qubes.GetDate"]);
        assert_eq!(home.says(&["restart", "dom0"]).status.code(), Some(125));
        assert_eq!(home.does(&["list"]), home.does(&["status"]));
    });
}

#[test]
fn a_lab_whose_folder_is_removed_ends_and_leaves_the_next_one_alone() {
    within_deadline(|| {
        let home = Home::new();
        home.does(&["up"]);
        let keeper: i32 =
            std::fs::read_to_string(home.root("lab").join("lock")).unwrap().trim().parse().unwrap();
        let before = status(&home);
        assert_eq!(before[0]["machines"].as_array().unwrap().len(), 3);
        std::fs::remove_dir_all(home.root("lab")).unwrap();
        home.does(&["up"]);
        assert!(ended_within(keeper, Duration::from_secs(20)), "the first lab runs on");
        home.does(&["exec", "work", "qrexec-client-vm", "vault", "qubes.GetDate"]);
        home.does(&["down"]);
        assert_eq!(home.does(&["status", "--json"]), "[]\n");
    });
}

#[test]
fn mistakes_are_named_before_anything_starts() {
    within_deadline(|| {
        let home = Home::new();
        let policy = |text: &str| home.file("x.policy", text).display().to_string();
        let bad = policy("test.Add * work vault alow\n");
        for args in [&["up", "--policy", &bad][..], &["run", "--policy", &bad, "true"]] {
            let said = home.refuses(args);
            assert!(said.contains("x.policy:1: error: column 23: \"alow\" is no action"), "{said}");
        }
        let include = policy("!include include/more\n");
        assert!(home.refuses(&["up", "--policy", &include]).contains("no other policy files"));
        let service =
            |word: &str| home.refuses(&["up", "--service", word, "--service", "vault:t.X=/bin/true"]);
        let folder = format!("vault:t.Folder={}", home.path().display());
        assert!(service(&folder).contains("is a folder, no service"));
        assert!(service("vault:t.X=/bin/false").contains("t.X of vault is given twice"));
        let config = home.file("config", "force-user=root\n").display().to_string();
        let said = home.refuses(&["up", "--config", &format!("vault:t.X={config}")]);
        assert!(said.contains("line 1: the value is neither"), "{said}");
        assert!(home.refuses(&["up", "--vm", "a b"]).contains("at most 31 of A-Z"));

        let asks = policy("test.Add * work valt ask\n* * @anyvm @anyvm allow\n");
        let output = home.says(&["run", "--policy", &asks, "true"]);
        let said = text(&output.stderr);
        assert!(output.status.success(), "{said}");
        assert!(said.contains("x.policy:1: warning: this lab has no qube \"valt\""), "{said}");
        assert!(said.contains("x.policy:1: the policy asks, and in this lab nobody can be asked"), "{said}");
        let output = home.says(&["run", "--ask", "--policy", &asks, "true"]);
        assert!(text(&output.stderr).contains("qrexec-policy-agent --terminal"), "{output:?}");
    });
}

#[test]
fn a_server_that_knows_nothing_of_qrexec_is_told_nothing_if_its_configuration_says_so() {
    within_deadline(|| {
        let home = Home::new();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let service = format!("vault:test.Tcp=/dev/tcp/127.0.0.1/{}", listener.local_addr().unwrap().port());
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut said = String::new();
            BufReader::new(&mut stream).read_line(&mut said).unwrap();
            std::io::Write::write_all(&mut stream, format!("heard {said}").as_bytes()).unwrap();
        });
        let config = home.file("config", "skip-service-descriptor=true\n");
        let config = format!("vault:test.Tcp={}", config.display());
        let call = ["sh", "-c", "echo hello | qrexec-client-vm vault test.Tcp"];
        let args = [&["run", "--service", &service, "--config", &config][..], &call].concat();
        let output = home.says(&args);
        server.join().unwrap();
        assert_eq!((text(&output.stdout).as_str(), text(&output.stderr).as_str()), ("heard hello\n", ""));
        // Without it, that is said before the call is wrong.
        let output = home.says(&["run", "--service", &service, "true"]);
        assert!(text(&output.stderr).contains("--config vault:test.Tcp=FILE"), "{output:?}");
    });
}

#[test]
fn the_host_s_policy_is_no_business_of_a_lab_s_machines() {
    within_deadline(|| {
        let home = Home::new();
        for words in [
            &["qrexec-policy-eval", "work", "vault", "test.Add"][..],
            &["qrexec-policy-graph"],
            &["qrexec-policy-restore", "/tmp"],
            &["qrexec-legacy-convert"],
        ] {
            let output = home.says(&[&["run", "env", "QREXEC_SYSTEM_INFO=/dev/null"], words].concat());
            let said = text(&output.stderr);
            assert_eq!(output.status.code(), Some(125), "{words:?}: {said}");
            assert!(said.contains("is no part of this lab"), "{words:?}: {said}");
        }
        // This asks the lab's dom0, which has no such service.
        let output = home.says(&["run", "qubes-policy", "--list"]);
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        assert!(text(&output.stdout).is_empty(), "{output:?}");
    });
}

/// What `--explain` says is what happens.
#[test]
fn a_question_that_nobody_can_be_asked_is_explained_as_the_denial_that_it_is() {
    within_deadline(|| {
        let home = Home::new();
        let policy = home.file("x.policy", "* * work vault ask default_target=vault\n").display().to_string();
        let eval = |words: &[&str]| {
            let eval = ["exec", "dom0", "qrexec-policy-eval", "--explain", "work", "vault", "qubes.GetDate"];
            home.does(&[&["up", "-q", "--policy", &policy][..], words].concat());
            let output = home.says(&eval);
            let call = home.says(&["exec", "work", "qrexec-client-vm", "vault", "qubes.GetDate"]);
            home.does(&["down"]);
            (output.status.code(), text(&output.stdout), call.status.code())
        };
        let (code, said, call) = eval(&[]);
        assert_eq!((code, call), (Some(1), Some(126)), "{said}");
        assert!(said.contains("nobody can be asked: work has no guivm"), "{said}");
        let (code, said, call) = eval(&["--ask"]);
        assert_eq!((code, call), (Some(1), Some(126)), "{said}");
        assert!(said.contains("no qrexec-policy-agent runs in dom0"), "{said}");
    });
}
