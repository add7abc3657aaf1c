//! A camera: packets at their time, whether anybody is quick enough to take them or not.

use std::collections::VecDeque;
use std::time::Duration;

use wire::usbip::{Direction, Packet, Speed};

use crate::answers::{Answers, errno};
use crate::function::{Counts, Function, Setup, Urb};

/// Most requests that wait; drivers of cameras have five.
const WAITING: usize = 512;

/// See [`crate::Kind::Camera`].
#[derive(Debug)]
pub(crate) struct Camera {
    /// Time between two packets.
    interval: Duration,
    /// Most bytes of a packet.
    packet: u32,
    /// When the last request's last packet is over, while there is a stream.
    end: Option<Duration>,
    waiting: VecDeque<Waiting>,
    /// Packets sent so far, of which each begins with its number.
    number: u64,
    counts: Counts,
}

#[derive(Debug)]
struct Waiting {
    seqnum: u32,
    packets: Vec<Packet>,
    start: Duration,
    end: Duration,
}

impl Camera {
    pub(crate) fn new(speed: Speed) -> Self {
        let (interval, packet) = if speed > Speed::Full { (125, 3072) } else { (1000, 1023) };
        Self {
            interval: Duration::from_micros(interval),
            packet,
            end: None,
            waiting: VecDeque::new(),
            number: 0,
            counts: Counts::default(),
        }
    }

    fn answer(&mut self, waiting: &Waiting, answers: &mut Answers) {
        let frame = u32::try_from(waiting.start.as_millis() & u128::from(u32::MAX)).unwrap_or_default();
        let (most, number) = (self.packet, &mut self.number);
        answers.packets(waiting.seqnum, frame, &waiting.packets, |packet, into| {
            let at = into.len();
            let length = packet.length.min(most) as usize;
            let [low, ..] = number.to_le_bytes();
            into.resize(at + length, low);
            for (place, byte) in into.iter_mut().skip(at).zip(number.to_le_bytes()) {
                *place = byte;
            }
            *number = number.wrapping_add(1);
        });
    }
}

impl Function for Camera {
    /// The camera's own counts, as a vendor's request: requests, starved ones, and the worst wait in microseconds.
    fn control(&mut self, setup: Setup, _data: &[u8]) -> Option<Vec<u8>> {
        let worst = u32::try_from(self.counts.worst.as_micros()).unwrap_or(u32::MAX);
        let counts = [self.counts.requests, self.counts.starved, worst];
        ((setup.kind, setup.request) == (0xc0, 1)).then(|| counts.map(u32::to_le_bytes).concat())
    }

    fn submit(&mut self, urb: Urb, _data: &[u8], now: Duration, answers: &mut Answers) {
        if urb.direction != Direction::In || urb.endpoint != 1 || urb.packets.is_empty() {
            return answers.refused(&urb, errno::STALL);
        }
        if self.waiting.len() >= WAITING {
            return answers.refused(&urb, errno::NO_MEMORY);
        }
        self.counts.requests = self.counts.requests.saturating_add(1);
        let start = match self.end {
            Some(end) if end >= now => end,
            Some(end) => {
                self.counts.starved = self.counts.starved.saturating_add(1);
                self.counts.worst = self.counts.worst.max(now - end);
                now
            }
            None => now,
        };
        let packets = u32::try_from(urb.packets.len()).unwrap_or(u32::MAX);
        let end = start + self.interval * packets;
        self.end = Some(end);
        self.waiting.push_back(Waiting { seqnum: urb.seqnum, packets: urb.packets, start, end });
    }

    fn cancel(&mut self, seqnum: u32) -> bool {
        let before = self.waiting.len();
        self.waiting.retain(|waiting| waiting.seqnum != seqnum);
        // Nothing waits: the stream is over, and a request that comes later begins another.
        if self.waiting.is_empty() {
            self.end = None;
        }
        self.waiting.len() < before
    }

    fn settle(&mut self) {
        self.end = None;
    }

    fn tick(&mut self, now: Duration, answers: &mut Answers) {
        while self.waiting.front().is_some_and(|front| front.end <= now) {
            let Some(waiting) = self.waiting.pop_front() else { return };
            self.answer(&waiting, answers);
        }
    }

    fn deadline(&self) -> Option<Duration> {
        self.waiting.front().map(|front| front.end)
    }

    fn counts(&self) -> Counts {
        self.counts
    }
}
