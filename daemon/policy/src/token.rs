//! The words that name qubes: which there are, and where each may stand.

use std::fmt;
use std::sync::Arc;

/// The all-zero UUID is dom0's.
pub(crate) const ZERO_UUID: &str = "uuid:00000000-0000-0000-0000-000000000000";

/// `@adminvm`, `dom0` and the zero UUID are one thing.
pub(crate) fn is_dom0(text: &str) -> bool {
    matches!(text, "@adminvm" | "dom0") || text == ZERO_UUID
}

/// Where a token stands; not every token may stand everywhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// Third column.
    Source,
    /// Fourth column.
    Target,
    /// `target=` and `default_target=`.
    Redirect,
    /// What a caller asked for.
    Asked,
}

/// A token of a policy line.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Token {
    /// `*`: anything, dom0 too.
    Any,
    /// `@anyvm`: anything but dom0.
    AnyVm,
    /// `@adminvm`: dom0.
    AdminVm,
    /// `@default`: the caller named no target.
    Default,
    /// `@dispvm`: a new disposable of the caller's default template.
    DispVm,
    /// `@dispvm:NAME`: a new disposable of this template.
    DispVmOf(Arc<str>),
    /// `@dispvm:@tag:TAG`: a new disposable of a template with this tag.
    DispVmTag(Arc<str>),
    /// `@tag:TAG`: a qube with this tag.
    Tag(Arc<str>),
    /// `@type:TYPE`: a qube of this type.
    Type(Arc<str>),
    /// `dom0` or the all-zero UUID, as written.
    Dom0(Arc<str>),
    /// `uuid:…`, prefix included.
    Uuid(Arc<str>),
    /// The name of a qube.
    Name(Arc<str>),
}

impl Token {
    /// Reads a word that stands at `place`; on failure the problem and what would be right.
    pub(crate) fn parse(
        text: &str,
        place: Place,
        intern: &mut dyn FnMut(&str) -> Arc<str>,
    ) -> Result<Self, (String, String)> {
        let Some(token) = Self::read(text, intern) else {
            return Err(wrong(text, place));
        };
        if token.may_stand_at(place) { Ok(token) } else { Err(wrong(text, place)) }
    }

    fn read(text: &str, intern: &mut dyn FnMut(&str) -> Arc<str>) -> Option<Self> {
        match text {
            "" => return None,
            "*" => return Some(Self::Any),
            "@anyvm" => return Some(Self::AnyVm),
            "@adminvm" => return Some(Self::AdminVm),
            "@default" => return Some(Self::Default),
            "@dispvm" => return Some(Self::DispVm),
            _ => {}
        }
        if !text.starts_with('@') {
            return Some(match text {
                _ if is_dom0(text) => Self::Dom0(intern(text)),
                _ if text.starts_with("uuid:") => Self::Uuid(intern(text)),
                _ => Self::Name(intern(text)),
            });
        }
        let mut value = |prefix: &str| {
            let value = text.strip_prefix(prefix)?;
            (!value.is_empty() && !value.starts_with('@')).then(|| intern(value))
        };
        value("@type:")
            .map(Self::Type)
            .or_else(|| value("@tag:").map(Self::Tag))
            .or_else(|| value("@dispvm:@tag:").map(Self::DispVmTag))
            .or_else(|| value("@dispvm:").map(Self::DispVmOf))
    }

    fn may_stand_at(&self, place: Place) -> bool {
        match self {
            Self::Dom0(_) | Self::Uuid(_) | Self::Name(_) | Self::AdminVm | Self::DispVmOf(_) => true,
            Self::Any | Self::AnyVm | Self::DispVmTag(_) | Self::Tag(_) | Self::Type(_) => {
                matches!(place, Place::Source | Place::Target)
            }
            Self::Default => matches!(place, Place::Target | Place::Asked),
            Self::DispVm => place != Place::Source,
        }
    }

    /// Whether this is dom0 in one of its spellings.
    pub(crate) fn is_dom0(&self) -> bool {
        matches!(self, Self::AdminVm | Self::Dom0(_))
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("*"),
            Self::AnyVm => f.write_str("@anyvm"),
            Self::AdminVm => f.write_str("@adminvm"),
            Self::Default => f.write_str("@default"),
            Self::DispVm => f.write_str("@dispvm"),
            Self::DispVmOf(name) => write!(f, "@dispvm:{name}"),
            Self::DispVmTag(tag) => write!(f, "@dispvm:@tag:{tag}"),
            Self::Tag(tag) => write!(f, "@tag:{tag}"),
            Self::Type(kind) => write!(f, "@type:{kind}"),
            Self::Dom0(text) | Self::Uuid(text) | Self::Name(text) => f.write_str(text),
        }
    }
}

/// The problem with a word at its place, and what may stand there.
fn wrong(text: &str, place: Place) -> (String, String) {
    let (column, advice) = match place {
        Place::Source => (
            "as a source",
            "a source is a qube's name, `uuid:…`, `*`, `@anyvm`, `@adminvm`, `@tag:TAG`, `@type:TYPE`, \
             `@dispvm:NAME` or `@dispvm:@tag:TAG`",
        ),
        Place::Target => (
            "as a target",
            "a target is a qube's name, `uuid:…`, `*`, `@anyvm`, `@adminvm`, `@default`, `@dispvm`, \
             `@dispvm:NAME`, `@dispvm:@tag:TAG`, `@tag:TAG` or `@type:TYPE`",
        ),
        Place::Redirect => (
            "in target= or default_target=",
            "there one qube must be named: its name, `uuid:…`, `@adminvm`, `@dispvm` or `@dispvm:NAME`",
        ),
        Place::Asked => (
            "as the target of a call",
            "a call goes to a qube's name, `uuid:…`, `@adminvm`, `@default`, `@dispvm` or `@dispvm:NAME`",
        ),
    };
    let problem = match text {
        "" => format!("nothing stands {column}"),
        _ if text.ends_with(':') => format!("{text:?} {column} ends before its name"),
        _ => format!("{text:?} cannot stand {column}"),
    };
    (problem, advice.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str, place: Place) -> Option<String> {
        Token::parse(text, place, &mut |s| Arc::from(s)).ok().map(|token| token.to_string())
    }

    #[test]
    fn tokens_stand_where_they_may() {
        const S: u8 = 1;
        const T: u8 = 2;
        const R: u8 = 4;
        const A: u8 = 8;
        let table: &[(&str, u8)] = &[
            ("work", S | T | R | A),
            ("uuid:x", S | T | R | A),
            ("dom0", S | T | R | A),
            (ZERO_UUID, S | T | R | A),
            ("*", S | T),
            ("@anyvm", S | T),
            ("@adminvm", S | T | R | A),
            ("@default", T | A),
            ("@dispvm", T | R | A),
            ("@dispvm:x", S | T | R | A),
            ("@dispvm:@tag:x", S | T),
            ("@tag:x", S | T),
            ("@type:x", S | T),
            ("", 0),
            ("@", 0),
            ("@foo", 0),
            ("@tag:", 0),
            ("@tag:@x", 0),
            ("@type:", 0),
            ("@dispvm:", 0),
            ("@dispvm:@tag:", 0),
            ("@dispvm:@tag:@x", 0),
            ("@dispvm:@dispvm", 0),
            ("@anyvmx", 0),
        ];
        for (text, places) in table {
            for (bit, place) in
                [(S, Place::Source), (T, Place::Target), (R, Place::Redirect), (A, Place::Asked)]
            {
                let want = (places & bit != 0).then(|| (*text).to_owned());
                assert_eq!(parse(text, place), want, "{text:?} at {place:?}");
            }
        }
    }
}
