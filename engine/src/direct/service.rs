//! The service's end of a call that its own process serves.

use std::io;
use std::time::Duration;

use ring::Channel;
use wire::stream::{Kind, Role};
use wire::version::Version;

use super::{Direct, Lost, Seen};
use crate::confine::{Confinement, Files, Place};
use crate::meter::Meter;
use crate::pump::{Ending, NoStreams, Outcome, StderrCopy, report};

/// A built-in service: reads what the caller sends, and writes what the caller gets.
#[derive(Debug)]
pub struct DirectService {
    direct: Direct,
    log: Option<StderrCopy>,
}

impl DirectService {
    /// Serves the call on this link; error output goes to `log` as well.
    pub fn new(channel: Channel, version: Version, log: Option<StderrCopy>) -> Self {
        Self { direct: Direct::new(channel, version, Role::Service), log }
    }

    /// Shows in `meter` how much is moved.
    #[must_use]
    pub fn metered(mut self, meter: Option<Meter>) -> Self {
        self.direct.meter = meter;
        self
    }

    /// Confines this process, which has one thread, to this call and to certain actions on files below these places,
    /// for good.
    ///
    /// # Errors
    /// It could not be confined: then nothing from the other side may be read.
    pub fn confine(&mut self, how: Confinement, files: Files, places: &[Place<'_>]) -> io::Result<()> {
        self.direct.confine(how, files, places)
    }

    /// Reads what there is, waiting for the first byte; 0 at the end.
    ///
    /// # Errors
    /// The caller is gone.
    pub fn read(&mut self, buffer: &mut [u8]) -> Result<usize, Lost> {
        loop {
            let taken = self.direct.take(buffer)?;
            if taken > 0 || self.direct.has_ended() || buffer.is_empty() {
                return Ok(taken);
            }
            if self.is_over()? {
                return Err(Lost::Closed);
            }
            let Seen::Nothing(have) = self.direct.look()? else { continue };
            self.direct.wait(Some(have), 0, None)?;
        }
    }

    /// Whether the peer is gone and what is left in the ring is no complete message. Asked in this order, see
    /// [`Channel::ended`].
    fn is_over(&mut self) -> Result<bool, Lost> {
        let open = self.direct.channel.is_open();
        Ok(!open && matches!(self.direct.look()?, Seen::Nothing(_)))
    }

    /// Writes to the caller's stdout.
    ///
    /// # Errors
    /// The caller is gone.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), Lost> {
        self.send(Kind::Stdout, bytes)
    }

    /// Writes a line to the caller's error output, and to the log.
    ///
    /// # Errors
    /// The caller is gone; the log has the line all the same.
    pub fn say(&mut self, line: &str) -> Result<(), Lost> {
        let line = format!("{line}\n");
        if let Some(log) = &mut self.log {
            log.write(line.as_bytes());
        }
        self.send(Kind::Stderr, line.as_bytes())
    }

    fn send(&mut self, kind: Kind, mut bytes: &[u8]) -> Result<(), Lost> {
        while !bytes.is_empty() {
            let given = self.direct.give(kind, bytes)?;
            bytes = bytes.get(given..).unwrap_or_default();
            if given == 0 {
                let room = self.direct.useful_room(bytes.len());
                self.direct.wait(None, room, None)?;
            }
        }
        Ok(())
    }

    /// Whether the caller is gone; waits at most this long for that.
    ///
    /// # Errors
    /// The link was lost before the caller had ended the call properly.
    pub fn is_alone(&mut self, limit: Duration) -> Result<bool, Lost> {
        if self.direct.channel.is_open() {
            self.direct.wait(None, 0, Some(limit))?;
        }
        Ok(!self.direct.channel.is_open())
    }

    /// Ends the call with this exit code: sends the ends of the streams and the code, then reads what the caller still
    /// sends.
    pub fn finish(self, code: i32) -> Outcome {
        let Direct { channel, version, bytes_in, bytes_out, .. } = self.direct;
        let told = report(channel, version, code, NoStreams::FailedInVm);
        let ending = told.map_or_else(Ending::from, |()| Ending::Complete);
        Outcome { ending, local: Some(code), bytes_in, bytes_out, ..Outcome::default() }
    }
}
