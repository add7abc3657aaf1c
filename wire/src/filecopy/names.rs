//! Which names and link targets a receiver accepts.

use super::code::Code;
use super::table::is_allowed;

/// Which characters a name may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum NameRules {
    /// Those of the table, see [`super::is_allowed`].
    #[default]
    Plain,
    /// Any byte but NUL and `/`.
    All,
}

/// Where a link may lead.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LinkRules {
    /// Below the entry's first component; `.` and empty components may be in between.
    #[default]
    Inside,
    /// The same, and written without `.` and without empty components.
    Canonical,
    /// Anywhere.
    Anywhere,
}

/// Why a name or a link is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Wrong {
    /// Empty, absolute, with a component that is empty, `.` or `..`, or with a `/` at its end.
    #[error("the path is empty, absolute, or has an empty component, \".\" or \"..\"")]
    Path,
    /// A character outside the table.
    #[error("the name has characters that not every receiver takes")]
    Character,
    /// A link in the top folder.
    #[error("a link must be inside a folder that is copied")]
    TopLink,
    /// A link that leads out of the copied folder.
    #[error("the link leads out of what is copied")]
    LeadsOut,
    /// A target that is not canonical, or has `..` behind other components.
    #[error("the link's target has \"..\" behind another component")]
    Roundabout,
}

impl Wrong {
    /// The code of the answer.
    pub const fn code(self) -> Code {
        match self {
            Self::Path | Self::Character => Code::NAME,
            Self::TopLink | Self::LeadsOut | Self::Roundabout => Code::LINK,
        }
    }
}

/// Whether every character is in the table: strict UTF-8 without control characters.
pub fn is_plain(name: &[u8]) -> bool {
    if name.iter().all(|byte| matches!(byte, 0x20..=0x7e)) {
        return true;
    }
    core::str::from_utf8(name).is_ok_and(|text| text.chars().all(is_allowed))
}

/// Checks the name of an entry.
///
/// # Errors
/// What is wrong with it.
pub fn check_name(name: &[u8], rules: NameRules) -> Result<(), Wrong> {
    let components = || name.split(|byte| *byte == b'/');
    if components().any(|part| matches!(part, b"" | b"." | b"..")) || name.contains(&0) {
        return Err(Wrong::Path);
    }
    if rules == NameRules::Plain && !is_plain(name) { Err(Wrong::Character) } else { Ok(()) }
}

/// Checks the target of the link `name`, which has passed [`check_name`].
///
/// # Errors
/// What is wrong with it.
pub fn check_link(name: &[u8], target: &[u8], names: NameRules, rules: LinkRules) -> Result<(), Wrong> {
    if rules == LinkRules::Anywhere {
        return Ok(());
    }
    // One component is the link's own name, and another one must remain above everything that the target reaches.
    let slashes = name.iter().filter(|byte| **byte == b'/').count();
    let Some(room) = slashes.checked_sub(1) else { return Err(Wrong::TopLink) };
    if target.starts_with(b"/") {
        return Err(Wrong::LeadsOut);
    }
    let canonical = rules == LinkRules::Canonical;
    if canonical && target.is_empty() {
        return Err(Wrong::Roundabout);
    }
    let body = target.strip_suffix(b"/").unwrap_or(target);
    let mut ups: usize = 0;
    let mut below = false;
    for part in body.split(|byte| *byte == b'/') {
        match part {
            b".." if below => return Err(Wrong::Roundabout),
            b".." => ups = ups.saturating_add(1),
            b"" | b"." if canonical => return Err(Wrong::Roundabout),
            b"" | b"." => {}
            _ => below = true,
        }
    }
    if ups > room {
        return Err(Wrong::LeadsOut);
    }
    if names == NameRules::Plain && !is_plain(target) { Err(Wrong::Character) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stay_below_their_folder() {
        let bad: &[&[u8]] =
            &[b"../x", b"/x", b"a/../b", b"a//b", b"./a", b"a/", b".", b"..", b"", b"a/.", b"a\0b"];
        for name in bad {
            assert_eq!(check_name(name, NameRules::All), Err(Wrong::Path), "{name:?}");
        }
        let good: &[&[u8]] =
            &[b"..x", b"...", b" ", b"-x", b"a\\b", b"~", b"a:b", "é/日本/Ж/€/①/→".as_bytes()];
        for name in good {
            assert_eq!(check_name(name, NameRules::Plain), Ok(()), "{name:?}");
        }
    }

    #[test]
    fn characters_outside_the_table_need_leave() {
        let bad: &[&[u8]] = &[
            b"a\nb",
            b"\x7f",
            b"\xff",
            b"\xc0\x80",
            b"\xed\xa0\x80",
            "e\u{301}".as_bytes(),
            "\u{1f600}".as_bytes(),
            "א".as_bytes(),
            "ก".as_bytes(),
            "\u{a0}".as_bytes(),
            "©".as_bytes(),
        ];
        for name in bad {
            assert_eq!(check_name(name, NameRules::Plain), Err(Wrong::Character), "{name:?}");
            assert_eq!(check_name(name, NameRules::All), Ok(()), "{name:?}");
        }
    }

    #[test]
    fn links_stay_inside_what_is_copied() {
        let check = |name: &str, target: &str| {
            check_link(name.as_bytes(), target.as_bytes(), NameRules::Plain, LinkRules::Inside)
        };
        for (name, target) in
            [("d/l", "f"), ("d/l", "./f"), ("d/l", "x//y/"), ("d/e/l", ".."), ("d/e/l", "../x"), ("d/l", "")]
        {
            assert_eq!(check(name, target), Ok(()), "{name} -> {target}");
        }
        assert_eq!(check("l", "f"), Err(Wrong::TopLink));
        for (name, target) in [("d/l", "/f"), ("d/l", ".."), ("d/e/l", "../../x"), ("d/e/l", "./../../x")] {
            assert_eq!(check(name, target), Err(Wrong::LeadsOut), "{name} -> {target}");
        }
        assert_eq!(check("d/e/l", "x/../y"), Err(Wrong::Roundabout));
        assert_eq!(check("d/l", "\u{1f600}"), Err(Wrong::Character));
        assert_eq!(check_link(b"l", b"/etc", NameRules::Plain, LinkRules::Anywhere), Ok(()));
    }

    #[test]
    fn the_older_rule_wants_canonical_targets() {
        for target in ["./f", "x//y", ".", ""] {
            let checked = check_link(b"d/l", target.as_bytes(), NameRules::Plain, LinkRules::Canonical);
            assert_eq!(checked, Err(Wrong::Roundabout), "{target}");
        }
        assert_eq!(check_link(b"d/l", b"x/y/", NameRules::Plain, LinkRules::Canonical), Ok(()));
    }
}
