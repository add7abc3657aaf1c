//! The stream: requests out, answers in.

use std::collections::BTreeMap;
use std::io::IoSlice;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{RecvFlags, SendAncillaryBuffer, SendFlags, recv, send, sendmsg};
use wire::usbip::{
    Answer, AttachLine, Command, Direction, Field, HEADER_LEN, LINE_MAX, MAX_LENGTH, PACKET_LEN, Packet,
    Submit, Violation,
};

use super::Trouble;

/// A request for the device.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// Which way its data go.
    pub direction: Direction,
    /// 0 to 15.
    pub endpoint: u8,
    /// The data of one that goes out.
    pub data: &'a [u8],
    /// Bytes that one asks for which goes in.
    pub length: u32,
    /// Isochronous packets, none for any other request.
    pub packets: &'a [Packet],
    /// Of a control transfer.
    pub setup: [u8; 8],
}

impl<'a> Request<'a> {
    /// Data for the device.
    #[must_use]
    pub const fn to_device(endpoint: u8, data: &'a [u8]) -> Self {
        Self { direction: Direction::Out, endpoint, data, length: 0, packets: &[], setup: [0; 8] }
    }

    /// Data of the device.
    #[must_use]
    pub const fn from_device(endpoint: u8, length: u32) -> Self {
        Self { direction: Direction::In, endpoint, data: &[], length, packets: &[], setup: [0; 8] }
    }
}

/// What came back.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Answered {
    /// The number of the request, or of the cancellation.
    pub seqnum: u32,
    /// Whether it answers a cancellation.
    pub unlinked: bool,
    /// 0, or a negated errno.
    pub status: i32,
    /// Bytes that were moved.
    pub length: u32,
    /// What happened to each packet.
    pub packets: Vec<Packet>,
}

/// What an answer has to fit.
#[derive(Debug)]
struct Asked {
    direction: Direction,
    length: u32,
    packets: Vec<Packet>,
    cancelled_by: Option<u32>,
}

/// One imported device.
#[derive(Debug)]
pub struct Host {
    socket: OwnedFd,
    line: AttachLine,
    seqnum: u32,
    requests: BTreeMap<u32, Asked>,
    /// Cancellations and their targets.
    cancels: BTreeMap<u32, u32>,
    /// The data of the last answer.
    data: Vec<u8>,
}

impl Host {
    /// Reads the line, and no byte more. From then on each answer has to come within `patience`.
    ///
    /// # Errors
    /// No line, or none that says what the device is.
    pub fn attach(socket: OwnedFd, patience: Duration) -> Result<Self, Trouble> {
        set_socket_timeout(&socket, Timeout::Recv, Some(patience))
            .map_err(|error| Trouble::System("socket", error.into()))?;
        let mut text = Vec::new();
        let line = loop {
            let mut byte = [0];
            read_exactly(&socket, &mut byte)?;
            if byte == *b"\n" {
                break AttachLine::parse(&text).ok_or(Violation::Line)?;
            }
            text.extend(byte);
            if text.len() > LINE_MAX {
                return Err(Violation::Line.into());
            }
        };
        Self::adopt(socket, line, patience)
    }

    /// The same for a stream whose line somebody else has read.
    ///
    /// # Errors
    /// The socket is none.
    pub fn adopt(socket: OwnedFd, line: AttachLine, patience: Duration) -> Result<Self, Trouble> {
        set_socket_timeout(&socket, Timeout::Recv, Some(patience))
            .map_err(|error| Trouble::System("socket", error.into()))?;
        engine::localfd::widen_for_urbs(&socket);
        let (requests, cancels) = (BTreeMap::new(), BTreeMap::new());
        Ok(Self { socket, line, seqnum: 0, requests, cancels, data: Vec::new() })
    }

    /// What the device has said of itself.
    #[must_use]
    pub const fn line(&self) -> AttachLine {
        self.line
    }

    /// How many requests and cancellations have no answer.
    #[must_use]
    pub fn pending(&self) -> usize {
        self.requests.len() + self.cancels.len()
    }

    /// The data of the last answer.
    #[must_use]
    pub fn data(&self) -> &[u8] {
        &self.data
    }

    /// Sends a request; the result is its number.
    ///
    /// # Errors
    /// The stream does not work.
    pub fn submit(&mut self, request: &Request<'_>) -> Result<u32, Trouble> {
        let seqnum = self.number();
        let length = match request.direction {
            Direction::In => request.length,
            Direction::Out => u32::try_from(request.data.len()).unwrap_or(u32::MAX),
        };
        let packets = u32::try_from(request.packets.len()).unwrap_or(u32::MAX);
        let header = Command::Submit(Submit {
            seqnum,
            devid: self.line.devid,
            direction: request.direction,
            endpoint: request.endpoint,
            flags: flags(request),
            length,
            start_frame: 0,
            packets,
            interval: u32::from(packets > 0),
            setup: request.setup,
        });
        let descriptors: Vec<u8> = request.packets.iter().flat_map(|packet| packet.to_bytes()).collect();
        self.send(&[&header.to_bytes(), request.data, &descriptors])?;
        let (direction, packets) = (request.direction, request.packets.to_vec());
        self.requests.insert(seqnum, Asked { direction, length, packets, cancelled_by: None });
        Ok(seqnum)
    }

    /// Cancels a request; the result is the number of the cancellation. Only one of the two is answered, or both.
    ///
    /// # Errors
    /// The stream does not work.
    pub fn cancel(&mut self, target: u32) -> Result<u32, Trouble> {
        let seqnum = self.number();
        let header = Command::Unlink { seqnum, devid: self.line.devid, target };
        self.send(&[&header.to_bytes()])?;
        if let Some(asked) = self.requests.get_mut(&target) {
            asked.cancelled_by = Some(seqnum);
        }
        self.cancels.insert(seqnum, target);
        Ok(seqnum)
    }

    /// Waits for the next answer, whose data are in [`Host::data`] then.
    ///
    /// # Errors
    /// There is none, or one to nothing that was asked.
    pub fn answer(&mut self) -> Result<Answered, Trouble> {
        let mut header = [0; HEADER_LEN];
        read_exactly(&self.socket, &mut header)?;
        match Answer::from_bytes(header)? {
            Answer::Unlinked { seqnum, status } => {
                let target = self.cancels.remove(&seqnum).ok_or(Violation::Unasked)?;
                self.requests.remove(&target);
                Ok(Answered { seqnum, unlinked: true, status, ..Answered::default() })
            }
            Answer::Submitted(answer) => {
                let asked = self.requests.remove(&answer.seqnum).ok_or(Violation::Unasked)?;
                if answer.length > asked.length {
                    return Err(Violation::Field(Field::ActualLength).into());
                }
                if answer.packets as usize != asked.packets.len() {
                    return Err(Violation::Field(Field::NumberOfPackets).into());
                }
                if asked.direction == Direction::In {
                    // Not cleared before: what is there already is not written twice.
                    self.data.resize(answer.length.min(MAX_LENGTH) as usize, 0);
                    read_exactly(&self.socket, &mut self.data)?;
                }
                let mut descriptors = vec![0; asked.packets.len() * PACKET_LEN];
                read_exactly(&self.socket, &mut descriptors)?;
                let descriptors = descriptors.as_chunks().0.iter().zip(&asked.packets);
                let packets = descriptors.map(|(bytes, asked)| Packet::of_answer(*bytes, *asked));
                let packets = packets.collect::<Result<_, _>>()?;
                let (seqnum, status, length) = (answer.seqnum, answer.status, answer.length);
                Ok(Answered { seqnum, unlinked: false, status, length, packets })
            }
        }
    }

    /// One request while no other is pending, to its end.
    ///
    /// # Errors
    /// Another answer than that, or a status that is not 0.
    pub fn transfer(&mut self, what: &'static str, request: &Request<'_>) -> Result<Answered, Trouble> {
        let seqnum = self.submit(request)?;
        let answer = self.answer()?;
        match answer.status {
            _ if answer.seqnum != seqnum => Err(Violation::Unasked.into()),
            0 => Ok(answer),
            status => Err(Trouble::Failed(what, status)),
        }
    }

    const fn number(&mut self) -> u32 {
        self.seqnum = self.seqnum.wrapping_add(1);
        self.seqnum
    }

    /// Sends a message in one piece, as a kernel does.
    fn send(&self, parts: &[&[u8]]) -> Result<(), Trouble> {
        let slices: Vec<_> = parts.iter().map(|part| IoSlice::new(part)).collect();
        let whole: usize = parts.iter().map(|part| part.len()).sum();
        let sent = loop {
            let mut none = SendAncillaryBuffer::default();
            match sendmsg(&self.socket, &slices, &mut none, SendFlags::NOSIGNAL) {
                Err(Errno::INTR) => {}
                sent => break sent.map_err(trouble("send"))?,
            }
        };
        // A piece was left over only if a signal came in between.
        let mut rest = if sent < whole { parts.concat().split_off(sent) } else { Vec::new() };
        while !rest.is_empty() {
            let sent = send(&self.socket, &rest, SendFlags::NOSIGNAL).map_err(trouble("send"))?;
            rest.drain(..sent);
        }
        Ok(())
    }
}

/// Flags that Linux sets: in, and for isochronous requests as soon as possible.
fn flags(request: &Request<'_>) -> u32 {
    let direction = if request.direction == Direction::In { 0x200 } else { 0 };
    direction | if request.packets.is_empty() { 0 } else { 2 }
}

fn trouble(what: &'static str) -> impl Fn(Errno) -> Trouble {
    move |error| match error {
        Errno::PIPE | Errno::CONNRESET => Trouble::Gone,
        error => Trouble::System(what, error.into()),
    }
}

fn read_exactly(socket: &OwnedFd, mut into: &mut [u8]) -> Result<(), Trouble> {
    while !into.is_empty() {
        match recv(socket, &mut *into, RecvFlags::WAITALL) {
            Ok((0, _)) | Err(Errno::CONNRESET) => return Err(Trouble::Gone),
            Ok((count, _)) => into = into.get_mut(count..).unwrap_or_default(),
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => return Err(Trouble::Silent),
            Err(error) => return Err(trouble("receive")(error)),
        }
    }
    Ok(())
}
