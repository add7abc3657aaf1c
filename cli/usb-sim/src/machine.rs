//! A device as a machine: bytes of USB/IP in, bytes of USB/IP out.

use std::time::Duration;

use wire::usbip::{
    AttachLine, Command, Direction, Field, HEADER_LEN, PACKET_LEN, Packet, Speed, Submit, Violation,
};

use crate::answers::{Answers, errno};
use crate::camera::Camera;
use crate::control::Control;
use crate::description::{DEVID, Description};
use crate::function::{Counts, Function, Urb};
use crate::keyboard::Keyboard;
use crate::medium::Medium;
use crate::stick::Stick;

/// How much is read at once where no message says how much is to come.
const READ: usize = 64 << 10;

/// Which device.
#[derive(Debug)]
pub enum Kind {
    /// A mass-storage stick.
    Stick(Medium),
    /// A device with one isochronous endpoint that sends all the time.
    Camera,
    /// A keyboard that types a letter in this interval, or never.
    Keyboard(Option<Duration>),
}

/// A device at one end of a stream.
#[derive(Debug)]
pub struct Machine {
    line: AttachLine,
    control: Control,
    function: Box<dyn Function>,
    answers: Answers,
    sent: usize,
    input: Vec<u8>,
    start: usize,
    end: usize,
}

impl Machine {
    /// A device of this kind and speed, or of the speed that is usual for it. The first that it sends is its line.
    #[must_use]
    pub fn new(kind: Kind, speed: Option<Speed>) -> Self {
        let speed = speed.unwrap_or(match kind {
            Kind::Stick(_) => Speed::Super,
            Kind::Camera => Speed::High,
            Kind::Keyboard(_) => Speed::Full,
        });
        let (description, function): (Description, Box<dyn Function>) = match kind {
            Kind::Stick(medium) => (Description::stick(speed), Box::new(Stick::new(medium))),
            Kind::Camera => (Description::camera(speed), Box::new(Camera::new(speed))),
            Kind::Keyboard(every) => (Description::keyboard(speed), Box::new(Keyboard::new(every))),
        };
        let line = AttachLine { devid: DEVID, speed };
        let answers = Answers { bytes: line.text().into_bytes() };
        let control = Control::new(description);
        Self { line, control, function, answers, sent: 0, input: Vec::new(), start: 0, end: 0 }
    }

    /// What it says first.
    #[must_use]
    pub const fn line(&self) -> AttachLine {
        self.line
    }

    /// What it has counted.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.function.counts()
    }

    /// Takes bytes. See [`Machine::space`] for the way without a copy.
    ///
    /// # Errors
    /// The stream is not USB/IP, or not for this device.
    pub fn handle_input(&mut self, mut bytes: &[u8], now: Duration) -> Result<(), Violation> {
        while !bytes.is_empty() {
            let space = self.space();
            let taken = space.len().min(bytes.len());
            let (now_taken, rest) = bytes.split_at(taken);
            if let Some(place) = space.get_mut(..taken) {
                place.copy_from_slice(now_taken);
            }
            self.handle_filled(taken, now)?;
            bytes = rest;
        }
        Ok(())
    }

    /// Where to put bytes that come; then [`Machine::handle_filled`].
    pub fn space(&mut self) -> &mut [u8] {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        }
        let have = self.end - self.start;
        let wanted = self.message_length().map_or(0, |length| length.saturating_sub(have)).max(READ);
        if self.input.len() - self.end < wanted {
            self.input.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, have);
            if self.input.len() < have + wanted {
                self.input.resize(have + wanted, 0);
            }
        }
        self.input.get_mut(self.end..).unwrap_or_default()
    }

    /// So many bytes were put into [`Machine::space`].
    ///
    /// # Errors
    /// The stream is not USB/IP, or not for this device.
    pub fn handle_filled(&mut self, count: usize, now: Duration) -> Result<(), Violation> {
        self.end = self.end.saturating_add(count).min(self.input.len());
        while let Some(header) = self.input.get(self.start..self.end).and_then(|bytes| bytes.first_chunk()) {
            let command = Command::from_bytes(*header)?;
            let length = HEADER_LEN + body_length(&command);
            let input = std::mem::take(&mut self.input);
            let body = input.get(self.start..self.end).and_then(|bytes| bytes.get(HEADER_LEN..length));
            let handled = body.map(|body| self.on_command(command, body, now));
            self.input = input;
            match handled {
                Some(result) => result?,
                None => return Ok(()),
            }
            self.start += length;
        }
        Ok(())
    }

    /// Whether the stream may end here.
    #[must_use]
    pub const fn between_messages(&self) -> bool {
        self.start == self.end
    }

    /// Time has passed.
    pub fn handle_time(&mut self, now: Duration) {
        self.function.tick(now, &mut self.answers);
    }

    /// When [`Machine::handle_time`] is due.
    #[must_use]
    pub fn deadline(&self) -> Option<Duration> {
        self.function.deadline()
    }

    /// What is to be sent; then [`Machine::handle_sent`].
    #[must_use]
    pub fn output(&self) -> &[u8] {
        self.answers.bytes.get(self.sent..).unwrap_or_default()
    }

    /// So many bytes of [`Machine::output`] were sent.
    pub fn handle_sent(&mut self, count: usize) {
        self.sent = self.sent.saturating_add(count);
        if self.sent >= self.answers.bytes.len() {
            self.answers.bytes.clear();
            self.sent = 0;
        }
    }

    /// How long the message is that has begun, if that is known.
    fn message_length(&self) -> Option<usize> {
        let header = self.input.get(self.start..self.end)?.first_chunk()?;
        Command::from_bytes(*header).ok().map(|command| HEADER_LEN + body_length(&command))
    }

    fn on_command(&mut self, command: Command, body: &[u8], now: Duration) -> Result<(), Violation> {
        match command {
            Command::Submit(submit) if submit.devid == self.line.devid => self.on_submit(submit, body, now),
            Command::Unlink { seqnum, devid, target } if devid == self.line.devid => {
                let status = if self.function.cancel(target) { errno::CANCELLED } else { 0 };
                self.answers.unlinked(seqnum, status);
                Ok(())
            }
            _ => Err(Violation::Field(Field::Devid)),
        }
    }

    fn on_submit(&mut self, submit: Submit, body: &[u8], now: Duration) -> Result<(), Violation> {
        let data_length = if submit.direction == Direction::Out { submit.length as usize } else { 0 };
        let (data, descriptors) = body.split_at_checked(data_length).ok_or(Violation::Cut)?;
        if submit.endpoint == 0 {
            self.control.submit(&submit, data, self.function.as_mut(), &mut self.answers);
            return Ok(());
        }
        let (mut packets, mut end) = (Vec::new(), 0);
        for descriptor in descriptors.as_chunks::<PACKET_LEN>().0 {
            let packet = Packet::of_command(*descriptor, end, submit.length)?;
            end = packet.end();
            packets.push(packet);
        }
        let Submit { seqnum, direction, endpoint, length, .. } = submit;
        let urb = Urb { seqnum, direction, endpoint, length: length as usize, packets };
        self.function.submit(urb, data, now, &mut self.answers);
        Ok(())
    }
}

/// What follows the header of a command.
fn body_length(command: &Command) -> usize {
    match command {
        Command::Submit(submit) => {
            let data = if submit.direction == Direction::Out { submit.length as usize } else { 0 };
            data + submit.packets as usize * PACKET_LEN
        }
        Command::Unlink { .. } => 0,
    }
}
