//! What a device sends.

use wire::usbip::{Answer, HEADER_LEN, Packet, Submitted};

use crate::urb::Urb;

/// Linux's numbers, negated, which USB/IP has on every system.
pub(crate) mod errno {
    pub(crate) const STALL: i32 = -32;
    pub(crate) const CANCELLED: i32 = -104;
    pub(crate) const NO_MEMORY: i32 = -12;
}

/// Messages that are to be sent, one behind the other.
#[derive(Debug, Default)]
pub(crate) struct Answers {
    pub(crate) bytes: Vec<u8>,
}

impl Answers {
    /// A request to the device is done; so many bytes were taken.
    pub(crate) fn taken(&mut self, seqnum: u32, length: usize) {
        self.submitted(Submitted {
            seqnum,
            status: 0,
            length: word(length),
            start_frame: 0,
            packets: 0,
            errors: 0,
        });
    }

    /// A request has failed.
    pub(crate) fn failed(&mut self, seqnum: u32, status: i32) {
        self.submitted(Submitted { seqnum, status, length: 0, start_frame: 0, packets: 0, errors: 0 });
    }

    /// A request at an endpoint has failed. Its packets come back too: the other side expects as many as it sent.
    pub(crate) fn refused(&mut self, urb: &Urb, status: i32) {
        let packets = word(urb.packets.len());
        self.submitted(Submitted {
            seqnum: urb.seqnum,
            status,
            length: 0,
            start_frame: 0,
            packets,
            errors: packets,
        });
        for packet in &urb.packets {
            self.bytes.extend(Packet { actual: 0, status, ..*packet }.to_bytes());
        }
    }

    /// A request for data is answered by what `fill` appends.
    pub(crate) fn data<E>(
        &mut self,
        seqnum: u32,
        fill: impl FnOnce(&mut Vec<u8>) -> Result<(), E>,
    ) -> Result<(), E> {
        let at = self.bytes.len();
        self.bytes.extend([0; HEADER_LEN]);
        let filled = fill(&mut self.bytes);
        let answer = match &filled {
            Ok(()) => {
                let length = word(self.bytes.len().saturating_sub(at + HEADER_LEN));
                Submitted { seqnum, status: 0, length, start_frame: 0, packets: 0, errors: 0 }
            }
            Err(_) => {
                self.bytes.truncate(at + HEADER_LEN);
                Submitted { seqnum, status: errno::STALL, length: 0, start_frame: 0, packets: 0, errors: 0 }
            }
        };
        self.put_header(at, Answer::Submitted(answer));
        filled
    }

    /// A request with packets is answered; `fill` appends what each of them has and says how much that is.
    pub(crate) fn packets(
        &mut self,
        seqnum: u32,
        start_frame: u32,
        packets: &[Packet],
        mut fill: impl FnMut(&Packet, &mut Vec<u8>),
    ) {
        let at = self.bytes.len();
        self.bytes.extend([0; HEADER_LEN]);
        let mut done = Vec::with_capacity(packets.len());
        for packet in packets {
            let before = self.bytes.len();
            fill(packet, &mut self.bytes);
            done.push(Packet { actual: word(self.bytes.len() - before), status: 0, ..*packet });
        }
        let length = word(self.bytes.len().saturating_sub(at + HEADER_LEN));
        for packet in done {
            self.bytes.extend(packet.to_bytes());
        }
        let packets = word(packets.len());
        let answer = Submitted { seqnum, status: 0, length, start_frame, packets, errors: 0 };
        self.put_header(at, Answer::Submitted(answer));
    }

    /// A cancellation is answered.
    pub(crate) fn unlinked(&mut self, seqnum: u32, status: i32) {
        self.bytes.extend(Answer::Unlinked { seqnum, status }.to_bytes());
    }

    fn submitted(&mut self, answer: Submitted) {
        self.bytes.extend(Answer::Submitted(answer).to_bytes());
    }

    fn put_header(&mut self, at: usize, answer: Answer) {
        if let Some(header) = self.bytes.get_mut(at..at + HEADER_LEN) {
            header.copy_from_slice(&answer.to_bytes());
        }
    }
}

/// A length, which the protocol bounds far below.
fn word(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}
