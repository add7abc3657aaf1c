//! The command line of `qrexec-lab`.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::{Args, FromArgMatches, Parser, Subcommand};
use engine::say;

use super::builder::{Builder, Lab};
use super::foreground::Foreground;
use super::plan::{Age, Transport};
use super::{DOM0, Error, keeper, relay, role, store, supervisor};

/// A dom0 and named VMs on this machine, without root: try, test and measure qrexec.
///
/// Unless --policy says otherwise, calls between the lab's VMs are allowed and calls to dom0 are refused. Nothing isolates
/// the machines from each other: they all belong to you.
#[derive(Debug, Parser)]
#[command(name = role::PROGRAM, version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Runs CMD inside the first VM of a lab of its own, and ends the lab with it. Exit code: CMD's
    Run {
        #[command(flatten)]
        lab: LabArgs,
        /// The command; programs of the lab come first in its search path
        #[arg(last = true, required = true, value_name = "CMD")]
        command: Vec<OsString>,
    },
    /// Starts a lab that stays
    Up {
        /// Its name
        #[arg(long, value_name = "LAB", default_value = DEFAULT_LAB)]
        name: String,
        #[command(flatten)]
        lab: LabArgs,
    },
    /// Runs CMD inside a machine (a VM or dom0) of a lab that stays. Exit code: CMD's
    Exec {
        /// The lab's name
        #[arg(long, value_name = "LAB", default_value = DEFAULT_LAB)]
        name: String,
        /// A VM, or dom0
        vm: String,
        /// The command
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true, value_name = "CMD")]
        command: Vec<OsString>,
    },
    /// Carries a simulated USB device from one VM of a lab of its own to another, where a stand-in for the kernel uses it,
    /// and reports what that measured
    Usb {
        /// The device
        #[arg(default_value = "stick", value_parser = ["stick", "camera", "keyboard"])]
        device: String,
    },
    /// Lists the running labs and their processes, and buries dead ones
    Status,
    /// Lets other labs reach this one, by an sshd of your own on a free port of the loopback
    Admit {
        /// The lab's name
        #[arg(long, value_name = "LAB", default_value = DEFAULT_LAB)]
        name: String,
        /// The VM that other labs reach
        #[arg(long, value_name = "VM")]
        relay: String,
        /// A qube of another lab that calls from there: LAB-VM
        #[arg(long, value_name = "NAME")]
        from: Vec<String>,
        /// A line for sshd, as "MaxSessions 10"
        #[arg(long, value_name = "LINE")]
        sshd_option: Vec<String>,
    },
    /// Makes a qube of this lab stand for one of another lab, which has admitted somebody
    Join {
        /// The lab's name
        #[arg(long, value_name = "LAB", default_value = DEFAULT_LAB)]
        name: String,
        /// The VM by which calls go out
        #[arg(long, value_name = "VM")]
        relay: String,
        /// The name here, and the name there if that is another
        #[arg(long, value_name = "NAME[=REMOTE]")]
        qube: String,
        /// The other lab's name
        #[arg(long, value_name = "LAB")]
        to: String,
    },
    /// Ends a lab and everything in it
    Down {
        /// Its name
        #[arg(long, value_name = "LAB", default_value = DEFAULT_LAB)]
        name: String,
    },
}

const DEFAULT_LAB: &str = "lab";

#[derive(Args, Debug)]
struct LabArgs {
    /// A VM; may be given several times [default: work and vault]. NAME:windows is one that is Windows, as far as wine is
    #[arg(long, value_name = "NAME[:windows]")]
    vm: Vec<String>,
    /// The policy, in the format of policy.d [default: allow between VMs]
    #[arg(long, value_name = "FILE")]
    policy: Option<PathBuf>,
    /// The policy may ask the user, by the qrexec-policy-agent that runs in dom0
    #[arg(long)]
    ask: bool,
    /// A service of a machine: an executable, a socket, or /dev/tcp/HOST/PORT
    #[arg(long, value_name = "VM:NAME=PATH", value_parser = service)]
    service: Vec<ServiceArg>,
    /// The VMs get no services but those that are named
    #[arg(long)]
    no_default_services: bool,
    /// What carries the bytes
    #[arg(long, value_enum, default_value = "shm")]
    transport: Transport,
    /// Of which age it is: with r2-api programs of VMs may ask as in R2 as well, with r2 agents and daemons speak its
    /// protocol, too, and each service has its own policy file
    #[arg(long, value_enum, default_value = "now")]
    age: Age,
    /// Takes the programs that this folder has from there
    #[arg(long, value_name = "DIR")]
    bin_dir: Option<PathBuf>,
    /// Does without a PID namespace
    #[arg(long, env = "QUBES_LAB_NO_NAMESPACE", value_parser = clap::builder::FalseyValueParser::new())]
    no_namespace: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct ServiceArg {
    vm: String,
    name: String,
    path: PathBuf,
}

/// An argument of `--service` that names no service.
#[derive(Debug, thiserror::Error)]
#[error("VM:NAME=PATH is wanted")]
struct NoService;

fn service(text: &str) -> Result<ServiceArg, NoService> {
    let parts = || {
        let (vm, rest) = text.split_once(':')?;
        let (name, path) = rest.split_once('=')?;
        Some(ServiceArg { vm: vm.into(), name: name.into(), path: path.into() })
    };
    parts().ok_or(NoService)
}

impl LabArgs {
    fn builder(self) -> Result<Builder, Error> {
        let mut builder = Lab::builder()
            .ask(self.ask)
            .age(self.age)
            .transport(self.transport)
            .namespace(!self.no_namespace)
            .default_services(!self.no_default_services);
        for vm in &self.vm {
            builder = match vm.split_once(':') {
                Some((name, "windows")) => builder.windows_vm(name)?,
                _ => builder.vm(vm),
            };
        }
        for service in self.service {
            builder = builder.service(&service.vm, &service.name, service.path);
        }
        if let Some(path) = self.policy {
            let text = std::fs::read_to_string(&path);
            let text = text.map_err(|error| Error::io(format!("cannot read {}", path.display()), error))?;
            builder = builder.policy(&text);
        }
        Ok(match self.bin_dir {
            Some(folder) => builder.bin_dir(folder),
            None => builder,
        })
    }
}

/// The command line, for manual pages and completions.
pub(crate) fn command() -> clap::Command {
    <Cli as clap::CommandFactory>::command()
}

/// The program: `args` begins with its name. Returns the exit code: the command's, 125 for trouble of the lab itself, 2
/// for a command line that makes no sense.
pub fn main(args: impl IntoIterator<Item = OsString>) -> i32 {
    let args: Vec<OsString> = args.into_iter().collect();
    if let [_, role, root] = args.as_slice() {
        match role.to_str() {
            Some(role::KEEPER) => return keeper::main(Path::new(root)),
            Some(role::NAMESPACE) => return keeper::enter_namespace(Path::new(root)),
            Some(role::SUPERVISOR) => return supervisor::main(Path::new(root)),
            _ => {}
        }
    }
    if let [_, role, root, vm] = args.as_slice()
        && let (Some(role::WINDOWS), Some(vm)) = (role.to_str(), vm.to_str())
    {
        return relay::main(Path::new(root), vm);
    }
    let matches = cli::usage::of::<Cli>().try_get_matches_from(args);
    let cli = match matches.and_then(|matches| Cli::from_arg_matches(&matches)) {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            return error.exit_code();
        }
    };
    act(cli.action).unwrap_or_else(|error| {
        say::error(format_args!("qrexec-lab: {error}"));
        125
    })
}

fn act(action: Action) -> Result<i32, Error> {
    match action {
        Action::Run { lab, command } => run(lab, command),
        Action::Up { name, lab } => up(&name, lab),
        Action::Exec { name, vm, command } => Foreground::new()?.run(&Lab::open(&name)?, &vm, command),
        Action::Usb { device } => usb(&device),
        Action::Status => status(),
        Action::Admit { name, relay, from, sshd_option } => {
            Lab::open(&name)?.admit(&relay, &from, &sshd_option)?;
            Ok(0)
        }
        Action::Join { name, relay, qube, to } => {
            let (local, remote) = qube.split_once('=').unwrap_or((&qube, &qube));
            Lab::open(&name)?.join(&name, &relay, local, remote, (&Lab::open(&to)?, &to))?;
            Ok(0)
        }
        Action::Down { name } => {
            store::end(&super::Layout::new(&store::folder()?.join(name)))?;
            Ok(0)
        }
    }
}

fn run(args: LabArgs, command: Vec<OsString>) -> Result<i32, Error> {
    let foreground = Foreground::new()?;
    let lab = args.builder()?.start()?;
    let first = lab.plan().vms.first().cloned().unwrap_or_default();
    let code = foreground.run(&lab, &first, command);
    lab.down()?;
    code
}

/// A device of VM vault, and its user in VM work.
fn usb(device: &str) -> Result<i32, Error> {
    const SERVICE: &str = "#!/bin/sh\nexec qrexec-usb-sim \"$1\" --keys 20\n";
    let foreground = Foreground::new()?;
    let lab = Lab::builder().script("vault", "lab.Usb", SERVICE).start()?;
    let host = lab.layout().bin().join(usb_sim::PROGRAM).into_os_string();
    let call = ["qrexec-client-vm", "vault", &format!("lab.Usb+{device}")].map(OsString::from);
    let code = foreground.run(&lab, "work", call.into_iter().chain([host, "host".into()]).collect());
    lab.down()?;
    code
}

fn up(name: &str, args: LabArgs) -> Result<i32, Error> {
    store::clean()?;
    let lab = args.builder()?.stay(name).start()?;
    say::output(format_args!("lab {name}: dom0, {}", lab.plan().vms.join(", ")));
    say::output(format_args!("folder {}", lab.layout().root().display()));
    Ok(0)
}

fn status() -> Result<i32, Error> {
    let alive = store::clean()?;
    if alive.is_empty() {
        say::output("no lab is running");
    }
    for layout in alive {
        let Ok(lab) = Lab::at(&layout) else { continue };
        let name = layout.root().file_name().unwrap_or_default();
        say::output(format_args!("lab {} in {}", name.display(), layout.root().display()));
        let mut processes = lab.processes();
        processes.sort_by_key(|process| process.pid);
        for vm in std::iter::once(DOM0).chain(lab.plan().vms.iter().map(String::as_str)) {
            say::output(format_args!("  {vm} (id {})", lab.plan().id(vm).unwrap_or_default()));
            for process in processes.iter().filter(|process| process.vm == vm) {
                say::output(format_args!("    {:>7}  {}", process.pid, process.program));
            }
        }
    }
    for lab in store::Elsewhere::all() {
        say::error(format_args!("qrexec-lab: {lab}"));
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        <Cli as clap::CommandFactory>::command().debug_assert();
    }

    #[test]
    fn services_name_their_machine() {
        let parsed = service("vault:test.Add+1=/bin/x=y").unwrap();
        assert_eq!(
            parsed,
            ServiceArg { vm: "vault".into(), name: "test.Add+1".into(), path: "/bin/x=y".into() }
        );
        assert!(service("vault").is_err());
    }

    #[test]
    fn options_of_the_command_are_its_own() {
        let cli = Cli::try_parse_from(["qrexec-lab", "exec", "work", "ls", "--name", "-l"]).unwrap();
        let Action::Exec { name, vm, command } = cli.action else { panic!("not exec") };
        assert_eq!((name.as_str(), vm.as_str(), command.len()), (DEFAULT_LAB, "work", 3));
    }
}
