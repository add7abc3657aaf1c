//! In which form somebody is asked for a decision, and what they may be told of the caller.
//!
//! Before qrexec 4.2.5 the policy daemon and the policy program wanted the ids of the VM and of the request as well
//! (`PROGRAM -- ID SOURCE TARGET SERVICE IDENT`), and made the call themselves with `qrexec-client -c`. Such a one is
//! known by its silence: asked in the new form it ends, or hangs up, without a word and without having done anything.
//! Then it is asked in the old form.

use daemon_core::question::Question;
use wire::names::{DomainId, Target};

/// What a program ends with that does not understand its command line.
pub(super) const USAGE: i32 = 2;
/// The last status that is a program's own word: above are those that could not be started or were killed.
const LAST_OF_ITS_OWN: i32 = 125;

/// In which form somebody is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// For a decision, which we carry out.
    Answers,
    /// For the call: they decide and make it.
    Connects,
}

/// Who is asked, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    Socket(Form),
    Program(Form),
}

impl Way {
    pub(super) fn form(self) -> Form {
        match self {
            Self::Socket(form) | Self::Program(form) => form,
        }
    }

    /// The same asked in the other form.
    pub(super) fn otherwise(self) -> Self {
        let other = match self.form() {
            Form::Answers => Form::Connects,
            Form::Connects => Form::Answers,
        };
        match self {
            Self::Socket(_) => Self::Socket(other),
            Self::Program(_) => Self::Program(other),
        }
    }
}

/// The VM whose daemon this is.
#[derive(Debug, Clone)]
pub struct Owner {
    /// Its domain id.
    pub id: DomainId,
    /// Its `uuid:…`, if that is known.
    pub uuid: Option<Target>,
}

impl Owner {
    /// Whom the caller says it asks for, if that is somebody else than its own VM.
    pub(super) fn foreign<'a>(&self, question: &'a Question) -> Option<&'a Target> {
        let own = |name: &&Target| {
            let uuid = self.uuid.as_ref().map(Target::as_str);
            name.as_str() == question.source.as_str()
                || uuid.is_some_and(|uuid| name.as_str().eq_ignore_ascii_case(uuid))
        };
        question.requested_source.as_ref().filter(|name| !own(name))
    }
}

/// Why somebody who was asked has not decided.
#[derive(Debug)]
pub(super) struct Undecided {
    pub(super) reason: String,
    /// Without a word: the question may not have been understood.
    pub(super) silent: bool,
}

impl Undecided {
    pub(super) fn because(reason: impl ToString) -> Self {
        Self { reason: reason.to_string(), silent: false }
    }

    /// A program ended with this, having said `said`.
    pub(super) fn ended(status: i32, said: &[u8]) -> Self {
        let silent = said.is_empty() && (1..=LAST_OF_ITS_OWN).contains(&status);
        Self { reason: format!("it ended with {status}"), silent }
    }
}
