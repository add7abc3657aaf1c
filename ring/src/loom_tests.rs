#![allow(unsafe_code)] // loom's tracked cells are opened through raw pointers; nothing else here is.
//! The index halves and the notify protocol under loom: every interleaving and every value that the
//! memory model lets a load return.
//!
//! [`TxIndex`], [`RxIndex`], [`must_ring`] and [`arm`] are the code that ships; only memory is loom's, and
//! a doorbell is loom's `Notify`. A lost wake-up shows as a deadlock, bytes used before or after their
//! time as a data race. Each proof has mutants beside it, which must fail: a model that cannot fail
//! proves nothing.

use std::sync::Arc; // not loom's: that one's drop wants a running model, and a deadlock has stopped it

use loom::cell::UnsafeCell;
use loom::sync::Notify;
use loom::sync::atomic::{AtomicU8, AtomicU32, Ordering, fence};
use loom::thread;

use crate::consumer::RxIndex;
use crate::error::BadIndex;
use crate::layout::{CLOSED, CONNECTED, NOTIFY_READ, NOTIFY_WRITE};
use crate::page::{Flag, Page, Side, Word, arm, must_ring};
use crate::producer::TxIndex;

/// Bytes in the model's ring: two, so that it can be empty, half full and full.
const RING: usize = 2;

/// Which mistake is made on purpose.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mutation {
    /// Nothing: the protocol as it ships.
    None,
    /// Full fences do nothing.
    NoFence,
    /// Indices are published without release.
    RelaxedPublish,
    /// Indices are read without acquire.
    RelaxedIndex,
    /// Whoever is about to sleep looks once only.
    NoSecondLook,
    /// Whoever finds no data asks only afterwards whether the peer is open, which is too late.
    LiveAfterData,
}

/// Page 0 and one ring, with the doorbells of both sides.
struct Model {
    left_cons: AtomicU32,
    left_prod: AtomicU32,
    live: AtomicU8,
    cli_notify: AtomicU8,
    ring: [UnsafeCell<u8>; RING],
    client_bell: Notify,
    server_bell: Notify,
    mutation: Mutation,
}

// SAFETY: loom runs one thread at a time and fails the test at an unordered access to `ring`.
unsafe impl Sync for Model {}

impl Page for Model {
    fn index(&self, word: Word) -> u32 {
        let order =
            if self.mutation == Mutation::RelaxedIndex { Ordering::Relaxed } else { Ordering::Acquire };
        self.word(word).load(order)
    }

    fn publish(&self, word: Word, value: u32) {
        let relaxed = self.mutation == Mutation::RelaxedPublish;
        self.word(word).store(value, if relaxed { Ordering::Relaxed } else { Ordering::Release });
    }

    fn flag(&self, flag: Flag) -> u8 {
        self.byte(flag).load(Ordering::Acquire)
    }

    fn set_flag(&self, flag: Flag, value: u8) {
        self.byte(flag).store(value, Ordering::Release);
    }

    fn set_bits(&self, flag: Flag, bits: u8) {
        self.byte(flag).fetch_or(bits, Ordering::SeqCst);
    }

    fn take_bits(&self, flag: Flag, bits: u8) -> u8 {
        self.byte(flag).fetch_and(!bits, Ordering::SeqCst)
    }

    fn fence(&self) {
        if self.mutation != Mutation::NoFence {
            fence(Ordering::SeqCst);
        }
    }
}

impl Model {
    fn new(mutation: Mutation) -> Arc<Model> {
        Arc::new(Model {
            left_cons: AtomicU32::new(0),
            left_prod: AtomicU32::new(0),
            live: AtomicU8::new(CONNECTED),
            cli_notify: AtomicU8::new(0),
            ring: [UnsafeCell::new(0), UnsafeCell::new(0)],
            client_bell: Notify::new(),
            server_bell: Notify::new(),
            mutation,
        })
    }

    /// [`arm`], looking once only in the mutant that does so.
    fn arm(&self, side: Side, bits: u8, mut is_there: impl FnMut() -> bool) -> bool {
        let mut looks = 0;
        let look = || -> Result<bool, BadIndex> {
            looks += 1;
            Ok((looks == 1 || self.mutation != Mutation::NoSecondLook) && is_there())
        };
        arm(self, side, bits, look).unwrap()
    }

    fn word(&self, word: Word) -> &AtomicU32 {
        match word {
            Word::LeftCons => &self.left_cons,
            Word::LeftProd => &self.left_prod,
            _ => unreachable!("the model has one ring"),
        }
    }

    fn byte(&self, flag: Flag) -> &AtomicU8 {
        match flag {
            Flag::CliLive => &self.live,
            Flag::CliNotify => &self.cli_notify,
            _ => unreachable!("the model has one ring"),
        }
    }

    fn put(&self, at: usize, byte: u8) {
        // SAFETY: loom passes a pointer to the tracked cell and fails the test if anything races.
        self.ring[at % RING].with_mut(|cell| unsafe { *cell = byte });
    }

    fn get(&self, at: usize) -> u8 {
        // SAFETY: as in `put`.
        self.ring[at % RING].with(|cell| unsafe { *cell })
    }
}

/// The client, which produces on *left*. Its sleep is for room, its ring for data.
struct Sender {
    model: Arc<Model>,
    index: TxIndex,
    sent: usize,
}

impl Sender {
    fn new(model: &Arc<Model>) -> Sender {
        let index = TxIndex::new(Word::LeftProd, Word::LeftCons, RING as u32);
        Sender { model: model.clone(), index, sent: 0 }
    }

    fn send(&mut self, bytes: &[u8]) {
        assert!(bytes.len() <= self.index.room(&*self.model).unwrap(), "the test leaves room");
        for byte in bytes {
            self.model.put(self.sent, *byte);
            self.sent += 1;
        }
        self.index.commit(&*self.model, bytes.len());
    }

    fn flush(&self) {
        if must_ring(&*self.model, Side::Client, NOTIFY_WRITE) {
            self.model.server_bell.notify();
        }
    }

    /// As `Channel`'s drop: the live byte, then the bell, asked or not.
    fn close(&self) {
        self.model.set_flag(Side::Client.own_live(), CLOSED);
        self.model.fence();
        self.model.server_bell.notify();
    }
}

/// The server, which consumes *left*.
struct Receiver {
    model: Arc<Model>,
    index: RxIndex,
    got: usize,
}

impl Receiver {
    fn new(model: &Arc<Model>) -> Receiver {
        let index = RxIndex::new(Word::LeftProd, Word::LeftCons, RING as u32);
        Receiver { model: model.clone(), index, got: 0 }
    }

    /// As `Channel::arm`: `true` means do not sleep.
    fn arm(&mut self) -> bool {
        let model = self.model.clone();
        model.arm(Side::Server, NOTIFY_WRITE, || {
            self.index.ready(&*self.model).unwrap() > 0 || !self.is_open()
        })
    }

    fn is_open(&self) -> bool {
        self.model.flag(Side::Server.other().own_live()) != CLOSED
    }

    /// Takes what is there, checking that it is what was sent.
    fn take(&mut self) -> usize {
        let ready = self.index.ready(&*self.model).unwrap();
        for _ in 0..ready {
            assert_eq!(self.model.get(self.got), byte(self.got), "a byte before its time");
            self.got += 1;
        }
        self.index.take(ready);
        self.index.give(&*self.model, ready);
        ready
    }

    fn sleep_until(&mut self, total: usize) {
        while self.got < total {
            if self.take() == 0 && !self.arm() {
                self.model.server_bell.wait();
            }
        }
    }

    /// As `Channel::ended`: liveness first, then data.
    fn ended(&mut self) -> bool {
        if self.model.mutation == Mutation::LiveAfterData {
            return self.index.ready(&*self.model).unwrap() == 0 && !self.is_open();
        }
        !self.is_open() && self.index.ready(&*self.model).unwrap() == 0
    }
}

/// The byte that belongs at a place of the stream.
fn byte(at: usize) -> u8 {
    at as u8 + 1
}

fn check(model: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    // Without a bound the longest model takes minutes; every mutant below already fails with two.
    builder.preemption_bound = Some(4);
    builder.check(model);
}

/// Two flushed writes against a reader that sleeps whenever it finds nothing.
fn data_arrives(mutation: Mutation) {
    check(move || {
        let model = Model::new(mutation);
        let mut sender = Sender::new(&model);
        let mut receiver = Receiver::new(&model);
        let writer = thread::spawn(move || {
            for at in 0..2 {
                sender.send(&[byte(at)]);
                sender.flush();
            }
        });
        receiver.sleep_until(2);
        writer.join().unwrap();
    });
}

/// A writer that sleeps whenever the ring is full. The page's two requests are mirror images, so the
/// model's one notify byte plays the server's: the reader of the ring is the one who looks at it.
fn room_arrives(mutation: Mutation) {
    check(move || {
        let model = Model::new(mutation);
        let mut sender = Sender::new(&model);
        let mut receiver = Receiver::new(&model);
        sender.send(&[byte(0), byte(1)]);
        let reader = thread::spawn(move || {
            receiver.take();
            if must_ring(&*receiver.model, Side::Client, NOTIFY_READ) {
                receiver.model.client_bell.notify();
            }
            receiver
        });
        let room = |sender: &mut Sender| sender.index.room(&*sender.model).unwrap() > 0;
        while !room(&mut sender) {
            if !model.arm(Side::Server, NOTIFY_READ, || room(&mut sender)) {
                model.client_bell.wait();
            }
        }
        sender.send(&[byte(2)]);
        assert_eq!(reader.join().unwrap().take(), 1);
    });
}

/// A last write and the close right behind it: the reader gets the byte, then the end.
fn close_arrives(mutation: Mutation) {
    check(move || {
        let model = Model::new(mutation);
        let mut sender = Sender::new(&model);
        let mut receiver = Receiver::new(&model);
        let writer = thread::spawn(move || {
            sender.send(&[byte(0)]);
            sender.close();
        });
        while !receiver.ended() {
            if receiver.take() == 0 && !receiver.arm() {
                receiver.model.server_bell.wait();
            }
        }
        assert_eq!(receiver.got, 1, "what was written before the close was lost");
        writer.join().unwrap();
    });
}

#[test]
fn no_wake_up_for_data_is_lost_and_no_byte_comes_early() {
    data_arrives(Mutation::None);
}

#[test]
fn no_wake_up_for_room_is_lost_and_no_byte_is_overwritten_early() {
    room_arrives(Mutation::None);
}

#[test]
fn what_was_written_before_the_close_is_read() {
    close_arrives(Mutation::None);
}

#[test]
#[should_panic(expected = "deadlock")]
fn without_the_fence_a_wake_up_for_data_is_lost() {
    data_arrives(Mutation::NoFence);
}

#[test]
#[should_panic(expected = "deadlock")]
fn without_the_fence_a_wake_up_for_room_is_lost() {
    room_arrives(Mutation::NoFence);
}

#[test]
#[should_panic(expected = "deadlock")]
fn without_the_second_look_a_wake_up_for_data_is_lost() {
    data_arrives(Mutation::NoSecondLook);
}

#[test]
#[should_panic(expected = "deadlock")]
fn without_the_second_look_a_wake_up_for_room_is_lost() {
    room_arrives(Mutation::NoSecondLook);
}

#[test]
#[should_panic(expected = "Causality violation")]
fn without_the_release_a_byte_comes_early() {
    data_arrives(Mutation::RelaxedPublish);
}

#[test]
#[should_panic(expected = "Causality violation")]
fn without_the_acquire_a_byte_comes_early() {
    data_arrives(Mutation::RelaxedIndex);
}

#[test]
#[should_panic(expected = "Causality violation")]
fn without_the_acquire_a_byte_is_overwritten_early() {
    room_arrives(Mutation::RelaxedIndex);
}

#[test]
#[should_panic(expected = "was lost")]
fn liveness_after_data_loses_the_last_bytes() {
    close_arrives(Mutation::LiveAfterData);
}
