//! Calls: starting them, moving their bytes, ending them.

use std::io;
use std::os::fd::AsFd;

use engine::exec::Prepared;
use engine::process::{Child, fork_pump};
use engine::r2::Over;
use engine::reactor::Interest;
use wire::r2::{CallKey, Handles, Stream, TO_DAEMON_BODY, TO_DAEMON_RING};

use super::token::{Part, Token};
use super::{Agent, Link, MOST_RESTS, TURNS, shown};
use crate::job::Task;
use crate::meminfo::MeminfoWriter;
use crate::r2::call::{Call, Rest};

impl Agent {
    pub(super) fn start(&mut self, key: CallKey, command: &[u8]) {
        self.meminfo.iter_mut().for_each(MeminfoWriter::call_begins);
        self.files.restore();
        let started = Call::start(&self.services, command);
        self.files.raise_again();
        let shown = shown(command);
        let failed = match started {
            Ok(call) => {
                tracing::info!("{shown}: pid {}", call.child.as_ref().map_or(0, Child::pid));
                match self.watch(key, call) {
                    Ok(()) => return,
                    Err(error) => (engine::process::EXIT_TROUBLE, error.to_string()),
                }
            }
            Err(error) => (error.code(), error.to_string()),
        };
        let (code, why) = failed;
        tracing::error!("{shown}: exit code {code}: {why}");
        self.with_end(|end| {
            end.read(key, Stream::Stderr, format!("{why}\n").as_bytes());
            end.fail(key, code);
        });
    }

    /// In a process that ends at once, so that what it starts becomes the child of another process.
    pub(super) fn just_start(&mut self, command: &[u8]) {
        self.meminfo.iter_mut().for_each(MeminfoWriter::call_begins);
        let shown = shown(command);
        let (services, files) = (&self.services, self.files);
        let child = fork_pump(|| {
            files.restore();
            let started = Task::new(services, command).and_then(|task| {
                let prepared = services.prepare(&task.kind, &task.config)?;
                if let Prepared::Executable(_) = &prepared {
                    services.start_detached(&prepared, task.user.as_deref(), None)?;
                }
                Ok(())
            });
            match started {
                Ok(()) => tracing::info!("{shown}: started, and left alone"),
                Err(error) => tracing::error!("{shown}: {error}"),
            }
            0
        });
        match child {
            Ok(child) => self.keep_stray(child),
            Err(error) => tracing::error!("{shown}: {error}"),
        }
    }

    pub(super) fn connect(&mut self, key: CallKey, handles: Option<Handles>) {
        let caller = handles.and_then(|handles| self.asked.remove(&handles.0));
        let Some(caller) = caller else {
            tracing::warn!("dom0 answers a request that nobody waits for");
            return self.with_end(|end| end.fail(key, 255));
        };
        if let Err(error) = self.watch(key, Call::of_caller(caller)) {
            tracing::error!("cannot connect a caller: {error}");
            self.with_end(|end| end.fail(key, 255));
        }
    }

    pub(super) fn watch(&mut self, key: CallKey, call: Call) -> io::Result<()> {
        for (output, stream) in call.outputs.iter().zip([Stream::Stdout, Stream::Stderr]) {
            match output {
                Some(output) => {
                    let token = Token::Call(key, Part::Output(stream));
                    self.reactor.add(output.as_fd(), token, Interest::Read)?;
                }
                None => self.with_end(|end| end.read(key, stream, &[])),
            }
        }
        if let Some(child) = &call.child {
            self.reactor.add(child, Token::Call(key, Part::Child), Interest::Read)?;
        }
        if call.stdin.is_none() {
            self.with_end(|end| end.input_closed(key));
        }
        self.calls.insert(key, call);
        Ok(())
    }

    /// Writes the bytes that are there to a call's input.
    pub(super) fn write_input(&mut self, key: CallKey) {
        let (Link::Up { muxed, .. }, Some(call)) = (&mut self.link, self.calls.get_mut(&key)) else { return };
        let Some(stdin) = &call.stdin else { return };
        let (end, token) = (&mut muxed.end, Token::Call(key, Part::Stdin));
        loop {
            let bytes = end.pending(key);
            if bytes.is_empty() {
                let _ = self.reactor.remove(stdin.as_fd());
                break;
            }
            match stdin.write(bytes) {
                Ok(n) => end.wrote(key, n),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    end.blocked(key);
                    // It is watched already, unless it has just begun to wait.
                    let _ = self.reactor.add(stdin.as_fd(), token, Interest::Write);
                    return;
                }
                Err(_) => {
                    let _ = self.reactor.remove(stdin.as_fd());
                    end.input_closed(key);
                    call.stdin = None;
                    return;
                }
            }
        }
        if end.input_is_over(key) {
            call.stdin = None;
        }
    }

    /// Reads outputs in turn, as long as there is room to send what they contain.
    pub(super) fn read_outputs(&mut self) -> Result<(), Over> {
        for _ in 0..TURNS {
            let Link::Up { muxed, .. } = &mut self.link else { return Ok(()) };
            muxed.flush()?;
            let room = muxed.room(TO_DAEMON_BODY)?;
            if room == 0 {
                return Ok(());
            }
            let Some((key, stream)) = self.ready.pop_front() else { return Ok(()) };
            if !self.calls.contains_key(&key) {
                continue;
            }
            if muxed.end.may_read(key) {
                self.read_output(key, stream, room);
            } else {
                self.held.push((key, stream));
            }
        }
        Ok(())
    }

    pub(super) fn read_output(&mut self, key: CallKey, stream: Stream, room: usize) {
        let (Link::Up { muxed, .. }, Some(call)) = (&mut self.link, self.calls.get_mut(&key)) else { return };
        let Some(output) = call.output(stream) else { return };
        let mut buffer = [0_u8; TO_DAEMON_RING];
        let buffer = buffer.get_mut(..room).unwrap_or_default();
        match output.read(buffer) {
            Ok(n @ 1..) => {
                let bytes = buffer.get(..n).unwrap_or_default();
                if call.is_for_dom0(stream, bytes) {
                    muxed.end.read(key, stream, bytes);
                }
                self.ready.push_back((key, stream));
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => self.ready.push_back((key, stream)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                if self
                    .reactor
                    .add(output.as_fd(), Token::Call(key, Part::Output(stream)), Interest::Read)
                    .is_err()
                {
                    *call.output(stream) = None;
                    muxed.end.read(key, stream, &[]);
                }
            }
            Ok(0) | Err(_) => {
                *call.output(stream) = None;
                muxed.end.read(key, stream, &[]);
                self.act();
            }
        }
    }

    /// Closes a call's streams; `rest` is still written to its input. Its process is not ended.
    pub(super) fn end_call(&mut self, key: CallKey, rest: Vec<u8>) {
        let Some(call) = self.calls.remove(&key) else { return };
        for output in call.outputs.iter().flatten() {
            let _ = self.reactor.remove(output.as_fd());
        }
        if let Some(stdin) = call.stdin {
            let _ = self.reactor.remove(stdin.as_fd());
            let kept: usize = self.rests.values().map(Rest::len).sum();
            let mut rest = Rest::new(stdin, rest);
            if kept.saturating_add(rest.len()) <= MOST_RESTS && !rest.write() {
                let number = self.next_number();
                if self.reactor.add(&rest, Token::Rest(number), Interest::Write).is_ok() {
                    self.rests.insert(number, rest);
                }
            }
        }
        if let Some(child) = call.child {
            let _ = self.reactor.remove(child.as_fd());
            self.keep_stray(child);
        }
    }

    pub(super) fn write_rest(&mut self, number: u64) {
        if self.rests.get_mut(&number).is_some_and(Rest::write)
            && let Some(rest) = self.rests.remove(&number)
        {
            let _ = self.reactor.remove(&rest);
        }
    }

    /// A number for something without a call.
    pub(super) fn next_number(&mut self) -> u64 {
        self.last_number = self.last_number.wrapping_add(1);
        self.last_number
    }

    /// Reaps a process when it has ended.
    pub(super) fn keep_stray(&mut self, mut child: Child) {
        if matches!(child.try_wait(), Ok(None)) {
            let number = self.next_number();
            if self.reactor.add(&child, Token::Stray(number), Interest::Read).is_ok() {
                self.strays.insert(number, child);
            }
        }
    }

    pub(super) fn reap_stray(&mut self, number: u64) {
        let ended = self.strays.get_mut(&number).is_some_and(|child| !matches!(child.try_wait(), Ok(None)));
        if ended && let Some(child) = self.strays.remove(&number) {
            let _ = self.reactor.remove(child.as_fd());
        }
    }
}
