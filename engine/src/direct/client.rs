//! The client's end of a call that its own process makes.

use std::io;
use std::time::Duration;

use ring::Channel;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use wire::stream::{Kind, Role};
use wire::version::Version;

use super::{Direct, Lost, Seen};
use crate::confine::{Confinement, Files, Place};
use crate::pump::{Ending, Outcome};

/// A call that a command makes itself: it writes what the service reads, and reads what it answers. The service's
/// error output goes to this process's stderr, made safe for a terminal.
#[derive(Debug)]
pub struct DirectClient {
    direct: Direct,
    /// How many bytes were there at the last look, too few to be used.
    have: usize,
}

impl DirectClient {
    /// Makes the call on this link.
    pub fn new(channel: Channel, version: Version) -> Self {
        Self { direct: Direct::new(channel, version, Role::Client), have: 0 }
    }

    /// Confines this process, which has one thread, to this call and to certain actions on files below these places,
    /// for good.
    ///
    /// # Errors
    /// It could not be confined: then nothing from the other side may be read.
    pub fn confine(&mut self, how: Confinement, files: Files, places: &[Place<'_>]) -> io::Result<()> {
        self.direct.confine(how, files, places)
    }

    /// Sends as many bytes as there is room for, without waiting.
    ///
    /// # Errors
    /// The service is gone. What it sent before can still be read.
    pub fn try_write(&mut self, bytes: &[u8]) -> Result<usize, Lost> {
        self.direct.give(Kind::Stdin, bytes)
    }

    /// Takes what has arrived, without waiting; 0 if nothing has.
    ///
    /// # Errors
    /// The service is gone.
    pub fn try_read(&mut self, buffer: &mut [u8]) -> Result<usize, Lost> {
        let mut taken = 0;
        loop {
            let room = buffer.get_mut(taken..).unwrap_or_default();
            taken = taken.saturating_add(self.direct.take(room)?);
            if taken == buffer.len() {
                return Ok(taken);
            }
            match self.direct.look()? {
                Seen::Main(_) => {}
                Seen::Nothing(_) if !self.direct.errors.is_empty() => self.pass_errors_on(),
                Seen::Nothing(have) => {
                    self.have = have;
                    return Ok(taken);
                }
            }
        }
    }

    fn pass_errors_on(&mut self) {
        let mut bytes = std::mem::take(&mut self.direct.errors);
        wire::escape::filter_terminal(&mut bytes);
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            match rustix::io::write(rustix::stdio::stderr(), rest) {
                Ok(len) => rest = rest.get(len..).unwrap_or_default(),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    let _ = poll(&mut [PollFd::new(&rustix::stdio::stderr(), PollFlags::OUT)], None);
                }
                // Stderr is closed: nobody reads it.
                Err(_) => return,
            }
        }
    }

    /// Whether nothing more can be read: the service has ended its stream, or is gone.
    ///
    /// # Errors
    /// The link was lost before the service had sent everything.
    pub fn has_ended(&mut self) -> Result<bool, Lost> {
        if self.direct.has_ended() {
            return Ok(true);
        }
        // In this order: the service may have written just before it went.
        let open = self.direct.channel.is_open();
        Ok(!open && matches!(self.direct.look()?, Seen::Nothing(_)) && self.direct.errors.is_empty())
    }

    /// Waits until something can be read, or this many bytes can be written (or any, if the ring has less room), or
    /// the service is gone; at most this long. `false`: none of that has happened.
    ///
    /// # Errors
    /// The link is broken.
    pub fn wait(&mut self, room: usize, limit: Option<Duration>) -> Result<bool, Lost> {
        let room = if room == 0 { 0 } else { self.direct.useful_room(room) };
        self.direct.wait(Some(self.have), room, limit)
    }

    /// Ends the service's input; its answer can still be read.
    ///
    /// # Errors
    /// The service is gone.
    pub fn end(&mut self) -> Result<(), Lost> {
        self.direct.end(Kind::Stdin)
    }

    /// Ends the service's input and waits for its exit code.
    pub fn finish(mut self) -> Outcome {
        let heard = self.last_words();
        let remote = self.direct.incoming.exit_code();
        Outcome {
            ending: heard.err().filter(|_| remote.is_none()).map_or(Ending::Complete, Ending::from),
            remote,
            bytes_in: self.direct.bytes_in,
            bytes_out: self.direct.bytes_out,
            ..Outcome::default()
        }
    }

    fn last_words(&mut self) -> Result<(), Lost> {
        // The service may be gone already, with its code in the ring.
        let _ = self.direct.end(Kind::Stdin);
        let mut unread = [0; 4096];
        while self.direct.incoming.exit_code().is_none() {
            let open = self.direct.channel.is_open();
            if self.try_read(&mut unread)? > 0 || self.direct.incoming.exit_code().is_some() {
                continue;
            }
            if !open {
                return Err(Lost::Closed);
            }
            self.direct.wait(Some(self.have), 0, None)?;
        }
        Ok(())
    }
}
