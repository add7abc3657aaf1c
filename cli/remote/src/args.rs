//! The command line of `qrexec-remote`.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use cli::failure::Failure;
use engine::process::own_executable;
use engine::say;
use wire::remote::names::Remotes;

use crate::invite::{self, Admission, Invitation, Key, TRANSPORT};
use crate::link::{self, FOLDER_VAR, Link};
use crate::{far, master, pool, waiting};

/// Joins this machine with another one, so that their qubes can call each other through OpenSSH.
///
/// On the machine that connects: `qrexec-remote key`. On the other: `qrexec-remote admit NAME KEY`, which shows an
/// invitation. Back on the first: `qrexec-remote join INVITATION --qube NAME`. All three in the relay, the qube that has
/// network. What dom0 has to do is said by both and done by none.
#[derive(Debug, Parser)]
#[command(name = "qrexec-remote", version, max_term_width = 100)]
struct Cli {
    /// The folder of the links [default: ~/.config/qrexec-remote]
    #[arg(long, value_name = "DIR", env = FOLDER_VAR)]
    dir: Option<PathBuf>,
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Shows this machine's key, and makes it if there is none
    Key,
    /// Lets another machine in, by its key, and shows an invitation
    Admit(AdmitArgs),
    /// Takes an invitation
    Join(JoinArgs),
    /// Lists the links
    List,
    /// Ends a link's connections; the next call makes a new one
    Close {
        /// The link
        link: String,
    },
    /// Keeps sessions open by which the other machine can call qubes here, for ever
    Wait {
        /// The link
        link: String,
    },
    /// Keeps sessions ready for calls; the first call starts it
    #[command(hide = true)]
    Pool {
        /// The link
        link: String,
    },
    /// What sshd runs for a link's key; nobody types it
    #[command(hide = true)]
    Far {
        /// The link
        link: String,
    },
}

#[derive(Debug, clap::Args)]
struct AdmitArgs {
    /// What the other machine is called here; its qubes are NAME-QUBE
    name: String,
    /// Its public key, as its `qrexec-remote key` shows it
    #[arg(required = true, value_name = "KEY")]
    key: Vec<String>,
    /// What this machine is called there [default: this host's name]
    #[arg(long = "as", value_name = "NAME")]
    own_name: Option<String>,
    /// Where the other machine reaches this one [default: this host's name]
    #[arg(long, value_name = "HOST")]
    address: Option<String>,
    /// The port of sshd
    #[arg(long, default_value_t = 22)]
    port: u16,
    /// The account that the other machine logs in to [default: this one]
    #[arg(long)]
    user: Option<String>,
    /// The host's public key
    #[arg(long, value_name = "FILE", default_value = "/etc/ssh/ssh_host_ed25519_key.pub")]
    host_key: PathBuf,
    /// Where sshd looks for keys [default: ~/.ssh/authorized_keys]
    #[arg(long, value_name = "FILE")]
    authorized_keys: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
struct JoinArgs {
    /// What the other machine's `qrexec-remote admit` has shown
    invitation: String,
    /// A qube over there: its name here, and its name there if that is another
    #[arg(long, value_name = "NAME[=REMOTE]", required = true)]
    qube: Vec<String>,
}

/// The command line, for manual pages and completions.
#[must_use]
pub fn command() -> clap::Command {
    Cli::command()
}

/// The program: `args` begins with its name.
pub fn main(args: Vec<OsString>) -> i32 {
    let matches = cli::usage::of::<Cli>().try_get_matches_from(args);
    let cli = match matches.and_then(|matches| Cli::from_arg_matches(&matches)) {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            return error.exit_code();
        }
    };
    act(cli).unwrap_or_else(|failure| failure.report("qrexec-remote"))
}

fn act(cli: Cli) -> Result<i32, Failure> {
    let folder = match cli.dir {
        Some(folder) => std::path::absolute(&folder).map_err(Failure::during(folder.display()))?,
        None => link::folder()?,
    };
    match cli.action {
        Action::Key => {
            say::output(invite::own_key(&folder)?);
            Ok(0)
        }
        Action::Admit(args) => admit(&folder, args),
        Action::Join(args) => join(&folder, &args),
        Action::List => list(&folder),
        Action::Close { link } => {
            master::close(&Link::open(&folder, &link)?);
            Ok(0)
        }
        Action::Wait { link } => Ok(waiting::keep(&Link::open(&folder, &link)?)),
        Action::Pool { link } => pool::run(&Link::open(&folder, &link)?).map(|()| 0),
        Action::Far { link } => far::main(&Link::open(&folder, &link)?),
    }
}

fn admit(folder: &std::path::Path, args: AdmitArgs) -> Result<i32, Failure> {
    let key: Key = args.key.join(" ").parse().map_err(|error| Failure::usage(format!("{error}")))?;
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let address = args.address.unwrap_or_else(|| host.clone());
    let user = args.user.or_else(|| std::env::var("USER").ok()).unwrap_or_default();
    let unusable =
        |what: &str, value: &str| Failure::usage(format!("{value:?} cannot be {what}: see --help"));
    let host_key =
        std::fs::read_to_string(&args.host_key).map_err(Failure::during(args.host_key.display()))?;
    let invitation = Invitation {
        name: args.own_name.unwrap_or_else(|| host.split('.').next().unwrap_or_default().to_owned()),
        user: invite::account(&user).ok_or_else(|| unusable("the account (--user)", &user))?,
        address: invite::host(&address).ok_or_else(|| unusable("the address (--address)", &address))?,
        port: args.port,
        key: host_key.parse().map_err(Failure::during(args.host_key.display()))?,
    };
    let name = Link::named(folder, &invitation.name)?;
    let how = Admission {
        authorized_keys: args.authorized_keys.map_or_else(default_keys, Ok)?,
        program: own_program(),
    };
    let link = invite::admit(folder, &args.name, &key, &how)?;
    let relay = host.as_str();
    say::output(&invitation);
    say::error(format_args!(
        "in dom0, for each qube of {0} that shall call qubes here:\n  \
         qvm-create --class RemoteVM --label red --property relayvm={relay} --property transport_rpc={TRANSPORT} {0}-QUBE\n\
         and in its policy, behind the lines that allow what they may, before every line with @anyvm:\n  \
         * * @tag:relayvm-{relay} @anyvm deny\n  * * @tag:relayvm-{relay} @adminvm deny\n\
         the other machine takes the invitation above: qrexec-remote join INVITATION --qube NAME=QUBE (link {1})",
        link.name(),
        name.name(),
    ));
    Ok(0)
}

/// This program's own name in the search path, which an upgrade keeps; else the file that it is.
fn own_program() -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let named = std::env::split_paths(&path).map(|folder| folder.join("qrexec-remote"));
    named.into_iter().find(|file| file.is_absolute() && file.exists()).unwrap_or_else(own_executable)
}

fn default_keys() -> Result<PathBuf, Failure> {
    let home = std::env::var_os("HOME")
        .ok_or_else(|| Failure::trouble("HOME is not set: give --authorized-keys"))?;
    Ok(PathBuf::from(home).join(".ssh/authorized_keys"))
}

fn join(folder: &std::path::Path, args: &JoinArgs) -> Result<i32, Failure> {
    let invitation: Invitation =
        args.invitation.parse().map_err(|error| Failure::usage(format!("{error}")))?;
    let lines: String = args
        .qube
        .iter()
        .map(|qube| qube.split_once('=').unwrap_or((qube, qube)))
        .map(|(local, remote)| format!("{local} {remote}\n"))
        .collect();
    let qubes = Remotes::parse(&lines).map_err(|error| Failure::usage(format!("--qube: {}", error.what)))?;
    let link = invite::join(folder, &invitation, &qubes, &lines)?;
    say::output(format_args!("link {}: the other side answers", link.name()));
    let relay = rustix::system::uname().nodename().to_string_lossy().into_owned();
    for line in lines.lines() {
        let (local, remote) = line.split_once(' ').unwrap_or((line, line));
        say::error(format_args!(
            "in dom0: qvm-create --class RemoteVM --label red --property remote_name={remote} \
             --property relayvm={relay} --property transport_rpc={TRANSPORT} {local}\n\
             and a line of policy for each service, as: SERVICE * QUBE {local} allow"
        ));
    }
    Ok(0)
}

fn list(folder: &std::path::Path) -> Result<i32, Failure> {
    for link in Link::all(folder)? {
        let ways = match (link.has_connection(), link.file("sources").exists()) {
            (true, true) => "both ways",
            (true, false) => "calls go out",
            (false, true) => "calls come in",
            (false, false) => "no way is set up",
        };
        say::output(format_args!("{}: {ways}", link.name()));
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
