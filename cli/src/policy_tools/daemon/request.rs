//! What comes in on the sockets: questions as lines, and the services that evaluate.

use crate::policy_tools::judge::Question;

/// A request has fewer bytes than this: a service name of 65,000 and a little.
pub(crate) const MAX_REQUEST: usize = 72 * 1024;
/// What a caller of the evaluating services may send after the service descriptor.
const MAX_EVALUATED: usize = 96;

/// Why what came in is no question.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadRequest {
    /// More bytes than any question has.
    #[error("the request is too long")]
    TooLong,
    /// The last line is not complete.
    #[error("the request ends within a line")]
    WithinLine,
    /// It is not ASCII.
    #[error("the request is no plain text")]
    NotText,
    /// A line without a value.
    #[error("a line of the request has no `=`")]
    NoValue,
    /// A key that was there before.
    #[error("{0:?} is there twice")]
    Twice(String),
    /// A flag with another value.
    #[error("{0} is neither yes nor no")]
    Flag(String),
    /// Nobody knows the key.
    #[error("{0:?} is no key of a request")]
    Key(String),
    /// A key that each request has.
    #[error("{0} is missing")]
    Missing(&'static str),
    /// A call of an evaluating service ended before it said whose call it is.
    #[error("the request has no service descriptor")]
    NoDescriptor,
    /// More input than an evaluating service takes.
    #[error("the input is too long")]
    InputTooLong,
    /// The descriptor or the input is not UTF-8.
    #[error("not plain text")]
    NotPlain,
    /// The descriptor has one word.
    #[error("no caller is named")]
    NoCaller,
    /// The argument is no service.
    #[error("{0:?} does not name a service to evaluate")]
    NoService(String),
    /// The input has one part.
    #[error("not SOURCE, NUL and TARGET")]
    NotTwo,
    /// No qube has such a name.
    #[error("{0:?} is no qube")]
    NoQube(String),
}

/// What the bytes so far amount to.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Heard {
    /// More is needed.
    Incomplete,
    /// A question.
    Question(Question),
    /// Not a question, for this reason.
    Nonsense(BadRequest),
}

/// Lines of `key=value` up to an empty line. The end of the input is as good as that.
pub(crate) fn lines(bytes: &[u8], ended: bool) -> Heard {
    let end = if bytes.starts_with(b"\n") { Some(0) } else { find(bytes, b"\n\n") };
    let content = match end {
        Some(end) => bytes.get(..end).unwrap_or_default(),
        None if bytes.len() >= MAX_REQUEST => return Heard::Nonsense(BadRequest::TooLong),
        None if !ended => return Heard::Incomplete,
        None => match bytes.strip_suffix(b"\n") {
            Some(content) => content,
            None => return Heard::Nonsense(BadRequest::WithinLine),
        },
    };
    parse(content).map_or_else(Heard::Nonsense, Heard::Question)
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}

fn parse(content: &[u8]) -> Result<Question, BadRequest> {
    let text = std::str::from_utf8(content).ok().filter(|text| text.is_ascii());
    let text = text.ok_or(BadRequest::NotText)?;
    let mut seen: Vec<&str> = Vec::new();
    let mut question = Question::default();
    for line in text.lines() {
        let (key, value) = line.split_once('=').ok_or(BadRequest::NoValue)?;
        if seen.contains(&key) {
            return Err(BadRequest::Twice(key.to_owned()));
        }
        seen.push(key);
        let flag = || match value {
            "yes" => Ok(true),
            "no" => Ok(false),
            _ => Err(BadRequest::Flag(key.to_owned())),
        };
        match key {
            "source" => question.source = value.to_owned(),
            "intended_target" => question.target = value.to_owned(),
            "service_and_arg" => question.service = value.to_owned(),
            "requested_source" => question.requested_source = Some(value.to_owned()),
            "assume_yes_for_ask" => question.assume_yes = flag()?,
            "just_evaluate" => question.just_evaluate = flag()?,
            // R4.1 sent these and made no use of them.
            "domain_id" | "process_ident" => {}
            _ => return Err(BadRequest::Key(key.to_owned())),
        }
    }
    match ["source", "intended_target", "service_and_arg"].into_iter().find(|key| !seen.contains(key)) {
        Some(missing) => Err(BadRequest::Missing(missing)),
        None => Ok(question),
    }
}

/// A question to an evaluating service, and who asks it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Evaluation {
    /// The question, with everything assumed that makes an answer possible.
    pub(crate) question: Question,
    /// Who called the service.
    pub(crate) caller: String,
}

/// `NAME+SERVICE caller …\0SOURCE\0TARGET` up to the end of the input; `None` while more is needed.
pub(crate) fn evaluation(bytes: &[u8], ended: bool, name: &str) -> Option<Result<Evaluation, BadRequest>> {
    let (descriptor, rest) = match find(bytes, b"\0") {
        Some(end) => (bytes.get(..end)?, bytes.get(end.saturating_add(1)..)?),
        None if bytes.len() >= MAX_REQUEST => return Some(Err(BadRequest::TooLong)),
        None if ended => return Some(Err(BadRequest::NoDescriptor)),
        None => return None,
    };
    if rest.len() > MAX_EVALUATED {
        return Some(Err(BadRequest::InputTooLong));
    }
    ended.then(|| evaluate(descriptor, rest, name))
}

fn evaluate(descriptor: &[u8], rest: &[u8], name: &str) -> Result<Evaluation, BadRequest> {
    let text = |bytes| std::str::from_utf8(bytes).map_err(|_| BadRequest::NotPlain);
    let mut words = text(descriptor)?.split(' ');
    let called = words.next().unwrap_or_default();
    let caller = words.next().filter(|caller| !caller.is_empty()).ok_or(BadRequest::NoCaller)?;
    let service = match called.split_once('+') {
        Some((own, service)) if own == name && !service.is_empty() && !service.starts_with('+') => service,
        _ => return Err(BadRequest::NoService(called.to_owned())),
    };
    let (source, target) = text(rest)?.split_once('\0').ok_or(BadRequest::NotTwo)?;
    for (qube, most) in [(source, 31), (target, 63)] {
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '@' | '_' | '-' | '.');
        if qube.is_empty() || qube.len() > most || !qube.chars().all(plain) {
            return Err(BadRequest::NoQube(qube.to_owned()));
        }
    }
    let question = Question {
        source: source.to_owned(),
        target: target.to_owned(),
        service: service.to_owned(),
        requested_source: None,
        assume_yes: true,
        just_evaluate: true,
    };
    Ok(Evaluation { question, caller: caller.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINES: &str = "source=work\nintended_target=\nservice_and_arg=demo.Add+1\n";

    fn nonsense(text: &str) -> bool {
        matches!(lines(text.as_bytes(), true), Heard::Nonsense(_))
    }

    #[test]
    fn requests_of_every_age_are_understood() {
        for more in ["", "domain_id=3\nprocess_ident=x\n", "requested_source=\njust_evaluate=no\n"] {
            let text = format!("{LINES}{more}\n");
            let Heard::Question(question) = lines(text.as_bytes(), false) else { panic!("{text}") };
            assert_eq!((question.source.as_str(), question.target.as_str()), ("work", ""));
            assert_eq!(question.service, "demo.Add+1");
            assert_eq!(lines(LINES.as_bytes(), false), Heard::Incomplete);
        }
        assert!(matches!(lines(LINES.as_bytes(), true), Heard::Question(_)));
        let text = format!("{LINES}just_evaluate=yes\nassume_yes_for_ask=yes\n\nrest");
        let Heard::Question(question) = lines(text.as_bytes(), false) else { panic!("{text}") };
        assert!(question.just_evaluate && question.assume_yes);
    }

    #[test]
    fn everything_else_is_nonsense() {
        for more in ["source=x\n", "colour=red\n", "just_evaluate=maybe\n", "word\n", "é=x\n", "x"] {
            assert!(nonsense(&format!("{LINES}{more}")), "{more}");
        }
        assert!(nonsense("") && nonsense("\n\n") && nonsense("source=x\nservice_and_arg=y\n"));
        assert!(matches!(lines(&[b'x'; MAX_REQUEST], false), Heard::Nonsense(_)));
    }

    #[test]
    fn evaluations_name_service_source_and_target() {
        let ask = |text: &str| evaluation(text.as_bytes(), true, "policy.EvalSimple");
        let good = ask("policy.EvalSimple+demo.Add+1 gui name dom0\0work\0vault").unwrap().unwrap();
        assert_eq!((good.caller.as_str(), good.question.service.as_str()), ("gui", "demo.Add+1"));
        assert_eq!((good.question.source.as_str(), good.question.target.as_str()), ("work", "vault"));
        for bad in [
            "policy.EvalSimple gui\0work\0vault",
            "policy.EvalSimple+ gui\0work\0vault",
            "policy.EvalGUI+x gui\0work\0vault",
            "policy.EvalSimple+x gui\0work",
            "policy.EvalSimple+x gui\0\0vault",
            "policy.EvalSimple+x gui\0wo rk\0vault",
            "policy.EvalSimple+x",
        ] {
            assert!(ask(bad).unwrap().is_err(), "{bad:?}");
        }
        assert!(evaluation(b"policy.EvalSimple+x gui\0work", false, "policy.EvalSimple").is_none());
    }
}
