//! What the ring's integration tests share: a folder with a transport for meeting, and waiting with a deadline.
#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use ring::{Channel, Connector, Error, Kind, Listener, Sizes, Transport};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// The server's domain id in all tests.
pub(crate) const SERVER: u32 = 7;
/// The client's.
pub(crate) const CLIENT: u32 = 9;
/// No test waits longer for one event; whatever takes longer was lost.
pub(crate) const LOST: Duration = Duration::from_secs(10);

/// A folder in which two sides meet by one transport.
pub(crate) struct Bed {
    kind: Kind,
    dir: PathBuf,
    _root: tempfile::TempDir,
}

impl Bed {
    pub(crate) fn new(kind: Kind) -> Bed {
        Bed::below(kind, Path::new(""))
    }

    /// In a folder of a given name below the temporary one.
    pub(crate) fn below(kind: Kind, name: &Path) -> Bed {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join(name);
        std::fs::create_dir_all(&dir).unwrap();
        Bed { kind, dir, _root: root }
    }

    pub(crate) fn kind(&self) -> Kind {
        self.kind
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(crate) fn listen(&self, port: u32, min: Sizes) -> Listener {
        Transport::new(self.kind, SERVER, &self.dir).listen(CLIENT, port, min).unwrap()
    }

    pub(crate) fn connect(&self, port: u32) -> Connector {
        Transport::new(self.kind, CLIENT, &self.dir).connect(SERVER, port).unwrap()
    }

    /// The socket file of a port, where meeting is by socket file.
    pub(crate) fn socket(&self, port: u32) -> Option<PathBuf> {
        let prefix = match self.kind {
            Kind::Shm => "shm",
            Kind::Socket => "vchan",
            Kind::Xen => return None,
        };
        Some(self.dir.join(format!("{prefix}.{SERVER}.{CLIENT}.{port}.sock")))
    }

    /// Both ends of a fresh channel: `(server, client)`.
    pub(crate) fn meet(&self, port: u32, min: Sizes) -> (Channel, Channel) {
        let listener = self.listen(port, min);
        let connector = self.connect(port);
        meet(listener, connector)
    }
}

/// Lets the two find each other, in threads of their own, since either may have to wait for the other.
pub(crate) fn meet(listener: Listener, connector: Connector) -> (Channel, Channel) {
    std::thread::scope(|threads| {
        let client = threads.spawn(move || connector.connect_within(LOST).unwrap());
        (listener.accept_within(LOST).unwrap(), client.join().unwrap())
    })
}

/// Sleeps until the channel's descriptor is ready, and answers it. False if `limit` has passed before.
pub(crate) fn sleep_for(channel: &mut Channel, limit: Duration) -> bool {
    let mut what = PollFlags::empty();
    what.set(PollFlags::IN, channel.wants_in());
    what.set(PollFlags::OUT, channel.wants_out());
    let timeout = Timespec { tv_sec: limit.as_secs() as i64, tv_nsec: limit.subsec_nanos().into() };
    let fd = channel.as_fd();
    let ready = loop {
        match poll(&mut [PollFd::new(&fd, what)], Some(&timeout)) {
            Err(rustix::io::Errno::INTR) => {}
            other => break other.unwrap() > 0,
        }
    };
    if ready {
        channel.on_ready().unwrap();
    }
    ready
}

/// As [`sleep_for`], where an event must come.
pub(crate) fn sleep(channel: &mut Channel) {
    assert!(sleep_for(channel, LOST), "a wake-up was lost: {:?}", channel.counters());
}

/// Sends all of it, sleeping for room; flushed at the end.
pub(crate) fn send(channel: &mut Channel, mut bytes: &[u8]) {
    while !bytes.is_empty() {
        let n = channel.write(bytes).unwrap();
        bytes = &bytes[n..];
        if n == 0 && !channel.arm(false, true).unwrap() {
            sleep(channel);
        }
    }
    channel.flush().unwrap();
}

/// Receives exactly this much, sleeping for data.
pub(crate) fn receive(channel: &mut Channel, bytes: &mut [u8]) {
    let mut got = 0;
    while got < bytes.len() {
        let n = channel.read(&mut bytes[got..]).unwrap();
        got += n;
        if n == 0 {
            assert!(!channel.ended().unwrap(), "the peer ended after {got} of {} bytes", bytes.len());
            if !channel.arm(true, false).unwrap() {
                sleep(channel);
            }
        }
    }
    channel.flush().unwrap();
}

/// Receives until the peer has closed and everything is read.
pub(crate) fn receive_to_end(channel: &mut Channel) -> Vec<u8> {
    let mut all = Vec::new();
    let mut buffer = [0; 4096];
    while !channel.ended().unwrap() {
        let n = channel.read(&mut buffer).unwrap();
        all.extend_from_slice(&buffer[..n]);
        if n == 0 && !channel.arm(true, false).unwrap() {
            sleep(channel);
        }
    }
    all
}

/// Waits until everything written has left, then closes.
pub(crate) fn close(mut channel: Channel) {
    channel.flush().unwrap();
    while !channel.drained() {
        sleep(&mut channel);
    }
}

/// Waits until the peer's end is noticed.
pub(crate) fn wait_closed(channel: &mut Channel) {
    while channel.is_open() {
        if !channel.arm(true, false).unwrap() {
            sleep(channel);
        } else if channel.readable().unwrap() > 0 {
            // Unread data end the wait at once; the close is seen only by the descriptor.
            sleep(channel);
        }
    }
}

/// Whether a write fails as it does when the peer is gone. A stream may have to try twice.
pub(crate) fn writes_fail(channel: &mut Channel) -> bool {
    (0..3).any(|_| match channel.write(b"x") {
        Err(Error::Closed) => true,
        Err(other) => panic!("not a closed channel: {other}"),
        Ok(_) => {
            channel.flush().unwrap();
            false
        }
    })
}

/// This test program again, to run one of its tests, with an environment that says in which role.
pub(crate) fn again(test: &str, environment: &[(&str, &Path)]) -> Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", test, "--nocapture", "--test-threads=1"]);
    command.stdin(Stdio::piped()).stdout(Stdio::null());
    for name in ["QREXEC_TRANSPORT", "QREXEC_SHM_DIR", "VCHAN_SOCKET_DIR", "VCHAN_DOMAIN", "XDG_RUNTIME_DIR"]
    {
        command.env_remove(name);
    }
    for (name, value) in environment {
        command.env(name, value);
    }
    command.spawn().unwrap()
}

/// Runs `body` in a thread of its own and fails if it is not done in time.
pub(crate) fn within(limit: Duration, body: impl FnOnce() + Send + 'static) {
    let (done, wait) = std::sync::mpsc::channel();
    let thread = std::thread::spawn(move || {
        body();
        let _ = done.send(());
    });
    match wait.recv_timeout(limit) {
        Err(std::sync::mpsc::RecvTimeoutError::Timeout) => panic!("hangs for {limit:?}"),
        _ => {
            if let Err(panic) = thread.join() {
                std::panic::resume_unwind(panic);
            }
        }
    }
}

/// Small numbers in a fixed order, by which sizes of chunks are chosen.
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Dice {
        Dice(seed.wrapping_mul(2).wrapping_add(1))
    }

    /// Below `end`.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) as usize % end
    }
}

/// A stream of bytes that never repeats in step with any ring: its period is a prime.
pub(crate) struct Pattern {
    table: Vec<u8>,
}

impl Pattern {
    const PERIOD: usize = 65_521;
    /// Longest slice that can be asked for.
    pub(crate) const LONGEST: usize = 1 << 20;

    pub(crate) fn new() -> Pattern {
        let mut dice = Dice::new(42);
        let mut table: Vec<u8> = (0..Self::PERIOD).map(|_| dice.below(256) as u8).collect();
        table = table.iter().copied().cycle().take(Self::PERIOD + Self::LONGEST).collect();
        Pattern { table }
    }

    /// The bytes of the stream from `at`, at most [`Self::LONGEST`].
    pub(crate) fn at(&self, at: usize, len: usize) -> &[u8] {
        let start = at % Self::PERIOD;
        &self.table[start..start + len]
    }
}
