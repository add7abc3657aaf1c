//! Bulk file copy: the bytes that `qubes.Filecopy` carries, as state machines without I/O.
//!
//! One direction has entries: a header of 32 bytes, a name, and for files and links a body; a header without a name ends
//! it. The other direction has one answer: an error code, the checksum of everything that was taken, and a name.
//!
//! [`Receiver`] decodes the entries and [`Sender`] encodes them; [`AnswerReader`] and [`Answer`] do so with the
//! answer. The checksum is that of [`Checksum`] over every byte of the entries, the end included; the caller computes
//! it while it moves the bytes.
//!
//! Whatever the other side sends is bounded: a receiver keeps one name and one link's target at most.

mod answer;
mod checksum;
mod code;
mod header;
mod names;
mod receiver;
mod sender;
mod table;

pub use answer::{ANSWER_LEN, Answer, AnswerReader, Answered, EXTENSION_MAX};
pub use checksum::{Checksum, Crc32};
pub use code::{Code, STREAM_BROKEN};
pub use header::{ENTRY_LEN, EntryHeader, NAME_MAX, Time};
pub use names::{LinkRules, NameRules, Wrong, check_link, check_name, is_plain};
pub use receiver::{Event, Limits, Receiver, Refusal};
pub use sender::{Misused, Sender};
pub use table::is_allowed;

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A regular file.
    File,
    /// A folder.
    Folder,
    /// A symbolic link.
    Link,
}

impl Kind {
    /// The kind in the type bits of a mode; `None` for what cannot be copied.
    pub const fn of(mode: u32) -> Option<Self> {
        match mode & 0o170_000 {
            0o100_000 => Some(Self::File),
            0o040_000 => Some(Self::Folder),
            0o120_000 => Some(Self::Link),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests;
