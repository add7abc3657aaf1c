//! The filter between two kernels.

use alloc::vec::Vec;
use core::mem;

use super::descriptors::{self, Interfaces};
use super::header::{Answer, Command, Direction, HEADER_LEN, Submit, Submitted};
use super::line::{AttachLine, LINE_MAX};
use super::packets::{PACKET_LEN, Packet};
use super::pending::{Pending, Request};
use super::{Field, Rules, Violation};

/// The type bits of a control request, and the vendor's among them.
const REQUEST_TYPE: u8 = 0x60;
const VENDOR: u8 = 0x40;
/// A standard request of the whole device, and its number for SET_CONFIGURATION.
const TO_DEVICE: u8 = 0;
const SET_CONFIGURATION: u8 = 9;

/// Who sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Side {
    /// The machine that gets the device.
    Import,
    /// The machine that has it.
    Export,
}

/// What is to be done with the stream of one side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Send these bytes on, in place of as many that were taken. Then [`Filter::payload_left`] bytes go on unchanged.
    Send(Vec<u8>),
    /// The call ends. Nothing more of either side may be sent on.
    Refused(Violation),
}

/// What the next bytes of one side are.
#[derive(Debug)]
enum State {
    Line,
    Header,
    /// So many bytes of payload are left, then the rest of the message.
    Payload(u32, Tail),
    Packets(Tail),
    /// So many bytes in all are the answer's header and the device's descriptors behind it; and to which request.
    Descriptors(u32, u32),
    Refused,
}

/// A message whose packets have not arrived yet; without packets if it is not isochronous.
#[derive(Debug)]
enum Tail {
    Nothing,
    Command(Submit),
    Answer(Submitted, Request),
}

impl Tail {
    fn packets(&self) -> usize {
        match self {
            Self::Nothing => 0,
            Self::Command(submit) => submit.packets as usize,
            Self::Answer(_, request) => request.packets.len(),
        }
    }
}

/// One side's stream.
#[derive(Debug)]
struct Stream {
    state: State,
    /// The part of a line, a header or descriptors that has arrived.
    partial: Vec<u8>,
    event: Option<Event>,
}

impl Stream {
    const fn new(state: State) -> Self {
        Self { state, partial: Vec::new(), event: None }
    }
}

/// Checks what two kernels say to each other about one device.
#[derive(Debug)]
pub struct Filter {
    rules: Rules,
    pending: Pending,
    line: Option<AttachLine>,
    configuration: Option<u16>,
    interfaces: Interfaces,
    import: Stream,
    export: Stream,
}

impl Filter {
    /// A filter before the first line.
    pub fn new(rules: Rules) -> Self {
        Self {
            rules,
            pending: Pending::new(rules),
            line: None,
            configuration: None,
            interfaces: Interfaces::default(),
            import: Stream::new(State::Header),
            export: Stream::new(State::Line),
        }
    }

    /// The export's line about its device.
    pub const fn line(&self) -> Option<AttachLine> {
        self.line
    }

    /// How many commands have no answer yet.
    pub fn pending(&self) -> usize {
        self.pending.len()
    }

    /// How many bytes to take at most before the next event; 0 while there is payload to move, an event to fetch, or a
    /// refusal.
    pub fn wanted(&self, from: Side) -> usize {
        let stream = self.stream(from);
        if stream.event.is_some() {
            return 0;
        }
        let whole = match &stream.state {
            // Where the line ends is known only once it has ended.
            State::Line => return 1,
            State::Header => HEADER_LEN,
            State::Packets(tail) => tail.packets().saturating_mul(PACKET_LEN),
            State::Descriptors(whole, _) => *whole as usize,
            State::Payload(..) | State::Refused => return 0,
        };
        whole.saturating_sub(stream.partial.len())
    }

    /// Takes bytes of one side until there is an event, and returns how many it took. Fetch the event with
    /// [`Filter::poll_event`] after each; nothing is taken before that, nor while payload is to be moved.
    pub fn handle_input(&mut self, from: Side, input: &[u8]) -> usize {
        let mut taken = 0;
        loop {
            let wanted = self.wanted(from);
            let rest = input.get(taken..).unwrap_or_default();
            let piece = rest.get(..wanted.min(rest.len())).unwrap_or_default();
            if piece.is_empty() {
                return taken;
            }
            taken += piece.len();
            self.stream_mut(from).partial.extend_from_slice(piece);
            if let Err(violation) = self.look(from) {
                self.refuse(from, violation);
            }
        }
    }

    /// To be called when so many bytes of payload were sent on, at most [`Filter::payload_left`].
    pub fn handle_payload(&mut self, from: Side, moved: u32) {
        let stream = self.stream_mut(from);
        if let State::Payload(left, _) = &mut stream.state {
            *left = left.saturating_sub(moved);
            settle(stream);
        }
    }

    /// Bytes of payload to be sent on unchanged, after the event before them.
    pub fn payload_left(&self, from: Side) -> u32 {
        match &self.stream(from).state {
            State::Payload(left, _) => *left,
            _ => 0,
        }
    }

    /// To be called when one side sends no more.
    ///
    /// # Errors
    /// [`Violation::Cut`] inside the line or a message. An export without a device ends without a line.
    pub fn handle_end(&self, from: Side) -> Result<(), Violation> {
        let stream = self.stream(from);
        match stream.state {
            State::Line | State::Header if !stream.partial.is_empty() => Err(Violation::Cut),
            State::Line | State::Header | State::Refused => Ok(()),
            State::Payload(..) | State::Packets(_) | State::Descriptors(..) => Err(Violation::Cut),
        }
    }

    /// Takes bytes of one side from private memory, and appends to `out` what is to be sent on of them and of earlier
    /// ones.
    ///
    /// # Errors
    /// The call ends. `out` has only bytes of messages before the one that broke the rules.
    pub fn strain(&mut self, from: Side, mut input: &[u8], out: &mut Vec<u8>) -> Result<(), Violation> {
        while !input.is_empty() {
            let payload = input.len().min(self.payload_left(from) as usize);
            let (plain, rest) = input.split_at(payload);
            out.extend_from_slice(plain);
            self.handle_payload(from, payload as u32);
            let taken = self.handle_input(from, rest);
            match self.poll_event(from) {
                Some(Event::Send(bytes)) => out.extend(bytes),
                Some(Event::Refused(violation)) => return Err(violation),
                // The call was refused and has ended.
                None if payload == 0 && taken == 0 => return Ok(()),
                None => {}
            }
            input = rest.get(taken..).unwrap_or_default();
        }
        Ok(())
    }

    /// What to do about the bytes that were taken.
    pub fn poll_event(&mut self, from: Side) -> Option<Event> {
        self.stream_mut(from).event.take()
    }

    const fn stream(&self, side: Side) -> &Stream {
        match side {
            Side::Import => &self.import,
            Side::Export => &self.export,
        }
    }

    const fn stream_mut(&mut self, side: Side) -> &mut Stream {
        match side {
            Side::Import => &mut self.import,
            Side::Export => &mut self.export,
        }
    }

    /// Ends both sides; the refusal is reported for the one that broke the rules.
    fn refuse(&mut self, from: Side, violation: Violation) {
        for side in [Side::Import, Side::Export] {
            *self.stream_mut(side) = Stream::new(State::Refused);
        }
        self.stream_mut(from).event = Some(Event::Refused(violation));
    }

    /// Checks what has arrived, if it is complete.
    fn look(&mut self, from: Side) -> Result<(), Violation> {
        if matches!(self.stream(from).state, State::Line) {
            return self.on_line();
        }
        if self.wanted(from) > 0 {
            return Ok(());
        }
        let stream = self.stream_mut(from);
        let bytes = mem::take(&mut stream.partial);
        match mem::replace(&mut stream.state, State::Header) {
            State::Header => {
                let header = *bytes.first_chunk().ok_or(Violation::Cut)?;
                match from {
                    Side::Import => self.on_command(Command::from_bytes(header)?),
                    Side::Export => self.on_answer(Answer::from_bytes(header)?),
                }
            }
            State::Packets(Tail::Command(submit)) => self.on_command_packets(&submit, &bytes),
            State::Packets(Tail::Answer(answer, request)) => self.on_answer_packets(answer, &request, &bytes),
            State::Descriptors(_, seqnum) => {
                self.pending.take_request(seqnum)?;
                self.interfaces.see(&self.rules, bytes.get(HEADER_LEN..).unwrap_or_default())?;
                self.export.event = Some(Event::Send(bytes));
                Ok(())
            }
            State::Packets(Tail::Nothing) | State::Line | State::Payload(..) | State::Refused => Ok(()),
        }
    }

    fn on_line(&mut self) -> Result<(), Violation> {
        let stream = &mut self.export;
        let Some(text) = stream.partial.strip_suffix(b"\n") else {
            return if stream.partial.len() < LINE_MAX { Ok(()) } else { Err(Violation::Line) };
        };
        let line = AttachLine::parse(text).ok_or(Violation::Line)?;
        // A line with anything else in it, such as leading zeros, is refused and not passed on.
        if line.text().as_bytes() != stream.partial {
            return Err(Violation::Line);
        }
        stream.event = Some(Event::Send(mem::take(&mut stream.partial)));
        stream.state = State::Header;
        self.line = Some(line);
        Ok(())
    }

    fn on_command(&mut self, command: Command) -> Result<(), Violation> {
        let line = self.line.ok_or(Violation::Early)?;
        let devid = match command {
            Command::Submit(submit) => submit.devid,
            Command::Unlink { devid, .. } => devid,
        };
        if devid != line.devid {
            return Err(Violation::Field(Field::Devid));
        }
        match command {
            Command::Submit(submit) => {
                self.pending.admit(&submit)?;
                if submit.endpoint == 0 {
                    self.control(submit.setup)?;
                    if self.says_a_class(submit.direction, submit.setup) {
                        descriptors::bound(submit.length)?;
                    }
                }
                let payload = if submit.direction == Direction::Out { submit.length } else { 0 };
                let tail = if submit.packets > 0 {
                    Tail::Command(submit)
                } else {
                    self.pending.add(&submit, Vec::new());
                    Tail::Nothing
                };
                self.import.state = State::Payload(payload, tail);
            }
            Command::Unlink { seqnum, target, .. } => self.pending.cancel(seqnum, target)?,
        }
        self.import.event = Some(Event::Send(command.to_bytes().to_vec()));
        settle(&mut self.import);
        Ok(())
    }

    /// Checks a control request by its setup packet.
    fn control(&mut self, setup: [u8; 8]) -> Result<(), Violation> {
        let [kind, request, low, high, ..] = setup;
        if kind & REQUEST_TYPE == VENDOR && !self.rules.vendor_requests {
            return Err(Violation::VendorRequest);
        }
        if (kind, request) == (TO_DEVICE, SET_CONFIGURATION) {
            let wanted = u16::from_le_bytes([low, high]);
            let first = *self.configuration.get_or_insert(wanted);
            if wanted != first && !self.rules.other_configurations {
                return Err(Violation::Configuration);
            }
        }
        if self.rules.firmware { Ok(()) } else { self.interfaces.allow(setup) }
    }

    /// Whether an answer is to be read as descriptors with a class.
    fn says_a_class(&self, direction: Direction, setup: [u8; 8]) -> bool {
        self.rules.reads_descriptors() && direction == Direction::In && descriptors::are_asked_for(setup)
    }

    fn on_answer(&mut self, answer: Answer) -> Result<(), Violation> {
        match answer {
            Answer::Submitted(answer) => {
                let request = self.pending.take_request(answer.seqnum)?;
                if answer.length > request.length {
                    return Err(Violation::Field(Field::ActualLength));
                }
                if answer.packets as usize != request.packets.len() {
                    return Err(Violation::Field(Field::NumberOfPackets));
                }
                let payload = if request.direction == Direction::In { answer.length } else { 0 };
                if payload > 0
                    && request.setup.is_some_and(|setup| self.says_a_class(request.direction, setup))
                {
                    // Nothing of it is sent on before all of it was checked: until then the import waits for it.
                    self.pending.put_back(answer.seqnum, request);
                    self.export.partial = Answer::Submitted(answer).to_bytes().to_vec();
                    self.export.state =
                        State::Descriptors(payload.saturating_add(HEADER_LEN as u32), answer.seqnum);
                    return Ok(());
                }
                let tail = if answer.packets > 0 { Tail::Answer(answer, request) } else { Tail::Nothing };
                self.export.state = State::Payload(payload, tail);
            }
            Answer::Unlinked { seqnum, .. } => self.pending.take_cancel(seqnum)?,
        }
        self.export.event = Some(Event::Send(answer.to_bytes().to_vec()));
        settle(&mut self.export);
        Ok(())
    }

    fn on_command_packets(&mut self, submit: &Submit, bytes: &[u8]) -> Result<(), Violation> {
        let (mut packets, mut sent, mut end) = (Vec::new(), Vec::with_capacity(bytes.len()), 0);
        for descriptor in bytes.as_chunks().0 {
            let packet = Packet::of_command(*descriptor, end, submit.length)?;
            end = packet.end();
            packets.push(packet);
            sent.extend(packet.to_bytes());
        }
        self.pending.add(submit, packets);
        self.import.event = Some(Event::Send(sent));
        Ok(())
    }

    fn on_answer_packets(
        &mut self,
        answer: Submitted,
        request: &Request,
        bytes: &[u8],
    ) -> Result<(), Violation> {
        let (mut sum, mut sent) = (0u32, Vec::with_capacity(bytes.len()));
        for (descriptor, asked) in bytes.as_chunks().0.iter().zip(&request.packets) {
            let packet = Packet::of_answer(*descriptor, *asked)?;
            sum = sum.saturating_add(packet.actual);
            sent.extend(packet.to_bytes());
        }
        // Data that came in lie packed behind the header: the packets say where each belongs in the buffer.
        if request.direction == Direction::In && sum != answer.length {
            return Err(Violation::Field(Field::PacketActualLength));
        }
        self.export.event = Some(Event::Send(sent));
        Ok(())
    }
}

/// If no payload is left, the packets come next, or the next header.
fn settle(stream: &mut Stream) {
    if let State::Payload(0, tail) = &mut stream.state {
        let tail = mem::replace(tail, Tail::Nothing);
        stream.state = if tail.packets() > 0 { State::Packets(tail) } else { State::Header };
    }
}
