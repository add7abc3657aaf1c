//! The command lines of a lab: its agents, its daemons, and what is to run inside its machines.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use engine::process::{begin_deaf_to_file_limits, begin_on_terminal, begin_unblocked};
use rustix::process::{Pid, getpid};

use super::control::{Answer, Part, Run};
use super::plan::{Age, DOM0, Layout, Plan, apply, uuid};
use super::{Error, relay};

/// The socket that shows that a part is ready.
pub(super) fn socket(plan: &Plan, part: Part, vm: &str) -> PathBuf {
    let layout = plan.layout();
    match part {
        Part::Agent if plan.age == Age::R2 => layout.old_api(vm).join("qrexec-agent-fdpass"),
        // Windows' agent has a pipe; dom0 sees that it is there.
        Part::Agent if plan.windows(vm).is_some() => layout.daemon_socket(vm),
        Part::Agent => layout.agent_socket(vm),
        Part::Daemon => layout.daemon_socket(vm),
        Part::Usb => layout.machine(vm).join("kernel"),
    }
}

/// What there is for each VM.
pub(super) fn parts(plan: &Plan) -> impl Iterator<Item = Part> + use<> {
    let usb = plan.usb.as_ref().filter(|usb| usb.is_simulated()).map(|_| Part::Usb);
    [Part::Agent, Part::Daemon].into_iter().chain(usb)
}

/// Starts the agent of `vm`, the daemon for it, or the stand-in for its kernel, with its output in its log.
pub(super) fn part(plan: &Plan, part: Part, vm: &str) -> Result<Child, Error> {
    let layout = plan.layout();
    let machine = if part == Part::Daemon { DOM0 } else { vm };
    let mut command = match part {
        Part::Agent if plan.windows(vm).is_some() => relay::agent(plan, vm),
        Part::Agent => agent(plan, &layout, vm),
        Part::Daemon => daemon(&layout, plan, vm)?,
        Part::Usb => {
            let mut command = Command::new(layout.bin().join(usb_sim::PROGRAM));
            command.args(plan.usb.iter().flat_map(|usb| usb.stand_in(&layout.machine(vm), vm)));
            command
        }
    };
    apply(&mut command, &plan.environment(machine)?);
    let log = File::options().append(true).create(true).open(log(&layout, part, vm));
    let started = log.and_then(|log| {
        let output = log.try_clone()?;
        command.current_dir(layout.home(machine)).process_group(0);
        begin_unblocked(&mut command);
        begin_deaf_to_file_limits(&mut command);
        command.stdin(Stdio::null()).stdout(output).stderr(log).spawn()
    });
    started.map_err(|error| Error::io(format!("cannot start {}", command.get_program().display()), error))
}

fn agent(plan: &Plan, layout: &Layout, vm: &str) -> Command {
    let mut command = Command::new(layout.bin().join("qrexec-agent"));
    command.arg(option("--agent-socket=", layout.agent_socket(vm))).arg("--no-fork-server");
    if plan.age != Age::Now {
        command.arg(option("--r2-api=", layout.old_api(vm)));
    }
    if plan.age == Age::R2 {
        command.arg("--protocol=1");
    }
    command
}

fn daemon(layout: &Layout, plan: &Plan, vm: &str) -> Result<Command, Error> {
    let id = plan.id(vm).ok_or_else(|| Error::unknown_vm(vm))?;
    let mut command = Command::new(layout.bin().join("qrexec-daemon"));
    command.arg("-D").arg(option("--socket-dir=", layout.sockets())).arg(format!("--uuid={}", uuid(id)));
    if plan.age == Age::R2 {
        command.arg("--protocol=1");
    }
    command.arg(id.to_string()).arg(vm).arg(&plan.user);
    Ok(command)
}

fn option(name: &str, value: PathBuf) -> OsString {
    let mut text = OsString::from(name);
    text.push(value);
    text
}

fn log(layout: &Layout, part: Part, vm: &str) -> PathBuf {
    match part {
        Part::Agent => layout.log(vm).join("agent.log"),
        Part::Daemon => layout.log(DOM0).join(format!("daemon-{vm}.log")),
        Part::Usb => layout.log(vm).join("usb.log"),
    }
}

/// The last line of each log that has one, for an error message.
pub(super) fn last_words(plan: &Plan) -> String {
    let mut words = String::new();
    for vm in &plan.vms {
        for part in parts(plan) {
            let text = fs::read(log(&plan.layout(), part, vm)).unwrap_or_default();
            if let Some(line) = String::from_utf8_lossy(&text).lines().last() {
                let name = format!("{part:?}").to_lowercase();
                words.push_str(&format!("\n  {name} of {vm}: {line}"));
            }
        }
    }
    words
}

/// Starts what the caller asked for, in the machine that it asked for.
pub(super) fn command(plan: &Plan, run: &Run, stdio: [OwnedFd; 3]) -> Result<Child, Answer> {
    let trouble = |why: String| Answer::Failed { code: 125, why };
    let (program, args) = run.argv.split_first().ok_or_else(|| trouble("a command is needed".into()))?;
    let env = plan.environment(&run.vm).map_err(|error| trouble(error.to_string()))?;
    let found = find(program.os(), &env);
    let found = found.ok_or_else(|| failed(127, program.os(), "not found"))?;
    let [stdin, stdout, stderr] = stdio;
    let mut command = Command::new(found);
    command.arg0(program.os()).args(args.iter().map(|arg| arg.os())).env_clear();
    command.envs(run.env.iter().map(|(name, value)| (name.os(), value.os())));
    apply(&mut command, &env);
    command.current_dir(run.cwd.clone().unwrap_or_else(|| plan.layout().home(&run.vm)));
    command.stdin(stdin).stdout(stdout).stderr(stderr);
    begin_unblocked(&mut command);
    if run.terminal {
        begin_on_terminal(&mut command);
    } else if plan.stay {
        command.process_group(0);
    } else if !getpid().is_init() {
        // In a namespace this process is in the caller's group already, and has no number for it.
        command.process_group(run.group);
    }
    command.spawn().map_err(|error| {
        let code = if error.kind() == io::ErrorKind::NotFound { 127 } else { 126 };
        failed(code, program.os(), error)
    })
}

fn failed(code: i32, program: &OsStr, why: impl std::fmt::Display) -> Answer {
    Answer::Failed { code, why: format!("{}: {why}", program.display()) }
}

/// The program that a shell in the machine would find: a plain name is looked for in the machine's search path, and a
/// folder of that path that the user may not enter is passed over.
pub(super) fn find(name: &OsStr, env: &[(OsString, Option<OsString>)]) -> Option<PathBuf> {
    if name.as_encoded_bytes().contains(&b'/') {
        return Some(PathBuf::from(name));
    }
    let path = env.iter().rev().find(|(key, _)| key == "PATH").and_then(|(_, value)| value.as_deref());
    let executable =
        |path: &PathBuf| path.is_file() && rustix::fs::access(path, rustix::fs::Access::EXEC_OK).is_ok();
    path.into_iter().flat_map(std::env::split_paths).map(|folder| folder.join(name)).find(executable)
}

/// Whether a socket is at `path`, perhaps behind a link.
pub(super) fn is_socket(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|meta| meta.file_type().is_socket())
}

/// A child's number in the form that the system calls want.
pub(super) fn pid(child: &Child) -> Option<Pid> {
    Pid::from_raw(i32::try_from(child.id()).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_programs_as_a_shell_does() {
        let env = [("PATH".into(), Some("/nowhere:/bin:/usr/bin".into()))];
        let found = find(OsStr::new("sh"), &env).unwrap();
        assert!(found.ends_with("sh") && found.is_absolute(), "{found:?}");
        assert_eq!(find(OsStr::new("./sh"), &env).as_deref(), Some(Path::new("./sh")));
        assert_eq!(find(OsStr::new("no-such-program"), &env), None);
    }
}
