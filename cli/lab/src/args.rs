//! The command line of `qrexec-lab`.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, FromArgMatches, Parser, Subcommand};

use super::plan::{Age, Transport};
use super::{help, role, usb};

/// A dom0 and named VMs on this machine, without root: try, test and measure qrexec.
///
/// Unless --policy says otherwise, calls between the lab's VMs are allowed and calls to dom0 are refused. Nothing isolates
/// the machines from each other: they all belong to you.
#[derive(Debug, Parser)]
#[command(name = role::PROGRAM, version, max_term_width = 100, after_long_help = help::LAB)]
struct LabCli {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
pub(super) enum Action {
    /// Runs CMD inside the first VM of a lab of its own, and ends the lab with it. Exit code: CMD's
    #[command(after_long_help = help::RUN)]
    Run {
        #[command(flatten)]
        lab: LabArgs,
        /// The command; programs of the lab come first in its search path. `--` in front of it is possible
        #[arg(trailing_var_arg = true, required = true, value_name = "CMD")]
        command: Vec<OsString>,
    },
    /// Starts a lab that stays
    #[command(after_long_help = help::UP)]
    Up {
        #[command(flatten)]
        which: Which,
        /// Says nothing of what it has started
        #[arg(short, long)]
        quiet: bool,
        #[command(flatten)]
        lab: LabArgs,
    },
    /// Runs CMD inside a machine (a VM or dom0) of a lab that stays. Exit code: CMD's
    #[command(after_long_help = help::EXEC)]
    Exec {
        /// The lab's name
        #[arg(long, value_name = "LAB", default_value = DEFAULT_LAB)]
        name: String,
        /// What others want for a terminal; here it is noticed
        #[arg(short = 'i', hide = true)]
        interactive: bool,
        /// Likewise
        #[arg(short = 't', hide = true)]
        terminal: bool,
        /// A VM, or dom0
        vm: String,
        /// The command
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true, value_name = "CMD")]
        command: Vec<OsString>,
    },
    /// Shows what agents, daemons and the lab itself have logged
    #[command(after_long_help = help::LOGS)]
    Logs {
        /// The lab's name
        #[arg(long, value_name = "LAB", default_value = DEFAULT_LAB)]
        name: String,
        /// Goes on until the lab ends
        #[arg(short, long)]
        follow: bool,
        /// Only what is about this machine: a VM's agent, and dom0's daemon for it
        #[arg(value_name = "VM")]
        vm: Option<String>,
    },
    /// Ends the agent of a VM if it still runs, and starts it again, with the daemon if that is gone
    Restart {
        /// The lab's name
        #[arg(long, value_name = "LAB", default_value = DEFAULT_LAB)]
        name: String,
        /// dom0's daemon for the VM instead
        #[arg(long)]
        daemon: bool,
        /// The VM
        vm: String,
    },
    /// USB devices of a lab's machines in others [default: stick]
    #[command(after_long_help = help::USB)]
    Usb {
        #[command(subcommand)]
        action: Option<UsbAction>,
    },
    /// Lists the running labs and their processes, and what of them has ended; removes what dead ones left
    #[command(visible_alias = "list", after_long_help = help::STATUS)]
    Status {
        /// As JSON: a list of labs
        #[arg(long)]
        json: bool,
    },
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
        #[command(flatten)]
        which: Which,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum UsbAction {
    /// A simulated stick of one VM of a lab of its own, used by a stand-in for the kernel in another: what that measured
    Stick,
    /// The same with a camera
    Camera,
    /// The same with a keyboard
    Keyboard,
    /// The devices of a lab: whose and at which port, vendor and product, how fast, which VM has it
    List {
        /// The lab's name
        #[arg(long, value_name = "LAB", default_value = DEFAULT_LAB)]
        name: String,
    },
    /// Gives a device to a VM
    Attach {
        /// The lab's name
        #[arg(long, value_name = "LAB", default_value = DEFAULT_LAB)]
        name: String,
        /// The VM that gets it
        vm: String,
        /// The device: VM:PORT, or VM:0xVVVV.0xPPPP where only one has this vendor and product
        #[arg(value_name = "VM:PORT", value_parser = usb::named)]
        device: usb::Named,
    },
    /// Takes a device, or all, from the VM that has it
    Detach {
        /// The lab's name
        #[arg(long, value_name = "LAB", default_value = DEFAULT_LAB)]
        name: String,
        /// The VM that has it
        vm: String,
        /// Which [default: all that it has]
        #[arg(value_name = "VM:PORT", value_parser = usb::named)]
        device: Option<usb::Named>,
    },
}

pub(super) const DEFAULT_LAB: &str = "lab";

/// Which lab: its name is a word, or that of an option.
#[derive(Args, Debug)]
pub(super) struct Which {
    /// The lab's name [default: lab]
    #[arg(value_name = "LAB", id = "lab_word")]
    word: Option<String>,
    /// The same
    #[arg(long, value_name = "LAB", id = "lab_option", conflicts_with = "lab_word")]
    name: Option<String>,
}

impl Which {
    pub(super) fn lab(&self) -> &str {
        self.word.as_deref().or(self.name.as_deref()).unwrap_or(DEFAULT_LAB)
    }
}

#[derive(Args, Debug)]
pub(super) struct LabArgs {
    /// A VM; may be given several times [default: work and vault]. NAME:windows is one that is Windows, as far as wine is
    #[arg(long, value_name = "NAME[:windows]")]
    pub(super) vm: Vec<String>,
    /// The policy, in the format of policy.d [default: allow between VMs]. An error in it ends this before anything starts
    #[arg(long, value_name = "FILE")]
    pub(super) policy: Option<PathBuf>,
    /// The policy may ask the user, by the qrexec-policy-agent that runs in dom0
    #[arg(long)]
    pub(super) ask: bool,
    /// A service of a machine: an executable, a socket, or /dev/tcp/HOST/PORT
    #[arg(long, value_name = "VM:NAME=PATH", value_parser = service)]
    pub(super) service: Vec<ServiceArg>,
    /// What is to be known about a service: a file with lines KEY = VALUE
    #[arg(long, value_name = "VM:NAME=FILE", value_parser = service)]
    pub(super) config: Vec<ServiceArg>,
    /// The VMs get no services but those that are named
    #[arg(long)]
    pub(super) no_default_services: bool,
    /// What carries the bytes
    #[arg(long, value_enum, default_value = "shm")]
    pub(super) transport: Transport,
    /// Of which age it is: with r2-api programs of VMs may ask as in R2 as well, with r2 agents and daemons speak its
    /// protocol, too, and each service has its own policy file
    #[arg(long, value_enum, default_value = "now")]
    pub(super) age: Age,
    /// A simulated USB device of a VM: stick, camera or keyboard; may be given several times
    #[arg(long, value_name = "VM:PORT=KIND", value_parser = usb::plug)]
    pub(super) usb: Vec<usb::Plug>,
    /// The VMs have the USB devices of this machine's kernel, which needs usbip-host, vhci-hcd, and you to be root
    #[arg(long, conflicts_with = "usb")]
    pub(super) usb_kernel: bool,
    /// Takes the programs that this folder has from there
    #[arg(long, value_name = "DIR")]
    pub(super) bin_dir: Option<PathBuf>,
    /// Does without a PID namespace
    #[arg(long, env = "QUBES_LAB_NO_NAMESPACE", value_parser = clap::builder::FalseyValueParser::new())]
    pub(super) no_namespace: bool,
}

/// A file of a machine: its service, or what is to be known about one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ServiceArg {
    pub(super) vm: String,
    pub(super) name: String,
    pub(super) path: PathBuf,
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

/// The command line, for manual pages and completions.
pub(crate) fn command() -> clap::Command {
    <LabCli as clap::CommandFactory>::command()
}

/// What a command line says; the exit status where it says nothing that makes sense, or asks for help.
pub(super) fn read(args: Vec<OsString>) -> Result<Action, i32> {
    let matches = cli::usage::of::<LabCli>().try_get_matches_from(args);
    matches.and_then(|matches| LabCli::from_arg_matches(&matches)).map(|cli| cli.action).map_err(|error| {
        let _ = error.print();
        error.exit_code()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        <LabCli as clap::CommandFactory>::command().debug_assert();
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
        let cli = LabCli::try_parse_from(["qrexec-lab", "exec", "work", "ls", "--name", "-l"]).unwrap();
        let Action::Exec { name, vm, command, .. } = cli.action else { panic!("not exec") };
        assert_eq!((name.as_str(), vm.as_str(), command.len()), (DEFAULT_LAB, "work", 3));
    }

    #[test]
    fn a_lab_is_named_by_a_word_or_an_option_and_commands_need_no_dashes() {
        let lab = |args: &[&str]| match LabCli::try_parse_from(args).unwrap().action {
            Action::Up { which, .. } | Action::Down { which } => which.lab().to_owned(),
            other => panic!("{other:?}"),
        };
        assert_eq!(lab(&["qrexec-lab", "up"]), DEFAULT_LAB);
        assert_eq!(lab(&["qrexec-lab", "up", "--ask", "two"]), "two");
        assert_eq!(lab(&["qrexec-lab", "down", "--name", "two"]), "two");
        assert!(LabCli::try_parse_from(["qrexec-lab", "down", "--name", "one", "two"]).is_err());
        let command = |args: &[&str]| match LabCli::try_parse_from(args).unwrap().action {
            Action::Run { command, lab } => (lab.vm.len(), command),
            other => panic!("{other:?}"),
        };
        for args in [
            &["qrexec-lab", "run", "--vm", "a", "sh", "-c", "x", "--", "y"][..],
            &["qrexec-lab", "run", "--vm", "a", "--", "sh", "-c", "x", "--", "y"],
        ] {
            assert_eq!(command(args), (1, ["sh", "-c", "x", "--", "y"].map(OsString::from).to_vec()));
        }
        assert!(LabCli::try_parse_from(["qrexec-lab", "run", "--bogus", "sh"]).is_err());
        assert!(LabCli::try_parse_from(["qrexec-lab", "exec", "-it", "work", "sh"]).is_ok());
    }
}
