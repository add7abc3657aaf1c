//! Rust as text, as far as the checks of this crate need it.

/// The text without the items that only tests have.
pub(crate) fn without_tests(text: &str) -> String {
    let mut kept = String::new();
    let mut rest = text;
    while let Some(at) = ["#[cfg(test)]", "#[cfg(all(test"].iter().filter_map(|start| rest.find(start)).min()
    {
        let (before, item) = rest.split_at(at);
        kept.push_str(before);
        rest = item.get(end_of_item(item)..).unwrap_or_default();
    }
    kept + rest
}

/// Where the item ends with which the text begins: behind its semicolon or its last brace. A string with a brace in it, as
/// `'{'` has, counts for nothing.
fn end_of_item(item: &str) -> usize {
    let (mut depth, mut quoted, mut before) = (0_usize, false, ' ');
    for (at, c) in item.char_indices() {
        let is_char = before == '\'' && item.get(at..).is_some_and(|rest| rest.chars().nth(1) == Some('\''));
        match c {
            '"' if before != '\\' && !is_char => quoted = !quoted,
            _ if quoted || is_char => {}
            '{' | '(' | '[' => depth = depth.saturating_add(1),
            '}' if depth == 1 => {
                let with_semicolon = item.get(at..).is_some_and(|rest| rest.starts_with("};"));
                return at.saturating_add(if with_semicolon { 2 } else { 1 });
            }
            '}' | ')' | ']' => depth = depth.saturating_sub(1),
            ';' if depth == 0 => return at.saturating_add(1),
            _ => {}
        }
        before = c;
    }
    item.len()
}

#[cfg(test)]
mod tests {
    use super::without_tests;

    #[test]
    fn only_the_items_of_tests_are_left_out() {
        assert_eq!(without_tests("a;\n#[cfg(test)]\nuse b::{c, d};\ne;"), "a;\n\ne;");
        assert_eq!(without_tests("#[cfg(all(test, unix))]\n#[path = \"x\"]\nmod tests;\ne;"), "\ne;");
        let tests =
            "mod tests { const A: &str = \"}\\\"}\"; const B: [char; 2] = ['{', '\"']; fn f() { {} } }";
        assert_eq!(without_tests(&format!("a;#[cfg(test)] {tests}e;")), "a;e;");
    }
}
