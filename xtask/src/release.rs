//! `cargo xtask release --dry-run`: what has to be so before a release, looked at point by point. Nothing is changed.

use std::fs;
use std::process::Command;

use clap::Args;

use crate::licences;
use crate::metadata::Metadata;
use crate::package::release;
use crate::steps::{Failure, findings, root, said};

#[derive(Args)]
pub(crate) struct Options {
    /// Look at everything and do nothing; there is no other way yet
    #[arg(long, required = true)]
    dry_run: bool,
}

/// What no program can look at.
const BY_HAND: [&str; 5] = [
    "read what CHANGELOG.md says under the version as somebody who uses it",
    "install the packages in a qube of each release that docs/install.md names; switch, restart, copy a file, and back",
    "the figures in README.md are of this version, or say of which",
    "`.ci/run` passed for this commit; read the lines SKIPPED at its end",
    "tag vVERSION, build the packages of the tag twice, compare, publish with their checksums",
];

pub(crate) fn run(options: &Options) -> Result<(), Failure> {
    if !options.dry_run {
        return Err("only --dry-run is there: a release is tagged by hand".into());
    }
    let version = release()?;
    let read = |name: &str| fs::read_to_string(root().join(name)).map_err(|error| format!("{name}: {error}"));
    let points: [(&str, Vec<String>); 5] = [
        ("CHANGELOG.md", changelog(&read("CHANGELOG.md")?, &version)),
        ("a clean tree", clean()?),
        ("papers", papers()),
        ("licences", licences::check(&Metadata::read()?)?),
        ("the tag is free", tag(&version)?),
    ];
    let mut open = 0_usize;
    for (name, found) in points {
        if let Err(failure) = findings(name, Ok(found)) {
            eprintln!("{failure}");
            open = open.saturating_add(1);
        }
    }
    eprintln!("by hand:");
    for point in BY_HAND {
        eprintln!("  - {}", point.replace("VERSION", &version));
    }
    if open == 0 { Ok(()) } else { Err(format!("{version} is not ready: {open} points are open")) }
}

/// What is new stands under the version, with a date, and nothing under "Unreleased".
fn changelog(text: &str, version: &str) -> Vec<String> {
    let mut complaints = Vec::new();
    let heading = |line: &str| {
        let rest = line.strip_prefix("## ")?;
        rest.strip_prefix(version).or_else(|| rest.strip_prefix(&format!("[{version}]"))).map(str::to_owned)
    };
    match text.lines().find_map(heading) {
        None => complaints.push(format!("no heading \"## {version} - YYYY-MM-DD\"")),
        Some(rest) if !rest.trim_start_matches([' ', '-']).starts_with("20") => {
            complaints.push(format!("the heading of {version} has no date"));
        }
        Some(_) => {}
    }
    let unreleased = text.split("## Unreleased").nth(1).and_then(|rest| rest.split("\n## ").next());
    if unreleased.is_some_and(|rest| rest.lines().any(|line| line.starts_with("- "))) {
        complaints.push("lines stand under \"Unreleased\"".into());
    }
    complaints
}

fn clean() -> Result<Vec<String>, Failure> {
    let changed = said(Command::new("git").args(["status", "--porcelain"]).current_dir(root()))?;
    Ok(changed.lines().map(|line| format!("not committed: {line}")).collect())
}

fn papers() -> Vec<String> {
    let wanted = [
        "LICENSE",
        "README.md",
        "SECURITY.md",
        "CONTRIBUTING.md",
        "docs/install.md",
        "ring/README.md",
        "wire/README.md",
    ];
    wanted
        .iter()
        .filter(|name| !root().join(name).exists())
        .map(|name| format!("{name} is missing"))
        .collect()
}

fn tag(version: &str) -> Result<Vec<String>, Failure> {
    let tags = said(Command::new("git").args(["tag", "--list", &format!("v{version}")]).current_dir(root()))?;
    Ok(if tags.is_empty() { Vec::new() } else { vec![format!("v{version} is there already")] })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_new_stands_under_its_version() {
        assert!(changelog("# C\n\n## Unreleased\n\n## 0.1.0 - 2026-12-01\n\n- x\n", "0.1.0").is_empty());
        assert_eq!(changelog("## Unreleased\n\n- x\n", "0.1.0").len(), 2);
        assert_eq!(changelog("## 0.1.0\n\n- x\n", "0.1.0"), ["the heading of 0.1.0 has no date"]);
        assert_eq!(changelog("## Unreleased\n- y\n\n## 0.1.0 - 2026-12-01\n- x\n", "0.1.0").len(), 1);
    }
}
