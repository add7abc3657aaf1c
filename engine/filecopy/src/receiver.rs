//! Receives a stream into a folder, and writes nowhere else: without root, set-user-id or mounts.

mod batch;
mod existing;
mod file;
mod folder;
mod space;

use std::fmt;
use std::os::fd::OwnedFd;

use engine::exec::Existing;
use rustix::fs::Mode;
use rustix::io::Errno;
use wire::filecopy::{Answer, Checksum, Code, Event, Limits, Receiver, Refusal, is_plain};

use crate::beneath;
use crate::port::{BUFFER, Port};
use crate::shown::{Name, Size};
use crate::sum::Sum;
use batch::Batch;
use existing::{Fresh, Names};
use folder::Folder;
pub use space::Patience;

/// How to receive.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// What is accepted.
    pub limits: Limits,
    /// Name each finished file and link on stderr.
    pub verbose: bool,
    /// Wait until there is room for each file and for so much more.
    pub wait: Option<Patience>,
    /// What to do about names that exist already.
    pub existing: Existing,
    /// Make files at their final places, as where the file system has no unnamed files.
    pub in_place: bool,
}

/// Why an entry could not be made.
#[derive(Debug)]
pub(crate) struct Trouble {
    pub(crate) code: Code,
    /// A further line for stderr.
    pub(crate) more: Option<String>,
}

impl From<Errno> for Trouble {
    fn from(errno: Errno) -> Self {
        Self { code: Code(errno.raw_os_error().unsigned_abs()), more: None }
    }
}

/// Receives a stream into `root`, which was opened for reading before anything was written, and answers it.
pub fn receive(root: OwnedFd, port: &mut dyn Port, settings: &Settings) -> Code {
    // Modes are set as the sender says, so the umask must not change them.
    rustix::process::umask(Mode::empty());
    let (root, fresh) = match settings.existing {
        Existing::NewFolder => match Fresh::make(root) {
            Ok((root, fresh)) => (root, Some(fresh)),
            Err(errno) => {
                port.end_input();
                let code = Trouble::from(errno).code;
                port.say(&format!("a folder for this copy cannot be made: {code}"));
                port.answer(&Answer { code, ..Answer::default() }.to_bytes());
                return code;
            }
        },
        _ => (root, None),
    };
    let mut session = Session {
        machine: Receiver::new(settings.limits),
        names: Names::new(settings.existing),
        folder: Folder::new(root, settings),
        sum: Sum::default(),
        batch: Batch::default(),
        collecting: false,
        settings,
        port,
    };
    let answer = session.run();
    // A sender that still writes must find out at once that nothing more is read.
    session.port.end_input();
    session.explain(&answer);
    // If the sender is gone, the exit status still tells the result.
    session.port.answer(&answer.to_bytes());
    fresh.into_iter().for_each(Fresh::end);
    answer.code
}

struct Session<'a> {
    machine: Receiver,
    names: Names,
    folder: Folder,
    sum: Sum,
    /// Small files that are to be made together.
    batch: Batch,
    /// The current file is one of them.
    collecting: bool,
    settings: &'a Settings,
    port: &'a mut dyn Port,
}

impl Session<'_> {
    fn run(&mut self) -> Answer {
        let mut buffer = vec![0; BUFFER];
        loop {
            let bytes = match self.port.read(&mut buffer) {
                Ok(0) | Err(_) => {
                    self.machine.handle_end();
                    let event = self.machine.poll_event();
                    return self.react(event, &[]).unwrap_or_else(|| self.answer(Code::BROKEN, true));
                }
                Ok(len) => buffer.get(..len).unwrap_or_default(),
            };
            // Folders may have been moved meanwhile: nothing is made in one that is no longer below the root.
            self.folder.forget();
            if let Some(answer) = self.take(bytes) {
                return answer;
            }
        }
    }

    /// Takes the bytes that came, and does everything that they ask for.
    fn take(&mut self, bytes: &[u8]) -> Option<Answer> {
        let mut at = 0_usize;
        loop {
            let rest = bytes.get(at..).unwrap_or_default();
            at = at.saturating_add(self.machine.handle_input(rest));
            let Some(event) = self.machine.poll_event() else { break };
            if matches!(event, Event::End | Event::Refused(_)) {
                // The whole buffer is summed in one pass. Bytes after the end of the stream are not part of the sum.
                self.sum.update(bytes.get(..at).unwrap_or_default());
            }
            if self.collect(&event, bytes, at) {
                continue;
            }
            if let Some(answer) = self.make(bytes) {
                return Some(answer);
            }
            if let Some(answer) = self.react(Some(event), bytes.get(..at).unwrap_or_default()) {
                return Some(answer);
            }
        }
        let answer = self.make(bytes);
        self.sum.update(bytes);
        answer
    }

    /// Keeps a small file for later if its content begins at `at` and ends in this buffer. Does not if something must
    /// be done about it at once.
    fn collect(&mut self, event: &Event, bytes: &[u8], at: usize) -> bool {
        let (mode, len, times) = match event {
            Event::File { mode, len, times } => (*mode, *len, *times),
            Event::Content(_) => return self.collecting,
            Event::FileEnd => return std::mem::take(&mut self.collecting),
            _ => return false,
        };
        let plain = matches!(self.settings.existing, Existing::Fail | Existing::NewFolder);
        let end = usize::try_from(len).ok().and_then(|len| at.checked_add(len));
        let Some(end) = end.filter(|end| len <= batch::SMALL && *end <= bytes.len()) else { return false };
        let name = self.machine.name();
        if !plain
            || self.settings.verbose
            || self.settings.wait.is_some()
            || !self.batch.fits(beneath::parent(name).0)
            || self.folder.make_room(name, len, None, self.port).is_err()
        {
            return false;
        }
        self.batch.add(name, mode, times, at..end);
        self.collecting = true;
        true
    }

    /// Makes the files that were kept.
    fn make(&mut self, bytes: &[u8]) -> Option<Answer> {
        if self.batch.is_empty() {
            return None;
        }
        let first = self.batch.first().to_vec();
        let failed = self.folder.make(&first, &mut self.batch, bytes).err()?;
        let code = Trouble::from(failed.errno).code;
        Some(Answer { code, checksum: self.sum.value(), last_name: Some(failed.path) })
    }

    /// Does what an event asks for. An answer ends the copy.
    fn react(&mut self, event: Option<Event>, bytes: &[u8]) -> Option<Answer> {
        let event = event?;
        if let Err(trouble) = self.place(&event) {
            return Some(self.failed(&trouble));
        }
        let name = self.names.path(self.machine.name());
        let done = match event {
            Event::File { mode, len, times } => self
                .folder
                .make_room(name, len, self.settings.wait.as_ref(), self.port)
                .and_then(|()| self.folder.begin(name, mode, len, times)),
            Event::Content(len) => {
                let from = bytes.len().saturating_sub(len);
                self.folder.content(bytes.get(from..).unwrap_or_default())
            }
            Event::FileEnd => self.folder.finish(name),
            Event::Folder { mode, times } => self.folder.folder(name, mode, times),
            Event::Link(target) => self.folder.link(name, &target),
            Event::End => return Some(self.end()),
            Event::Refused(refusal) => return Some(self.refused(&refusal)),
        };
        match done {
            Ok(true) => {
                if self.settings.verbose {
                    self.port.say(&told(self.machine.name()));
                }
                None
            }
            Ok(false) => None,
            Err(trouble) => Some(self.failed(&trouble)),
        }
    }

    /// Decides where a new entry is to be made.
    fn place(&mut self, event: &Event) -> Result<(), Trouble> {
        let folder = match event {
            Event::File { .. } | Event::Link(_) => false,
            Event::Folder { .. } => true,
            _ => return Ok(()),
        };
        let name = self.machine.name();
        if self.names.place(self.folder.root(), name, folder)? {
            self.port.say(&format!(
                "{} is there already: it becomes {}",
                Name(name),
                Name(self.names.path(name))
            ));
        }
        Ok(())
    }

    fn failed(&mut self, trouble: &Trouble) -> Answer {
        self.folder.give_up(self.names.path(self.machine.name()));
        if let Some(more) = &trouble.more {
            self.port.say(more);
        }
        self.answer(trouble.code, true)
    }

    fn refused(&mut self, refusal: &Refusal) -> Answer {
        self.folder.give_up(self.names.path(self.machine.name()));
        if let Some(wrong) = refusal.wrong {
            self.port.say(&format!("{}: {wrong}", Name(self.machine.name())));
        }
        self.answer(refusal.code, refusal.has_name)
    }

    /// Everything has come: waits until the disk has it.
    fn end(&mut self) -> Answer {
        match self.folder.sync() {
            Ok(()) => self.answer(Code::GOOD, true),
            Err(errno) => self.answer(Trouble::from(errno).code, true),
        }
    }

    fn answer(&self, code: Code, has_name: bool) -> Answer {
        let last_name = has_name.then(|| self.machine.name().to_vec());
        Answer { code, checksum: self.sum.value(), last_name }
    }

    /// Explains on stderr what went wrong.
    fn explain(&mut self, answer: &Answer) {
        let code = answer.code;
        if code.is_good() || code == Code::CUT && answer.last_name.as_ref().is_some_and(Vec::is_empty) {
            return;
        }
        let number = code.0;
        let mark = code.name().map_or_else(|| number.to_string(), str::to_owned);
        match &answer.last_name {
            Some(name) if !name.is_empty() => {
                self.port.say(&format!("{}: {} ({mark})", Name(name), explained(code)));
            }
            _ => self.port.say(&format!("{} ({mark})", explained(code))),
        }
    }
}

/// A name for the list of entries: unchanged, unless it could control a terminal or end the line.
fn told(name: &[u8]) -> String {
    match std::str::from_utf8(name) {
        Ok(text) if is_plain(name) => text.to_owned(),
        _ => Name(name).to_string(),
    }
}

/// The meaning of an answer, in the receiver's own words.
fn explained(code: Code) -> impl fmt::Display {
    let known = match code {
        Code::EXISTS => "something of that name is already there",
        Code::FULL => "the disk is full",
        Code::BROKEN => "the sender broke off in the middle of it",
        Code::CUT => "the sender ended without saying that this is all",
        _ => "",
    };
    if known.is_empty() { code.to_string() } else { known.to_owned() }
}

/// How much space is missing, for people.
pub(crate) fn no_room(name: &[u8], needed: u64, free: u64) -> String {
    format!("{}: needs {}, there are {} free", Name(name), Size(needed), Size(free))
}
