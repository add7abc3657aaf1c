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
use policy::{Policy, Request, SystemInfo};

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
/// allowed, 1 denied, 3 the user would be asked, 125 the system information cannot be read.
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
    /// What qubes there are, as JSON.
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
    let path = args.system_info.as_deref().ok_or_else(|| {
        io::Error::other("what qubes are there? Name a file with --system-info or QREXEC_SYSTEM_INFO")
    })?;
    let system = read_system(path)?;
    let policy = Policy::compile_or_deny(&Disk::new(&args.folders));
    let answer = if args.explain {
        let explanation = policy.explain(&system, request);
        writeln!(out, "{explanation}")?;
        Answer::of(&explanation.decision)
    } else {
        let answer = Answer::of(&policy.decide(&system, request));
        write_line(out, &answer)?;
        answer
    };
    Ok(match answer.result {
        "allow" => 0,
        "ask" => ASKED,
        _ => DENIED,
    })
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
