//! `docs/configuration.md` names every environment variable and every key of a service that the sources know.

use std::collections::BTreeSet;
use std::fs;

use crate::sources::rust_files;
use crate::steps::{Failure, root};

const PAGE: &str = "docs/configuration.md";

/// How a variable of this project begins.
const PREFIXES: [&str; 4] = ["QREXEC_", "QUBES_", "VCHAN_", "CI_"];

/// Where the keys of a service are matched.
const KEYS: &str = "engine/src/exec/config.rs";

/// Names that only a test of these checks, or of a default, uses: nobody sets them.
const NOBODYS: [&str; 2] = ["QREXEC_TEST", "QREXEC_TEST_NOTHING"];

pub(crate) fn check() -> Result<Vec<String>, Failure> {
    let root = root();
    let read = |name: &str| fs::read_to_string(root.join(name)).map_err(|error| format!("{name}: {error}"));
    let page = read(PAGE)?;
    let mut wanted = BTreeSet::new();
    for path in rust_files(&root)?.into_iter().filter(|path| !path.ends_with("xtask/src/documented.rs")) {
        let text = fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        wanted.extend(variables(&text));
    }
    wanted.extend(keys(&read(KEYS)?));
    let missing = wanted.into_iter().filter(|name| !page.contains(&format!("`{name}`")));
    Ok(missing.map(|name| format!("{PAGE} does not name `{name}`")).collect())
}

/// Variables that a source quotes.
fn variables(source: &str) -> Vec<String> {
    let quoted = source.split('"').skip(1);
    let is_name = |word: &&str| {
        PREFIXES.iter().any(|prefix| word.len() > prefix.len() && word.starts_with(prefix))
            && word.bytes().all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_')
            && !NOBODYS.contains(word)
    };
    quoted.filter(is_name).map(str::to_owned).collect()
}

/// The keys of a `match` whose arms set a field of the settings.
fn keys(source: &str) -> Vec<String> {
    let arms =
        source.lines().filter_map(|line| line.trim_start().strip_prefix('"')?.split_once("\" => self."));
    arms.map(|(key, _)| key.to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_are_found_where_they_are_quoted() {
        let source =
            "get(\"QREXEC_LOG\"); // QREXEC_NOT\nprintln!(\"QREXEC_ is no name\"); x(b\"QUBES_LAB\")";
        assert_eq!(variables(source), ["QREXEC_LOG", "QUBES_LAB"]);
    }

    #[test]
    fn keys_are_the_arms_that_set_something() {
        let source = "        \"pipes\" => self.pipes = value.bool()?,\n  \"x\" => Some(1),\n";
        assert_eq!(keys(source), ["pipes"]);
    }

    #[test]
    fn the_page_names_all() {
        assert_eq!(check().unwrap(), Vec::<String>::new());
    }
}
