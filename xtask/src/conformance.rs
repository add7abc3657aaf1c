//! Every test that `docs/conformance.md` names exists.

use std::fs;

use crate::steps::{Failure, root};

pub(crate) fn check() -> Result<Vec<String>, Failure> {
    let root = root();
    let name = "docs/conformance.md";
    let text = fs::read_to_string(root.join(name)).map_err(|error| format!("{name}: {error}"))?;
    let is_there = |path: &str, function: &str| {
        fs::read_to_string(root.join(path)).is_ok_and(|source| source.contains(&format!("fn {function}(")))
    };
    Ok(missing(&text, is_there).into_iter().map(|test| format!("{name}: there is no {test}")).collect())
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
    fn the_table_names_tests_that_exist() {
        assert_eq!(check().unwrap(), Vec::<String>::new());
    }
}
