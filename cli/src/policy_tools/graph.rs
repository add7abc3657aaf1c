//! `qrexec-policy-graph`: the calls that a policy lets through, as a picture.

use std::collections::{BTreeSet, HashSet};
use std::ffi::OsString;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use clap::Parser;
use daemon::policy_source::Disk;
use policy::{Decision, Files, Policy, Request, Rule, RuleRef, SystemInfo};

use super::system::SystemSource;
use crate::failure::Failure;
use crate::usage;

const PROGRAM: &str = "qrexec-policy-graph";

/// Draws the calls that the qrexec policy lets through, in the language of Graphviz.
#[derive(Debug, Default, Parser)]
#[command(name = PROGRAM)]
struct PolicyGraphArgs {
    /// Draw calls that the user is asked about, too.
    #[arg(long)]
    include_ask: bool,
    /// Only calls of these qubes.
    #[arg(long, num_args = 1.., value_name = "QUBE")]
    source: Vec<String>,
    /// Only calls to these qubes.
    #[arg(long, num_args = 1.., value_name = "QUBE")]
    target: Vec<String>,
    /// Only these services.
    #[arg(long, num_args = 1.., value_name = "SERVICE")]
    service: Vec<String>,
    /// Write here; a name that ends with `.svg` gets the drawn picture, made with `dot`.
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Policy folder; the first given hides the files of the others.
    #[arg(long = "policy-dir", value_name = "DIR", env = "QREXEC_POLICY_DIR", value_delimiter = ':',
          default_values = [policy::load::RUNTIME_POLICY_FOLDER, policy::load::POLICY_FOLDER])]
    folders: Vec<PathBuf>,
    /// Folder of the old format, for `!compat-4.0`.
    #[arg(long, value_name = "DIR", env = "QREXEC_OLD_POLICY_DIR", default_value = policy::load::OLD_POLICY_FOLDER)]
    old_policy_dir: PathBuf,
    /// What qubes there are, as JSON; without it qubesd is asked.
    #[arg(long, value_name = "FILE", env = "QREXEC_SYSTEM_INFO")]
    system_info: Option<PathBuf>,
    /// Leave the names of services out, and with them lines that differ in nothing else.
    #[arg(long)]
    skip_labels: bool,
    /// Everything: arguments, actions and their parameters.
    #[arg(long)]
    full_output: bool,
}

/// The command line, for manual pages and completions.
pub fn command() -> clap::Command {
    <PolicyGraphArgs as clap::CommandFactory>::command()
}

/// Runs the program with these arguments, its name first, and gives its exit status.
pub fn main(args: Vec<OsString>) -> i32 {
    usage::run(PROGRAM, args, run)
}

fn run(args: &PolicyGraphArgs) -> Result<(), Failure> {
    for (option, place, names) in
        [("--source", Place::Source, &args.source), ("--target", Place::Redirect, &args.target)]
    {
        if let Some(bad) = names.iter().find(|name| !place.takes(name)) {
            return Err(Failure::usage(format!("{option} {bad:?}: no call {}", place.sense())));
        }
    }
    super::check_not_the_hosts(args.folders.iter().map(PathBuf::as_path))?;
    let system = SystemSource::new(args.system_info.clone())
        .current()
        .map_err(|error| Failure::trouble(error.to_string()))?;
    let policy = Policy::compile(&Disk::new(&args.folders).with_old_folder(&args.old_policy_dir))
        .map_err(Failure::during("the policy"))?;
    let text = draw(args, &policy, &system);
    let Some(path) = &args.output else {
        return io::stdout().write_all(text.as_bytes()).map_err(Failure::during("writing"));
    };
    let written = match path.extension() {
        Some(extension) if extension == "svg" => svg(&text, path),
        _ => std::fs::write(path, &text),
    };
    written.map_err(Failure::during(path.display()))
}

/// Where a name that was given on the command line would stand in a rule.
#[derive(Clone, Copy)]
enum Place {
    Source,
    Redirect,
}

impl Place {
    /// Whether it may stand there: a rule with it can be read.
    fn takes(self, name: &str) -> bool {
        let rule = match self {
            Self::Source => format!("* * {name} * deny"),
            Self::Redirect => format!("* * * * allow target={name}"),
        };
        let read = Policy::compile(&Files::new().policy("name.policy", rule.as_str()));
        read.is_ok_and(|policy| policy.rules().iter().any(|read| read.to_string() == rule))
    }

    fn sense(self) -> &'static str {
        match self {
            Self::Source => "comes from that",
            Self::Redirect => "goes to that",
        }
    }
}

fn svg(text: &str, path: &Path) -> io::Result<()> {
    let dot = Command::new("dot").args(["-Tsvg", "-o"]).arg(path).stdin(Stdio::piped()).spawn();
    let mut dot = dot.map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => {
            io::Error::other("it is drawn by dot, which is not here: install graphviz")
        }
        _ => error,
    })?;
    let written = dot.stdin.take().map_or(Ok(()), |mut stdin| stdin.write_all(text.as_bytes()));
    match dot.wait()? {
        status if status.success() => written,
        status => Err(io::Error::other(format!("dot: {status}"))),
    }
}

/// Every call that a policy lets through, with its action and, where the user is asked, what they may
/// choose; two policies that mean the same give the same. (A picture would not do: a redirection hides what
/// was asked for.)
#[must_use]
pub fn full(policy: &Policy, system: &SystemInfo) -> BTreeSet<String> {
    let mut calls = BTreeSet::new();
    let targets = targets(system);
    for (service, argument) in services(&PolicyGraphArgs::default(), policy) {
        let called = format!("{}{}", service.unwrap_or("*"), argument.unwrap_or_default());
        for source in system.domains().iter().map(|domain| domain.name.as_str()) {
            for target in &targets {
                let mut request = Request::new(source, target, service.unwrap_or_default());
                request.argument = argument.unwrap_or("+");
                let (rule, choices) = match policy.decide(system, &request) {
                    Decision::Deny(_) => continue,
                    Decision::Allow(allow) => (allow.rule, String::new()),
                    Decision::Ask(ask) => (ask.rule, format!(" ({})", ask.choices.join(" "))),
                };
                if let Some(rule) = find(policy, &rule, service) {
                    let action = &rule.action;
                    calls.insert(format!("  \"{source}\" -> \"{target}\" {called} {action}{choices}"));
                }
            }
        }
    }
    calls
}

/// What may be asked for on a system.
fn targets(system: &SystemInfo) -> Vec<String> {
    let templates = system.domains().iter().filter(|domain| domain.template_for_dispvms);
    let mut targets: Vec<String> = system.domains().iter().map(|domain| domain.name.clone()).collect();
    targets.push("@dispvm".to_owned());
    targets.extend(templates.map(|domain| format!("@dispvm:{}", domain.name)));
    targets.push("@default".to_owned());
    targets
}

fn draw(args: &PolicyGraphArgs, policy: &Policy, system: &SystemInfo) -> String {
    let names: Vec<String> = system.domains().iter().map(|domain| domain.name.clone()).collect();
    let sources = if args.source.is_empty() { names } else { args.source.clone() };
    let targets = targets(system);

    let mut seen = HashSet::new();
    let mut text = "digraph g {\n".to_owned();
    for (service, argument) in services(args, policy) {
        for source in &sources {
            for target in &targets {
                let mut request = Request::new(source, target, service.unwrap_or_default());
                request.argument = argument.unwrap_or("+");
                let picture = Picture { args, system, service, source, target };
                for line in picture.lines(policy, &request) {
                    if seen.insert(line.clone()) {
                        text.push_str(&line);
                        text.push('\n');
                    }
                }
            }
        }
    }
    text.push_str("}\n");
    text
}

/// The services and arguments that rules name, `None` for those that name none, and those asked for.
fn services<'a>(
    args: &'a PolicyGraphArgs,
    policy: &'a Policy,
) -> BTreeSet<(Option<&'a str>, Option<&'a str>)> {
    let named = policy.rules().iter().map(|rule| (rule.service.as_deref(), rule.argument.as_deref()));
    let asked = args.service.iter().map(|service| match service.find('+') {
        Some(plus) => {
            let (service, argument) = service.split_at(plus);
            (Some(service), Some(argument))
        }
        None => (Some(service.as_str()), None),
    });
    let wanted = |service: Option<&str>, argument: Option<&str>| {
        let name = service.unwrap_or_default();
        let full = format!("{name}{}", argument.unwrap_or_default());
        args.service.is_empty() || args.service.iter().any(|wanted| wanted == name || *wanted == full)
    };
    named.chain(asked).filter(|(service, argument)| wanted(*service, *argument)).collect()
}

/// One call, to be drawn if it is let through.
struct Picture<'a> {
    args: &'a PolicyGraphArgs,
    system: &'a SystemInfo,
    service: Option<&'a str>,
    source: &'a str,
    target: &'a str,
}

impl Picture<'_> {
    fn lines(&self, policy: &Policy, request: &Request<'_>) -> Vec<String> {
        let (rule, asked) = match policy.decide(self.system, request) {
            Decision::Ask(ask) => (ask.rule, true),
            // Whether the call could really be made is of no interest: it is the policy that is drawn.
            _ => match policy.decide(self.system, &Request { just_evaluate: true, ..*request }) {
                Decision::Allow(allow) => (allow.rule, false),
                _ => return Vec::new(),
            },
        };
        let Some(rule) = find(policy, &rule, self.service) else { return Vec::new() };
        let target = rule.action.target.as_ref().map_or_else(|| self.target.to_owned(), ToString::to_string);
        let wanted = self.args.target.is_empty() || self.args.target.contains(&target);
        if !wanted || (asked && !self.args.include_ask && !self.args.full_output) {
            return Vec::new();
        }
        let label = self.label(rule);
        let color = if asked { "orange" } else { "red" };
        let edge = format!("  \"{}\" -> \"{target}\" [label=\"{label}\" color={color}];", self.source);
        vec![self.node(self.source), self.node(&target), edge]
    }

    fn label(&self, rule: &Rule) -> String {
        let service = self.service.unwrap_or("*");
        match (self.args.skip_labels, self.args.full_output) {
            (true, true) => format!(" {}", rule.action),
            (true, false) => String::new(),
            (false, true) => {
                format!("{service}{} {}", rule.argument.as_deref().unwrap_or_default(), rule.action)
            }
            (false, false) => service.to_owned(),
        }
    }

    fn node(&self, name: &str) -> String {
        match self.system.get(name).map(|domain| domain.label.replace("0x", "#")) {
            Some(color) if color.chars().all(|c| c.is_ascii_alphanumeric() || c == '#') => {
                format!("  \"{name}\" [color = \"{color}\", penwidth = 3];")
            }
            _ => format!("  \"{name}\" [style = dotted];"),
        }
    }
}

/// The rule that stands there; a file that is included for several services has several on one line.
fn find<'a>(policy: &'a Policy, place: &RuleRef, service: Option<&str>) -> Option<&'a Rule> {
    policy.rules().iter().find(|rule| {
        let same = rule.line == place.line && rule.file == place.file;
        same && rule.service.as_deref().is_none_or(|own| Some(own) == service)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use policy::Domain;

    #[test]
    fn a_denial_behind_a_redirection_is_another_policy() {
        let rules = ["a.B * work vault deny\n", "a.B * * * allow target=dom0\n"];
        let compile = |text: String| Policy::compile(&Files::new().policy("1.policy", text)).unwrap();
        let (policy, other) = (compile(rules.concat()), compile([rules[1], rules[0]].concat()));
        let system =
            SystemInfo::new(["dom0", "work", "vault"].map(|name| Domain::new(name, "AppVM"))).unwrap();
        assert_eq!(
            draw(&PolicyGraphArgs::default(), &policy, &system),
            draw(&PolicyGraphArgs::default(), &other, &system)
        );
        let (first, second) = (full(&policy, &system), full(&other, &system));
        let more: Vec<_> = second.difference(&first).collect();
        assert_eq!(more, ["  \"work\" -> \"vault\" a.B allow target=dom0"]);
        assert!(first.is_subset(&second));
    }

    #[test]
    fn what_is_let_through_is_drawn() {
        let text = "a.B * work vault allow\na.B +x work mail ask\na.B * mail @default allow target=vault\n";
        let policy = Policy::compile(&Files::new().policy("30-user.policy", text)).unwrap();
        let labelled = |name: &str| Domain { label: "0xcc0000".to_owned(), ..Domain::new(name, "AppVM") };
        let system = SystemInfo::new(["work", "mail", "vault"].map(labelled)).unwrap();
        let drawn = draw(&PolicyGraphArgs::default(), &policy, &system);
        assert!(drawn.contains("  \"work\" [color = \"#cc0000\", penwidth = 3];\n"));
        assert!(drawn.contains("  \"work\" -> \"vault\" [label=\"a.B\" color=red];\n"));
        assert!(drawn.contains("  \"mail\" -> \"vault\" [label=\"a.B\" color=red];\n"));
        assert!(!drawn.contains("orange") && drawn.starts_with("digraph g {\n") && drawn.ends_with("}\n"));
        let args = PolicyGraphArgs { full_output: true, include_ask: true, ..PolicyGraphArgs::default() };
        let full = draw(&args, &policy, &system);
        assert!(full.contains("  \"work\" -> \"mail\" [label=\"a.B+x ask\" color=orange];"));
        assert!(full.contains("  \"mail\" -> \"vault\" [label=\"a.B allow target=vault\" color=red];"));
    }
}
