//! The code of a Rust file as text, as far as the checks of this crate need it.

use std::ops::Range;

use proc_macro2::{Delimiter, Spacing, TokenStream, TokenTree};

/// The text without the items that only tests have. What is no Rust stays as it is.
pub(crate) fn without_tests(text: &str) -> String {
    let mut tests = Vec::new();
    if let Ok(tokens) = text.parse() {
        find_tests(tokens, &mut tests);
    }
    let mut kept = String::new();
    let mut from = 0;
    for Range { start, end } in tests {
        kept.push_str(text.get(from..start).unwrap_or_default());
        from = end;
    }
    kept + text.get(from..).unwrap_or_default()
}

/// Where items behind `#[cfg(test)]` or `#[cfg(all(test, …))]` are in the text, in bytes and in order.
fn find_tests(tokens: TokenStream, found: &mut Vec<Range<usize>>) {
    let tokens: Vec<TokenTree> = tokens.into_iter().collect();
    let mut rest = tokens.as_slice();
    while let [first, behind @ ..] = rest {
        if is_for_tests(rest) {
            let item = rest.get(..item_len(rest)).unwrap_or(rest);
            let end = item.last().map_or(0, |last| last.span().byte_range().end);
            found.push(first.span().byte_range().start..end);
            rest = rest.get(item.len()..).unwrap_or_default();
            continue;
        }
        if let TokenTree::Group(group) = first {
            find_tests(group.stream(), found);
        }
        rest = behind;
    }
}

fn is_for_tests(tokens: &[TokenTree]) -> bool {
    let [TokenTree::Punct(mark), TokenTree::Group(attribute), ..] = tokens else { return false };
    let words: String = attribute.stream().to_string().split_whitespace().collect();
    mark.as_char() == '#' && (words.starts_with("cfg(test)") || words.starts_with("cfg(all(test"))
}

/// Tokens of the item at the beginning: to its semicolon, or its braces and a semicolon behind them.
fn item_len(tokens: &[TokenTree]) -> usize {
    let is_semicolon = |token: &TokenTree| matches!(token, TokenTree::Punct(mark) if mark.as_char() == ';' && mark.spacing() == Spacing::Alone);
    let is_end = |token: &TokenTree| {
        is_semicolon(token)
            || matches!(token, TokenTree::Group(group) if group.delimiter() == Delimiter::Brace)
    };
    let Some(last) = tokens.iter().position(is_end) else { return tokens.len() };
    let with_last = last.saturating_add(1);
    let is_followed = tokens.get(last).is_some_and(|token| !is_semicolon(token))
        && tokens.get(with_last).is_some_and(is_semicolon);
    if is_followed { with_last.saturating_add(1) } else { with_last }
}

#[cfg(test)]
mod tests {
    use super::without_tests;

    #[test]
    fn only_the_items_of_tests_are_left_out() {
        assert_eq!(without_tests("a;\n#[cfg(test)]\nuse b::{c, d};\ne;"), "a;\n\ne;");
        assert_eq!(without_tests("#[cfg(all(test, unix))]\n#[path = \"x\"]\nmod tests;\ne;"), "\ne;");
        let tests = r##"mod tests { const A: &str = "}\\"; const B: [char; 2] = ['{', '"']; const C: &str = r#""}"#; fn f() { {} } }"##;
        assert_eq!(without_tests(&format!("a;#[cfg(test)] {tests}e;")), "a;e;");
        assert_eq!(
            without_tests("mod m { #[cfg(test)] fn f<A, B>() {} e; } // #[cfg(test)]"),
            "mod m {  e; } // #[cfg(test)]"
        );
    }

    #[test]
    fn what_looks_like_one_is_none() {
        for text in
            ["#[cfg(not(test))] fn f() {}", "const A: &str = \"#[cfg(test)]\";", "#[test] fn f() {}", "{"]
        {
            assert_eq!(without_tests(text), text);
        }
    }
}
