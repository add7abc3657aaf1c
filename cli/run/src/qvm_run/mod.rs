//! `qvm-run`: a command in a qube, in all of them, or in a new disposable one.
//!
//! The calls themselves are made by `qrexec-client` in dom0 and by `qrexec-client-vm` in a qube, whoever's they are.

mod args;
mod call;
mod payload;
pub mod vm;

use std::ffi::OsString;
use std::time::Duration;

use cli::failure::Failure;
use cli::{status, usage};
use engine::say;

use crate::children::Children;
use crate::place::{self, NotTold, Place, State};
use args::{Goal, QvmRunArgs, Streams, Task};
use call::Call;
use payload::{Abilities, Payload, What};

pub(crate) const PROGRAM: &str = "qvm-run";

/// How long a session is waited for: a qube without windows has none, whatever its features say.
const SESSION: Duration = Duration::from_secs(60);

/// Passed over, because it does not run.
const SKIPPED: i32 = 1;

pub(crate) const HELP: &str = "\
One word as COMMAND is a line for the qube's shell; several are a program and its arguments, which no shell reads. Options \
end at QUBE. Without --pass-io nothing is shown and nothing is read. In a loop that reads a list, -N leaves the list to the \
loop: with --pass-io alone whatever COMMAND could read is taken.

Examples:
  qvm-run work firefox                    start a program
  qvm-run -p work -- ls -l 'My Files'     its output here; no quoting needed
  qvm-run -p work 'cd /tmp && tar c .' >tmp.tar
  qvm-run -p --localcmd 'tar x' work 'tar c Documents'
  qvm-run -p --script check.sh work --verbose
  qvm-run --all --exclude vault sync
  while read name; do qvm-run -pN \"$name\" uptime; done <list

Exit status:
  of the command, the largest one of several; 128+n if signal n ended it
  1    a qube was passed over because it does not run (--no-autostart)
  2    the command line, or a qube that does not exist
  125  trouble of qrexec itself     126  refused by policy
  127  no such service or command   255  the call was lost
  130, 143  we were interrupted or told to end

Environment: QREXEC_AGENT_SOCKET, QREXEC_SOCKET_DIR, QREXEC_QUBESD_DIR, DISPLAY.

See also: qrexec-client(1), qrexec-client-vm(1), qrexec-services(7).";

/// The command line, for manual pages and completions.
pub fn command() -> clap::Command {
    <QvmRunArgs as clap::CommandFactory>::command()
}

/// Runs the program with these arguments, its name first, and gives its exit status.
pub fn main(args: Vec<OsString>) -> i32 {
    match parse(args) {
        Ok(task) => run(PROGRAM, &task).unwrap_or_else(|failure| failure.report(PROGRAM)),
        Err(status) => status,
    }
}

fn parse(args: Vec<OsString>) -> Result<Task, i32> {
    let count = args.len();
    let raw = args.clone();
    let parsed: QvmRunArgs = usage::parse(PROGRAM, args)?;
    let before = count.checked_sub(parsed.words()).and_then(|first| raw.get(first.checked_sub(1)?));
    let escaped = before.is_some_and(|word| word == "--");
    parsed.task(escaped).map_err(|failure| failure.report(PROGRAM))
}

/// What runs where.
struct Plan<'a> {
    program: &'a str,
    task: &'a Task,
    place: Place,
}

fn run(program: &str, task: &Task) -> Result<i32, Failure> {
    let plan = Plan { program, task, place: Place::here() };
    if plan.place == Place::Qube && task.user.is_some() {
        return Err(Failure::usage("--user is for dom0: the policy says who runs a qube's call"));
    }
    match &task.goal {
        Goal::Qube(name) => plan.one(name),
        Goal::All { but } => plan.all(but),
        Goal::Disposable { template } if plan.place == Place::Qube => {
            let target = if template.is_empty() { "@dispvm".into() } else { format!("@dispvm:{template}") };
            let can = Abilities { waits: task.gui.unwrap_or(has_display()), ..Abilities::default() };
            plan.calls(&[Call { name: target, can }])
        }
        Goal::Disposable { template } => plan.disposable(template),
    }
}

fn not_told(error: NotTold) -> Failure {
    Failure::trouble(error.to_string())
}

fn has_display() -> bool {
    std::env::var_os("DISPLAY").is_some_and(|display| !display.is_empty())
}

impl Plan<'_> {
    fn one(&self, name: &str) -> Result<i32, Failure> {
        if self.place == Place::Qube {
            return self.session_and_call(name, Abilities::default());
        }
        if wire::names::refers_to_dom0(name) {
            return self.calls(&[Call { name: "dom0".into(), can: Abilities::default() }]);
        }
        let known = place::qubes(self.place).map_err(not_told)?;
        let Some(qube) = known.iter().find(|qube| qube.name == name) else {
            return Err(Failure::usage(format!("there is no qube {}", name.escape_default())));
        };
        if qube.state != State::Running && !self.wake(name, qube.state)? {
            say::error(format_args!("{}: Qube '{name}' not started", self.program));
            return Ok(SKIPPED);
        }
        self.session_and_call(name, self.abilities(name))
    }

    /// Starts or continues a qube, if that may be; whether it runs.
    fn wake(&self, name: &str, state: State) -> Result<bool, Failure> {
        if !self.task.autostart {
            return Ok(false);
        }
        let method = match (self.place, state) {
            (Place::Managed, State::Paused) => "admin.vm.Unpause",
            (Place::Managed, _) => "admin.vm.Start",
            _ => {
                return Err(Failure::trouble(format!(
                    "{name} does not run, and there is nobody here to start it"
                )));
            }
        };
        place::ask(method, name).map(|_| true).map_err(|error| Failure::trouble(format!("{name}: {error}")))
    }

    /// What a qube can do: without `qubesd`, what every one can.
    fn abilities(&self, name: &str) -> Abilities {
        if self.place != Place::Managed {
            return Abilities::default();
        }
        let has = |feature: &str| place::feature(name, feature).is_some_and(|value| !value.is_empty());
        Abilities {
            vmexec: has("vmexec"),
            windows: place::feature(name, "os").as_deref() == Some("Windows"),
            root: self.task.user.as_deref() == Some("root") && has("supported-rpc.qubes.VMRootExec"),
            waits: false,
        }
    }

    fn session_and_call(&self, name: &str, can: Abilities) -> Result<i32, Failure> {
        let wanted = self.task.gui.unwrap_or_else(|| self.shows(name));
        if wanted && let Some(told) = self.session(name)? {
            return Ok(told);
        }
        self.calls(&[Call { name: name.to_owned(), can }])
    }

    /// Whether the qube's windows are shown here.
    fn shows(&self, name: &str) -> bool {
        let off = |value: Option<String>| value.is_some_and(|value| value.is_empty());
        self.place == Place::Managed
            && has_display()
            && !off(place::feature(name, "gui"))
            && place::ask("admin.vm.property.Get+guivm", name)
                .is_ok_and(|answer| answer.split(" type=vm ").nth(1).is_some_and(|qube| !qube.is_empty()))
    }

    /// Waits for the user's session; how it ends is of no account, unless we are told to end: that status.
    fn session(&self, name: &str) -> Result<Option<i32>, Failure> {
        let mut children = Children::new().map_err(Failure::during("signals"))?;
        let payload = Payload { service: "qubes.WaitForSession+".into(), first: Vec::new() };
        let mut command = call::quiet(self.place, name, &payload);
        children.start(0, &mut command).map_err(Failure::during("starting the call"))?;
        if !children.wait(Some(SESSION)).map_err(Failure::during("waiting"))? {
            say::error(format_args!(
                "{}: {name} has no session after {} seconds; going on without",
                self.program,
                SESSION.as_secs()
            ));
        }
        Ok(children.told())
    }

    fn all(&self, but: &[String]) -> Result<i32, Failure> {
        let qubes = place::qubes(self.place).map_err(not_told)?;
        if let Some(unknown) = but.iter().find(|name| qubes.iter().all(|qube| qube.name != **name)) {
            return Err(Failure::usage(format!("there is no qube {}", unknown.escape_default())));
        }
        let internal = |name: &str| {
            self.place == Place::Managed
                && place::feature(name, "internal").is_some_and(|value| !value.is_empty())
        };
        let wanted = qubes.iter().filter(|qube| qube.state == State::Running && !but.contains(&qube.name));
        let wanted = wanted.filter(|qube| !internal(&qube.name));
        let calls: Vec<Call> =
            wanted.map(|qube| Call { name: qube.name.clone(), can: self.abilities(&qube.name) }).collect();
        self.calls(&calls)
    }

    fn disposable(&self, template: &str) -> Result<i32, Failure> {
        if self.place != Place::Managed {
            return Err(Failure::trouble("there is nobody here who makes disposable qubes"));
        }
        let of = if template.is_empty() { "dom0" } else { template };
        let name = place::ask("admin.vm.CreateDisposable", of).map_err(|error| {
            let hint =
                if template.is_empty() { "" } else { " (a command goes behind '--': --dispvm -- COMMAND)" };
            Failure::trouble(format!("no disposable qube of {}: {error}{hint}", template.escape_default()))
        })?;
        // Whatever happens from here on, it is removed.
        let started = place::ask("admin.vm.Start", &name).map_err(not_told);
        let gui = self.task.gui.unwrap_or_else(|| self.shows(&name));
        let can = Abilities { waits: gui, ..self.abilities(&name) };
        let result = started.and_then(|_| self.calls(&[Call { name: name.clone(), can }]));
        if let Err(error) = place::ask("admin.vm.Kill", &name) {
            say::error(format_args!("{}: cannot remove {name}: {error}", self.program));
        }
        result
    }

    /// Makes all calls at once; the status of the worst.
    fn calls(&self, calls: &[Call]) -> Result<i32, Failure> {
        let mut children = Children::new().map_err(Failure::during("signals"))?;
        let mut readers = Vec::new();
        let colours = call::Colours::begin(self.task);
        for (index, call) in calls.iter().enumerate() {
            let payload = Payload::new(&self.task.what, call.can).map_err(|failure| match self.place {
                // As the agent answers a name that it cannot carry.
                Place::Qube => Failure { status: status::REFUSED, ..failure },
                _ => failure,
            })?;
            if self.task.told {
                let what = self.task.what.shown();
                say::error(format_args!("Running '{}' on {}", what.escape_default(), call.name));
            }
            readers.extend(call.start(self, &payload, index, &mut children)?);
        }
        children.wait(None).map_err(Failure::during("waiting"))?;
        for reader in readers {
            let _ = reader.join();
        }
        drop(colours);
        let mut worst = 0;
        for (index, call) in calls.iter().enumerate() {
            let status = children.status(index).unwrap_or(status::TROUBLE);
            self.explain(&call.name, status);
            worst = worst.max(status);
        }
        Ok(children.told().unwrap_or(worst))
    }

    /// One line for a call that failed, where nobody else says it.
    fn explain(&self, name: &str, status: i32) {
        let many = matches!(self.task.goal, Goal::All { .. });
        let silent = many || self.task.streams == Streams::Null;
        let words = matches!(self.task.what, What::Words(_));
        let why = match status {
            0 => return,
            status::NOT_FOUND if words => {
                "no such program, or a qube without qubes.VMExec (as one word the command goes to a shell)"
            }
            status::NOT_FOUND => "no such service or command there",
            status::REFUSED if !self.place.is_dom0() => "refused by policy; dom0's log has the reason",
            status::TROUBLE => "trouble of qrexec; the logs of dom0 and of the qube have the reason",
            status::LOST => "the call was lost",
            _ if many => "the command failed",
            _ => return,
        };
        if silent || status == status::NOT_FOUND {
            say::error(format_args!("{}: {name}: {why} (status {status})", self.program));
        }
    }
}
