//! `qubes-policy-lint`: what is wrong with a policy file, line by line, wherever the file is.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use clap::Parser;
use engine::say;
use policy::{Action, Files, Policy, PolicyError, Rule, SystemInfo, Token, User, Verb};
use wire::names::DomainName;

use super::admin::MAX_FILE;
use super::system::{NoSystem, SystemSource, ask_qubesd};
use crate::{qubesd, status, usage};

mod cover;
mod remote;

pub(super) use cover::covers;
pub use remote::Relays;

const PROGRAM: &str = "qubes-policy-lint";
/// How the one line under examination is called.
const LINE: &str = "line.policy";
/// How it is called where it is included for a service.
const INCLUDED: &str = "include/line";
/// The service that such a line is for.
const ANY_SERVICE: &str = "!include-service any * include/line\n";

/// Says what is wrong with policy files, every line of them.
///
/// The files that a file includes are not looked at. Exit status: 0 nothing is wrong (there may be
/// warnings), 1 something is.
#[derive(Debug, Parser)]
#[command(name = PROGRAM)]
struct PolicyLintArgs {
    /// Show the lines.
    #[arg(short, long)]
    show_line: bool,
    /// The files have the three columns of those that `!include-service` includes.
    #[arg(short, long)]
    include_service: bool,
    /// What qubes there are, as JSON: names that none of them has are warned of, and where there are remote qubes, lines by
    /// which they may call like everybody. Without it dom0's qubesd is asked
    #[arg(long, value_name = "FILE", env = "QREXEC_SYSTEM_INFO")]
    system_info: Option<PathBuf>,
    /// The files, in the policy's order; of a folder, those that policy reads; `-` is stdin.
    #[arg(value_name = "FILE", required = true)]
    files: Vec<String>,
}

/// Something to say about a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The line from 1; 0 for the file itself.
    pub line: usize,
    /// Whether every call, or every one that the line allows, would be denied for it.
    pub error: bool,
    /// What it is.
    pub text: String,
}

/// The command line, for manual pages and completions.
pub fn command() -> clap::Command {
    <PolicyLintArgs as clap::CommandFactory>::command()
}

/// Runs the program with these arguments, its name first, and gives its exit status.
pub fn main(args: Vec<OsString>) -> i32 {
    let args = match usage::parse::<PolicyLintArgs>(PROGRAM, args) {
        Ok(args) => args,
        Err(status) => return status,
    };
    let system = match known_system(args.system_info.as_deref()) {
        Ok(system) => system,
        Err(error) => {
            say::error(format_args!("{PROGRAM}: {error}"));
            return status::TROUBLE;
        }
    };
    let mut worst = 0;
    let mut relays = system.as_ref().map_or_else(Relays::default, Relays::of);
    for file in &args.files.iter().flat_map(|file| in_folder(file)).collect::<Vec<_>>() {
        let (system, out) = (system.as_ref(), &mut io::stdout().lock());
        match lint_file(file, args.include_service, args.show_line, system, &mut relays, out) {
            Ok(true) => {}
            Ok(false) => worst = worst.max(1),
            Err(error) => {
                say::error(format_args!("{PROGRAM}: {error}"));
                worst = status::TROUBLE;
            }
        }
    }
    worst
}

/// What qubes there are, if anybody here knows: a file that is named has to, dom0's `qubesd` may.
fn known_system(file: Option<&Path>) -> Result<Option<SystemInfo>, NoSystem> {
    match file {
        Some(path) => Ok(Some((*SystemSource::new(Some(path.to_owned())).current()?).clone())),
        None if qubesd::is_here(qubesd::Socket::Internal) => Ok(ask_qubesd().ok()),
        None => Ok(None),
    }
}

/// The files of a folder that policy reads, in its order; anything else is one file.
fn in_folder(file: &str) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(file) else { return vec![file.to_owned()] };
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let mut names: Vec<String> =
        names.filter(|name| name.ends_with(".policy") && !name.starts_with('.')).collect();
    names.sort();
    names.iter().map(|name| format!("{}/{name}", file.trim_end_matches('/'))).collect()
}

/// Prints what is wrong with a file, on this system if it is known; `true` if there is no error.
///
/// # Errors
/// Nothing could be printed.
pub fn lint_file(
    file: &str,
    included: bool,
    show: bool,
    system: Option<&SystemInfo>,
    relays: &mut Relays,
    out: &mut dyn Write,
) -> io::Result<bool> {
    let text = match read(file) {
        Ok(text) => text,
        Err(error) => {
            writeln!(out, "{file}:0: error: {error}")?;
            return Ok(false);
        }
    };
    let mut findings = findings_with(&text, included, relays);
    if let Some(system) = system.filter(|_| !included) {
        findings
            .extend(unknown_qubes(&text, "this system", |name| name == "dom0" || system.get(name).is_some()));
        findings.sort_by_key(|finding| finding.line);
    }
    if let Some(problem) = bad_name(file).filter(|_| !included) {
        findings.insert(0, Finding { line: 0, error: false, text: problem });
    }
    let lines = lines(&text);
    for Finding { line, error, text } in &findings {
        write!(out, "{file}:{line}: {}: {text}", if *error { "error" } else { "warning" })?;
        match line.checked_sub(1).and_then(|index| lines.get(index)) {
            Some(line) if show => writeln!(out, ": {}", String::from_utf8_lossy(line).trim().escape_debug())?,
            _ => writeln!(out)?,
        }
    }
    Ok(findings.iter().all(|finding| !finding.error))
}

fn read(file: &str) -> io::Result<Vec<u8>> {
    let (mut text, most) = (Vec::new(), MAX_FILE as u64 + 1);
    // A pipe may be named, too: `<(…)` of a shell is one.
    match file {
        "-" => io::stdin().lock().take(most).read_to_end(&mut text)?,
        file => File::open(file)?.take(most).read_to_end(&mut text)?,
    };
    if text.len() > MAX_FILE {
        return Err(io::Error::other(format!("it has more than {MAX_FILE} bytes")));
    }
    Ok(text)
}

/// A file of a policy folder that would not be read, or spoil everything, by its name.
fn bad_name(file: &str) -> Option<String> {
    let path = Path::new(file);
    if path.parent()?.file_name()? != "policy.d" {
        return None;
    }
    let name = path.file_name()?.to_str()?;
    if !name.ends_with(".policy") || name.starts_with('.') {
        return Some("a file of this name is not read; policy files end with `.policy`".to_owned());
    }
    let good = |c: char| c.is_ascii_digit() || c.is_ascii_lowercase() || matches!(c, '_' | '.' | '-');
    (!name.chars().all(good))
        .then(|| "with a file of this name every call is denied; use 0-9, a-z, `_`, `.`, `-`".to_owned())
}

/// The lines of a text as policy has them: `\n`, `\r\n` and a lone `\r` end one.
fn lines(text: &[u8]) -> Vec<&[u8]> {
    let mut lines = Vec::new();
    for line in text.split(|byte| *byte == b'\n') {
        lines.extend(line.strip_suffix(b"\r").unwrap_or(line).split(|byte| *byte == b'\r'));
    }
    lines
}

/// Everything that is to be said about a text; `included` if it has the three columns of files that are
/// included for a service.
#[must_use]
pub fn findings(text: &[u8], included: bool) -> Vec<Finding> {
    findings_with(text, included, &mut Relays::default())
}

/// The same for the next file of a policy, on a system with these relays.
fn findings_with(text: &[u8], included: bool, relays: &mut Relays) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut rules: Vec<(usize, Rule)> = Vec::new();
    for (line, number) in lines(text).into_iter().zip(1..) {
        match compile(line, included) {
            Err(wrong) => findings.push(Finding { line: number, error: true, text: wrong.to_string() }),
            Ok(found) => {
                findings.extend(about(number, line, &found));
                for rule in found {
                    if let Some((earlier, _)) = rules.iter().find(|(_, earlier)| covers(earlier, &rule)) {
                        let text = format!("never reached: line {earlier} decides all such calls");
                        findings.push(Finding { line: number, error: false, text });
                    }
                    let open = relays.look(&rule);
                    findings.extend(open.map(|text| Finding { line: number, error: false, text }));
                    rules.push((number, rule));
                }
            }
        }
    }
    findings
}

/// The rules of every line that is understood, with the line's number.
fn rules(text: &[u8]) -> impl Iterator<Item = (usize, Rule)> {
    let numbered = lines(text).into_iter().zip(1..);
    numbered.flat_map(|(line, number)| {
        compile(line, false).unwrap_or_default().into_iter().map(move |rule| (number, rule))
    })
}

/// Qubes that a policy names, `known` does not know, and `system` therefore does not have.
pub fn unknown_qubes(text: &[u8], system: &str, known: impl Fn(&str) -> bool) -> Vec<Finding> {
    let mut findings: Vec<Finding> = Vec::new();
    for (line, rule) in rules(text) {
        let Action { target, default_target, .. } = &*rule.action;
        for token in [Some(&rule.source), Some(&rule.target), target.as_ref(), default_target.as_ref()] {
            let Some(Token::Name(name) | Token::DispVmOf(name)) = token else { continue };
            // A name that nobody can have is complained of already.
            if name.starts_with("uuid:") || known(name) || DomainName::new(name).is_err() {
                continue;
            }
            let finding = Finding { line, error: false, text: format!("{system} has no qube {name:?}") };
            if !findings.contains(&finding) {
                findings.push(finding);
            }
        }
    }
    findings
}

/// The lines that leave the decision to the user.
#[must_use]
pub fn asks(text: &[u8]) -> Vec<usize> {
    rules(text).filter(|(_, rule)| rule.action.verb == Verb::Ask).map(|(line, _)| line).collect()
}

/// The lines that include other files.
#[must_use]
pub fn includes(text: &[u8]) -> Vec<usize> {
    let numbered = lines(text).into_iter().zip(1..);
    let found = numbered.filter(|(line, _)| {
        let text = String::from_utf8_lossy(line);
        let first = words(&text).first().map(|word| (*word).to_owned()).unwrap_or_default();
        first.starts_with("!include") || first.starts_with("$include:")
    });
    found.map(|(_, number)| number).collect()
}

/// What a line that is understood says, and cannot mean.
fn about(number: usize, line: &[u8], rules: &[Rule]) -> Vec<Finding> {
    let said = |error, text| Finding { line: number, error, text };
    let text = String::from_utf8_lossy(line);
    let is_comment = text.trim_start_matches(is_blank).starts_with('#');
    let mut found: Vec<Finding> = words(&text)
        .into_iter()
        .filter(|word| !is_comment && word.starts_with('#'))
        .map(|word| said(false, format!("{word:?} is taken as it is; a comment needs a line of its own")))
        .collect();
    for rule in rules {
        let Action { target, default_target, user, .. } = &*rule.action;
        if let Some(Err(why)) = user.as_deref().map(User::new) {
            found.push(said(true, format!("the calls that this line allows are denied: user= {why}")));
        }
        for token in [Some(&rule.source), Some(&rule.target), target.as_ref(), default_target.as_ref()] {
            let name = match token {
                Some(Token::Name(name) | Token::DispVmOf(name)) if !name.starts_with("uuid:") => name,
                _ => continue,
            };
            match DomainName::new(name) {
                Err(why) if !name.starts_with('#') => {
                    found.push(said(false, format!("no qube can be called {name:?}: {why}")));
                }
                _ => {}
            }
        }
    }
    found
}

/// What parts words in a policy.
fn is_blank(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

fn words(text: &str) -> Vec<&str> {
    text.split(is_blank).filter(|word| !word.is_empty()).collect()
}

/// What is wrong with a line. Its file has one line, so only the column is worth a word.
#[derive(Debug, thiserror::Error)]
#[error("{}{}{}", self.column(), .0.problem, self.advice())]
struct WrongLine(PolicyError);

impl WrongLine {
    fn column(&self) -> String {
        self.0.column.map(|column| format!("column {column}: ")).unwrap_or_default()
    }

    fn advice(&self) -> String {
        if self.0.advice.is_empty() { String::new() } else { format!("; {}", self.0.advice) }
    }
}

/// The rules of one line, with everything at hand that it includes.
fn compile(line: &[u8], included: bool) -> Result<Vec<Rule>, WrongLine> {
    let mut files = Files::new();
    let text = String::from_utf8_lossy(line);
    let words = words(&text);
    match *words.as_slice() {
        ["!include", path] | ["!include-service", _, _, path] => files = files.include(path, ""),
        ["!include-dir", path] => files = files.include(format!("{path}/x"), ""),
        [first] if first.starts_with("$include:") => {
            files = files.include(first.trim_start_matches("$include:"), "");
        }
        _ => {}
    }
    files = match included {
        true => files.policy(LINE, ANY_SERVICE).include(INCLUDED, line),
        false => files.policy(LINE, line),
    };
    let compiled = Policy::compile(&files).map_err(WrongLine)?;
    Ok(compiled.rules().to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(text: &str, included: bool) -> Vec<String> {
        let shown = |finding: &Finding| {
            format!("{}{} {}", finding.line, if finding.error { "!" } else { "?" }, finding.text)
        };
        findings(text.as_bytes(), included).iter().map(shown).collect()
    }

    #[test]
    fn every_bad_line_is_named_and_includes_are_not_followed() {
        let text = "# comment\n\n!include include/nowhere\n!include-dir nowhere\n!include-service a.B * x\n!compat-4.0\n\
                    a.B * work vault alow\n!include\n!other x\na.B * work @default allow\n  a.B * work vault allow \n";
        let said = said(text, false);
        assert_eq!(said.len(), 4, "{said:?}");
        for (line, start) in said.iter().zip(["7! column 18: ", "8! ", "9! ", "10! "]) {
            assert!(line.starts_with(start), "{line}");
        }
        assert!(said[0].contains("`allow`, `ask` or `deny`"));
    }

    #[test]
    fn lines_and_blanks_are_those_of_policy() {
        let text = "a.B * a b deny\r\nx\ra.C * a b deny\n!include\u{a0}include/x\n";
        assert_eq!(said(text, false).iter().map(|line| &line[..2]).collect::<Vec<_>>(), ["2!"]);
    }

    #[test]
    fn files_for_a_service_have_three_columns() {
        assert_eq!(said("work vault allow\n$include:x\n@anyvm @anyvm deny\n", true), Vec::<String>::new());
        assert!(said("a.B * work vault allow\n", true)[0].starts_with("1! "));
        assert!(findings(b"\xff\xfe", false)[0].error);
    }

    #[test]
    fn a_comment_behind_a_line_is_told_from_everything_else() {
        for (line, column) in [
            ("a.B # why", "10: "),
            ("a.B * # why", ""),
            ("a.B * work # why deny", "14: "),
            ("a.B * work vault # why", "18: "),
            ("a.B # work vault deny", "5: "),
            ("a.B * # vault deny", ""),
            ("a.B * work #vault deny", ""),
            ("a.B * work vault allow # why", "24: "),
            ("a.B * work vault allow user=x # why", "31: "),
            ("a.B * work vault deny #", "23: "),
            ("* * * * deny #why", "14: "),
            ("!include # x", "1: "),
            ("!include #x", ""),
            ("!include x # why", "1: "),
            ("!include-service a.B * x # why", "1: "),
            ("!compat-4.0 # why", "1: "),
            ("!nonsense # why", "1: "),
        ] {
            let said = said(line, false);
            assert!(said[0].contains("a comment needs a line of its own"), "{line}: {said:?}");
            assert!(said[0].contains(column), "{line}: {said:?}");
        }
        for line in ["work vault allow # why", "work # vault allow", "# vault allow", "work vault deny,#why"]
        {
            let said = said(line, true);
            assert_eq!(said.is_empty(), line.starts_with('#'), "{line}: {said:?}");
            assert!(said.iter().all(|said| said.contains("a comment needs a line of its own")), "{said:?}");
        }
        assert_eq!(said("# a # b\n  # c\n", false), [] as [&str; 0]);
        // Something else is wrong there.
        assert!(!said("a.B * work vault alow", false)[0].contains("comment"));
    }

    #[test]
    fn what_cannot_be_carried_out_is_an_error_and_names_that_nobody_has_are_warned_of() {
        for user in ["root:nogui", "../x", "a\u{7f}"] {
            let said = said(
                &format!("a.B * work vault allow user={user}\na.B * work home ask user={user}\n"),
                false,
            );
            assert_eq!(said.len(), 2, "{said:?}");
            assert!(
                said[1].starts_with("2! the calls that this line allows are denied: user= has a "),
                "{said:?}"
            );
        }
        let text = "a.B * w!rk vault deny\na.B * work v:lt deny\na.B * work @default allow target=.x\n\
                    a.B * work uuid:1 deny\na.B * work @dispvm:a+b deny\na.B * work home ask default_target=-x\n";
        let said = said(text, false);
        let lines: Vec<&str> = said.iter().map(|line| &line[..2]).collect();
        assert_eq!(lines, ["1?", "2?", "3?", "5?", "6?"], "{said:?}");
    }

    #[test]
    fn rules_that_never_decide_are_warned_of() {
        let text = "a.B * @anyvm @anyvm deny\na.B +x work vault allow\na.C * work vault allow\na.B * work dom0 allow\n\
                    * * * * deny\na.D * a b ask\n";
        assert_eq!(said(text, false).iter().map(|line| &line[..2]).collect::<Vec<_>>(), ["2?", "6?"]);
    }

    const SYSTEM: &str = r#"{"domains": {
        "work": {"type": "AppVM", "tags": [], "template_for_dispvms": false},
        "far": {"type": "RemoteVM", "tags": [], "template_for_dispvms": false, "relayvm": "sys-air", "transport_rpc": "t"}}}"#;

    fn said_of_remote(text: &str) -> Vec<(usize, String)> {
        let mut relays = Relays::of(&policy::SystemInfo::from_json(SYSTEM.as_bytes()).unwrap());
        let findings = findings_with(text.as_bytes(), false, &mut relays);
        findings.into_iter().map(|finding| (finding.line, finding.text)).collect()
    }

    fn open_lines(text: &str) -> Vec<usize> {
        said_of_remote(text).into_iter().map(|(line, _)| line).collect()
    }

    #[test]
    fn lines_for_everybody_are_for_remote_qubes_too() {
        let text = "a.B * @anyvm work allow\na.C * work @anyvm allow\na.D * @anyvm @anyvm deny\na.E * * @default ask\n\
                    a.F * @anyvm dom0 allow\n";
        assert_eq!(open_lines(text), [1, 4, 5]);
        let first = &said_of_remote(text)[0].1;
        assert!(first.contains("`* * @tag:relayvm-sys-air @anyvm deny`"), "{first}");
        assert!(said_of_remote(text)[2].1.contains("`* * @tag:relayvm-sys-air * deny`"));
    }

    #[test]
    fn the_proposed_line_and_wider_ones_shut_them_out() {
        let shut = "* * @tag:relayvm-sys-air @anyvm deny\n";
        for line in ["a.B * @anyvm work allow", "a.B * @anyvm @default ask", "a.B +x * @tag:t allow"] {
            assert_eq!(open_lines(&format!("{shut}{line}\n")), [] as [usize; 0], "{line}");
        }
        assert_eq!(open_lines(&format!("{shut}a.B * @anyvm dom0 allow\n")), [2]);
        assert_eq!(open_lines(&format!("{shut}a.B * @anyvm * allow\n")), [2]);
        assert_eq!(
            open_lines(&format!("{shut}* * @tag:relayvm-sys-air @adminvm deny\na.B * @anyvm * allow\n")),
            [] as [usize; 0]
        );
        assert_eq!(open_lines("* * @tag:relayvm-sys-air * deny\na.B * * * allow\n"), [] as [usize; 0]);
        // Another relay's, another service's, or behind it.
        assert_eq!(open_lines("* * @tag:relayvm-other @anyvm deny\na.B * @anyvm work allow\n"), [2]);
        assert_eq!(open_lines("a.C * @tag:relayvm-sys-air @anyvm deny\na.B * @anyvm work allow\n"), [2]);
        assert_eq!(open_lines(&format!("a.B * @anyvm work allow\n{shut}")), [1]);
    }
}
