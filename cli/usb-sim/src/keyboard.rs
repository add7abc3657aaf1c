//! A keyboard: one request waits until a key is pressed.

use std::collections::VecDeque;
use std::time::Duration;

use wire::usbip::Direction;

use crate::answers::{Answers, errno};
use crate::function::{Counts, Function, Setup, Urb};

/// Most requests that wait, and most reports that wait for one.
const WAITING: usize = 64;
/// The letter a, as keyboards number it.
const KEY_A: u8 = 4;

/// See [`crate::Kind::Keyboard`].
#[derive(Debug)]
pub(crate) struct Keyboard {
    every: Option<Duration>,
    next: Option<Duration>,
    reports: VecDeque<[u8; 8]>,
    waiting: VecDeque<(u32, usize)>,
    requests: u32,
}

impl Keyboard {
    pub(crate) fn new(every: Option<Duration>) -> Self {
        let every = every.filter(|every| !every.is_zero());
        Self { every, next: None, reports: VecDeque::new(), waiting: VecDeque::new(), requests: 0 }
    }

    fn answer(&mut self, answers: &mut Answers) {
        while !self.waiting.is_empty() {
            let Some(report) = self.reports.pop_front() else { return };
            let Some((seqnum, length)) = self.waiting.pop_front() else { return };
            let _: Result<(), ()> = answers.data(seqnum, |into| {
                into.extend(report.get(..length.min(report.len())).unwrap_or_default());
                Ok(())
            });
        }
    }
}

impl Function for Keyboard {
    fn control(&mut self, setup: Setup, _data: &[u8]) -> Option<Vec<u8>> {
        match (setup.kind, setup.request) {
            // GET_REPORT, GET_IDLE and GET_PROTOCOL.
            (0xa1, 1) => Some(vec![0; 8]),
            (0xa1, 2 | 3) => Some(vec![0]),
            // SET_REPORT (the lights), SET_IDLE and SET_PROTOCOL.
            (0x21, 9..=11) => Some(Vec::new()),
            _ => None,
        }
    }

    fn submit(&mut self, urb: Urb, _data: &[u8], now: Duration, answers: &mut Answers) {
        self.requests = self.requests.saturating_add(1);
        if urb.direction != Direction::In || urb.endpoint != 1 || !urb.packets.is_empty() {
            return answers.refused(&urb, errno::STALL);
        }
        if self.waiting.len() >= WAITING {
            return answers.refused(&urb, errno::NO_MEMORY);
        }
        self.waiting.push_back((urb.seqnum, urb.length));
        // Somebody listens: now time matters.
        if let (None, Some(every)) = (self.next, self.every) {
            self.next = Some(now + every);
        }
        self.answer(answers);
    }

    fn cancel(&mut self, seqnum: u32) -> bool {
        let before = self.waiting.len();
        self.waiting.retain(|(waiting, _)| *waiting != seqnum);
        self.waiting.len() < before
    }

    fn tick(&mut self, now: Duration, answers: &mut Answers) {
        let (Some(next), Some(every)) = (self.next, self.every) else { return };
        if now < next {
            return;
        }
        self.next = Some(now + every);
        if self.reports.len() < WAITING {
            self.reports.push_back([0, 0, KEY_A, 0, 0, 0, 0, 0]);
            self.reports.push_back([0; 8]);
        }
        self.answer(answers);
    }

    fn deadline(&self) -> Option<Duration> {
        self.next
    }

    fn counts(&self) -> Counts {
        Counts { requests: self.requests, ..Counts::default() }
    }
}
