//! One call that this process makes itself: bytes there, bytes back, and how it ended.

use std::ffi::OsStr;
use std::io::{self, Read};

use cli::failure::Failure;
use cli::own::{self, Call};
use cli::{client, client_vm};

/// A call that was allowed.
#[derive(Debug)]
pub struct Exchange {
    call: Call,
}

impl Exchange {
    /// Makes the call: by the agent, or in dom0, which has none, by the qube's daemon.
    ///
    /// # Errors
    /// The exit status; why was said on stderr.
    pub fn open(program: &str, target: &str, service: &str) -> Result<Self, i32> {
        let call = if client_vm::own::has_agent() {
            client_vm::own::open(OsStr::new(target), OsStr::new(service))?
        } else {
            client::own::open(OsStr::new(target), service).map_err(|failure| failure.report(program))?
        };
        Ok(Self { call })
    }

    /// Sends what `from` gives, to its end; `false` if the service takes no more. Nobody answers before it has read all, so
    /// what comes meanwhile waits in the ring.
    ///
    /// # Errors
    /// Reading failed.
    pub fn send(&mut self, mut from: impl Read) -> io::Result<bool> {
        let mut buffer = vec![0; 64 << 10];
        loop {
            let len = match from.read(&mut buffer) {
                Ok(0) => return Ok(true),
                Ok(len) => len,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            let mut rest = buffer.get(..len).unwrap_or_default();
            while !rest.is_empty() {
                match self.call.client.try_write(rest) {
                    Ok(0) => {
                        if self.call.client.wait(rest.len(), None).is_err() {
                            return Ok(false);
                        }
                    }
                    Ok(len) => rest = rest.get(len..).unwrap_or_default(),
                    Err(_) => return Ok(false),
                }
            }
        }
    }

    /// Tells the service that it has all.
    pub fn end(&mut self) {
        // One that is gone is found by reading.
        let _ = self.call.client.end();
    }

    /// The status of the call, which is waited for.
    ///
    /// # Errors
    /// What went wrong besides the service.
    pub fn finish(self) -> Result<i32, Failure> {
        let outcome = self.call.client.finish();
        drop(self.call.held);
        own::status(&outcome)
    }
}

impl Read for Exchange {
    /// Waits; 0 once nothing more comes, however that is.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let client = &mut self.call.client;
        loop {
            match client.try_read(buffer) {
                Ok(0) if buffer.is_empty() => return Ok(0),
                Ok(0) if client.has_ended().unwrap_or(true) => return Ok(0),
                // Who is gone is found by the next look.
                Ok(0) => drop(client.wait(0, None)),
                Ok(len) => return Ok(len),
                Err(_) => return Ok(0),
            }
        }
    }
}
