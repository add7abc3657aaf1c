//! The arguments of `qrexec-client-vm.exe`, in the forms of all releases.
//!
//! R3 took `TARGET|SERVICE|PROGRAM ARGS`, R4 takes `TARGET|SERVICE|USER|PROGRAM ARGS`, and R2 and this program `TARGET
//! SERVICE [PROGRAM ARGS]`. Arguments of the local program are kept unchanged, so they are read from the command line
//! of the process, and not from its separate arguments.

use wire::names::{NameError, ServiceName, Target};

/// What a caller asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// The target.
    pub target: Target,
    /// The service.
    pub service: ServiceName,
    /// On whose behalf the caller claims to ask.
    pub source: Option<Target>,
    /// The command line of the program that talks to the service; the caller's own streams if there is none.
    pub program: Option<String>,
}

/// Why the arguments are not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadWords {
    /// An argument is missing.
    #[error("usage: qrexec-client-vm [--source-qube=NAME] TARGET SERVICE [PROGRAM [ARGS]]")]
    Usage,
    /// An unknown option.
    #[error("no such option: {0}")]
    Option(String),
    /// The target is malformed.
    #[error("target {0:?}: {1}")]
    Target(String, NameError),
    /// The service name is malformed.
    #[error("service {0:?}: {1}")]
    Service(String, NameError),
}

impl Wanted {
    /// Reads the command line of a process, with its own name in front.
    ///
    /// # Errors
    /// The arguments are not accepted.
    pub fn parse(command_line: &str) -> Result<Self, BadWords> {
        let (_, rest) = word(command_line);
        let rest = rest.trim_start();
        // Some callers quote everything, so that it is one word.
        let one_word = Some(word(rest)).filter(|(_, behind)| behind.trim().is_empty()).map(|(word, _)| word);
        match bars(one_word.as_deref().unwrap_or(rest)) {
            Some((target, service, program)) => Self::new(target, service, None, program),
            None => Self::of_words(rest),
        }
    }

    fn of_words(mut rest: &str) -> Result<Self, BadWords> {
        let mut source = None;
        loop {
            let (next, behind) = word(rest);
            if next.is_empty() {
                return Err(BadWords::Usage);
            }
            if next == "--" {
                rest = behind;
                break;
            }
            let Some(option) = next.strip_prefix("--") else { break };
            let Some(name) = option.strip_prefix("source-qube=") else {
                return Err(BadWords::Option(next));
            };
            source = Some(Target::new(name).map_err(|why| BadWords::Target(name.to_owned(), why))?);
            rest = behind;
        }
        let (target, rest) = word(rest);
        let (service, rest) = word(rest);
        if service.is_empty() {
            return Err(BadWords::Usage);
        }
        Self::new(&target, &service, source, rest.trim_start())
    }

    fn new(target: &str, service: &str, source: Option<Target>, program: &str) -> Result<Self, BadWords> {
        let target = if target.is_empty() { Target::DEFAULT } else { target };
        let bad_service = |why| BadWords::Service(service.to_owned(), why);
        Ok(Self {
            source,
            program: Some(program).filter(|text| !text.is_empty()).map(str::to_owned),
            target: Target::new(target).map_err(|why| BadWords::Target(target.to_owned(), why))?,
            service: ServiceName::new(service).map_err(bad_service)?,
        })
    }
}

/// The form with bars: target, service, and the program's command line. The user is left out, because the program runs
/// as the caller in any case.
fn bars(text: &str) -> Option<(&str, &str, &str)> {
    let (target, rest) = text.split_once('|')?;
    let (service, rest) = rest.split_once('|')?;
    // Otherwise a bar among a program's arguments would be taken for this form.
    if target.contains([' ', '"']) || service.contains([' ', '"']) {
        return None;
    }
    let program = match rest.split_once('|') {
        Some((user, program)) if !user.contains([' ', '\\', '/', ':', '"', '.']) => program,
        _ => rest,
    };
    Some((target, service, program.trim_start()))
}

/// The first word as Windows' programs read it, and the rest unchanged.
///
/// Quotes group, a backslash counts only in front of a quote: the rules of `CommandLineToArgvW`.
fn word(text: &str) -> (String, &str) {
    let text = text.trim_start_matches([' ', '\t']);
    let (mut quoted, mut word, mut backslashes) = (false, String::new(), 0_usize);
    for (at, letter) in text.char_indices() {
        match letter {
            '\\' => {
                backslashes = backslashes.saturating_add(1);
                continue;
            }
            '"' => {
                word.extend(std::iter::repeat_n('\\', backslashes / 2));
                if backslashes % 2 == 1 {
                    word.push('"');
                } else {
                    quoted = !quoted;
                }
                backslashes = 0;
                continue;
            }
            _ => {
                word.extend(std::iter::repeat_n('\\', backslashes));
                backslashes = 0;
            }
        }
        if matches!(letter, ' ' | '\t') && !quoted {
            return (word, text.get(at..).unwrap_or_default());
        }
        word.push(letter);
    }
    word.extend(std::iter::repeat_n('\\', backslashes));
    (word, "")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> (String, String, Option<String>) {
        let wanted = Wanted::parse(text).unwrap();
        (wanted.target.to_string(), wanted.service.to_string(), wanted.program)
    }

    fn told(target: &str, service: &str, program: Option<&str>) -> (String, String, Option<String>) {
        (target.to_owned(), service.to_owned(), program.map(str::to_owned))
    }

    #[test]
    fn words_of_r2_and_ours() {
        assert_eq!(read("x.exe vault test.A"), told("vault", "test.A", None));
        assert_eq!(
            read(r#""c:\a b\x.exe"  vault test.A "c:\p q\a.exe" -x  "y z" "#),
            told("vault", "test.A", Some(r#""c:\p q\a.exe" -x  "y z" "#))
        );
        assert_eq!(read("x -- vault \"test.A+b\""), told("vault", "test.A+b", None));
        let wanted = Wanted::parse("x --source-qube=work vault test.A p").unwrap();
        assert_eq!(wanted.source, Some(Target::new("work").unwrap()));
        assert_eq!(wanted.program.as_deref(), Some("p"));
    }

    #[test]
    fn words_of_r3_and_r4() {
        assert_eq!(read("x.exe vault|test.A|c:\\a.exe b|c"), told("vault", "test.A", Some("c:\\a.exe b|c")));
        assert_eq!(
            read("x.exe vault|test.A|user|c:\\a.exe b|c"),
            told("vault", "test.A", Some("c:\\a.exe b|c"))
        );
        assert_eq!(
            read("\"c:\\q x\\x.exe\" |test.A||a.exe \"b c\""),
            told("@default", "test.A", Some("a.exe \"b c\""))
        );
        assert_eq!(read("x \"vault|test.A|user|a.exe b\""), told("vault", "test.A", Some("a.exe b")));
        assert_eq!(
            read(r#"x "vault|test.A|\"c:\p q\a.exe\" b""#),
            told("vault", "test.A", Some(r#""c:\p q\a.exe" b"#))
        );
    }

    #[test]
    fn a_bar_of_the_program_is_no_form() {
        assert_eq!(read("x vault test.A cmd /c a|b|c"), told("vault", "test.A", Some("cmd /c a|b|c")));
    }

    #[test]
    fn what_makes_no_sense() {
        assert_eq!(Wanted::parse("x"), Err(BadWords::Usage));
        assert_eq!(Wanted::parse("x vault"), Err(BadWords::Usage));
        assert_eq!(Wanted::parse("x --help"), Err(BadWords::Option("--help".to_owned())));
        assert!(matches!(Wanted::parse("x a/b test.A"), Err(BadWords::Target(..))));
        assert!(matches!(Wanted::parse("x vault a/b"), Err(BadWords::Service(..))));
        assert!(matches!(Wanted::parse("x vault|a b|c"), Err(BadWords::Target(..))));
    }

    #[test]
    fn backslashes_and_quotes() {
        assert_eq!(word(r#"a\\"b c"\" d"#), (r#"a\b c""#.to_owned(), " d"));
        assert_eq!(word(r"c:\x\ y"), (r"c:\x\".to_owned(), " y"));
        assert_eq!(word(r#""a b"#), ("a b".to_owned(), ""));
    }
}
