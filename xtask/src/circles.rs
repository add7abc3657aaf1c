//! Files of one crate that use each other in a circle: who reads one of them has to read all.
//!
//! A module may use what its ancestors hold, and they name it; that is no circle. Items behind `#[cfg(test)]` do not
//! count. Paths are looked for as text: `crate::a::b`, `super::c`, `self::d` and, where the file says `mod e;`, `e::f`, with
//! groups in braces.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use crate::code::without_tests;
use crate::sources::rust_files;
use crate::steps::{Failure, root};

/// Who uses whom, by path of the module; the crate's own is empty.
type Uses = BTreeMap<String, BTreeSet<String>>;

pub(crate) fn check() -> Result<Vec<String>, Failure> {
    let root = root();
    let mut crates: BTreeMap<String, BTreeMap<String, String>> = BTreeMap::new();
    for path in rust_files(&root)? {
        let name = path.strip_prefix(&root).unwrap_or(&path).to_string_lossy().into_owned();
        let Some((folder, file)) = name.split_once("/src/") else { continue };
        let folder = format!("{folder}/src");
        if name.starts_with("tests/") || file.starts_with("bin/") {
            continue;
        }
        let text = fs::read_to_string(&path).map_err(|error| format!("{name}: {error}"))?;
        crates.entry(folder).or_default().insert(module_of(file), text);
    }
    let complaints = crates.iter().flat_map(|(folder, files)| {
        let found = circles(&uses(files));
        found.into_iter().map(move |circle| format!("{folder}: a circle of files: {}", circle.join(" -> ")))
    });
    Ok(complaints.collect())
}

/// `a/b.rs` and `a/b/mod.rs` are `a::b`; the crate's root is empty.
fn module_of(file: &str) -> String {
    let path = Path::new(file).with_extension("");
    let parts: Vec<_> = path.iter().map(|part| part.to_string_lossy().into_owned()).collect();
    let parts = match parts.as_slice() {
        [only] if only == "lib" || only == "main" => &[],
        [rest @ .., last] if last == "mod" => rest,
        all => all,
    };
    parts.join("::")
}

fn uses(files: &BTreeMap<String, String>) -> Uses {
    let is_ancestor =
        |one: &str, of: &str| one.is_empty() || of == one || of.starts_with(&format!("{one}::"));
    let used = |module: &String, text: &str| {
        let named = paths(module, text).into_iter().filter_map(|path| known(&path, files));
        named.filter(|other| !is_ancestor(other, module)).collect()
    };
    files.iter().map(|(module, text)| (module.clone(), used(module, text))).collect()
}

/// The module that a path leads into.
fn known(path: &[String], files: &BTreeMap<String, String>) -> Option<String> {
    (1..=path.len()).rev().map(|len| path[..len].join("::")).find(|path| files.contains_key(path))
}

/// Every path of the text that begins in this crate, as steps from its root.
fn paths(module: &str, text: &str) -> Vec<Vec<String>> {
    let code = without_tests(text);
    let lines = code.lines().filter(|line| !line.trim_start().starts_with("//"));
    let code: String = lines.flat_map(|line| [line.trim(), " "]).collect();
    let own: Vec<String> = module.split("::").filter(|part| !part.is_empty()).map(str::to_owned).collect();
    let mut found = Vec::new();
    let mut follow = |start: &str, skipped: usize, from: &[String]| {
        for (at, _) in code.match_indices(start) {
            let before = code.get(..at).and_then(|text| text.chars().next_back());
            if before.is_none_or(|c| !c.is_alphanumeric() && c != '_' && c != ':') {
                spread(from, code.get(at.saturating_add(skipped)..).unwrap_or_default(), &mut found);
            }
        }
    };
    for (start, from) in [("crate::", &[][..]), ("self::", &own), ("super::", parent(&own))] {
        follow(start, start.len(), from);
    }
    for child in children(&code) {
        follow(&format!("{child}::"), 0, &own);
    }
    found
}

/// The modules that a file declares.
fn children(code: &str) -> BTreeSet<&str> {
    let declared = code.split("mod ").skip(1).filter_map(|rest| rest.split_once(';'));
    declared
        .map(|(name, _)| name)
        .filter(|name| name.chars().all(|c| c.is_alphanumeric() || c == '_'))
        .collect()
}

fn parent(path: &[String]) -> &[String] {
    path.split_last().map_or(&[], |(_, rest)| rest)
}

/// Follows a path, into each of a group's members.
fn spread(from: &[String], rest: &str, found: &mut Vec<Vec<String>>) {
    let rest = rest.trim_start();
    if let Some(more) = rest.strip_prefix("super::") {
        return spread(parent(from), more, found);
    }
    if let Some(group) = rest.strip_prefix('{') {
        for member in members(group) {
            spread(from, member, found);
        }
        return;
    }
    let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
    let (word, rest) = rest.split_at(end);
    let path = [from, &[word.to_owned()]].concat();
    match rest.strip_prefix("::") {
        Some(more) => spread(&path, more, found),
        None => found.push(path),
    }
}

/// What stands between the commas of a group, whose opening brace is gone already.
fn members(group: &str) -> Vec<&str> {
    let (mut depth, mut begin, mut members) = (0_usize, 0, Vec::new());
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth = depth.saturating_add(1),
            '}' if depth == 0 => {
                members.push(&group[begin..at]);
                break;
            }
            '}' => depth = depth.saturating_sub(1),
            ',' if depth == 0 => {
                members.push(&group[begin..at]);
                begin = at.saturating_add(1);
            }
            _ => {}
        }
    }
    members.into_iter().filter(|member| !member.trim().is_empty()).collect()
}

/// A circle for each module that is the first of one by name.
fn circles(uses: &Uses) -> Vec<Vec<String>> {
    let mut told = BTreeSet::new();
    let mut found = Vec::new();
    for module in uses.keys() {
        if let Some(circle) = way_back(module, uses)
            && !circle.iter().any(|module| told.contains(module))
        {
            told.extend(circle.iter().cloned());
            found.push(circle);
        }
    }
    found
}

/// The shortest way from a module to itself.
fn way_back(module: &String, uses: &Uses) -> Option<Vec<String>> {
    let mut ways = vec![vec![module.clone()]];
    let mut seen = BTreeSet::new();
    while !ways.is_empty() {
        let mut longer = Vec::new();
        for way in ways {
            let last = way.last()?;
            for next in uses.get(last).into_iter().flatten() {
                let way = [way.as_slice(), std::slice::from_ref(next)].concat();
                if next == module {
                    return Some(way);
                }
                if seen.insert(next) {
                    longer.push(way);
                }
            }
        }
        ways = longer;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(files: &[(&str, &str)]) -> Vec<String> {
        let files = files.iter().map(|(name, text)| (module_of(name), (*text).to_owned())).collect();
        circles(&uses(&files)).into_iter().map(|circle| circle.join(" -> ")).collect()
    }

    #[test]
    fn a_circle_is_found_whatever_the_paths_look_like() {
        let a = ("a.rs", "use crate::{b::{B, C}, other};");
        assert_eq!(found(&[("lib.rs", ""), a, ("b.rs", "fn f(_: &crate::a::A) {}")]), ["a -> b -> a"]);
        assert_eq!(
            found(&[("lib.rs", ""), a, ("b.rs", "use super::c;"), ("c/mod.rs", "use super::a::A;")]),
            ["a -> b -> c -> a"]
        );
        assert_eq!(
            found(&[("x/a.rs", "use super::b::B;"), ("x/b.rs", "use super::super::x::a::A;")]),
            ["x::a -> x::b -> x::a"]
        );
        // A parent that names its child without a prefix.
        let x = ("x.rs", "pub(crate) mod a;\npub(crate) use a::{A, B};");
        assert_eq!(
            found(&[x, ("x/a.rs", "use crate::b::Time;"), ("b.rs", "use crate::x::A;")]),
            ["b -> x -> x::a -> b"]
        );
    }

    #[test]
    fn what_follows_a_test_counts() {
        let b = (
            "b.rs",
            "#[cfg(test)]\nmod tests { const A: &str = \"}\"; const B: char = '{'; }\nuse crate::a::A;",
        );
        assert_eq!(found(&[("lib.rs", ""), ("a.rs", "use crate::b::B;"), b]), ["a -> b -> a"]);
        let b = ("b.rs", "#[cfg(test)]\nuse crate::c::C;\nuse crate::a::A;");
        assert_eq!(found(&[("a.rs", "use crate::b::B;"), b, ("c.rs", "")]), ["a -> b -> a"]);
    }

    #[test]
    fn what_only_looks_like_a_circle_is_none() {
        let b = ("b.rs", "// crate::a::A\n#[cfg(test)]\nuse crate::a::A;");
        assert!(found(&[("a.rs", "use crate::b;"), b, ("lib.rs", "use crate::a::A;")]).is_empty());
        // A parent names its children and holds what they share.
        assert!(found(&[("a.rs", "mod b; use self::b::B;"), ("a/b.rs", "use super::Shared;")]).is_empty());
        assert!(found(&[("a.rs", "use other_crate::b;"), ("b.rs", "use crate::a;")]).is_empty());
    }
}
