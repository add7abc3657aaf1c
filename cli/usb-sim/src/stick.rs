//! A mass-storage stick: the bulk-only transport around SCSI commands.
//!
//! A command is three steps: 31 bytes to the device, data one way or none, 13 bytes from the device. Requests for data may
//! be there before the command whose data they get.

use std::collections::VecDeque;
use std::time::Duration;

use wire::usbip::Direction;

use crate::answers::{Answers, errno};
use crate::function::{Counts, Function, Setup, Urb};
use crate::medium::Medium;
use crate::scsi::{self, Action, READ_ERROR, Sense, WRITE_ERROR};

/// The endpoints, the one that goes in with its direction bit.
const IN: u8 = 1;
const OUT: u8 = 2;
const IN_ADDRESS: u8 = 0x81;

const COMMAND_LEN: usize = 31;
const COMMAND_SIGNATURE: [u8; 4] = *b"USBC";
const STATUS_SIGNATURE: [u8; 4] = *b"USBS";
/// Most requests that wait.
const WAITING: usize = 512;

/// See [`crate::Kind::Stick`].
#[derive(Debug)]
pub(crate) struct Stick {
    medium: Medium,
    sense: Sense,
    phase: Phase,
    /// Requests for data or for a status that have had neither.
    waiting: VecDeque<(u32, usize)>,
    /// Requests that go in are refused until the host has cleared this.
    halted: bool,
    requests: u32,
}

/// Where a command is.
#[derive(Debug)]
enum Phase {
    /// None has begun.
    Idle,
    /// Data goes to the host.
    Sending { command: Begun, from: Source, left: u64 },
    /// Data comes, and goes to this place of the medium, if it is to go anywhere.
    Taking { command: Begun, place: Option<u64>, left: u64, wanted: u64 },
    /// The status is next.
    Status(Begun),
}

/// What the status will say.
#[derive(Debug, Clone, Copy)]
struct Begun {
    tag: [u8; 4],
    /// Bytes that the host wanted to move and that were not moved.
    residue: u32,
    failed: bool,
}

#[derive(Debug)]
enum Source {
    Bytes(Vec<u8>),
    Medium(u64),
}

impl Stick {
    pub(crate) fn new(medium: Medium) -> Self {
        Self {
            medium,
            sense: Sense::default(),
            phase: Phase::Idle,
            waiting: VecDeque::new(),
            halted: false,
            requests: 0,
        }
    }

    /// A command. Not one: the host is out of step, and has to reset the device.
    fn on_command(&mut self, bytes: &[u8]) -> Option<()> {
        let bytes: &[u8; COMMAND_LEN] = bytes.try_into().ok()?;
        let signature = bytes.first_chunk::<4>()?;
        let tag = *bytes.get(4..)?.first_chunk()?;
        let wanted = u32::from_le_bytes(*bytes.get(8..)?.first_chunk()?);
        let to_host = bytes.get(12)? & 0x80 != 0;
        let block: &[u8; 16] = bytes.last_chunk()?;
        if *signature != COMMAND_SIGNATURE {
            return None;
        }
        let command = Begun { tag, residue: wanted, failed: false };
        self.phase = match scsi::understand(block, &self.medium, &mut self.sense) {
            Ok(action) => self.begin(action, command, to_host),
            Err(sense) => self.fail(command, to_host, sense),
        };
        Some(())
    }

    fn begin(&mut self, action: Action, command: Begun, to_host: bool) -> Phase {
        let wanted = u64::from(command.residue);
        match action {
            Action::Reply(bytes) if to_host => {
                let left = wanted.min(bytes.len() as u64);
                Phase::Sending { command, from: Source::Bytes(bytes), left }
            }
            Action::Read { offset, length } if to_host => {
                Phase::Sending { command, from: Source::Medium(offset), left: length.min(wanted) }
            }
            Action::Write { offset, length } if !to_host => {
                Phase::Taking { command, place: Some(offset), left: length.min(wanted), wanted }
            }
            Action::Sync => match self.medium.sync() {
                Ok(()) => Phase::Status(command),
                Err(_) => self.fail(command, to_host, WRITE_ERROR),
            },
            Action::Nothing if wanted == 0 => Phase::Status(command),
            // Data for a command that has none, or the wrong way round: what comes is thrown away.
            _ => self.fail(command, to_host, Sense(5, 0x24)),
        }
    }

    /// What a command that failed does with the data that the host wants to move.
    fn fail(&mut self, command: Begun, to_host: bool, sense: Sense) -> Phase {
        self.sense = sense;
        let wanted = u64::from(command.residue);
        let command = Begun { failed: true, ..command };
        if wanted == 0 {
            Phase::Status(command)
        } else if to_host {
            self.halted = true;
            Phase::Status(command)
        } else {
            Phase::Taking { command, place: None, left: 0, wanted }
        }
    }

    /// Data for the device.
    fn on_data(&mut self, data: &[u8]) -> Option<()> {
        let Phase::Taking { command, place, left, wanted } = &mut self.phase else { return None };
        let useful = data.get(..data.len().min(usize::try_from(*left).unwrap_or(usize::MAX)))?;
        if let Some(offset) = place {
            if self.medium.write(*offset, useful).is_ok() {
                *offset += useful.len() as u64;
                command.residue -=
                    u32::try_from(useful.len()).unwrap_or(command.residue).min(command.residue);
            } else {
                self.sense = WRITE_ERROR;
                command.failed = true;
                *place = None;
            }
        }
        *left -= useful.len() as u64;
        *wanted = wanted.saturating_sub(data.len() as u64);
        if *wanted == 0 {
            self.phase = Phase::Status(*command);
        }
        Some(())
    }

    /// Answers the requests that wait, as far as there is something to answer with.
    fn answer(&mut self, answers: &mut Answers) {
        while let Some((seqnum, length)) = self.waiting.front().copied() {
            if self.halted {
                answers.failed(seqnum, errno::STALL);
            } else {
                match std::mem::replace(&mut self.phase, Phase::Idle) {
                    Phase::Sending { command, from, left } => {
                        self.phase = self.send(seqnum, length, (command, from, left), answers);
                    }
                    Phase::Status(command) => send_status(seqnum, length, command, answers),
                    waits @ (Phase::Idle | Phase::Taking { .. }) => {
                        self.phase = waits;
                        return;
                    }
                }
            }
            self.waiting.pop_front();
        }
    }

    /// Answers one request with data, and says what comes next.
    fn send(
        &mut self,
        seqnum: u32,
        length: usize,
        (mut command, mut from, left): (Begun, Source, u64),
        answers: &mut Answers,
    ) -> Phase {
        let now = length.min(usize::try_from(left).unwrap_or(usize::MAX));
        let sent = answers.data(seqnum, |into| match &mut from {
            Source::Bytes(bytes) => {
                into.extend(bytes.drain(..now));
                Ok(())
            }
            Source::Medium(offset) => {
                let read = self.medium.read(*offset, now, into);
                *offset += now as u64;
                read
            }
        });
        if sent.is_err() {
            self.sense = READ_ERROR;
            self.halted = true;
            command.failed = true;
            return Phase::Status(command);
        }
        command.residue -= u32::try_from(now).unwrap_or(command.residue).min(command.residue);
        let left = left - now as u64;
        // A request that is not full ends the data; a full one does if it was the last that the host wanted.
        if now < length || command.residue == 0 {
            Phase::Status(command)
        } else {
            Phase::Sending { command, from, left }
        }
    }
}

fn send_status(seqnum: u32, length: usize, command: Begun, answers: &mut Answers) {
    let mut status = STATUS_SIGNATURE.to_vec();
    status.extend(command.tag);
    status.extend(command.residue.to_le_bytes());
    status.push(u8::from(command.failed));
    status.truncate(length);
    let _: Result<(), ()> = answers.data(seqnum, |into| {
        into.append(&mut status);
        Ok(())
    });
}

impl Function for Stick {
    fn control(&mut self, setup: Setup, _data: &[u8]) -> Option<Vec<u8>> {
        match (setup.kind, setup.request) {
            // Bulk-only reset.
            (0x21, 0xff) => {
                self.phase = Phase::Idle;
                Some(Vec::new())
            }
            // GET MAX LUN: one.
            (0xa1, 0xfe) => Some(vec![0]),
            _ => None,
        }
    }

    fn submit(&mut self, urb: Urb, data: &[u8], _now: Duration, answers: &mut Answers) {
        self.requests = self.requests.saturating_add(1);
        match (urb.direction, urb.endpoint) {
            _ if !urb.packets.is_empty() => answers.refused(&urb, errno::STALL),
            (Direction::Out, OUT) => {
                let understood = match self.phase {
                    Phase::Idle => self.on_command(data),
                    _ => self.on_data(data),
                };
                match understood {
                    Some(()) => answers.taken(urb.seqnum, data.len()),
                    None => answers.refused(&urb, errno::STALL),
                }
            }
            (Direction::In, IN) if self.waiting.len() < WAITING => {
                self.waiting.push_back((urb.seqnum, urb.length));
            }
            (Direction::In, IN) => answers.refused(&urb, errno::NO_MEMORY),
            _ => answers.refused(&urb, errno::STALL),
        }
        self.answer(answers);
    }

    fn cancel(&mut self, seqnum: u32) -> bool {
        let before = self.waiting.len();
        self.waiting.retain(|(waiting, _)| *waiting != seqnum);
        self.waiting.len() < before
    }

    fn clear_halt(&mut self, endpoint: u8, answers: &mut Answers) {
        if endpoint == IN_ADDRESS {
            self.halted = false;
            self.answer(answers);
        }
    }

    fn settle(&mut self) {
        self.phase = Phase::Idle;
        self.halted = false;
    }

    fn counts(&self) -> Counts {
        Counts { requests: self.requests, ..Counts::default() }
    }
}
