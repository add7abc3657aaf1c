#![forbid(unsafe_code)]
//! A channel as a plain reader and writer: bytes are copied, and whoever finds nothing or no room waits.
//!
//! What the pump does in place, for programs that have their bytes in memory. A writer rings when a quarter of the
//! ring is written and not announced, a reader when half of it is free, and both before they sleep; before a sleep
//! both look again a few times.

use std::io;
use std::os::fd::AsFd;
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, poll};

use crate::channel::Channel;
use crate::error::Error;
use crate::spin::Spin;

/// A channel whose `read` and `write` wait.
#[derive(Debug)]
pub struct Blocking {
    channel: Channel,
    spin: Spin,
    moved: u64,
    sleeps: u64,
}

impl Blocking {
    /// Wraps a channel.
    pub fn new(channel: Channel) -> Blocking {
        let spin = Spin::new(channel.is_far());
        Blocking { channel, spin, moved: 0, sleeps: 0 }
    }

    /// The channel, for its counters and its state.
    pub fn channel(&self) -> &Channel {
        &self.channel
    }

    /// How often this side has slept.
    pub fn sleeps(&self) -> u64 {
        self.sleeps
    }

    fn read_some(&mut self, buf: &mut [u8]) -> Result<usize, Error> {
        loop {
            let n = self.channel.read(buf)?;
            if n > 0 {
                self.moved += n as u64;
                if self.channel.unflushed_room() >= (self.channel.rx().size() / 2) as u64 {
                    self.channel.flush_room()?;
                }
                return Ok(n);
            }
            if buf.is_empty() || self.channel.ended()? {
                return Ok(0);
            }
            self.wait(Some(0), 0)?;
        }
    }

    fn write_some(&mut self, buf: &[u8]) -> Result<usize, Error> {
        let quarter = self.channel.tx().size() / 4;
        let useful = quarter.min(buf.len());
        loop {
            if self.channel.writable()? >= useful {
                let n = self.channel.write(buf)?;
                self.moved += n as u64;
                if self.channel.unflushed_data() >= quarter as u64 {
                    self.channel.flush_data()?;
                }
                return Ok(n);
            }
            self.wait(None, useful)?;
        }
    }

    fn send_rest(&mut self) -> Result<(), Error> {
        self.channel.flush_data()?;
        while !self.channel.drained() {
            self.wait(None, 0)?;
        }
        Ok(())
    }

    /// Looks a few times for data beyond `data` bytes, or `room` bytes of room, and sleeps when there are none.
    fn wait(&mut self, data: Option<usize>, room: usize) -> Result<(), Error> {
        let began = Instant::now();
        let looks = if self.channel.is_stream() { 0 } else { self.spin.looks(self.moved) };
        if looks > 0 {
            self.channel.flush()?;
        }
        for _ in 0..looks {
            if self.channel.is_coming(data, room)? {
                self.spin.found(began.elapsed());
                return Ok(());
            }
            rustix::thread::sched_yield();
        }
        if self.channel.arm_for(data, room)? {
            return Ok(());
        }
        self.sleeps += 1;
        let looked = Instant::now();
        let out = if self.channel.wants_out() { PollFlags::OUT } else { PollFlags::empty() };
        match poll(&mut [PollFd::new(&self.channel.as_fd(), PollFlags::IN | out)], None) {
            Ok(_) => self.channel.on_ready()?,
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(Error::io("waiting for the link")(error.into())),
        }
        self.spin.slept(looks, looked - began, looked.elapsed());
        Ok(())
    }
}

impl io::Read for Blocking {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.read_some(buf).map_err(io::Error::other)
    }
}

impl io::Write for Blocking {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.write_some(buf).map_err(|error| match error {
            Error::Closed => io::ErrorKind::BrokenPipe.into(),
            error => io::Error::other(error),
        })
    }

    /// Rings for what was written, if the other side waits for it; behind a stream, waits until all of it has left.
    fn flush(&mut self) -> io::Result<()> {
        self.send_rest().map_err(io::Error::other)
    }
}
