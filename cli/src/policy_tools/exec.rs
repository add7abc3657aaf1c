//! `qrexec-policy-exec` and `qrexec-policy`: one decision, and the connection if that is wanted.

use std::ffi::OsString;
use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use clap::Parser;
use daemon::answer;
use daemon::policy_source::Disk;
use daemon_core::question::{Allow, Verdict};
use engine::process::own_executable;
use policy::Policy;
use wire::names::Target;

use super::judge::{Case, DENY, Question, Told};
use super::old;
use super::people::People;
use super::r3::OldFolder;
use super::system::SystemSource;
use super::vms::{Disposable, Vms};
use crate::failure::Failure;
use crate::{status, usage};

const EXEC: &str = "qrexec-policy-exec";
const POLICY: &str = "qrexec-policy";

/// The policy folder of R1.
const OLDEST_FOLDER: &str = "/etc/qubes_rpc/policy";

/// The exit status for a call that is denied.
const DENIED: i32 = 1;

/// Decides about one qrexec call.
///
/// With SOURCE, TARGET and SERVICE the answer is printed. With SOURCE_ID in front and IDENT behind, the
/// call is also made. Exit status: 0 allowed (of the service, if the call was made), 1 denied.
#[derive(Debug, Parser)]
struct PolicyExecArgs {
    /// Take what the user would be asked as answered with TARGET.
    #[arg(long)]
    assume_yes_for_ask: bool,
    /// Make no call, ask nobody and tell nobody: only the verdict counts.
    #[arg(long)]
    just_evaluate: bool,
    /// Policy folder; the first given hides the files of the others.
    #[arg(long = "path", value_name = "DIR", env = "QREXEC_POLICY_DIR", value_delimiter = ':',
          default_values = [policy::load::RUNTIME_POLICY_FOLDER, policy::load::POLICY_FOLDER])]
    folders: Vec<PathBuf>,
    /// Policy folder of R3 and before, for a machine that has no other.
    #[arg(long, value_name = "DIR", env = "QREXEC_OLD_POLICY_DIR", default_value = policy::load::OLD_POLICY_FOLDER)]
    old_path: PathBuf,
    /// What qubes there are, as JSON; without it qubesd is asked.
    #[arg(long, value_name = "FILE", env = "QREXEC_SYSTEM_INFO")]
    system_info: Option<PathBuf>,
    /// The remote qube in whose name SOURCE, its relay, calls.
    #[arg(long, value_name = "QUBE")]
    requested_source: Option<String>,
    /// Folder of the daemons' sockets.
    #[arg(long, value_name = "DIR", env = "QREXEC_SOCKET_DIR", default_value = "/var/run/qubes")]
    socket_dir: PathBuf,
    /// The words that the usage shows
    #[arg(value_name = "WORD", required = true, num_args = 3..=5)]
    words: Vec<String>,
}

/// A request that waits in its qube for a connection.
#[derive(Debug, PartialEq, Eq)]
struct Waiting {
    source_id: String,
    ident: String,
}

/// The command line under one of its two names, for manual pages and completions.
pub fn command(program: &'static str) -> clap::Command {
    let short = if program == EXEC { "SOURCE TARGET SERVICE" } else { "SOURCE TARGET SERVICE IDENT" };
    let long = "SOURCE_ID SOURCE TARGET SERVICE IDENT";
    let [short, long] = [short, long].map(|words| format!("{program} [OPTIONS] [--] {words}"));
    <PolicyExecArgs as clap::CommandFactory>::command()
        .name(program)
        .override_usage(format!("{short}\n       {long}"))
}

/// `qrexec-policy-exec`, the form of R4.1 and later: the exit status for these arguments, the program's
/// name first.
pub fn main(args: Vec<OsString>) -> i32 {
    run(EXEC, args)
}

/// `qrexec-policy`, the form of R3 (and of R2, which gives no SOURCE_ID), likewise.
pub fn policy_main(args: Vec<OsString>) -> i32 {
    run(POLICY, args)
}

fn run(program: &'static str, args: Vec<OsString>) -> i32 {
    let args = match usage::parse_as::<PolicyExecArgs>(usage::complete(command(program)), program, args) {
        Ok(args) => args,
        Err(status) => return status,
    };
    match decide(program, &args) {
        Ok(status) => status,
        Err(failure) => failure.report(program),
    }
}

fn decide(program: &str, args: &PolicyExecArgs) -> Result<i32, Failure> {
    let (words, waiting) = understand(program, args)?;
    super::check_not_the_hosts(args.folders.iter().map(PathBuf::as_path))?;
    let [source, target, service] = words;
    // Before R4 keywords had another sign.
    let modern = target.strip_prefix('$').filter(|_| program == POLICY).map(|keyword| format!("@{keyword}"));
    let target = modern.as_ref().unwrap_or(target);
    let question = Question {
        source: source.clone(),
        target: target.clone(),
        service: service.clone(),
        requested_source: args.requested_source.clone(),
        assume_yes: args.assume_yes_for_ask,
        just_evaluate: args.just_evaluate,
    };
    let people = People::from_env();
    let (answer, told) = answer(args, question, &people);
    let allowed = answer != DENY;
    let show = |told: Option<&Told>| told.into_iter().for_each(|told| told.show(&people));
    match waiting {
        None => {
            let said = writeln!(io::stdout(), "{answer}").and_then(|()| io::stdout().flush());
            said.map_err(Failure::during("printing the answer"))?;
            show(told.as_ref());
        }
        Some(waiting) => {
            show(told.as_ref());
            if !args.just_evaluate && daemon::r2::marker(&args.socket_dir, source).exists() {
                return old::connect(&args.socket_dir, &answer, [source, service], &waiting.ident);
            }
            if allowed && !args.just_evaluate {
                // Whoever was told that the call is allowed is told, too, if nothing comes of it.
                let result = connect(args, &answer, source, target, service, &waiting, told.is_none());
                if !matches!(result, Ok(0)) {
                    show(told.map(|told| told.of_failure()).as_ref());
                }
                return result;
            }
        }
    }
    Ok(if allowed { 0 } else { DENIED })
}

/// Sorts the words by their number.
fn understand<'a>(
    program: &str,
    args: &'a PolicyExecArgs,
) -> Result<([&'a String; 3], Option<Waiting>), Failure> {
    match args.words.as_slice() {
        [source, target, service] if program == EXEC || args.just_evaluate => {
            Ok(([source, target, service], None))
        }
        [source, target, service, ident] if program == POLICY => {
            // The daemon's socket has the id in its name, and a link with the qube's name leads to it.
            let link = args.socket_dir.join(format!("qrexec.{source}"));
            let to = std::fs::read_link(&link).map_err(Failure::during(link.display()))?;
            let name = to.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            let source_id = name.strip_prefix("qrexec.").unwrap_or_default().to_owned();
            Ok(([source, target, service], Some(Waiting { source_id, ident: ident.clone() })))
        }
        [source_id, source, target, service, ident] => {
            let waiting = Waiting { source_id: source_id.clone(), ident: ident.clone() };
            Ok(([source, target, service], Some(waiting)))
        }
        words => Err(Failure::usage(format!("{} arguments are not understood", words.len()))),
    }
}

fn answer(args: &PolicyExecArgs, question: Question, people: &People) -> (String, Option<Told>) {
    let denied = |why: &dyn std::fmt::Display| {
        tracing::error!("denied: {why}");
        (DENY.to_owned(), None)
    };
    let system = match SystemSource::new(args.system_info.clone()).current() {
        Ok(system) => system,
        Err(why) => return denied(&why),
    };
    // Whoever asked reads our output: when they stop to, nobody waits for the user any more.
    let caller = Some(rustix::stdio::stdout());
    let closed = if is_of_r3(args) {
        match OldFolder::new(old_folder(args)).close(question, system, people, caller) {
            Ok(closed) => closed,
            Err(why) => return denied(&why),
        }
    } else {
        Case::new(&policy(args), system, question).close(people, caller)
    };
    (closed.answer, closed.told)
}

/// Whether this machine has none of the policy folders, but that of R3.
fn is_of_r3(args: &PolicyExecArgs) -> bool {
    !args.folders.iter().any(|folder| folder.exists()) && old_folder(args).is_dir()
}

/// The older folder, or the one of R1 where there is no other.
fn old_folder(args: &PolicyExecArgs) -> &Path {
    let oldest = Path::new(OLDEST_FOLDER);
    let standard = args.old_path == Path::new(policy::load::OLD_POLICY_FOLDER);
    if !standard || args.old_path.is_dir() || !oldest.is_dir() {
        return &args.old_path;
    }
    tracing::warn!("{OLDEST_FOLDER} is used; its name is {} now", policy::load::OLD_POLICY_FOLDER);
    oldest
}

/// The policy of the policy folders.
fn policy(args: &PolicyExecArgs) -> Policy {
    let policy = Policy::compile_or_deny(&Disk::new(&args.folders).with_old_folder(old_folder(args)));
    if let Some(error) = policy.error() {
        tracing::error!("every call is denied until the policy is mended: {error}");
    }
    policy
}

/// Makes the call: this process `becomes` `qrexec-client` if it may and no disposable has to be removed after it.
/// That ends with 0 however the service ends, and with something else if there was no call.
fn connect(
    args: &PolicyExecArgs,
    answer: &str,
    source: &str,
    target: &str,
    service: &str,
    waiting: &Waiting,
    becomes: bool,
) -> Result<i32, Failure> {
    let allow = match answer::parse(answer.as_bytes()).map(|answer| answer.verdict) {
        Ok(Verdict::Allow(allow)) => allow,
        _ => return Err(Failure::trouble("the policy's answer has a name in it that cannot be used")),
    };
    let run = |to: &Target, wait: bool| {
        let source_told = allow.policy_source.as_ref().map_or(source, Target::as_str);
        let service = allow.service.as_ref().map_or(service, |service| service.as_str());
        let command = command_line(&allow, source_told, target, service);
        let mut client = Command::new(own_executable());
        client.arg0("qrexec-client").arg(if wait { "-EW" } else { "-E" }).args(["-d", to.as_str()]);
        client.args(["-c", &format!("{},{source},{}", waiting.ident, waiting.source_id)]);
        client.arg("--socket-dir").arg(&args.socket_dir).arg("--").arg(command);
        client
    };
    let ended = |mut client: Command| -> Result<i32, Failure> {
        let ended = client.status().map_err(Failure::during("qrexec-client"))?;
        Ok(ended.code().unwrap_or(status::LOST))
    };
    let vms = Vms::from_env();
    let to = allow.daemon();
    if let Some(template) = to.as_str().strip_prefix("@dispvm:") {
        let template = Target::new(template).map_err(Failure::during("the disposable's template"))?;
        let made = Disposable::new(&vms, &template).map_err(Failure::during("making a disposable"))?;
        return ended(run(made.qube(), true));
    }
    if !allow.is_for_dom0() && allow.autostart && !socket_of(&args.socket_dir, to).exists() {
        vms.start(to).map_err(Failure::during(format_args!("starting {to}")))?;
    }
    match becomes {
        true => Err(Failure::during("qrexec-client")(run(to, false).exec())),
        false => ended(run(to, false)),
    }
}

fn socket_of(folder: &Path, qube: &Target) -> PathBuf {
    folder.join(format!("qrexec.{qube}"))
}

/// The command for `qrexec-client`: dom0 is told the requested target, a qube the user.
fn command_line(allow: &Allow, source: &str, target: &str, service: &str) -> String {
    if !allow.is_for_dom0() {
        return format!("{}:QUBESRPC {service} {source}", allow.user.as_str());
    }
    match target.strip_prefix('@') {
        Some(keyword) => format!("QUBESRPC {service} {source} keyword {keyword}"),
        None => format!("QUBESRPC {service} {source} name {target}"),
    }
}
