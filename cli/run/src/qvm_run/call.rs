//! One call: the client that makes it, and what its streams are.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, BufRead, BufReader, PipeReader, Write};
use std::os::unix::ffi::OsStringExt;
use std::process::{Command, Stdio};
use std::thread::JoinHandle;

use cli::failure::Failure;
use cli::status;

use super::args::{Streams, Task};
use super::payload::{Abilities, Payload, What};
use super::{PROGRAM, Plan};
use crate::children::{Children, find};
use crate::place::Place;

/// Longest line that is kept together behind a prefix.
const LINE: u64 = 64 << 10;

/// One call that is to be made.
pub(super) struct Call {
    pub(super) name: String,
    pub(super) can: Abilities,
}

impl Call {
    /// Starts it; what copies its output is waited for when all have ended.
    pub(super) fn start(
        &self,
        plan: &Plan<'_>,
        payload: &Payload,
        index: usize,
        children: &mut Children,
    ) -> Result<Vec<JoinHandle<()>>, Failure> {
        let mut command = match (self.name.as_str(), &plan.task.what) {
            ("dom0", what) if plan.place.is_dom0() && !matches!(what, What::Service(_)) => own(what),
            _ => client(plan.place, plan.task, &self.name, self.can, payload),
        };
        let failed = Failure::during::<io::Error>;
        let mut readers = Vec::new();
        let mut local = None;
        match &plan.task.streams {
            Streams::Null => {
                command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            }
            Streams::Ours { stdin: true } => {}
            Streams::Ours { stdin: false } => {
                command.stdin(Stdio::null());
            }
            Streams::Command(line) => {
                let (from_qube, output) = io::pipe().map_err(failed("a pipe"))?;
                let (input, to_qube) = io::pipe().map_err(failed("a pipe"))?;
                command.stdin(input).stdout(output);
                let mut shell = Command::new("/bin/sh");
                shell.arg("-c").arg(line).stdin(from_qube).stdout(to_qube);
                local = Some(shell);
            }
            Streams::Prefixed => {
                let (out, output) = io::pipe().map_err(failed("a pipe"))?;
                let (err, errors) = io::pipe().map_err(failed("a pipe"))?;
                command.stdin(Stdio::null()).stdout(output).stderr(errors);
                readers.push(prefixed(&self.name, out, io::stdout()));
                readers.push(prefixed(&self.name, err, io::stderr()));
            }
        }
        if let Some(script) = plan.task.what.script() {
            let file = File::open(script)
                .map_err(|error| Failure::usage(format!("{}: {error}", script.display())))?;
            command.stdin(file);
        }
        for command in std::iter::once(&mut command).chain(local.as_mut()) {
            if let Err(error) = children.start(index, command) {
                let program = command.get_program();
                let error = status::not_started(program, error);
                engine::say::error(format_args!("{PROGRAM}: cannot start {}: {error}", program.display()));
                children.note(index, status::of_start(&error));
                break;
            }
        }
        Ok(readers)
    }
}

/// The command in dom0 itself.
fn own(what: &What) -> Command {
    match what {
        What::Words(words) => {
            let mut command = Command::new(words.first().map_or(OsStr::new(""), OsString::as_os_str));
            command.args(words.iter().skip(1));
            command
        }
        What::Script(_, words) => {
            let mut command = Command::new("/bin/sh");
            command.args(["-s", "--"]).args(words);
            command
        }
        What::Line(line) => {
            let mut command = Command::new("/bin/bash");
            command.arg("-c").arg(line);
            command
        }
        What::Service(name) => Command::new(name),
    }
}

/// The program that makes the call.
fn client(place: Place, task: &Task, name: &str, can: Abilities, payload: &Payload) -> Command {
    let dom0 = place.is_dom0();
    let mut command = Command::new(find(if dom0 { "qrexec-client" } else { "qrexec-client-vm" }));
    if dom0 {
        command.args(["-d", name]);
    }
    if task.filter {
        command.arg("-t");
    } else if task.leave_unfiltered && !dom0 {
        command.arg("--no-filter-escape-chars-stdout");
    }
    if task.filter_stderr {
        command.arg("-T");
    }
    let starts = matches!(task.what, What::Service(_)) && task.streams == Streams::Null;
    if dom0 && starts {
        command.arg("-e");
    }
    if !payload.first.is_empty() {
        command.arg("-p").arg(OsString::from_vec(payload.first.clone()));
    }
    // Root's own services say themselves who runs them.
    let user = task.user.as_deref().filter(|_| !can.root).unwrap_or("DEFAULT");
    command.arg("--");
    if !dom0 {
        command.arg(name).arg(&payload.service);
    } else if name == "dom0" {
        command.arg(format!("DEFAULT:QUBESRPC {} dom0", payload.service));
    } else {
        command.arg(format!("{user}:QUBESRPC {} dom0", payload.service));
    }
    command
}

/// A call of which nothing is seen.
pub(super) fn quiet(place: Place, name: &str, payload: &Payload) -> Command {
    let dom0 = place.is_dom0();
    let mut command = Command::new(find(if dom0 { "qrexec-client" } else { "qrexec-client-vm" }));
    if dom0 {
        command.args(["-d", name, "--"]).arg(format!("DEFAULT:QUBESRPC {} dom0", payload.service));
    } else {
        command.arg("--").arg(name).arg(&payload.service);
    }
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command
}

/// Copies lines with a name in front.
fn prefixed(name: &str, from: PipeReader, mut to: impl Write + Send + 'static) -> JoinHandle<()> {
    let name = name.to_owned();
    std::thread::spawn(move || {
        let mut from = BufReader::new(from);
        loop {
            let mut line = format!("{name}: ").into_bytes();
            let begun = line.len();
            let read = io::Read::take(&mut from, LINE).read_until(b'\n', &mut line);
            if read.is_err() || line.len() == begun {
                return;
            }
            if line.last() != Some(&b'\n') {
                line.push(b'\n');
            }
            // Nobody may read it any more; the call is not to hang because of that.
            let _ = to.write_all(&line);
        }
    })
}

/// The colours of what a qube says, as long as it may say something.
pub(super) struct Colours([Option<u8>; 2]);

impl Colours {
    pub(super) fn begin(task: &Task) -> Self {
        let colours = Self(task.colours);
        colours.put(|colour| format!("\x1b[0;{colour}m"));
        colours
    }

    fn put(&self, text: impl Fn(u8) -> String) {
        let [output, errors] = self.0;
        if let Some(colour) = output {
            let _ = io::stdout().write_all(text(colour).as_bytes()).and_then(|()| io::stdout().flush());
        }
        if let Some(colour) = errors {
            let _ = io::stderr().write_all(text(colour).as_bytes());
        }
    }
}

impl Drop for Colours {
    fn drop(&mut self) {
        self.put(|_| "\x1b[0m".to_owned());
    }
}
