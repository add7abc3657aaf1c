//! Marks: twelve bits of a hash of each column, so that a rule can be passed over without a look at it.
//!
//! A call is turned into the set of marks of all words that mean its qubes, once; whether a column may match
//! is then one bit. Different words may share a mark, so the rule itself has the last word; but a word that
//! matches always has its mark in the set.

use crate::asked::{Asked, Party, default_template};
use crate::request::Call;
use crate::system::{Domain, SystemInfo};
use crate::token::{Token, ZERO_UUID};

/// Of one word at one kind of place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mark(u16);

/// Marks that there are: a set of them has 512 bytes.
pub(crate) const MARKS: usize = 4096;
/// Words of bits in a set.
pub(crate) const WORDS: usize = MARKS / 64;
/// The last of them are for what stands behind `@dispvm:`.
const TEMPLATES: usize = 1024;

/// What a text means depends on where it stands.
#[derive(Clone, Copy, Debug)]
enum Class {
    Keyword,
    Name,
    /// Without `uuid:`.
    Uuid,
    Tag,
    Type,
    /// `@dispvm:NAME`.
    Template,
    /// `@dispvm:uuid:…`, without both prefixes.
    TemplateUuid,
    /// `@dispvm:@tag:…`.
    TemplateTag,
    Argument,
}

impl Mark {
    fn new(class: Class, text: &str) -> Self {
        // FNV-1a, its upper bits folded into those that count.
        let bytes = [class as u8].into_iter().chain(text.bytes());
        let hash =
            bytes.fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
        let folded = hash ^ (hash >> 12) ^ (hash >> 24);
        let (first, count) = match class {
            Class::Template | Class::TemplateUuid | Class::TemplateTag => (MARKS - TEMPLATES, TEMPLATES),
            _ => (0, MARKS - TEMPLATES),
        };
        Self((first as u32 + folded % count as u32) as u16)
    }

    pub(crate) fn number(self) -> usize {
        usize::from(self.0)
    }

    fn keyword(text: &str) -> Self {
        Self::new(Class::Keyword, text)
    }

    /// Of a token in a source or target column, or of a `target=`.
    pub(crate) fn of_token(token: &Token) -> Self {
        match token {
            Token::Any => Self::keyword("*"),
            Token::AnyVm => Self::keyword("@anyvm"),
            Token::AdminVm => Self::keyword("@adminvm"),
            Token::Default => Self::keyword("@default"),
            Token::DispVm => Self::keyword("@dispvm"),
            Token::Tag(tag) => Self::new(Class::Tag, tag),
            Token::Type(kind) => Self::new(Class::Type, kind),
            Token::DispVmTag(tag) => Self::new(Class::TemplateTag, tag),
            Token::Dom0(text) | Token::Uuid(text) | Token::Name(text) => Self::of_qube(text, QUBE),
            Token::DispVmOf(text) => Self::of_qube(text, TEMPLATE),
        }
    }

    /// Of an argument column.
    pub(crate) fn of_argument(argument: Option<&str>) -> Self {
        argument.map_or_else(|| Self::keyword("*"), |argument| Self::new(Class::Argument, argument))
    }

    fn of_qube(text: &str, [name, uuid]: [Class; 2]) -> Self {
        match text.strip_prefix("uuid:") {
            Some(bare) => Self::new(uuid, bare),
            None => Self::new(name, text),
        }
    }
}

/// The classes of a name and of a UUID.
const QUBE: [Class; 2] = [Class::Name, Class::Uuid];
/// The same behind `@dispvm:`.
const TEMPLATE: [Class; 2] = [Class::Template, Class::TemplateUuid];

/// A set of marks.
#[derive(Clone, Debug)]
pub(crate) struct Marks {
    bits: [u64; WORDS],
}

impl Marks {
    /// Of the argument columns that match.
    pub(crate) fn of_argument(call: &Call<'_>) -> Self {
        let mut marks = Self::none();
        marks.extend([Mark::of_argument(None), Mark::of_argument(Some(call.argument))]);
        marks
    }

    /// Of the source columns that match the caller.
    pub(crate) fn of_source(call: &Call<'_>) -> Self {
        let mut marks = Self::none();
        marks.party(&call.source, call.system);
        marks
    }

    /// Of the target columns that match what was asked for.
    pub(crate) fn of_target(call: &Call<'_>) -> Self {
        let mut marks = Self::none();
        marks.insert(Mark::keyword("*"));
        match call.asked {
            Asked::Admin => marks.dom0(),
            Asked::Default => marks.extend(["@anyvm", "@default"].map(Mark::keyword)),
            Asked::DispVm => {
                marks.extend(["@anyvm", "@dispvm"].map(Mark::keyword));
                marks.default_disposable(call);
            }
            Asked::Template(name) => {
                marks.insert(Mark::keyword("@anyvm"));
                let template = Party::new(call.system, name);
                marks.qube(&template, call.system, TEMPLATE);
                marks.tags(template.domain, Class::TemplateTag);
            }
            Asked::Qube(name) => {
                marks.party(&call.target.unwrap_or_else(|| Party::new(call.system, name)), call.system);
            }
        }
        marks
    }

    fn none() -> Self {
        Self { bits: [0; WORDS] }
    }

    pub(crate) fn all() -> Self {
        Self { bits: [u64::MAX; WORDS] }
    }

    /// All that may stand behind `@dispvm:`.
    fn templates(&mut self) {
        self.bits.iter_mut().skip((MARKS - TEMPLATES) / 64).for_each(|bits| *bits = u64::MAX);
    }

    /// The set as bits.
    pub(crate) fn words(&self) -> &[u64; WORDS] {
        &self.bits
    }

    /// Whether a mark is in it.
    pub(crate) fn contains(&self, Mark(mark): Mark) -> bool {
        self.bits.get(usize::from(mark / 64)).is_some_and(|bits| bits & (1 << (mark % 64)) != 0)
    }

    fn insert(&mut self, Mark(mark): Mark) {
        if let Some(bits) = self.bits.get_mut(usize::from(mark / 64)) {
            *bits |= 1 << (mark % 64);
        }
    }

    fn extend(&mut self, marks: impl IntoIterator<Item = Mark>) {
        marks.into_iter().for_each(|mark| self.insert(mark));
    }

    /// Everything that may mean a qube.
    fn party(&mut self, party: &Party<'_>, system: &SystemInfo) {
        self.insert(Mark::keyword("*"));
        if party.dom0 {
            self.dom0();
        } else {
            self.insert(Mark::keyword("@anyvm"));
        }
        self.qube(party, system, QUBE);
        self.tags(party.domain, Class::Tag);
        self.extend(party.domain.map(|domain| Mark::new(Class::Type, &domain.kind)));
    }

    fn dom0(&mut self) {
        self.extend([Mark::keyword("@adminvm"), Mark::of_qube("dom0", QUBE), Mark::of_qube(ZERO_UUID, QUBE)]);
    }

    /// The names and UUIDs by which a qube may be called: its own text, and the other kind of it.
    fn qube(&mut self, party: &Party<'_>, system: &SystemInfo, classes: [Class; 2]) {
        let [name, uuid] = classes;
        self.insert(Mark::of_qube(party.text, classes));
        match party.text.strip_prefix("uuid:") {
            None => {
                let own = party.domain.and_then(|domain| domain.uuid.as_deref());
                self.extend(own.map(|own| Mark::new(uuid, own)));
            }
            Some(bare) => {
                // Nothing keeps a system from giving one UUID to many.
                let owners = system.domains().iter().filter(|domain| domain.uuid.as_deref() == Some(bare));
                self.extend(owners.map(|domain| Mark::new(name, &domain.name)));
            }
        }
    }

    fn tags(&mut self, domain: Option<&Domain>, class: Class) {
        let tags = domain.map(|domain| domain.tags.as_slice()).unwrap_or_default();
        self.extend(tags.iter().map(|tag| Mark::new(class, tag)));
    }

    /// A new disposable of the caller's default template. Where that is not known, rules for disposables of a
    /// template cannot be evaluated, and any of them may have to say so.
    fn default_disposable(&mut self, call: &Call<'_>) {
        let default = default_template(&call.source).ok().flatten();
        match default.and_then(|template| Some((template, call.system.get(template)?))) {
            Some((template, domain)) => {
                self.insert(Mark::of_qube(template, TEMPLATE));
                self.tags(Some(domain), Class::TemplateTag);
            }
            None => self.templates(),
        }
    }
}
