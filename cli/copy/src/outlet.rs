//! Where a sender's bytes go and where its answer comes from. Never blocks in a write while an answer may be waiting:
//! who has answered takes nothing more.

use std::io;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use engine::direct::DirectClient;
use engine::localfd::is_gone;
use engine::say;
use wire::filecopy::{AnswerReader, Answered, Checksum};

use filecopy::sum::Sum;

use crate::way::{BUFFER, Way};

/// How long nobody is told that nothing is taken.
const PATIENCE: Duration = Duration::from_secs(5);

/// Why nothing more can be sent.
#[derive(Debug)]
pub enum Stop {
    /// The other side has begun to answer, or has closed its end.
    Answered,
    /// The system failed.
    Io(io::Error),
}

/// The sending end of a copy.
#[derive(Debug)]
pub struct Outlet {
    way: Way,
    answer: AnswerReader,
    sum: Sum,
    buffer: Vec<u8>,
    len: usize,
    sent: u64,
    /// Whether somebody was told that nothing is taken.
    told: bool,
}

impl Outlet {
    /// Takes the two ends; they may be the same socket.
    ///
    /// # Errors
    /// The other side is gone already, or the descriptors are of no use.
    pub fn new(input: Option<OwnedFd>, output: OwnedFd) -> io::Result<Self> {
        Ok(Self::by(Way::streams(input, output)?))
    }

    /// Sends by a call of this process.
    pub fn of_call(call: DirectClient) -> Self {
        Self::by(Way::Call(Box::new(call)))
    }

    fn by(way: Way) -> Self {
        Self {
            way,
            answer: AnswerReader::default(),
            sum: Sum::default(),
            buffer: vec![0; BUFFER],
            len: 0,
            sent: 0,
            told: false,
        }
    }

    /// The call, for its end.
    pub fn into_call(self) -> Option<DirectClient> {
        match self.way {
            Way::Call(call) => Some(*call),
            Way::Streams { .. } => None,
        }
    }

    /// Adds bytes.
    ///
    /// # Errors
    /// Nothing more can be sent.
    pub fn put(&mut self, mut bytes: &[u8]) -> Result<(), Stop> {
        while !bytes.is_empty() {
            let room = self.room()?;
            let len = room.len().min(bytes.len());
            let (now, later) = bytes.split_at_checked(len).unwrap_or((bytes, &[]));
            if let Some(room) = room.get_mut(..len) {
                room.copy_from_slice(now);
            }
            self.filled(len);
            bytes = later;
        }
        Ok(())
    }

    /// Adds zeros.
    ///
    /// # Errors
    /// Nothing more can be sent.
    pub fn put_zeros(&mut self, mut count: u64) -> Result<(), Stop> {
        while count > 0 {
            let room = self.room()?;
            let len = room.len().min(usize::try_from(count).unwrap_or(usize::MAX));
            if let Some(room) = room.get_mut(..len) {
                room.fill(0);
            }
            self.filled(len);
            count = count.saturating_sub(len as u64);
        }
        Ok(())
    }

    /// Where the next bytes go: at least one.
    ///
    /// # Errors
    /// Nothing more can be sent.
    pub fn room(&mut self) -> Result<&mut [u8], Stop> {
        if self.len >= self.buffer.len() {
            self.flush()?;
        }
        Ok(self.buffer.get_mut(self.len..).unwrap_or_default())
    }

    /// So many bytes were put where [`Outlet::room`] said.
    pub fn filled(&mut self, len: usize) {
        self.len = self.len.saturating_add(len).min(self.buffer.len());
    }

    /// Sends what was collected.
    ///
    /// # Errors
    /// Nothing more can be sent.
    pub fn flush(&mut self) -> Result<(), Stop> {
        // Now, while the bytes are in the cache.
        self.sum.update(self.buffer.get(..self.len).unwrap_or_default());
        let mut at = 0;
        if self.ready(0, Some(Duration::ZERO))? {
            return Err(Stop::Answered);
        }
        while at < self.len {
            if !self.way.may_try() && self.writable(at)? {
                return Err(Stop::Answered);
            }
            match self.way.write(self.buffer.get(at..self.len).unwrap_or_default()) {
                Ok(len) => {
                    at = at.saturating_add(len);
                    self.sent = self.sent.saturating_add(len as u64);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if self.writable(at)? {
                        return Err(Stop::Answered);
                    }
                }
                Err(error) if is_gone(&error) => return Err(Stop::Answered),
                Err(error) => return Err(Stop::Io(error)),
            }
        }
        self.len = 0;
        Ok(())
    }

    /// Waits until something can be written or an answer begins; whether one has. Says once that it waits.
    fn writable(&mut self, at: usize) -> Result<bool, Stop> {
        let limit = (!self.told).then_some(PATIENCE);
        let began = Instant::now();
        let answered = self.ready(self.len.saturating_sub(at).max(1), limit)?;
        if limit.is_some_and(|limit| began.elapsed() >= limit) {
            self.told = true;
            say::error(format_args!(
                "the other side takes nothing for {} seconds; waiting",
                PATIENCE.as_secs()
            ));
        }
        Ok(answered)
    }

    /// Waits, at most so long, until the output takes `room` bytes (0: does not matter) or an answer begins; whether one has.
    fn ready(&mut self, room: usize, limit: Option<Duration>) -> Result<bool, Stop> {
        if self.way.wait(room, limit).map_err(Stop::Io)? {
            self.listen().map_err(Stop::Io)?;
        }
        Ok(self.answer.has_begun())
    }

    /// Takes what has come of the answer.
    fn listen(&mut self) -> io::Result<()> {
        let mut bytes = [0; 4096];
        match self.way.read(&mut bytes) {
            Ok(0) => self.answer.handle_end(),
            Ok(len) => self.answer.handle_input(bytes.get(..len).unwrap_or_default()),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Waits for the whole answer; `slow` is called once if that takes so long.
    ///
    /// # Errors
    /// The system failed.
    pub fn answer(&mut self, patience: Duration, slow: impl FnOnce()) -> io::Result<Answered> {
        let mut slow = Some(slow);
        let began = Instant::now();
        if !self.way.listens() {
            self.answer.handle_end();
        }
        loop {
            if let Some(answered) = self.answer.poll_answer() {
                return Ok(answered);
            }
            let limit = slow.as_ref().map(|_| patience.saturating_sub(began.elapsed()));
            if self.way.wait(0, limit)? {
                self.listen()?;
            }
            if began.elapsed() >= patience
                && let Some(slow) = slow.take()
            {
                slow();
            }
        }
    }

    /// The sum of everything that was flushed.
    pub fn checksum(&self) -> u32 {
        self.sum.value()
    }

    /// Bytes that have left.
    pub const fn sent(&self) -> u64 {
        self.sent
    }
}
