//! Every test that a page of `PAGES` names exists and is run by `cargo test`.

use std::fs;
use std::path::Path;

use crate::sources::rust_files;
use crate::steps::{Failure, root};

/// Pages whose tables name tests.
const PAGES: [&str; 3] = ["docs/conformance.md", "docs/r2.md", "docs/services.md"];

pub(crate) fn check() -> Result<Vec<String>, Failure> {
    let root = root();
    let mut complaints = Vec::new();
    for name in PAGES {
        complaints.extend(of_page(&root, name)?);
    }
    Ok(complaints)
}

fn of_page(root: &Path, name: &str) -> Result<Vec<String>, Failure> {
    let text = fs::read_to_string(root.join(name)).map_err(|error| format!("{name}: {error}"))?;
    let is_there = |path: &str, function: &str| {
        let Ok(source) = fs::read_to_string(root.join(path)) else { return false };
        is_run(&source, function, || called_by_its_harness(root, path, function))
    };
    Ok(missing(&text, is_there).into_iter().map(|test| format!("{name}: there is no {test}")).collect())
}

/// Whether a source has that function as a test that is not left out. Programs with a harness of their own list
/// theirs, which `is_listed` is asked about.
fn is_run(source: &str, function: &str, is_listed: impl FnOnce() -> bool) -> bool {
    let lines: Vec<&str> = source.lines().map(str::trim_start).collect();
    let Some(at) = lines.iter().position(|line| defines(line, function)) else { return false };
    let above =
        lines.iter().take(at).rev().take_while(|line| line.starts_with("#[") || line.starts_with("//"));
    let attributes: Vec<&str> = above.copied().filter(|line| line.starts_with("#[")).collect();
    let left_out = attributes.iter().any(|line| line.starts_with("#[ignore"));
    !left_out && (attributes.contains(&"#[test]") || is_listed())
}

fn defines(line: &str, function: &str) -> bool {
    let line = line.strip_prefix("pub(crate) ").unwrap_or(line);
    line.strip_prefix("fn ")
        .and_then(|rest| rest.strip_prefix(function))
        .is_some_and(|rest| rest.starts_with('('))
}

/// Whether a source of the same `tests` folder uses the function.
fn called_by_its_harness(root: &Path, path: &str, function: &str) -> bool {
    let Some((folder, _)) = path.split_once("/tests/") else { return false };
    let sources = rust_files(&root.join(folder).join("tests")).unwrap_or_default();
    let uses = |line: &str| {
        let words = line.split(|c: char| !(c.is_alphanumeric() || c == '_'));
        let line = line.trim_start();
        !line.starts_with("//") && !defines(line, function) && words.into_iter().any(|word| word == function)
    };
    sources.iter().filter_map(|source| fs::read_to_string(source).ok()).any(|text| text.lines().any(uses))
}

/// The tests that a text names and that are not there.
fn missing(text: &str, is_there: impl Fn(&str, &str) -> bool) -> Vec<&str> {
    let quoted = text.split('`').skip(1).step_by(2);
    let named = quoted.filter_map(|quoted| Some((quoted, quoted.split_once("::")?)));
    let named = named.filter(|(_, (path, _))| path.ends_with(".rs"));
    named.filter(|(_, (path, function))| !is_there(path, function)).map(|(quoted, _)| quoted).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_looks_like_a_test_is_looked_for() {
        let text = "`a.rs::there`, `a.rs::gone`, `file::function`, `word`";
        assert_eq!(missing(text, |path, function| path == "a.rs" && function == "there"), ["a.rs::gone"]);
    }

    #[test]
    fn a_test_is_what_is_marked_so_and_not_left_out() {
        let source = "#[test]\nfn a() {\n}\n\n/// Says.\n#[test]\n#[ignore = \"slow\"]\nfn b() {}\npub(crate) fn c() {}\n";
        assert!(is_run(source, "a", || false));
        assert!(!["b", "c", "d"].iter().any(|name| is_run(source, name, || false)));
        assert!(is_run(source, "c", || true));
        assert!(!is_run(source, "b", || true));
    }

    #[test]
    fn the_table_names_tests_that_exist() {
        assert_eq!(check().unwrap(), Vec::<String>::new());
    }
}
