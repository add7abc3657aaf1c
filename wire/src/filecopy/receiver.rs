//! The receiving half: takes bytes, gives out entries and pieces of content.

use alloc::vec::Vec;

use super::Kind;
use super::code::Code;
use super::header::{ENTRY_LEN, EntryHeader, NAME_MAX, Time};
use super::names::{LinkRules, NameRules, Wrong, check_link, check_name};

/// Longest target of a link on the wire.
const TARGET_MAX: u64 = 16_383;
/// Longest target that a kernel takes, without a NUL.
const TARGET_KERNEL: usize = 4_095;
/// Longest component of a name.
const COMPONENT_MAX: usize = 255;

/// What a receiver accepts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Limits {
    /// Characters of names and of links' targets.
    pub names: NameRules,
    /// Where links may lead.
    pub links: LinkRules,
    /// Neither folders nor links.
    pub only_files: bool,
    /// Most headers in all; 0 for any number. A folder has two.
    pub entries: u64,
    /// Most bytes of content in all; 0 for any number.
    pub bytes: u64,
}

/// What comes out of a [`Receiver`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A file begins; `len` bytes of content follow as [`Event::Content`], then [`Event::FileEnd`].
    File {
        /// Its permission bits, without set-user-id and set-group-id.
        mode: u32,
        /// Bytes of content.
        len: u64,
        /// Access and modification.
        times: [Time; 2],
    },
    /// The last so many of the bytes that were just handed in are content of the file.
    Content(usize),
    /// The file is complete.
    FileEnd,
    /// A folder, before its entries or after them.
    Folder {
        /// Its permission bits, without set-user-id and set-group-id.
        mode: u32,
        /// Access and modification.
        times: [Time; 2],
    },
    /// A link to this target.
    Link(Vec<u8>),
    /// The stream is complete; bytes behind it are not read.
    End,
    /// The stream is refused; no more bytes are taken.
    Refused(Refusal),
}

/// Why a stream is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refusal {
    /// The code of the answer.
    pub code: Code,
    /// Whether a name follows the answer; not if no name was read.
    pub has_name: bool,
    /// What is wrong with a name or a link.
    pub wrong: Option<Wrong>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Header,
    Name(EntryHeader),
    Target,
    Content,
    FileEnd,
    Done,
}

/// Decodes the bytes of a copy.
#[derive(Debug)]
pub struct Receiver {
    limits: Limits,
    state: State,
    /// The part of a header, name or target that has arrived.
    partial: Vec<u8>,
    /// The name of the current entry, or of the one before while the next name is still arriving.
    name: Vec<u8>,
    body_left: u64,
    entries: u64,
    bytes: u64,
    event: Option<Event>,
}

impl Receiver {
    /// A receiver with these limits.
    pub fn new(limits: Limits) -> Self {
        let partial = Vec::with_capacity(ENTRY_LEN);
        let state = State::Header;
        Self { limits, state, partial, name: Vec::new(), body_left: 0, entries: 0, bytes: 0, event: None }
    }

    /// The name of the current entry; between two entries that of the last one.
    pub fn name(&self) -> &[u8] {
        &self.name
    }

    /// Bytes of the file's content that have not arrived yet.
    pub const fn content_left(&self) -> u64 {
        match self.state {
            State::Content => self.body_left,
            _ => 0,
        }
    }

    /// Takes bytes until there is an event, and returns how many it took. Call [`Receiver::poll_event`] after each;
    /// nothing is taken before the last event was fetched, nor after the end.
    pub fn handle_input(&mut self, input: &[u8]) -> usize {
        let mut rest = input;
        while self.event.is_none() {
            let state = self.state;
            match state {
                State::Done => break,
                State::FileEnd => {
                    self.state = State::Header;
                    self.event = Some(Event::FileEnd);
                }
                State::Content => {
                    let taken = rest.len().min(usize::try_from(self.body_left).unwrap_or(usize::MAX));
                    if taken == 0 {
                        break;
                    }
                    rest = rest.get(taken..).unwrap_or_default();
                    self.took_content(taken);
                }
                State::Header if self.fill(&mut rest, ENTRY_LEN) => self.on_header(),
                State::Name(header) if self.fill(&mut rest, header.name_len as usize) => self.on_name(header),
                State::Target if self.fill(&mut rest, usize::try_from(self.body_left).unwrap_or(0)) => {
                    self.on_target();
                }
                State::Header | State::Name(_) | State::Target => break,
            }
        }
        input.len().saturating_sub(rest.len())
    }

    /// To be called when the other side has ended before the stream was complete.
    pub fn handle_end(&mut self) {
        match self.state {
            State::Done => {}
            State::Header => self.refuse(Code::CUT, true, None),
            _ => self.refuse(Code::BROKEN, !matches!(self.state, State::Name(_)), None),
        }
    }

    /// What to do about the bytes that were taken.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.event.take()
    }

    /// Moves bytes into `partial` until it has `len`. Returns whether it has.
    fn fill(&mut self, rest: &mut &[u8], len: usize) -> bool {
        let wanted = len.saturating_sub(self.partial.len()).min(rest.len());
        let (piece, behind) = rest.split_at(wanted);
        self.partial.extend_from_slice(piece);
        *rest = behind;
        self.partial.len() == len
    }

    fn took_content(&mut self, taken: usize) {
        self.body_left = self.body_left.saturating_sub(taken as u64);
        if self.body_left == 0 {
            self.state = State::FileEnd;
        }
        self.event = Some(Event::Content(taken));
    }

    fn on_header(&mut self) {
        let bytes: [u8; ENTRY_LEN] = self.partial.first_chunk().copied().unwrap_or([0; ENTRY_LEN]);
        self.partial.clear();
        let header = EntryHeader::from_bytes(bytes);
        if header.name_len == 0 {
            self.state = State::Done;
            self.event = Some(Event::End);
            return;
        }
        self.entries = self.entries.saturating_add(1);
        if self.limits.entries != 0 && self.entries > self.limits.entries {
            return self.refuse(Code::QUOTA, true, None);
        }
        if header.name_len > NAME_MAX {
            return self.refuse(Code::NAME_TOO_LONG, false, None);
        }
        self.state = State::Name(header);
    }

    fn on_name(&mut self, header: EntryHeader) {
        // Some senders leave the NUL out, but none sends anything behind it.
        let text = self.partial.strip_suffix(b"\0").unwrap_or(&self.partial);
        let end = text.iter().position(|byte| *byte == 0);
        self.name.clear();
        self.name.extend(text.iter().take(end.unwrap_or(text.len())));
        self.partial.clear();
        if let Err(refusal) = self.judge(&header, end.is_some()) {
            return self.refuse(refusal.0, true, refusal.1);
        }
        let times = [header.accessed, header.modified];
        let mode = header.mode & 0o1777;
        self.body_left = header.body_len;
        match Kind::of(header.mode) {
            Some(Kind::File) => {
                self.bytes = self.bytes.saturating_add(header.body_len);
                self.state = if header.body_len == 0 { State::FileEnd } else { State::Content };
                self.event = Some(Event::File { mode, len: header.body_len, times });
            }
            Some(Kind::Link) => self.state = State::Target,
            Some(Kind::Folder) | None => {
                self.state = State::Header;
                self.event = Some(Event::Folder { mode, times });
            }
        }
    }

    fn judge(&self, header: &EntryHeader, nul_inside: bool) -> Result<(), (Code, Option<Wrong>)> {
        let plain = |code: Code| (code, None);
        let wrong = |wrong: Wrong| (wrong.code(), Some(wrong));
        let kind = Kind::of(header.mode).ok_or(plain(Code::INVALID))?;
        if self.limits.only_files && kind != Kind::File {
            return Err(plain(Code::INVALID));
        }
        if nul_inside {
            return Err(wrong(Wrong::Path));
        }
        check_name(&self.name, self.limits.names).map_err(wrong)?;
        if self.name.split(|byte| *byte == b'/').any(|part| part.len() > COMPONENT_MAX) {
            return Err(plain(Code::NAME_TOO_LONG));
        }
        let valid = header.accessed.is_valid() && header.modified.is_valid();
        if !valid && kind != Kind::Link {
            return Err(plain(Code::INVALID));
        }
        match kind {
            Kind::Folder if header.body_len != 0 => Err(plain(Code::INVALID)),
            Kind::Link if header.body_len > TARGET_MAX => Err(plain(Code::NAME_TOO_LONG)),
            Kind::Link if header.body_len == 0 => Err(plain(Code::MISSING)),
            Kind::File if header.body_len > i64::MAX as u64 => Err(plain(Code::QUOTA)),
            Kind::File if self.limits.bytes != 0 => {
                let sum = self.bytes.saturating_add(header.body_len);
                if sum > self.limits.bytes { Err(plain(Code::QUOTA)) } else { Ok(()) }
            }
            _ => Ok(()),
        }
    }

    fn on_target(&mut self) {
        // Very old senders counted a NUL in the length, and sent any byte in its place.
        let text = self.partial.strip_suffix(b"\0").unwrap_or(&self.partial);
        let checked = match text {
            b"" => Err((Code::MISSING, None)),
            text if text.contains(&0) => Err((Code::LINK, None)),
            text if text.len() > TARGET_KERNEL => Err((Code::NAME_TOO_LONG, None)),
            text => check_link(&self.name, text, self.limits.names, self.limits.links)
                .map_err(|wrong| (wrong.code(), Some(wrong))),
        };
        let target = text.to_vec();
        self.partial.clear();
        match checked {
            Ok(()) => {
                self.state = State::Header;
                self.event = Some(Event::Link(target));
            }
            Err((code, wrong)) => self.refuse(code, true, wrong),
        }
    }

    fn refuse(&mut self, code: Code, has_name: bool, wrong: Option<Wrong>) {
        self.state = State::Done;
        self.event = Some(Event::Refused(Refusal { code, has_name, wrong }));
    }
}
