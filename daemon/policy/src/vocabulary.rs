//! The words of a policy, numbered, so that a rule can be passed over by comparing numbers.
//!
//! A call is turned into the set of words that mean its qubes, once; whether a column may match is then
//! one bit. The set may be too large, never too small: the rule itself has the last word.

use std::collections::HashMap;
use std::sync::Arc;

use crate::matching::{Asked, Party, default_template};
use crate::request::Call;
use crate::system::{Domain, SystemInfo};
use crate::token::{Token, ZERO_UUID};

/// The number of a word. Equal words have one number, different ones never do.
pub(crate) type Id = u32;

/// `*`, also for arguments.
pub(crate) const ANY: Id = 0;
const ANY_VM: Id = 1;
const ADMIN_VM: Id = 2;
const DEFAULT: Id = 3;
const DISP_VM: Id = 4;
/// The first number that is not a keyword's.
const FIRST: Id = 5;
/// A word that no rule has.
const UNKNOWN: Id = Id::MAX;

/// What a text means depends on where it stands.
#[derive(Clone, Copy, Debug)]
enum Class {
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

const CLASSES: usize = Class::Argument as usize + 1;

/// All words of a policy.
#[derive(Clone, Debug, Default)]
pub(crate) struct Vocabulary {
    words: [HashMap<Arc<str>, Id>; CLASSES],
    count: Id,
}

impl Vocabulary {
    /// The number of a token, a new one if need be.
    pub(crate) fn token(&mut self, token: &Token) -> Id {
        match token {
            Token::Any => ANY,
            Token::AnyVm => ANY_VM,
            Token::AdminVm => ADMIN_VM,
            Token::Default => DEFAULT,
            Token::DispVm => DISP_VM,
            Token::Tag(tag) => self.add(Class::Tag, tag),
            Token::Type(kind) => self.add(Class::Type, kind),
            Token::DispVmTag(tag) => self.add(Class::TemplateTag, tag),
            Token::Dom0(text) | Token::Uuid(text) | Token::Name(text) => {
                self.add_qube(text, Class::Name, Class::Uuid)
            }
            Token::DispVmOf(text) => self.add_qube(text, Class::Template, Class::TemplateUuid),
        }
    }

    /// The number of an argument column.
    pub(crate) fn argument(&mut self, argument: Option<&Arc<str>>) -> Id {
        argument.map_or(ANY, |argument| self.add(Class::Argument, argument))
    }

    /// The number that the argument of a call has if a rule names it.
    pub(crate) fn argument_of(&self, call: &Call<'_>) -> Id {
        self.find(Class::Argument, call.argument).unwrap_or(UNKNOWN)
    }

    fn add_qube(&mut self, text: &Arc<str>, name: Class, uuid: Class) -> Id {
        match text.strip_prefix("uuid:") {
            Some(bare) => self.add(uuid, &bare.into()),
            None => self.add(name, text),
        }
    }

    fn add(&mut self, class: Class, text: &Arc<str>) -> Id {
        let next = self.count.saturating_add(FIRST);
        let Some(words) = self.words.get_mut(class as usize) else { return UNKNOWN };
        if let Some(&known) = words.get(text) {
            return known;
        }
        words.insert(text.clone(), next);
        self.count = self.count.saturating_add(1);
        next
    }

    fn find(&self, class: Class, text: &str) -> Option<Id> {
        self.words.get(class as usize)?.get(text).copied()
    }

    /// The words of a source column that may mean the caller.
    pub(crate) fn sources(&self, call: &Call<'_>) -> Words {
        let mut words = Words::of(self);
        self.party(&call.source, call.system, &mut words);
        words
    }

    /// The words of a target column that may mean what was asked for.
    pub(crate) fn targets(&self, call: &Call<'_>) -> Words {
        let mut words = Words::of(self);
        words.insert(ANY);
        match call.asked {
            Asked::Admin => self.dom0(&mut words),
            Asked::Default => {
                words.extend([ANY_VM, DEFAULT]);
            }
            Asked::DispVm => {
                words.extend([ANY_VM, DISP_VM]);
                self.default_disposable(call, &mut words);
            }
            Asked::Template(name) => {
                words.insert(ANY_VM);
                let template = Party::new(call.system, name);
                self.qube(&template, call.system, [Class::Template, Class::TemplateUuid], &mut words);
                self.tags(template.domain, Class::TemplateTag, &mut words);
            }
            Asked::Qube(name) => {
                let party = call.target.unwrap_or_else(|| Party::new(call.system, name));
                self.party(&party, call.system, &mut words);
            }
        }
        words
    }

    /// The words that may mean a qube.
    fn party(&self, party: &Party<'_>, system: &SystemInfo, words: &mut Words) {
        words.insert(ANY);
        if party.dom0 {
            self.dom0(words);
        } else {
            words.insert(ANY_VM);
        }
        self.qube(party, system, [Class::Name, Class::Uuid], words);
        self.tags(party.domain, Class::Tag, words);
        let kind = party.domain.and_then(|domain| self.find(Class::Type, &domain.kind));
        words.extend(kind);
    }

    fn dom0(&self, words: &mut Words) {
        let zeros = ZERO_UUID.strip_prefix("uuid:").and_then(|bare| self.find(Class::Uuid, bare));
        words.extend([ADMIN_VM]);
        words.extend(self.find(Class::Name, "dom0"));
        words.extend(zeros);
    }

    /// The names and UUIDs by which a qube may be called: its own text, and the other kind of it.
    fn qube(&self, party: &Party<'_>, system: &SystemInfo, [name, uuid]: [Class; 2], words: &mut Words) {
        match party.text.strip_prefix("uuid:") {
            None => {
                words.extend(self.find(name, party.text));
                let own = party.domain.and_then(|domain| domain.uuid.as_deref());
                words.extend(own.and_then(|own| self.find(uuid, own)));
            }
            Some(bare) => {
                words.extend(self.find(uuid, bare));
                // Nothing keeps a system from giving one UUID to many.
                let owners = system.domains().iter().filter(|domain| domain.uuid.as_deref() == Some(bare));
                words.extend(owners.filter_map(|domain| self.find(name, &domain.name)));
            }
        }
    }

    fn tags(&self, domain: Option<&Domain>, class: Class, words: &mut Words) {
        let tags = domain.map(|domain| domain.tags.as_slice()).unwrap_or_default();
        words.extend(tags.iter().filter_map(|tag| self.find(class, tag)));
    }

    /// The words for a new disposable of the caller's default template. Where a rule with such a word
    /// cannot be evaluated, it must be looked at.
    fn default_disposable(&self, call: &Call<'_>, words: &mut Words) {
        let default = default_template(&call.source).ok().flatten();
        let Some(template) = default else {
            let all = [Class::Template, Class::TemplateUuid, Class::TemplateTag];
            return all.into_iter().for_each(|class| words.extend(self.all(class)));
        };
        words.extend(match template.strip_prefix("uuid:") {
            Some(bare) => self.find(Class::TemplateUuid, bare),
            None => self.find(Class::Template, template),
        });
        match call.system.get(template) {
            Some(domain) => self.tags(Some(domain), Class::TemplateTag, words),
            None => words.extend(self.all(Class::TemplateTag)),
        }
    }

    fn all(&self, class: Class) -> impl Iterator<Item = Id> {
        self.words.get(class as usize).into_iter().flat_map(|words| words.values().copied())
    }
}

/// A set of words.
#[derive(Clone, Debug)]
pub(crate) struct Words {
    bits: Vec<u64>,
}

impl Words {
    /// The empty set, with room for every word.
    pub(crate) fn of(vocabulary: &Vocabulary) -> Self {
        let count = vocabulary.count.saturating_add(FIRST);
        Self { bits: vec![0; usize::try_from(count.div_ceil(u64::BITS)).unwrap_or(usize::MAX)] }
    }

    /// Puts a word in; `false` if it is there already.
    pub(crate) fn insert(&mut self, word: Id) -> bool {
        let Some(bits) = self.bits.get_mut(place(word)) else { return false };
        let before = *bits;
        *bits |= mask(word);
        before != *bits
    }

    /// Whether a word is in it.
    pub(crate) fn contains(&self, word: Id) -> bool {
        self.bits.get(place(word)).is_some_and(|bits| bits & mask(word) != 0)
    }

    fn extend(&mut self, words: impl IntoIterator<Item = Id>) {
        words.into_iter().for_each(|word| {
            self.insert(word);
        });
    }
}

/// The group of 64 that a word belongs to. (A `u32` divided by 64 fits into every `usize`.)
fn place(word: Id) -> usize {
    (word / u64::BITS) as usize
}

fn mask(word: Id) -> u64 {
    1 << (word % u64::BITS)
}
