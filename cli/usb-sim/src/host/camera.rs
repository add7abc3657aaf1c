//! The driver of the camera: some requests in flight, each sent again as soon as it is answered.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use serde::Serialize;
use wire::usbip::{Packet, Speed};

use super::device::{control_in, control_out};
use super::{Host, Request, Trouble};

/// How a camera is read.
#[derive(Debug, Clone, Copy)]
pub struct Stream {
    /// Requests in flight.
    pub in_flight: usize,
    /// Packets of each; a packet is 125 µs at high speed, 1 ms below that.
    pub packets: u32,
    /// Bytes of a packet.
    pub packet: u32,
    /// For how long.
    pub time: Duration,
}

impl Stream {
    /// What the driver of webcams does at high speed: five requests of 96 KiB, 4 ms each.
    #[must_use]
    pub const fn webcam(time: Duration) -> Self {
        Self { in_flight: 5, packets: 32, packet: 3072, time }
    }

    /// Three requests of one millisecond: what is hardest to keep fed.
    #[must_use]
    pub const fn millisecond(time: Duration) -> Self {
        Self { in_flight: 3, packets: 8, packet: 192, time }
    }
}

/// What came of it.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Streamed {
    /// Requests that were answered.
    pub answers: u32,
    /// Bytes that came.
    pub bytes: u64,
    /// Answers more than a request's time after they were due, counted from the answer before.
    pub late: u32,
    /// How much later than due the latest was, in microseconds.
    pub worst: f64,
    /// Requests that the device missed: its endpoint had nothing to send into when they came.
    pub starved: u32,
    /// The longest that it waited for one, in microseconds.
    pub worst_starved: f64,
    /// Packets that were lost or out of order.
    pub wrong: u32,
}

/// Reads a camera, which is configured.
///
/// # Errors
/// It does not answer as a camera does.
pub fn stream(host: &mut Host, how: Stream) -> Result<Streamed, Trouble> {
    let unit = if host.line().speed > Speed::Full { 125 } else { 1000 };
    let period = Duration::from_micros(unit) * how.packets;
    let before = counts(host)?;
    control_out(host, 0x01, 11, 1, 0)?;
    let packets: Vec<_> = (0..how.packets)
        .map(|number| Packet { offset: number * how.packet, length: how.packet, ..Packet::default() })
        .collect();
    let request = Request { packets: &packets, ..Request::from_device(1, how.packets * how.packet) };
    let mut in_flight = VecDeque::new();
    for _ in 0..how.in_flight {
        in_flight.push_back(host.submit(&request)?);
    }
    let (begin, mut last, mut seen, mut next) = (Instant::now(), None, Streamed::default(), None);
    while begin.elapsed() < how.time {
        let answer = host.answer()?;
        let now = Instant::now();
        if in_flight.pop_front() != Some(answer.seqnum) || answer.status != 0 {
            return Err(Trouble::Wrong("answers of a stream are out of order"));
        }
        in_flight.push_back(host.submit(&request)?);
        if let Some(last) = last.replace(now) {
            let lateness = now.duration_since(last).saturating_sub(period);
            seen.late += u32::from(lateness > period);
            seen.worst = seen.worst.max(lateness.as_secs_f64() * 1e6);
        }
        seen.answers += 1;
        seen.bytes += u64::from(answer.length);
        seen.wrong += wrong(host.data(), &answer.packets, &mut next);
    }
    for seqnum in &in_flight {
        host.cancel(*seqnum)?;
    }
    while host.pending() > 0 {
        host.answer()?;
    }
    control_out(host, 0x01, 11, 0, 0)?;
    let after = counts(host)?;
    seen.starved = after[1].wrapping_sub(before[1]);
    seen.worst_starved = f64::from(after[2]);
    Ok(seen)
}

/// How many packets do not carry the number that is due.
fn wrong(mut data: &[u8], packets: &[Packet], next: &mut Option<u64>) -> u32 {
    let mut wrong = 0;
    for packet in packets {
        let Some((content, rest)) = data.split_at_checked(packet.actual as usize) else { return wrong + 1 };
        data = rest;
        let number = content.first_chunk().map(|number| u64::from_le_bytes(*number));
        wrong += u32::from(number.is_none() || next.is_some_and(|next| number != Some(next)));
        *next = number.map(|number| number.wrapping_add(1));
    }
    wrong
}

/// The camera's own counts: requests, starved ones, the worst wait in microseconds.
fn counts(host: &mut Host) -> Result<[u32; 3], Trouble> {
    let bytes = control_in(host, [0xc0, 1], 0, 0, 12)?;
    let words: &[[u8; 4]; 3] =
        bytes.as_chunks().0.first_chunk().ok_or(Trouble::Wrong("the camera's counts are cut short"))?;
    Ok(words.map(u32::from_le_bytes))
}
