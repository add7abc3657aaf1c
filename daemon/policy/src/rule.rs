//! One line of policy, parsed.

use std::fmt;
use std::sync::Arc;

use crate::error::LineError;
use crate::lex::{Word, end_column};
use crate::names::service_and_argument;
use crate::token::{Place, Token};

/// What a matching line does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verb {
    /// Let the call through.
    Allow,
    /// Let the user decide.
    Ask,
    /// Refuse.
    Deny,
}

impl Verb {
    /// As written in a policy.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Ask => "ask",
            Self::Deny => "deny",
        }
    }
}

/// The action column and its parameters.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Action {
    /// What to do.
    pub verb: Verb,
    /// `target=`: where the call goes instead. Never for [`Verb::Deny`].
    pub target: Option<Token>,
    /// `default_target=`: what the question offers first. Only for [`Verb::Ask`].
    pub default_target: Option<Token>,
    /// `user=`: who runs the service; an empty one is none.
    pub user: Option<Arc<str>>,
    /// `notify=`: tell the user. Denials do unless told otherwise.
    pub notify: bool,
    /// `autostart=no` is false: only a target that already runs.
    pub autostart: bool,
}

/// One rule: a line of policy, or an implied one of the old format.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// The service, `None` for every one.
    pub service: Option<Arc<str>>,
    /// The argument with its `+`, `None` for every one.
    pub argument: Option<Arc<str>>,
    /// Third column.
    pub source: Token,
    /// Fourth column.
    pub target: Token,
    /// Fifth column and the parameters; rules of one policy that do the same share one.
    pub action: Arc<Action>,
    /// The file, as the loader names it.
    pub file: Arc<str>,
    /// The line from 1; `None` for a rule that no line says but the old format implies.
    pub line: Option<u32>,
}

/// What a rule applies to; in old files it comes from the file's name.
#[derive(Clone, Debug, Default)]
pub(crate) struct Scope {
    pub(crate) service: Option<Arc<str>>,
    pub(crate) argument: Option<Arc<str>>,
}

/// Makes one shared string of equal texts.
pub(crate) type Intern<'a> = &'a mut dyn FnMut(&str) -> Arc<str>;

const NEW_LINE: &str = "a line is `SERVICE ARGUMENT SOURCE TARGET ACTION [PARAMETER=VALUE …]`";
const OLD_LINE: &str = "a line is `SOURCE TARGET ACTION[,PARAMETER=VALUE…]`";

/// A line of a `policy.d` file.
pub(crate) fn parse_new(
    words: &[Word<'_>],
    file: &Arc<str>,
    line: u32,
    intern: Intern<'_>,
) -> Result<Rule, LineError> {
    let &[service, argument, ref rest @ ..] = words else {
        return Err(too_short(words, 5, NEW_LINE));
    };
    if rest.len() < 3 {
        return Err(too_short(words, 5, NEW_LINE));
    }
    let (service, argument) = service_and_argument(service, argument)?;
    let scope = Scope { service: service.map(&mut *intern), argument: argument.map(&mut *intern) };
    parse_old(rest, &scope, file, Some(line), intern)
}

/// A line of an old file, whose name gave the scope.
pub(crate) fn parse_old(
    words: &[Word<'_>],
    scope: &Scope,
    file: &Arc<str>,
    line: Option<u32>,
    intern: Intern<'_>,
) -> Result<Rule, LineError> {
    let &[source, target, verb, ref params @ ..] = words else {
        return Err(too_short(words, 3, OLD_LINE));
    };
    let rule = Rule {
        service: scope.service.clone(),
        argument: scope.argument.clone(),
        source: token(source, source.column, Place::Source, intern)?,
        target: token(target, target.column, Place::Target, intern)?,
        action: Arc::new(parse_action(verb, params, intern)?),
        file: file.clone(),
        line,
    };
    if rule.target == Token::Default && rule.action.verb == Verb::Allow && rule.action.target.is_none() {
        return Err(LineError::new(
            end_column(words),
            "a call to @default is allowed, but to which qube?",
            "add target=QUBE",
        ));
    }
    Ok(rule)
}

fn too_short(words: &[Word<'_>], wanted: usize, form: &str) -> LineError {
    let problem = format!("{} of at least {wanted} columns", words.len());
    LineError::new(end_column(words), problem, form)
}

fn token(word: Word<'_>, column: u32, place: Place, intern: Intern<'_>) -> Result<Token, LineError> {
    Token::parse(word.text, place, intern)
        .map_err(|(problem, advice)| LineError::new(column, problem, advice))
}

fn parse_action(verb: Word<'_>, params: &[Word<'_>], intern: Intern<'_>) -> Result<Action, LineError> {
    let verb = match verb.text {
        "allow" => Verb::Allow,
        "ask" => Verb::Ask,
        "deny" => Verb::Deny,
        other => {
            let problem = format!("{other:?} is no action");
            return Err(LineError::new(verb.column, problem, "write `allow`, `ask` or `deny`"));
        }
    };
    let mut action = Action {
        verb,
        target: None,
        default_target: None,
        user: None,
        notify: verb == Verb::Deny,
        autostart: true,
    };
    let mut seen: Vec<&str> = Vec::new();
    for param in params {
        let Some((key, value)) = param.text.split_once('=') else {
            let problem = format!("{:?} is no parameter", param.text);
            let advice = "parameters are `NAME=VALUE` without blanks";
            return Err(LineError::new(param.column, problem, advice));
        };
        if seen.contains(&key) {
            let problem = format!("{key}= is given twice");
            return Err(LineError::new(param.column, problem, "keep one of them"));
        }
        // Only known names get here twice, so this stays short.
        set_param(&mut action, key, value, param.column, intern)?;
        seen.push(key);
    }
    Ok(action)
}

fn set_param(
    action: &mut Action,
    key: &str,
    value: &str,
    column: u32,
    intern: Intern<'_>,
) -> Result<(), LineError> {
    let value_column = column.saturating_add(u32::try_from(key.len()).unwrap_or(u32::MAX)).saturating_add(1);
    let word = Word { text: value, column: value_column };
    match (key, action.verb) {
        ("notify", _) => action.notify = yes_or_no(key, word)?,
        ("autostart", Verb::Allow | Verb::Ask) => action.autostart = yes_or_no(key, word)?,
        ("user", Verb::Allow | Verb::Ask) => action.user = (!value.is_empty()).then(|| intern(value)),
        ("target", Verb::Allow | Verb::Ask) => {
            action.target = Some(token(word, value_column, Place::Redirect, intern)?);
        }
        ("default_target", Verb::Ask) => {
            action.default_target = Some(token(word, value_column, Place::Redirect, intern)?);
        }
        _ => {
            let verb = action.verb.as_str();
            let advice = match action.verb {
                Verb::Deny => "`deny` takes only notify=",
                Verb::Allow => "`allow` takes target=, user=, notify= and autostart=",
                Verb::Ask => "`ask` takes target=, default_target=, user=, notify= and autostart=",
            };
            return Err(LineError::new(column, format!("`{verb}` has no parameter {key:?}"), advice));
        }
    }
    Ok(())
}

fn yes_or_no(key: &str, value: Word<'_>) -> Result<bool, LineError> {
    match value.text {
        "yes" => Ok(true),
        "no" => Ok(false),
        other => {
            let problem = format!("{other:?} is neither yes nor no");
            Err(LineError::new(value.column, problem, format!("write {key}=yes or {key}=no")))
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.verb.as_str())?;
        if let Some(target) = &self.target {
            write!(f, " target={target}")?;
        }
        if let Some(target) = &self.default_target {
            write!(f, " default_target={target}")?;
        }
        if let Some(user) = &self.user {
            write!(f, " user={user}")?;
        }
        if self.notify != (self.verb == Verb::Deny) {
            write!(f, " notify={}", if self.notify { "yes" } else { "no" })?;
        }
        if !self.autostart {
            f.write_str(" autostart=no")?;
        }
        Ok(())
    }
}

/// As a line of a `policy.d` file, with single blanks.
impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let star = |text: &Option<Arc<str>>| text.clone().unwrap_or_else(|| Arc::from("*"));
        let (service, argument) = (star(&self.service), star(&self.argument));
        write!(f, "{service} {argument} {} {} {}", self.source, self.target, self.action)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lex::words;

    fn parse(line: &str) -> Result<String, (u32, String)> {
        let file: Arc<str> = Arc::from("f");
        parse_new(&words(line), &file, 1, &mut |s| Arc::from(s))
            .map(|rule| rule.to_string())
            .map_err(|error| (error.column, format!("{}; {}", error.problem, error.advice)))
    }

    #[test]
    fn good_lines_come_back_as_written() {
        for line in [
            "* * * * deny",
            "demo.Add +1 work vault allow",
            "demo.Add + @anyvm @default ask target=vault default_target=vault user=root notify=yes",
            "demo.Add * @tag:a @dispvm:@tag:b allow autostart=no",
            "demo.Add * @type:AppVM @adminvm deny notify=no",
        ] {
            assert_eq!(parse(line).as_deref(), Ok(line));
        }
        assert_eq!(parse("a * b c allow user= notify=no autostart=yes").as_deref(), Ok("a * b c allow"));
    }

    #[test]
    fn bad_lines_say_where_and_what_would_be_right() {
        let table = [
            ("a * b c", 8, "at least 5 columns"),
            ("a * b c alow", 9, "`allow`, `ask` or `deny`"),
            ("a x b c deny", 3, "write `*` for any"),
            ("* +x b c deny", 3, "must be `*` too"),
            ("a+b * b c deny", 1, "column of its own"),
            ("a * @default c deny", 5, "a source is"),
            ("a * b @foo deny", 7, "a target is"),
            ("a * b c allow target=@anyvm", 22, "one qube must be named"),
            ("a * b c allow target=", 22, "nothing stands"),
            ("a * b c allow target", 15, "NAME=VALUE"),
            ("a * b c allow user=x user=x", 22, "given twice"),
            ("a * b c allow default_target=x", 15, "no parameter"),
            ("a * b c deny user=x", 14, "only notify="),
            ("a * b c deny notify=maybe", 21, "notify=yes or notify=no"),
            ("a * b @default allow", 21, "add target="),
        ];
        for (line, column, text) in table {
            let (got, message) = parse(line).expect_err(line);
            assert_eq!(got, column, "{line}: {message}");
            assert!(message.contains(text), "{line}: {message}");
        }
    }
}
