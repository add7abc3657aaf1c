//! Which file names count, and which characters a service may have.

use crate::error::LineError;
use crate::lex::Word;

/// Characters of service names and arguments, `+` included.
pub(crate) fn is_service_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.' | '_')
}

/// Whether a file of this name in a policy folder is read at all.
pub(crate) fn is_policy_file(name: &str) -> bool {
    name.ends_with(".policy") && !name.starts_with('.')
}

/// Whether a policy file may be called so; one that may not makes every call be denied.
pub(crate) fn is_good_policy_name(name: &str) -> bool {
    name.chars().all(|c| c.is_ascii_digit() || c.is_ascii_lowercase() || matches!(c, '_' | '.' | '-'))
}

/// Whether a file of this name in the old folder is read: no leftovers of package managers and
/// editors, nothing hidden, nothing that no service could be called.
pub(crate) fn is_old_policy_file(name: &str) -> bool {
    let leftover = match name.rfind('.') {
        // A name that begins or ends with its only dot has no suffix.
        Some(dot) if dot > 0 => matches!(name.get(dot..), Some(".rpmsave" | ".rpmnew" | ".swp")),
        _ => false,
    };
    !leftover && !name.starts_with('.') && name.chars().all(is_service_char)
}

/// Service and argument columns, `None` for `*`.
pub(crate) fn service_and_argument<'a>(
    service: Word<'a>,
    argument: Word<'a>,
) -> Result<(Option<&'a str>, Option<&'a str>), LineError> {
    let name = (service.text != "*").then_some(service.text);
    if let Some(name) = name
        && let Some(bad) = name.chars().find(|&c| !is_service_char(c) || c == '+')
    {
        let advice = if bad == '+' {
            "the argument has a column of its own, after the service"
        } else {
            "a service is `*` or a name of letters, digits, `.`, `_` and `-`"
        };
        return Err(LineError::new(service.column, format!("service {name:?} has a {bad:?} in it"), advice));
    }
    if argument.text == "*" {
        return Ok((name, None));
    }
    let wrong = |problem, advice| Err(LineError::new(argument.column, problem, advice));
    if let Some(bad) = argument.text.chars().find(|&c| !is_service_char(c)) {
        return wrong(
            format!("argument {:?} has a {bad:?} in it", argument.text),
            "an argument is `*` or `+` and letters, digits, `.`, `_`, `-` and `+`",
        );
    }
    if !argument.text.starts_with('+') {
        return wrong(
            format!("argument {:?} does not begin with `+`", argument.text),
            "write `*` for any argument, `+` for none, `+NAME` for one",
        );
    }
    if name.is_none() {
        return wrong(
            format!("argument {:?} on a line for every service", argument.text),
            "with service `*` the argument must be `*` too",
        );
    }
    Ok((name, Some(argument.text)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_folder_leftovers_are_ignored() {
        for name in ["a.rpmsave", "a.rpmnew", ".a.swp", "a.swp", ".hidden", "a~", "a b", "é"] {
            assert!(!is_old_policy_file(name), "{name}");
        }
        for name in ["a", "a+b", "qubes.Filecopy", "a+b.c", "a."] {
            assert!(is_old_policy_file(name), "{name}");
        }
    }

    #[test]
    fn policy_names_are_lower_case() {
        assert!(is_good_policy_name("30-user_x.policy"));
        assert!(!is_good_policy_name("30-User.policy"));
        assert!(!is_policy_file(".a.policy"));
        assert!(!is_policy_file("a.policy.bak"));
    }
}
