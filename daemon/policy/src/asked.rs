//! The qubes of a call: who calls, and what it asks for.

use std::fmt;
use std::sync::Arc;

use crate::decision::Deny;
use crate::system::{Domain, SystemInfo};
use crate::token::{Place, Token, is_dom0};

/// A qube that is named in a call, looked up once.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Party<'a> {
    pub(crate) text: &'a str,
    pub(crate) dom0: bool,
    is_uuid: bool,
    pub(crate) domain: Option<&'a Domain>,
}

impl<'a> Party<'a> {
    pub(crate) fn new(system: &'a SystemInfo, text: &'a str) -> Self {
        Self { text, dom0: is_dom0(text), is_uuid: text.starts_with("uuid:"), domain: system.get(text) }
    }

    /// Whether a name or `uuid:…` of a rule means this qube.
    pub(crate) fn is(&self, system: &SystemInfo, name: &str) -> bool {
        match (name.strip_prefix("uuid:"), self.text.strip_prefix("uuid:")) {
            (Some(_), Some(_)) | (None, None) => name == self.text,
            (Some(uuid), None) => self.domain.and_then(|domain| domain.uuid.as_deref()) == Some(uuid),
            (None, Some(uuid)) => system.get(name).and_then(|domain| domain.uuid.as_deref()) == Some(uuid),
        }
    }

    /// Whether a token of the source column, or a plain one of the target column, means this qube.
    pub(crate) fn matches(&self, system: &SystemInfo, token: &Token) -> bool {
        match token {
            Token::Any => true,
            Token::AnyVm => !self.dom0,
            Token::AdminVm | Token::Dom0(_) => self.dom0,
            // The commonest case first: two names.
            Token::Name(name) if !self.is_uuid => **name == *self.text,
            Token::Name(name) | Token::Uuid(name) => self.is(system, name),
            Token::Tag(tag) => self.domain.is_some_and(|domain| domain.has_tag(tag)),
            Token::Type(kind) => self.domain.is_some_and(|domain| *domain.kind == **kind),
            // No call comes from a disposable that does not exist yet.
            Token::Default | Token::DispVm | Token::DispVmOf(_) | Token::DispVmTag(_) => false,
        }
    }
}

/// What a caller may ask for, and what a redirection may say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asked<'a> {
    /// `@adminvm`, as written so.
    Admin,
    Default,
    DispVm,
    /// `@dispvm:NAME`, NAME possibly `uuid:…`.
    Template(&'a str),
    /// A name or `uuid:…`, `dom0` too.
    Qube(&'a str),
}

impl<'a> Asked<'a> {
    /// A `target=` as a target; `None` for tokens that no redirection can have.
    pub(crate) fn redirected(token: &'a Token) -> Option<Self> {
        match token {
            Token::AdminVm => Some(Self::Admin),
            Token::DispVm => Some(Self::DispVm),
            Token::DispVmOf(name) => Some(Self::Template(name)),
            Token::Dom0(name) | Token::Uuid(name) | Token::Name(name) => Some(Self::Qube(name)),
            _ => None,
        }
    }

    /// The same if it exists; `@default` in place of an unknown qube.
    ///
    /// A template that is none denies the call.
    pub(crate) fn verify(self, system: &SystemInfo) -> Result<Self, Deny> {
        match self {
            Self::Qube(name) if system.get(name).is_none() => Ok(Self::Default),
            Self::Template(name) if !system.get(name).is_some_and(|domain| domain.template_for_dispvms) => {
                Err(Deny::bad_request(format!("{name:?} is no template for disposables")))
            }
            known => Ok(known),
        }
    }

    pub(crate) fn is_dom0(&self) -> bool {
        match self {
            Self::Admin => true,
            Self::Qube(name) => is_dom0(name),
            Self::Default | Self::DispVm | Self::Template(_) => false,
        }
    }
}

impl fmt::Display for Asked<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Admin => f.write_str("@adminvm"),
            Self::Default => f.write_str("@default"),
            Self::DispVm => f.write_str("@dispvm"),
            Self::Template(name) => write!(f, "@dispvm:{name}"),
            Self::Qube(name) => f.write_str(name),
        }
    }
}

/// Why a rule cannot be evaluated. Upstream's engine stops with an internal error there, so the
/// call is denied, whatever rules follow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fault(pub(crate) String);

/// The default template of the calling qube's disposables, if it has one.
pub(crate) fn default_template<'a>(source: &Party<'a>) -> Result<Option<&'a str>, Fault> {
    let Some(name) = source.domain.and_then(|domain| domain.default_dispvm.as_deref()) else {
        return Ok(None);
    };
    if name.is_empty() || name.starts_with('@') {
        return Err(Fault(format!("the default_dispvm of {:?} is {name:?}, which is no name", source.text)));
    }
    Ok(Some(name))
}

impl<'a> Asked<'a> {
    /// What a caller may ask for, `None` for everything else.
    pub(crate) fn read(text: &'a str) -> Option<Self> {
        // Only the kind of the token counts, so nothing has to be kept of its name.
        let token = Token::parse(text, Place::Asked, &mut |_| Arc::default()).ok()?;
        Some(match token {
            Token::AdminVm => Self::Admin,
            Token::Default => Self::Default,
            Token::DispVm => Self::DispVm,
            Token::DispVmOf(_) => Self::Template(text.strip_prefix("@dispvm:")?),
            _ => Self::Qube(text),
        })
    }
}

impl SystemInfo {
    /// Whether this, asked for as the target of a call, is a qube that is not there: the policy takes it for `@default`.
    pub fn lacks(&self, target: &str) -> bool {
        matches!(Asked::read(target), Some(Asked::Qube(name)) if self.get(name).is_none())
    }

    /// What whoever asks the policy should say in the log behind its decision about this target; nothing, as a rule.
    pub fn note_on(&self, target: &str) -> &'static str {
        if self.lacks(target) { " (no such qube, taken as @default)" } else { "" }
    }
}
