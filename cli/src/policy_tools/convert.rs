//! `qrexec-legacy-convert`: the files of the old format as rules of the new one.
//!
//! Rules that the configuration tools of Qubes understand go to the tools' own files, all others to
//! `30-user.policy`. What the policy lets through is compared before and after; if it differs, everything is
//! put back unless the user wants otherwise.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, BufRead, Write};
use std::path::{Path, PathBuf};

use clap::Parser;
use daemon::policy_source::{Disk, read_file};
use engine::say;
use policy::{Policy, Rule, SystemInfo, Token, Verb};

use super::admin::{MAX_FILE, write};
use super::graph;
use super::system::SystemSource;
use crate::failure::Failure;
use crate::usage;

mod places;
#[cfg(test)]
mod random;

const PROGRAM: &str = "qrexec-legacy-convert";
/// The file of rules that the user writes by hand.
const USER: &str = "30-user";
/// The file of which a tool replaces the rules, in place of adding to them.
const INPUT: &str = "50-config-input";

const USER_HEAD: &str = "\n# The following rules were converted from the old policy format. The old files are in\n\
    # the old policy folder, renamed to end with .rpmsave.\n";
const TOOL_HEAD: &str = "\n# THIS IS AN AUTOMATICALLY GENERATED POLICY FILE.\n\
    # Any changes made manually may be overwritten by Qubes Configuration Tools.\n";

/// Converts the policy files of Qubes 4.0 into the new format.
#[derive(Debug, Parser)]
#[command(name = PROGRAM)]
struct LegacyConvertArgs {
    /// The policy folder.
    #[arg(long, value_name = "DIR", default_value = policy::load::POLICY_FOLDER)]
    policy_dir: PathBuf,
    /// The folder of the old format.
    #[arg(long, value_name = "DIR", default_value = policy::load::OLD_POLICY_FOLDER)]
    old_dir: PathBuf,
    /// What qubes there are, as JSON; without it qubesd is asked.
    #[arg(long, value_name = "FILE", env = "QREXEC_SYSTEM_INFO")]
    system_info: Option<PathBuf>,
}

/// The command line, for manual pages and completions.
pub fn command() -> clap::Command {
    <LegacyConvertArgs as clap::CommandFactory>::command()
}

/// Runs the program with these arguments, its name first, and gives its exit status.
pub fn main(args: Vec<OsString>) -> i32 {
    usage::run(PROGRAM, args, run)
}

fn run(args: &LegacyConvertArgs) -> Result<(), Failure> {
    super::check_not_the_hosts([args.policy_dir.as_path(), args.old_dir.as_path()])?;
    let system = SystemSource::new(args.system_info.clone())
        .current()
        .map_err(|error| Failure::trouble(error.to_string()))?;
    let policy = compile(args).map_err(Failure::during("the policy"))?;
    let before = graph::full(&policy, &system);
    let mut undo = Undo::default();
    let done = convert(args, &policy, &mut undo);
    let after = done.and_then(|()| drawn(args, &system));
    let differs = match &after {
        Ok(after) if *after == before => None,
        Ok(after) => Some(difference(&before, after)),
        Err(why) => Some(why.to_string()),
    };
    let Some(difference) = differs else {
        say::output("The old policy was converted to the new format.");
        return Ok(());
    };
    say::error(format_args!("The policy would not be the same:\n{difference}"));
    if keep() {
        return Ok(());
    }
    undo.all().map_err(Failure::during("putting the files back"))?;
    Err(Failure { status: 1, message: "everything is as it was before".to_owned() })
}

/// Why the policy cannot be converted.
#[derive(Debug, thiserror::Error)]
enum CannotConvert {
    #[error("{0}")]
    Policy(#[from] policy::PolicyError),
    #[error("{}: {error}", path.display())]
    Write { path: PathBuf, error: io::Error },
}

fn compile(args: &LegacyConvertArgs) -> Result<Policy, policy::PolicyError> {
    let folders = [args.policy_dir.clone()];
    Policy::compile(&Disk::new(&folders).with_old_folder(&args.old_dir))
}

fn drawn(args: &LegacyConvertArgs, system: &SystemInfo) -> Result<BTreeSet<String>, CannotConvert> {
    Ok(graph::full(&compile(args)?, system))
}

fn difference(before: &BTreeSet<String>, after: &BTreeSet<String>) -> String {
    let lines = |sign: &str, these: &BTreeSet<String>, those: &BTreeSet<String>| {
        these.difference(those).map(|line| format!("{sign}{line}\n")).collect::<String>()
    };
    lines("-", before, after) + &lines("+", after, before)
}

/// Only a clear no keeps what is different.
fn keep() -> bool {
    say::question("Put everything back? [Y/n] ");
    let mut line = String::new();
    let read = io::stdin().lock().read_line(&mut line);
    read.is_ok() && line.trim().eq_ignore_ascii_case("n")
}

/// How to put back what was changed, the last change first.
#[derive(Default)]
struct Undo(Vec<Change>);

enum Change {
    Made(PathBuf),
    Replaced(PathBuf, Vec<u8>),
    Renamed { from: PathBuf, to: PathBuf },
}

impl Undo {
    fn all(self) -> io::Result<()> {
        self.0.into_iter().rev().try_for_each(|change| match change {
            Change::Made(path) => fs::remove_file(path),
            Change::Replaced(path, text) => write(&path, &text).map_err(io::Error::other),
            Change::Renamed { from, to } => fs::rename(to, from),
        })
    }
}

fn convert(args: &LegacyConvertArgs, policy: &Policy, undo: &mut Undo) -> Result<(), CannotConvert> {
    for (name, rules) in places::sort(args, policy) {
        let path = args.policy_dir.join(format!("{name}.policy"));
        save(&path, name, &rules, undo).map_err(|error| CannotConvert::Write { path, error })?;
    }
    set_aside(&args.old_dir, undo).map_err(|error| CannotConvert::Write { path: args.old_dir.clone(), error })
}

/// The file of the tool that configures a service.
fn file_for(service: &str) -> Option<&'static str> {
    Some(match service {
        "qubes.ClipboardPaste" => "50-config-clipboard",
        "qubes.Filecopy" => "50-config-filecopy",
        "qubes.UpdatesProxy" => "50-config-updates",
        "qubes.OpenInVM" => "50-config-openinvm",
        "qubes.OpenURL" => "50-config-openurl",
        "qubes.InputKeyboard" | "qubes.InputMouse" | "qubes.InputTablet" => INPUT,
        "u2f.Authenticate" | "u2f.Register" | "policy.RegisterArgument" => "50-config-u2f",
        _ => return None,
    })
}

/// Whether the tool for the rule's service understands the rule.
fn fits_tool(rule: &Rule) -> bool {
    let action = &rule.action;
    let named = |token: &Token| matches!(token, Token::Name(_) | Token::Uuid(_) | Token::Dom0(_));
    let dom0 = |token: &Token| matches!(token, Token::AdminVm | Token::Dom0(_));
    let bare = action.to_string() == action.verb.as_str();
    match rule.service.as_deref().unwrap_or_default() {
        "qubes.ClipboardPaste" => bare && action.verb != Verb::Allow,
        "qubes.Filecopy" => bare,
        "qubes.UpdatesProxy" => {
            let source = rule.source.to_string();
            let known = ["@type:TemplateVM", "@tag:whonix-updatevm"].contains(&source.as_str());
            (named(&rule.source) || known)
                && action.verb == Verb::Allow
                && (named(&rule.target) || dom0(&rule.target) || rule.target == Token::Default)
        }
        "qubes.OpenInVM" | "qubes.OpenURL" => {
            let to = match action.verb {
                Verb::Ask => &action.default_target,
                Verb::Allow => &action.target,
                Verb::Deny => return rule.target == Token::DispVm,
            };
            let disposable = |token: &Token| matches!(token, Token::DispVm | Token::DispVmOf(_));
            rule.target == Token::DispVm && to.as_ref().is_some_and(disposable)
        }
        "policy.RegisterArgument" => rule.argument.as_deref() == Some("+u2f.Authenticate"),
        "u2f.Authenticate" | "u2f.Register" => {
            (named(&rule.target) || dom0(&rule.target)) && rule.argument.is_none()
        }
        "qubes.InputKeyboard" | "qubes.InputMouse" | "qubes.InputTablet" => {
            let to = action.target.as_ref().or(action.default_target.as_ref());
            dom0(&rule.target) && (named(&rule.source) || dom0(&rule.source)) && to.is_none_or(dom0)
        }
        _ => false,
    }
}

fn save(path: &Path, name: &str, rules: &[&Rule], undo: &mut Undo) -> io::Result<()> {
    let head = if name == USER { USER_HEAD } else { TOOL_HEAD };
    let mut text = head.to_owned();
    for rule in rules {
        // Only the columns are parted by tabs.
        text.push_str(&format!("{}\n", rule.to_string().replacen(' ', "\t", 4)));
    }
    match read_file(path, MAX_FILE) {
        Ok(old) => {
            File::create_new(unused(path, ".bak"))?.write_all(&old)?;
            let rest = String::from_utf8_lossy(&old).into_owned();
            match name {
                INPUT => {}
                // The user's own rules came before the old ones, those of tools after them.
                USER => text = format!("{}\n{text}", rest.trim_end_matches('\n')),
                _ => text.push_str(rest.strip_prefix(TOOL_HEAD).unwrap_or(&rest).trim_start_matches('\n')),
            }
            undo.0.push(Change::Replaced(path.to_owned(), old));
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => undo.0.push(Change::Made(path.to_owned())),
        Err(error) => return Err(error),
    }
    say::output(format_args!("Writing {}", path.display()));
    write(path, text.as_bytes()).map_err(io::Error::other)
}

/// Renames the old files, so that nobody reads them any more.
fn set_aside(folder: &Path, undo: &mut Undo) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_file() && path.extension().is_none_or(|extension| extension != "rpmsave") {
            let to = unused(&path, ".rpmsave");
            fs::rename(&path, &to)?;
            undo.0.push(Change::Renamed { from: path, to });
        }
    }
    Ok(())
}

/// The path with the ending as often as it takes for the file not to be there.
fn unused(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    loop {
        name.push(ending);
        let free = PathBuf::from(&name);
        if free.symlink_metadata().is_err() {
            return free;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SYSTEM: &str = r#"{"domains": {
        "dom0": {"type": "AdminVM", "tags": [], "template_for_dispvms": false},
        "work": {"type": "AppVM", "tags": [], "template_for_dispvms": false},
        "vault": {"type": "AppVM", "tags": [], "template_for_dispvms": true}}}"#;

    #[test]
    fn old_rules_find_their_new_files_and_nothing_else_changes() {
        let root = tempfile::tempdir().unwrap();
        let path = |name: &str| root.path().join(name);
        for (name, text) in [
            ("policy.d/30-user.policy", "a.B * vault work deny\n"),
            ("policy.d/35-compat.policy", "!compat-4.0\n"),
            ("policy.d/90-default.policy", "* * * * deny\n"),
            ("old/a.B", "$anyvm work allow\nwork vault ask,default_target=vault\n$anyvm $anyvm deny\n"),
            ("old/a.B+x", "work dom0 allow\n"),
            ("old/qubes.Filecopy", "work vault allow\nwork dom0 ask,target=dom0\n$anyvm $anyvm deny\n"),
            ("old/c.D.rpmsave", "nonsense\n"),
            ("system.json", SYSTEM),
        ] {
            fs::create_dir_all(path(name).parent().unwrap()).unwrap();
            fs::write(path(name), text).unwrap();
        }
        let args = LegacyConvertArgs {
            policy_dir: path("policy.d"),
            old_dir: path("old"),
            system_info: Some(path("system.json")),
        };
        run(&args).unwrap();
        let text = |name: &str| fs::read_to_string(path(name)).unwrap();
        let user = text("policy.d/30-user.policy");
        let rules: Vec<String> = user
            .lines()
            .filter(|line| !line.is_empty() && !line.starts_with('#'))
            .map(|line| line.replace('\t', " "))
            .collect();
        assert_eq!(
            rules,
            [
                "a.B * vault work deny",
                "a.B +x work dom0 allow",
                "a.B +x @anyvm @anyvm deny",
                "a.B +x @anyvm @adminvm deny",
                "a.B * @anyvm work allow",
                "a.B * work vault ask default_target=vault",
                "qubes.Filecopy * work dom0 ask target=dom0",
            ]
        );
        assert!(
            text("policy.d/50-config-filecopy.policy").ends_with("qubes.Filecopy\t*\twork\tvault\tallow\n")
        );
        assert_eq!(text("policy.d/30-user.policy.bak"), "a.B * vault work deny\n");
        assert!(path("old/a.B.rpmsave").exists() && !path("old/a.B").exists());
    }

    /// It had no say before, and gets none in a file that is read before that of the rule which hides it.
    #[test]
    fn a_rule_that_an_earlier_one_hides_is_left_out() {
        let root = tempfile::tempdir().unwrap();
        let path = |name: &str| root.path().join(name);
        for (name, text) in [
            ("policy.d/30-user.policy", "c.D * work vault deny\n"),
            ("policy.d/35-compat.policy", "!compat-4.0\n"),
            ("old/qubes.InputTablet", "work dom0 ask\nwork dom0 deny\nvault dom0 deny\n"),
            ("old/qubes.Filecopy", "$anyvm $anyvm ask\nwork vault allow,user=root\n"),
            ("old/c.D", "work vault allow\nvault work allow\n"),
            ("system.json", SYSTEM),
        ] {
            fs::create_dir_all(path(name).parent().unwrap()).unwrap();
            fs::write(path(name), text).unwrap();
        }
        let args = LegacyConvertArgs {
            policy_dir: path("policy.d"),
            old_dir: path("old"),
            system_info: Some(path("system.json")),
        };
        run(&args).unwrap();
        let rules = |name: &str| {
            let text = fs::read_to_string(path("policy.d").join(name)).unwrap();
            text.lines()
                .filter(|line| line.contains('*'))
                .map(|line| line.replace('\t', " "))
                .collect::<Vec<_>>()
        };
        assert_eq!(rules("30-user.policy"), ["c.D * work vault deny", "c.D * vault work allow"]);
        assert_eq!(rules("50-config-filecopy.policy"), ["qubes.Filecopy * @anyvm @anyvm ask"]);
        let input = ["qubes.InputTablet * work dom0 ask", "qubes.InputTablet * vault dom0 deny"];
        assert_eq!(rules("50-config-input.policy"), input);
    }
}
