//! `qrexec-policy-eval`: asks a policy without making a call.
//!
//! With arguments it is one question to the policy of this machine; without, every line of stdin is
//! a question that brings its own policy, and every answer is a line of JSON.

mod question;

use std::ffi::OsString;
use std::io::{self, BufRead, Write};
use std::path::{Path, PathBuf};

use clap::Parser;
use daemon::policy_source::Disk;
use engine::say;
use policy::{Decision, Policy, Request, SystemInfo};

use crate::policy_tools::check_not_the_hosts;
use crate::policy_tools::people::People;
use crate::policy_tools::system::ask_qubesd;
use crate::{status, usage};
use question::{Answer, Question};

const PROGRAM: &str = "qrexec-policy-eval";

/// The exit status of one question that is denied.
const DENIED: i32 = 1;
/// The exit status of one question that the user would have to decide.
const ASKED: i32 = 3;

/// Asks the qrexec policy without making a call.
///
/// With SOURCE, TARGET and SERVICE: prints the decision of this machine's policy; exit status 0
/// allowed, 1 denied, also because nobody can be asked, 3 the user would be asked, 125 the system information cannot be read.
///
/// Without: reads questions from stdin, one JSON object a line with "policy", "compat" and "include"
/// (file names and texts), "system_info", "source", "target", "service", "argument" and
/// "requested_source"; writes one JSON answer a line.
#[derive(Debug, Parser)]
#[command(name = PROGRAM)]
struct PolicyEvalArgs {
    /// Say which lines were looked at, and why each did or did not match.
    #[arg(long)]
    explain: bool,
    /// Policy folder; the first given hides the files of the others.
    #[arg(long = "policy-dir", value_name = "DIR", env = "QREXEC_POLICY_DIR", value_delimiter = ':',
          default_values = [policy::load::RUNTIME_POLICY_FOLDER, policy::load::POLICY_FOLDER])]
    folders: Vec<PathBuf>,
    /// What qubes there are, as JSON; without it qubesd is asked.
    #[arg(long, value_name = "FILE", env = "QREXEC_SYSTEM_INFO")]
    system_info: Option<PathBuf>,
    /// The remote qube in whose name SOURCE, its relay, would call.
    #[arg(long, value_name = "QUBE", requires = "source")]
    requested_source: Option<String>,
    /// The calling qube.
    #[arg(requires = "service")]
    source: Option<String>,
    /// The qube, or keyword, that it asks for.
    target: Option<String>,
    /// SERVICE or SERVICE+ARGUMENT.
    service: Option<String>,
}

/// The command line, for manual pages and completions.
pub fn command() -> clap::Command {
    <PolicyEvalArgs as clap::CommandFactory>::command()
}

/// Runs the program with these arguments, its name first, and gives its exit status.
pub fn main(args: Vec<OsString>) -> i32 {
    let args = match usage::parse::<PolicyEvalArgs>(PROGRAM, args) {
        Ok(args) => args,
        Err(status) => return status,
    };
    let done = match (&args.source, &args.target, &args.service) {
        (Some(source), Some(target), Some(service)) => {
            let mut request = Request::new(source, target, service);
            request.requested_source = args.requested_source.as_deref();
            ask_this_machine(&args, &request, &mut io::stdout().lock())
        }
        _ => answer_lines(&mut io::stdin().lock(), &mut io::stdout().lock(), args.explain).map(|()| 0),
    };
    done.unwrap_or_else(|error| {
        say::error(format_args!("{PROGRAM}: {error}"));
        status::TROUBLE
    })
}

/// Decides one question by the files of this machine; the exit status says how.
fn ask_this_machine(args: &PolicyEvalArgs, request: &Request<'_>, out: &mut dyn Write) -> io::Result<i32> {
    check_not_the_hosts(args.folders.iter().map(PathBuf::as_path))
        .map_err(|failure| io::Error::other(failure.message))?;
    let system = match args.system_info.as_deref() {
        Some(path) => read_system(path)?,
        None => ask_qubesd().map_err(|error| {
            io::Error::other(format!(
                "what qubes are there? {error}; --system-info or QREXEC_SYSTEM_INFO names a file that says it"
            ))
        })?,
    };
    let policy = Policy::compile_or_deny(&Disk::new(&args.folders));
    let answer = if args.explain {
        let mut explanation = policy.explain(&system, request);
        explanation.decision = in_the_end(explanation.decision, &system);
        writeln!(out, "{explanation}")?;
        Answer::of(&explanation.decision)
    } else {
        let answer = Answer::of(&in_the_end(policy.decide(&system, request), &system));
        write_line(out, &answer)?;
        answer
    };
    Ok(match answer.result {
        "allow" => 0,
        "ask" => ASKED,
        _ => DENIED,
    })
}

/// What becomes of a decision here and now: a question that nobody can be asked is a denial.
fn in_the_end(decision: Decision, system: &SystemInfo) -> Decision {
    let Decision::Ask(ask) = &decision else { return decision };
    let why = match system.asked_in(ask.source()) {
        None => format!("{} has no guivm", ask.source()),
        Some("dom0") if !People::from_env().are_in_dom0() => {
            "no qrexec-policy-agent runs in dom0, see \"qrexec-policy-agent --terminal\"".to_owned()
        }
        Some(_) => return decision,
    };
    let mut deny = ask.refuse();
    deny.reason = format!("{} asks, but nobody can be asked: {why}", ask.rule);
    Decision::Deny(deny)
}

fn read_system(path: &Path) -> io::Result<SystemInfo> {
    let about = |error: &dyn std::fmt::Display| io::Error::other(format!("{}: {error}", path.display()));
    let text = std::fs::read(path).map_err(|error| about(&error))?;
    SystemInfo::from_json(&text).map_err(|error| about(&error))
}

/// Answers every line until the input ends. Empty lines have no answer.
pub(crate) fn answer_lines(input: &mut dyn BufRead, out: &mut dyn Write, explain: bool) -> io::Result<()> {
    let mut line = Vec::new();
    while input.read_until(b'\n', &mut line)? > 0 {
        if !line.trim_ascii().is_empty() {
            let answer = match serde_json::from_slice::<Question>(&line) {
                Ok(question) => question.answer(explain),
                Err(error) => Answer::error(format!("the question cannot be read: {error}")),
            };
            write_line(out, &answer)?;
        }
        line.clear();
    }
    Ok(())
}

/// One answer, out at once: whoever asks may wait for it before asking on.
fn write_line(out: &mut dyn Write, answer: &Answer) -> io::Result<()> {
    let mut text = serde_json::to_vec(answer)?;
    text.push(b'\n');
    out.write_all(&text)?;
    out.flush()
}

#[cfg(test)]
mod tests;
