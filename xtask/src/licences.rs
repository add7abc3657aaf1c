//! Every dependency's licence has to fit the project's own: the list is in `deny.toml`.

use spdx::{Expression, ParseMode};

use crate::metadata::Metadata;
use crate::steps::{Failure, root};

/// The licence of every crate of this workspace.
const OWN: &str = "GPL-2.0-or-later";

pub(crate) fn check(metadata: &Metadata) -> Result<Vec<String>, Failure> {
    let text = std::fs::read_to_string(root().join("deny.toml")).map_err(|error| format!("deny.toml: {error}"))?;
    let allowed = allowed(&text)?;
    let complaints = metadata.packages.iter().filter_map(|package| {
        let licence = package.license.as_deref().unwrap_or("none");
        let fits = if package.source.is_none() { licence == OWN } else { fits(licence, &allowed) };
        (!fits).then(|| format!("{}: the licence {licence} does not fit {OWN}", package.name))
    });
    Ok(complaints.collect())
}

fn allowed(deny: &str) -> Result<Vec<String>, Failure> {
    let table: toml::Table = deny.parse().map_err(|error| format!("deny.toml: {error}"))?;
    let list = table.get("licenses").and_then(|licences| licences.get("allow")).and_then(toml::Value::as_array);
    let list = list.ok_or("deny.toml: no licenses.allow")?;
    Ok(list.iter().filter_map(|value| value.as_str().map(str::to_owned)).collect())
}

/// Whether what an expression offers contains a choice that is allowed. Old crates write `/` for OR.
fn fits(expression: &str, allowed: &[String]) -> bool {
    let parsed = Expression::parse_mode(expression, ParseMode::LAX);
    parsed.is_ok_and(|parsed| parsed.evaluate(|wanted| allowed.iter().any(|name| *name == wanted.to_string())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions_are_understood() {
        let allowed = allowed("[licenses]\nallow = [\"MIT\", \"Apache-2.0 WITH LLVM-exception\"]").unwrap();
        assert!(fits("MIT/Apache-2.0", &allowed));
        assert!(fits("Apache-2.0 WITH LLVM-exception OR GPL-3.0-only", &allowed));
        assert!(fits("(MIT OR Apache-2.0) AND MIT", &allowed));
        assert!(!fits("MIT AND GPL-3.0-only", &allowed));
        assert!(!fits("Apache-2.0", &allowed));
        assert!(!fits("none", &allowed));
    }
}
