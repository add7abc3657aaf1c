#![allow(unsafe_code)] // an event is made and set by its handle
//! One channel: a stream, a buffer each way, and an event that says that something has changed.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::windows::io::{AsRawHandle, FromRawHandle, OwnedHandle, RawHandle};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use windows_sys::Win32::System::Threading::{CreateEventW, SetEvent};

/// The relay's file, beside the program: a service has nothing of its starter's environment.
const RELAY: &str = "libvchan.relay";
/// Bytes that wait in each direction.
const BUFFER: usize = 64 << 10;
/// How long the other side may take to see that we are gone.
const FAREWELL: Duration = Duration::from_secs(5);

/// How a channel begins.
#[derive(Clone, Copy)]
pub(crate) enum Meeting {
    /// We are there first.
    Offer,
    /// The other side is.
    Connect,
}

/// The channel.
pub(crate) struct Channel {
    stream: TcpStream,
    shared: Arc<Shared>,
    threads: Vec<std::thread::JoinHandle<()>>,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    event: OwnedHandle,
}

#[derive(Default)]
struct State {
    connected: bool,
    /// The other side has closed.
    over: bool,
    /// We have closed.
    closing: bool,
    incoming: VecDeque<u8>,
    outgoing: VecDeque<u8>,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        self.changed.wait(state).unwrap_or_else(PoisonError::into_inner)
    }

    /// Says that something has changed, to our threads and to the program.
    fn tell(&self) {
        self.changed.notify_all();
        // SAFETY: the handle is that of an event, and open as long as `self` lives.
        unsafe { SetEvent(self.event.as_raw_handle()) };
    }
}

impl Channel {
    /// Asks the relay for a channel.
    pub(crate) fn new(meeting: Meeting, domain: i32, port: i32) -> io::Result<Self> {
        let text = std::fs::read_to_string(std::env::current_exe()?.with_file_name(RELAY))?;
        let (address, word) = text.trim().split_once(' ').ok_or(io::ErrorKind::InvalidData)?;
        let mut stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        let role = match meeting {
            Meeting::Offer => "offer",
            Meeting::Connect => "connect",
        };
        stream.write_all(format!("{word} {role} {domain} {port}\n").as_bytes())?;
        // It says one byte when it has understood, and one more when the other side is there.
        expect(&mut stream, b'!')?;
        if matches!(meeting, Meeting::Connect) {
            expect(&mut stream, b'+')?;
        }
        // SAFETY: no pointer is passed: no attributes, no name.
        let event = unsafe { CreateEventW(std::ptr::null(), 0, 0, std::ptr::null()) };
        if event.is_null() {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the handle is new and nobody else's.
        let event = unsafe { OwnedHandle::from_raw_handle(event) };
        let connected = matches!(meeting, Meeting::Connect);
        let state = Mutex::new(State { connected, ..Default::default() });
        let shared = Arc::new(Shared { state, changed: Condvar::new(), event });
        let (reader, writer) = (stream.try_clone()?, stream.try_clone()?);
        let (for_reader, for_writer) = (shared.clone(), shared.clone());
        let threads = vec![
            std::thread::spawn(move || read_all(reader, &for_reader)),
            std::thread::spawn(move || write_all(writer, &for_writer)),
        ];
        Ok(Self { stream, shared, threads })
    }

    /// The event.
    pub(crate) fn event(&self) -> RawHandle {
        self.shared.event.as_raw_handle()
    }

    /// 0 closed, 1 connected, 2 waiting.
    pub(crate) fn is_open(&self) -> i32 {
        let state = self.shared.state();
        match (state.over, state.connected) {
            (true, _) => 0,
            (false, true) => 1,
            (false, false) => 2,
        }
    }

    /// Bytes to be read.
    pub(crate) fn ready(&self) -> usize {
        self.shared.state().incoming.len()
    }

    /// Bytes that can be written.
    pub(crate) fn room(&self) -> usize {
        let state = self.shared.state();
        if state.connected && !state.over { BUFFER.saturating_sub(state.outgoing.len()) } else { 0 }
    }

    /// Takes up to this many bytes; waits for the first. `None`: closed.
    pub(crate) fn read(&self, buffer: &mut [u8]) -> Option<usize> {
        let mut state = self.shared.state();
        while state.incoming.is_empty() {
            if state.over {
                return None;
            }
            state = self.shared.wait(state);
        }
        let count = state.incoming.read(buffer).ok()?;
        drop(state);
        self.shared.changed.notify_all();
        Some(count)
    }

    /// Gives up to this many bytes; waits for room for the first. `None`: closed.
    pub(crate) fn write(&self, bytes: &[u8]) -> Option<usize> {
        let mut state = self.shared.state();
        loop {
            if state.over || state.closing {
                return None;
            }
            let room = BUFFER.saturating_sub(state.outgoing.len());
            if state.connected && room > 0 {
                let piece = bytes.get(..room.min(bytes.len()))?;
                state.outgoing.extend(piece);
                drop(state);
                self.shared.changed.notify_all();
                return Some(piece.len());
            }
            state = self.shared.wait(state);
        }
    }

    /// Waits until something has changed. Whether the channel is still open.
    pub(crate) fn wait(&self) -> bool {
        let state = self.shared.state();
        if state.over {
            return false;
        }
        !self.shared.wait(state).over
    }
}

impl Drop for Channel {
    fn drop(&mut self) {
        let mut state = self.shared.state();
        state.closing = true;
        if !state.connected {
            // Nobody came: the relay takes the offer back.
            state.over = true;
            let _ = self.stream.shutdown(Shutdown::Both);
        }
        drop(state);
        self.shared.changed.notify_all();
        // The reader takes and drops what still comes: an end with unread bytes would cut what was written.
        let _ = self.stream.set_read_timeout(Some(FAREWELL));
        let _ = self.stream.set_write_timeout(Some(FAREWELL));
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn expect(stream: &mut TcpStream, wanted: u8) -> io::Result<()> {
    let mut byte = [0];
    stream.read_exact(&mut byte)?;
    if byte == [wanted] { Ok(()) } else { Err(io::ErrorKind::ConnectionRefused.into()) }
}

fn read_all(mut stream: TcpStream, shared: &Shared) {
    let mut buffer = vec![0; BUFFER];
    loop {
        if !shared.state().connected {
            let met = expect(&mut stream, b'+').is_ok();
            let mut state = shared.state();
            state.connected = met;
            state.over |= !met;
            drop(state);
            shared.tell();
            if !met {
                return;
            }
        }
        let room = {
            let mut state = shared.state();
            while state.incoming.len() >= BUFFER && !state.closing {
                state = shared.wait(state);
            }
            if state.closing { BUFFER } else { BUFFER.saturating_sub(state.incoming.len()) }
        };
        let count = stream.read(buffer.get_mut(..room).unwrap_or_default()).unwrap_or(0);
        let mut state = shared.state();
        if state.closing {
            state.incoming.clear();
        } else {
            state.incoming.extend(buffer.get(..count).unwrap_or_default());
        }
        state.over |= count == 0;
        drop(state);
        shared.tell();
        if count == 0 {
            return;
        }
    }
}

fn write_all(mut stream: TcpStream, shared: &Shared) {
    loop {
        let piece: Vec<u8> = {
            let mut state = shared.state();
            while state.outgoing.is_empty() && !state.closing && !state.over {
                state = shared.wait(state);
            }
            if state.outgoing.is_empty() {
                break;
            }
            state.outgoing.iter().copied().collect()
        };
        let failed = stream.write_all(&piece).is_err();
        let mut state = shared.state();
        // It counts against the buffer until it is gone.
        state.outgoing.drain(..piece.len());
        if failed {
            state.outgoing.clear();
        }
        drop(state);
        shared.tell();
        if failed {
            break;
        }
    }
    let _ = stream.shutdown(Shutdown::Write);
}
