//! Every dependency's licence has to fit the project's own: the list is in `deny.toml`.

use serde::Deserialize;
use spdx::{Expression, ParseMode};

use crate::metadata::Metadata;
use crate::steps::{Failure, root};

/// The licence of every crate of this workspace.
const OWN: &str = "GPL-2.0-or-later";

/// The package that holds every program.
const SHIPPED: &str = "qrexec-cli";

pub(crate) fn check(metadata: &Metadata) -> Result<Vec<String>, Failure> {
    let text = std::fs::read_to_string(root().join("deny.toml"));
    let list = List::read(&text.map_err(|error| format!("deny.toml: {error}"))?)?;
    let shipped = metadata.contents_of(SHIPPED);
    let complaints = metadata.packages.iter().filter_map(|package| {
        let licence = package.license.as_deref().unwrap_or("none");
        let fits = if package.source.is_none() { licence == OWN } else { fits(licence, &list.allow) };
        let excepted = list.exceptions.contains(&package.name) && !shipped.contains(package.name.as_str());
        (!fits && !excepted).then(|| format!("{}: the licence {licence} does not fit {OWN}", package.name))
    });
    Ok(complaints.collect())
}

/// The crates of others that become part of what a package of this workspace builds, with their licences.
pub(crate) fn contained(metadata: &Metadata, root: &str) -> Vec<String> {
    let names = metadata.contents_of(root);
    let others = metadata.packages.iter().filter(|package| package.source.is_some());
    let others = others.filter(|package| names.contains(package.name.as_str()));
    others
        .map(|package| format!("{}: {}", package.name, package.license.as_deref().unwrap_or("none")))
        .collect()
}

/// What `deny.toml` says about licences.
#[derive(Deserialize)]
struct List {
    allow: Vec<String>,
    #[serde(default, deserialize_with = "names")]
    exceptions: Vec<String>,
}

impl List {
    fn read(deny: &str) -> Result<Self, Failure> {
        #[derive(Deserialize)]
        struct Deny {
            licenses: List,
        }
        toml::from_str::<Deny>(deny).map(|deny| deny.licenses).map_err(|error| format!("deny.toml: {error}"))
    }
}

/// The crates of exceptions; `cargo deny` compares what each of them is allowed.
fn names<'de, D: serde::Deserializer<'de>>(list: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    struct Exception {
        #[serde(rename = "crate")]
        name: String,
    }
    Ok(Vec::<Exception>::deserialize(list)?.into_iter().map(|exception| exception.name).collect())
}

/// Whether what an expression offers contains a choice that is allowed. Old crates write `/` for OR.
fn fits(expression: &str, allowed: &[String]) -> bool {
    let parsed = Expression::parse_mode(expression, ParseMode::LAX);
    parsed
        .is_ok_and(|parsed| parsed.evaluate(|wanted| allowed.iter().any(|name| *name == wanted.to_string())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions_are_understood() {
        let deny = "[licenses]\nallow = [\"MIT\", \"Apache-2.0 WITH LLVM-exception\"]";
        let allowed = List::read(deny).unwrap().allow;
        assert!(fits("MIT/Apache-2.0", &allowed));
        assert!(fits("Apache-2.0 WITH LLVM-exception OR GPL-3.0-only", &allowed));
        assert!(fits("(MIT OR Apache-2.0) AND MIT", &allowed));
        assert!(!fits("MIT AND GPL-3.0-only", &allowed));
        assert!(!fits("Apache-2.0", &allowed));
        assert!(!fits("none", &allowed));
    }
}
