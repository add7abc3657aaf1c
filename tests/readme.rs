//! The sessions of README.md and of pages of `docs`, from top to bottom, as they are printed.
//!
//! A line that begins with `$ ` is typed, with the lines behind a `\`; the ones below are what is seen. A file that `cat`
//! shows and that is not there is made first: whoever follows the page would write it. Numbers of processes and counts
//! of a system's files may differ, and where labs live.

use std::collections::VecDeque;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::common::{self, EXE, within_deadline};
use engine::process::begin_on_terminal;
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, openpt, unlockpt};

/// Builds, or begins a terminal of its own; what the test has done already.
const DONE: [&str; 2] = ["cargo build", "cargo run"];

/// A command of a page, and what is printed below it.
#[derive(Debug, PartialEq, Eq)]
struct Typed {
    command: String,
    output: String,
}

/// The sessions of a page: every block of kind `console`.
fn sessions(page: &str) -> Vec<Vec<Typed>> {
    let mut sessions = Vec::new();
    let mut block: Option<Vec<Typed>> = None;
    for line in page.lines() {
        match &mut block {
            None if line == "```console" => block = Some(Vec::new()),
            None => {}
            Some(_) if line == "```" => sessions.extend(block.take()),
            Some(typed) => match (line.strip_prefix("$ "), typed.last_mut()) {
                (Some(command), _) => {
                    typed.push(Typed { command: command.to_owned(), output: String::new() })
                }
                (None, Some(last)) if last.output.is_empty() && last.command.ends_with('\\') => {
                    last.command.push('\n');
                    last.command.push_str(line);
                }
                (None, Some(last)) => last.output.push_str(&format!("{line}\n")),
                (None, None) => panic!("a session begins with {line:?}"),
            },
        }
    }
    sessions
}

/// A person who follows a page, in a folder of their own.
struct Reader {
    home: tempfile::TempDir,
    /// Programs on other terminals, and what each is to show.
    others: VecDeque<(Terminal, String)>,
}

struct Terminal {
    program: Child,
    seen: std::thread::JoinHandle<String>,
}

impl Reader {
    fn new() -> Self {
        let home = tempfile::tempdir().unwrap();
        let bin = home.path().join("bin");
        for folder in [bin.clone(), home.path().join("run"), home.path().join("work")] {
            fs::create_dir(&folder).unwrap();
            fs::set_permissions(folder, fs::Permissions::from_mode(0o700)).unwrap();
        }
        for program in lab::TABLES.iter().flat_map(|table| table.iter()) {
            symlink(EXE, bin.join(program.name)).unwrap();
        }
        Self { home, others: VecDeque::new() }
    }

    fn place(&self) -> PathBuf {
        self.home.path().join("work")
    }

    fn shell(&self, command: &str) -> Command {
        let mut shell = Command::new("bash");
        shell.args(["--norc", "-c", command]).current_dir(self.place());
        let path = std::env::var("PATH").unwrap_or_default();
        shell.env("PATH", format!("{}:{path}", self.home.path().join("bin").display()));
        shell
            .env("XDG_RUNTIME_DIR", self.home.path().join("run"))
            .env("LC_ALL", "C.UTF-8")
            .env("TERM", "dumb");
        shell.env_remove("QREXEC_LOG").env_remove("RUST_LOG");
        shell
    }

    /// Text in which everything is alike that may differ.
    fn alike(&self, text: &str) -> String {
        let own = self.home.path().join("run/qrexec-lab");
        let text = text.replace(&own.display().to_string(), "/tmp/qrexec-lab-0").replace('\r', "");
        text.lines().map(|line| format!("{}\n", line_alike(line))).collect()
    }

    fn follow(&mut self, page: &str) {
        let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(page)).unwrap();
        let sessions = sessions(&text);
        assert!(!sessions.is_empty(), "{page} has no session");
        for Typed { command, output } in sessions.into_iter().flatten() {
            if DONE.iter().any(|done| command.starts_with(done)) {
                continue;
            }
            if let Some(name) = command.strip_prefix("cat ").filter(|name| !self.place().join(name).exists())
            {
                fs::write(self.place().join(name), &output).unwrap();
            }
            if command.ends_with("qrexec-policy-agent --terminal") {
                let terminal = self.start_on_terminal(&command);
                self.others.push_back((terminal, output));
                self.await_agent();
                continue;
            }
            let own = self.home.path().join("run/qrexec-lab").display().to_string();
            let typed = command.replace("/tmp/qrexec-lab-0", &own);
            let said = common::talk(self.shell(&format!("exec 2>&1\n{typed}")), b"");
            assert_eq!(self.alike(&said.text()), self.alike(&output), "{page}: $ {command}");
        }
        while let Some((mut terminal, output)) = self.others.pop_front() {
            terminal.program.wait().unwrap();
            assert_eq!(
                self.alike(&terminal.seen.join().unwrap()),
                self.alike(&output),
                "{page}: on a terminal"
            );
        }
    }

    /// Starts a program on a terminal of its own; where it is asked `Where?`, the answer is 1.
    fn start_on_terminal(&self, command: &str) -> Terminal {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let seat = openpt(flags).unwrap();
        unlockpt(&seat).unwrap();
        let stage = ioctl_tiocgptpeer(&seat, flags).unwrap();
        let end = || Stdio::from(stage.try_clone().unwrap());
        let mut command = self.shell(&format!("exec {command}"));
        begin_on_terminal(command.stdin(end()).stdout(end()).stderr(end()));
        let program = command.spawn().unwrap();
        drop(command);
        drop(stage);
        let seen = std::thread::spawn(move || {
            let (mut seat, mut seen) = (fs::File::from(seat), Vec::new());
            let (mut buffer, mut answered) = ([0; 4096], false);
            // The end of a terminal whose other end is closed is an error.
            while let Ok(n @ 1..) = seat.read(&mut buffer) {
                seen.extend_from_slice(&buffer[..n]);
                if !answered && seen.ends_with(b"refuses: ") {
                    seat.write_all(b"1\n").unwrap();
                    answered = true;
                }
            }
            String::from_utf8_lossy(&seen).into_owned()
        });
        Terminal { program, seen }
    }

    fn await_agent(&self) {
        let socket = self.home.path().join("run/qrexec-lab/lab/vm/dom0/run/policy-agent.sock");
        common::eventually("the agent is there", || socket.exists());
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let leftovers = "kill $(cat dom0/*.pid roots/*.pid); qrexec-lab down";
        let _ = self.shell(leftovers).stderr(Stdio::null()).status();
    }
}

fn line_alike(line: &str) -> String {
    let words: Vec<&str> = line.split_ascii_whitespace().collect();
    let is_number = |word: &&str| word.bytes().all(|byte| byte.is_ascii_digit());
    match words.as_slice() {
        // Numbers of processes.
        [number, program] if is_number(number) && program.starts_with("qrexec-") => {
            format!("    N {program}")
        }
        // What `wc` counted.
        [_, _, _] if words.iter().all(is_number) => "N N N".to_owned(),
        _ => line.trim_end().to_owned(),
    }
}

#[test]
fn a_page_s_sessions_are_found() {
    let page = "x\n```console\n$ a \\\n    b\nseen\n\n$ c\n```\n```sh\n$ d\n```\n";
    let typed = |command: &str, output: &str| Typed { command: command.into(), output: output.into() };
    assert_eq!(sessions(page), [[typed("a \\\n    b", "seen\n\n"), typed("c", "")]]);
}

#[test]
fn the_readme_s_sessions_go_as_printed() {
    within_deadline(|| Reader::new().follow("README.md"));
}

#[test]
fn writing_a_service_goes_as_printed() {
    within_deadline(|| Reader::new().follow("docs/write-a-service.md"));
}

/// Two roots, two PID namespaces, and policy between them.
#[test]
fn containers_go_as_printed() {
    let made = Command::new("unshare")
        .args(["--user", "--map-root-user", "--mount", "--pid", "--fork", "true"])
        .output();
    if !made.is_ok_and(|made| made.status.success()) {
        return common::skipped("this user may make no namespaces");
    }
    within_deadline(|| {
        let mut reader = Reader::new();
        reader.follow("docs/containers.md");
        let pids = ["web", "keys"]
            .map(|name| fs::read_to_string(reader.place().join(format!("roots/{name}.pid"))).unwrap());
        common::eventually("the containers end", || {
            pids.iter().all(|pid| !Path::new("/proc").join(pid.trim()).exists())
        });
    });
}

/// What dom0 is told on plain Xen is understood.
#[test]
fn the_system_of_plain_xen_is_one() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/plain-xen.md");
    let text = fs::read_to_string(page).unwrap();
    let json = text.split("```json").nth(1).unwrap().split("```").next().unwrap();
    let home = tempfile::tempdir().unwrap();
    let (file, policy) = (home.path().join("system.json"), home.path().join("x.policy"));
    fs::write(&file, json).unwrap();
    fs::write(&policy, "* * work vault allow\n* * work valt allow\n").unwrap();
    let mut lint = common::called("qubes-policy-lint");
    let said = {
        lint.arg("--system-info").args([&file, &policy]);
        common::talk(lint, b"")
    };
    assert_eq!(said.code, 0, "{said:?}");
    assert!(said.text().ends_with(":2: warning: this system has no qube \"valt\"\n"), "{said:?}");
}
