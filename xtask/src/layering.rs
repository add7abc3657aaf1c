//! Imports run one way: `cli, agent, daemon → engine → ring, wire → sys`; see `docs/architecture.md`.

use crate::metadata::Metadata;
use crate::steps::{Failure, root};

/// Each crate of the workspace, and which others it may use outside of tests.
const MAY_USE: &[(&str, &[&str])] = &[
    ("qrexec-wire", &[]),
    ("xenevtchn-sys", &[]),
    ("xengnttab-sys", &["xenevtchn-sys"]),
    ("xenvchan-sys", &["xenevtchn-sys", "xengnttab-sys"]),
    ("qrexec-sys", &[]),
    ("qrexec-ring", &["qrexec-sys", "xenevtchn-sys", "xengnttab-sys", "xenvchan-sys"]),
    ("qrexec-policy", &["qrexec-wire"]),
    ("qrexec-engine", &["qrexec-ring", "qrexec-sys", "qrexec-wire"]),
    ("qrexec-filecopy", &["qrexec-engine", "qrexec-wire"]),
    ("qrexec-agent-core", &["qrexec-wire"]),
    (
        "qrexec-agent",
        &["qrexec-agent-core", "qrexec-engine", "qrexec-filecopy", "qrexec-ring", "qrexec-wire"],
    ),
    ("qrexec-daemon-core", &["qrexec-policy", "qrexec-wire"]),
    (
        "qrexec-daemon",
        &["qrexec-daemon-core", "qrexec-engine", "qrexec-policy", "qrexec-ring", "qrexec-wire"],
    ),
    (
        "qrexec-cli",
        &[
            "qrexec-agent",
            "qrexec-daemon",
            "qrexec-daemon-core",
            "qrexec-engine",
            "qrexec-policy",
            "qrexec-ring",
            "qrexec-wire",
        ],
    ),
    ("qrexec-copy", &["qrexec-cli", "qrexec-engine", "qrexec-filecopy", "qrexec-ring", "qrexec-wire"]),
    ("qrexec-remote", &["qrexec-cli", "qrexec-engine", "qrexec-wire"]),
    ("qrexec-run", &["qrexec-cli", "qrexec-engine", "qrexec-wire"]),
    ("qrexec-open", &["qrexec-cli", "qrexec-engine", "qrexec-run", "qrexec-wire"]),
    ("qrexec-usb-sim", &["qrexec-cli", "qrexec-engine", "qrexec-wire"]),
    ("qrexec-vchan-capi", &["qrexec-ring", "qrexec-sys"]),
    ("qrexec-benches", &["qrexec-engine", "qrexec-policy", "qrexec-ring", "qrexec-wire"]),
    ("qrexec-windows", &["qrexec-agent-core", "qrexec-wire"]),
    ("qrexec-vchan-double", &[]),
    ("qrexec-lab", ANYTHING),
    ("qrexec-bench", ANYTHING),
    ("qrexec-tests", ANYTHING),
    ("qrexec-manual", ANYTHING),
    ("xtask", &[]),
];

/// What a crate may use that nobody ships: it tries, measures, tests or documents all the others.
const ANYTHING: &[&str] = &["*"];

/// Crates that compute and nothing else: what they may use besides.
const PURE: &[(&str, &[&str])] = &[
    ("qrexec-wire", &["thiserror", "zerocopy"]),
    ("qrexec-policy", &["serde", "serde_json", "thiserror"]),
    ("qrexec-agent-core", &["thiserror"]),
    ("qrexec-daemon-core", &["thiserror"]),
];

/// The package whose executable is installed for dom0 and qubes, and what it must not contain: what only tries and
/// measures.
const SHIPPED: &str = "qrexec-cli";
const NOT_SHIPPED: &[&str] =
    &["qrexec-lab", "qrexec-bench", "qrexec-usb-sim", "plotters", "indicatif", "hdrhistogram"];

/// Where the same is told to people: rows of `folder`, `crate`, job, may use.
pub(crate) fn check_documented() -> Result<Vec<String>, Failure> {
    let page = std::fs::read_to_string(root().join("docs/architecture.md"));
    let page = page.map_err(|error| format!("docs/architecture.md: {error}"))?;
    Ok(MAY_USE.iter().filter_map(|(name, allowed)| contradiction(&page, name, allowed)).collect())
}

/// What the page says against the list. Rows in words, as for a crate that may use all of the above, are for people only.
fn contradiction(page: &str, name: &str, allowed: &[&str]) -> Option<String> {
    let short = |name: &str| name.strip_prefix("qrexec-").unwrap_or(name).to_owned();
    let cells = |row: &str| row.split('|').map(|cell| cell.trim().to_owned()).collect::<Vec<_>>();
    let is_its = |cells: &Vec<String>| cells.get(2).is_some_and(|cell| *cell == format!("`{}`", short(name)));
    let row = page.lines().map(cells).find(is_its)?;
    let told: Vec<String> = row.get(4)?.split('`').skip(1).step_by(2).map(str::to_owned).collect();
    let in_words = row.get(4)?.contains("all of the above") || row.get(4)?.contains("what that");
    let both = |told: &[String]| {
        let ours = allowed.iter().map(|name| short(name)).filter(|name| !name.ends_with("-sys"));
        ours.collect::<std::collections::BTreeSet<_>>() == told.iter().cloned().collect()
    };
    let wrong = !in_words && !both(&told);
    wrong.then(|| {
        format!("docs/architecture.md says that {name} may use {told:?}, and xtask says {allowed:?}")
    })
}

/// What is installed and should not be.
pub(crate) fn check_shipped(metadata: &Metadata) -> Vec<String> {
    let contents = metadata.contents_of(SHIPPED);
    let wrong = NOT_SHIPPED.iter().filter(|name| contents.contains(**name));
    wrong.map(|name| format!("{SHIPPED} contains {name}, which nobody needs in dom0 or a qube")).collect()
}

pub(crate) fn check(metadata: &Metadata) -> Vec<String> {
    let members: Vec<_> = metadata.packages.iter().filter(|package| package.source.is_none()).collect();
    let mut complaints = Vec::new();
    for package in &members {
        let Some((_, allowed)) = MAY_USE.iter().find(|(name, _)| *name == package.name) else {
            complaints.push(format!("{}: not in the list of layers", package.name));
            continue;
        };
        let pure = PURE.iter().find(|(name, _)| *name == package.name).map(|(_, others)| others);
        for used in package.dependencies.iter().filter(|dependency| dependency.kind.is_none()) {
            let ours = members.iter().any(|member| member.name == used.name);
            if ours && *allowed != ANYTHING && !allowed.contains(&used.name.as_str()) {
                complaints.push(format!("{} must not use {}", package.name, used.name));
            }
            if !ours && pure.is_some_and(|others| !others.contains(&used.name.as_str())) {
                complaints.push(format!("{} is pure and must not use {}", package.name, used.name));
            }
        }
    }
    complaints
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metadata::{Dependency, Package};

    fn package(name: &str, uses: &[(&str, Option<&str>)]) -> Package {
        let dependency = |(name, kind): &(&str, Option<&str>)| Dependency {
            name: (*name).into(),
            kind: kind.map(str::to_owned),
        };
        let dependencies = uses.iter().map(dependency).collect();
        Package { name: name.into(), dependencies, ..Package::default() }
    }

    #[test]
    fn the_page_tells_the_same_as_the_list() {
        assert_eq!(check_documented().unwrap(), Vec::<String>::new());
        let page =
            "| `engine/` | `engine` | a job | `ring`, `wire` |\n| `cli/` | `cli` | jobs | all of the above |";
        assert!(contradiction(page, "qrexec-engine", &["qrexec-wire", "qrexec-ring"]).is_none());
        assert!(contradiction(page, "qrexec-engine", &["qrexec-wire"]).is_some());
        assert!(contradiction(page, "qrexec-cli", &["qrexec-wire"]).is_none());
    }

    #[test]
    fn upward_imports_are_found_and_tests_may_look_anywhere() {
        let packages = vec![
            package("qrexec-wire", &[("qrexec-ring", None), ("proptest", Some("dev")), ("libc", None)]),
            package("qrexec-ring", &[("qrexec-wire", Some("dev")), ("libc", None)]),
            package("stranger", &[]),
        ];
        let complaints = check(&Metadata { packages, ..Metadata::default() });
        assert_eq!(complaints.len(), 3, "{complaints:?}");
    }
}
