//! How programs of R1 and R2 ask for a service: they make three connections to a socket, each of which is sent a
//! number, and then write 128 bytes with these numbers to a FIFO.
//!
//! The numbers are not those of descriptors here. They are random, are valid for one request, and only for connections
//! of one user.

use std::fs::File;
use std::hash::BuildHasher;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use engine::reactor::{Reactor, Token};
use rustix::fs::{CWD, FileType, Mode, OFlags, mknodat};
use rustix::net::{SendFlags, send};
use wire::r2::{BLOB_LEN, Blob, BlobError, Handles};
use wire::small_map::SmallMap;

use crate::client_slots::ClientSlots;
use crate::listener::{AcceptPause, Listener};

/// The FIFO and the socket, with the names that R1 and the first description of them use.
const FIFO: &str = "qrexec-agent";
const SOCKET: &str = "qrexec-agent-fdpass";
const OLD_NAMES: [(&str, &str); 2] = [("qrexec_agent", FIFO), ("qrexec_agent_fdpass", SOCKET)];

/// Every program in the VM may ask, and none but the agent may read what others ask: with the numbers in it their
/// connections could be given to another service.
const FIFO_MODE: u32 = 0o622;
const SOCKET_MODE: u32 = 0o777;

/// Three numbers below this, with two blanks, fit the 31 bytes of an ident.
const NUMBERS: u64 = 1_000_000_000;

/// How long a connection may wait for its request.
const UNUSED: Duration = Duration::from_secs(120);
/// Most connections that may wait, including those of requests that are not answered; a user may have half of them.
const MOST: usize = 1024;
/// Most connections accepted before other descriptors are handled.
const BATCH: usize = 64;
/// How much is read from the FIFO at once: as much as it holds, unless a program has enlarged it.
const READ: usize = 1 << 16;
/// Most that is read before other descriptors are handled: as much as a program without privileges can make it hold.
const MOST_READ: usize = 1 << 20;

/// A program that asks, by its three connections.
#[derive(Debug)]
pub(crate) struct Caller {
    /// Its input, its output, its error output.
    pub(crate) streams: [OwnedFd; 3],
    pub(crate) user: u32,
}

/// A request, with the caller to whom it belongs.
pub(crate) struct Asked {
    pub(crate) blob: Blob,
    pub(crate) handles: Handles,
    pub(crate) caller: Caller,
}

/// Why a request on the FIFO is dropped.
#[derive(Debug, thiserror::Error)]
enum Dropped {
    #[error(transparent)]
    Blob(#[from] BlobError),
    #[error("a request with numbers that nobody has")]
    Unknown,
    #[error("a request with connections of two users")]
    Users,
}

struct Connection {
    socket: OwnedFd,
    user: u32,
    until: Instant,
}

/// FIFO and socket. Both files are removed with it.
pub(crate) struct Entrance {
    folder: PathBuf,
    fifo: File,
    listener: Listener,
    accept_pause: AcceptPause,
    waiting: SmallMap<u32, Connection>,
    client_slots: ClientSlots,
    random: std::hash::RandomState,
    given: u64,
}

impl Entrance {
    /// Makes both in this folder.
    pub(crate) fn open(folder: &Path) -> io::Result<Self> {
        let listener = Listener::open(&folder.join(SOCKET), SOCKET_MODE)?;
        for (old, new) in OLD_NAMES {
            replace_link(&folder.join(old), new)?;
        }
        // Last of all: a program that finds the FIFO finds the socket too.
        let fifo = make_fifo(&folder.join(FIFO))?;
        let own = rustix::process::geteuid().as_raw();
        Ok(Self {
            folder: folder.to_owned(),
            fifo,
            listener,
            accept_pause: AcceptPause::default(),
            waiting: SmallMap::new(),
            client_slots: ClientSlots::new(MOST, own),
            random: std::hash::RandomState::new(),
            given: 0,
        })
    }

    /// Readable when a request has come.
    pub(crate) fn fifo(&self) -> BorrowedFd<'_> {
        self.fifo.as_fd()
    }

    /// Readable when a connection has come.
    pub(crate) fn socket(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }

    /// Accepts connections and sends each its number.
    pub(crate) fn accept(&mut self, now: Instant) {
        self.forget_unused(now);
        for _ in 0..BATCH {
            let Some(socket) = self.accept_pause.accept(&self.listener, now) else { return };
            let user = engine::unix::peer_uid(&socket).unwrap_or(u32::MAX);
            if !self.client_slots.are_free(user) {
                continue;
            }
            let number = self.number();
            let told = send(&socket, &number.to_ne_bytes(), SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
            if told == Ok(4) {
                self.client_slots.take(user);
                self.waiting.insert(number, Connection { socket, user, until: now + UNUSED });
            }
        }
    }

    /// A number that no connection has.
    fn number(&mut self) -> u32 {
        loop {
            self.given = self.given.wrapping_add(1);
            let number = (self.random.hash_one(self.given) % NUMBERS) as u32;
            if !self.waiting.contains_key(&number) {
                return number;
            }
        }
    }

    /// Reads all requests that have come. Malformed ones are dropped with a line in the log.
    pub(crate) fn requests(&mut self) -> Vec<Asked> {
        let mut bytes = Vec::new();
        let mut buffer = vec![0; READ];
        // Until the FIFO is empty: a read that fills the buffer may have cut a request in two.
        while bytes.len() < MOST_READ {
            let count = match self.fifo.read(&mut buffer) {
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => {
                    tracing::error!("cannot read requests: {error}");
                    0
                }
            };
            bytes.extend_from_slice(buffer.get(..count).unwrap_or_default());
            if count < READ {
                break;
            }
        }
        self.understand(&bytes)
    }

    /// A request is written at once, so it is complete; but a program that does not keep to that may have left a piece
    /// before it.
    fn understand(&mut self, mut bytes: &[u8]) -> Vec<Asked> {
        let (mut asked, mut skipped) = (Vec::new(), 0_usize);
        let mut why = None;
        while let Some((first, rest)) = bytes.split_at_checked(BLOB_LEN) {
            match self.caller_of(first) {
                Ok(one) => {
                    asked.push(one);
                    bytes = rest;
                }
                Err(error) => {
                    why = why.or(Some(error));
                    skipped = skipped.saturating_add(1);
                    bytes = bytes.get(1..).unwrap_or_default();
                }
            }
        }
        skipped = skipped.saturating_add(bytes.len());
        match why {
            Some(why) => tracing::warn!("{why}: {skipped} bytes are dropped"),
            None if skipped > 0 => {
                tracing::warn!("{}: {skipped} bytes are dropped", BlobError::Length(skipped));
            }
            None => {}
        }
        asked
    }

    fn caller_of(&mut self, bytes: &[u8]) -> Result<Asked, Dropped> {
        let (blob, handles) = Blob::checked(bytes)?;
        let caller = self.take(handles)?;
        Ok(Asked { blob, handles, caller })
    }

    /// The connections with these numbers, which are not valid any more afterwards.
    fn take(&mut self, handles: Handles) -> Result<Caller, Dropped> {
        let [one, two, three] = handles.0;
        let user = |number| self.waiting.get(&number).map(|connection| connection.user);
        let (Some(user_1), Some(user_2), Some(user_3)) = (user(one), user(two), user(three)) else {
            return Err(Dropped::Unknown);
        };
        if one == two || two == three || one == three {
            return Err(Dropped::Unknown);
        }
        if user_1 != user_2 || user_2 != user_3 {
            return Err(Dropped::Users);
        }
        let mut socket = |number| {
            let connection = self.waiting.remove(&number);
            self.client_slots.give_back(user_1);
            connection.map(|connection| connection.socket)
        };
        match [socket(one), socket(two), socket(three)] {
            [Some(one), Some(two), Some(three)] => Ok(Caller { streams: [one, two, three], user: user_1 }),
            _ => Err(Dropped::Unknown),
        }
    }

    /// When [`Entrance::on_time`] is to be called.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let unused = self.waiting.values().map(|connection| connection.until).min();
        unused.into_iter().chain(self.accept_pause.deadline()).min()
    }

    /// Drops connections that were not used for a request.
    pub(crate) fn on_time(&mut self, now: Instant) {
        self.forget_unused(now);
    }

    fn forget_unused(&mut self, now: Instant) {
        let client_slots = &mut self.client_slots;
        self.waiting.retain(|_, connection| {
            let keeps = connection.until > now;
            if !keeps {
                client_slots.give_back(connection.user);
            }
            keeps
        });
    }

    /// Watches the socket as long as connections can be accepted.
    pub(crate) fn adjust<T: Token>(&mut self, reactor: &Reactor<T>, token: T, now: Instant) {
        self.accept_pause.adjust(reactor, &self.listener, token, true, now);
    }
}

impl Drop for Entrance {
    fn drop(&mut self) {
        // A successor's FIFO is another file.
        let path = self.folder.join(FIFO);
        let same = |ours: std::fs::Metadata, there: std::fs::Metadata| {
            use std::os::unix::fs::MetadataExt;
            (ours.dev(), ours.ino()) == (there.dev(), there.ino())
        };
        if let (Ok(ours), Ok(there)) = (self.fifo.metadata(), std::fs::symlink_metadata(&path))
            && same(ours, there)
        {
            let _ = std::fs::remove_file(path);
            for (old, _) in OLD_NAMES {
                let _ = std::fs::remove_file(self.folder.join(old));
            }
        }
    }
}

/// Makes the FIFO under another name and renames it, so that a program that finds it can write.
fn make_fifo(path: &Path) -> io::Result<File> {
    if std::fs::symlink_metadata(path).is_ok_and(|meta| meta.is_dir()) {
        return Err(io::ErrorKind::IsADirectory.into());
    }
    let aside = path.with_file_name(format!(".{FIFO}.{}", std::process::id()));
    let _ = std::fs::remove_file(&aside);
    mknodat(CWD, &aside, FileType::Fifo, Mode::from_raw_mode(0o600), 0)?;
    let made = || -> io::Result<File> {
        std::fs::set_permissions(&aside, PermissionsExt::from_mode(FIFO_MODE))?;
        // Opened for writing too: otherwise reading would report an end whenever the last program has closed it.
        let flags = i32::try_from((OFlags::NONBLOCK | OFlags::NOFOLLOW).bits()).map_err(io::Error::other)?;
        let fifo = File::options().read(true).write(true).custom_flags(flags).open(&aside)?;
        if !fifo.metadata()?.file_type().is_fifo() {
            return Err(io::Error::other("the FIFO was replaced"));
        }
        std::fs::rename(&aside, path)?;
        Ok(fifo)
    };
    made().inspect_err(|_| {
        let _ = std::fs::remove_file(&aside);
    })
}

fn replace_link(path: &Path, to: &str) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    symlink(to, path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::unix::net::UnixStream;

    fn connections(entrance: &mut Entrance, folder: &Path, now: Instant) -> ([UnixStream; 3], String) {
        let mut numbers = Vec::new();
        let streams = std::array::from_fn(|_| {
            let mut stream = UnixStream::connect(folder.join("qrexec_agent_fdpass")).expect("connects");
            entrance.accept(now);
            let mut number = [0; 4];
            stream.read_exact(&mut number).expect("a number");
            numbers.push(i32::from_ne_bytes(number).to_string());
            stream
        });
        (streams, numbers.join(" "))
    }

    fn write(folder: &Path, bytes: &[u8]) {
        File::options()
            .write(true)
            .open(folder.join("qrexec_agent"))
            .expect("fifo")
            .write_all(bytes)
            .expect("write");
    }

    #[test]
    fn three_connections_and_their_numbers_are_a_request_once() {
        let dir = tempfile::tempdir().expect("tempdir");
        let now = Instant::now();
        let mut entrance = Entrance::open(dir.path()).expect("opens");
        let (_streams, ident) = connections(&mut entrance, dir.path(), now);
        let blob = Blob::new("test.Add", "vault", &ident).expect("fits").to_bytes();
        write(dir.path(), &blob);
        let asked = entrance.requests();
        let [one] = asked.as_slice() else { panic!("{} requests", asked.len()) };
        assert_eq!((one.blob.service(), one.handles.to_string()), (&b"test.Add"[..], ident));
        assert_eq!(one.caller.user, rustix::process::geteuid().as_raw());
        // The numbers were used.
        write(dir.path(), &blob);
        assert!(entrance.requests().is_empty());
    }

    #[test]
    fn any_three_numbers_are_an_ident() {
        let largest = NUMBERS - 1;
        assert!(Blob::new("s", "t", &format!("{largest} {largest} {largest}")).is_some());
        assert!(i32::try_from(largest).is_ok(), "a native int");
    }

    #[test]
    fn what_is_no_request_costs_no_other() {
        let dir = tempfile::tempdir().expect("tempdir");
        let now = Instant::now();
        let mut entrance = Entrance::open(dir.path()).expect("opens");
        let (_streams, ident) = connections(&mut entrance, dir.path(), now);
        let good = Blob::new("test.Add", "vault", &ident).expect("fits").to_bytes();
        let nobodys = Blob::new("test.Add", "vault", "1 2 3").expect("fits").to_bytes();
        let one = ident.split(' ').next().expect("a number");
        let thrice = Blob::new("test.Add", "vault", &format!("{one} {one} {one}")).expect("fits").to_bytes();
        let mut endless = good;
        endless[63] = b'x';
        let before: [&[u8]; 6] =
            [&good[..127], &[&good[..], b"\0"].concat()[1..], &nobodys, &thrice, &endless, b"x"];
        for bytes in before {
            write(dir.path(), bytes);
            assert!(entrance.requests().is_empty());
            // In front of a valid request, and before it is read.
            write(dir.path(), bytes);
        }
        write(dir.path(), &good);
        assert_eq!(entrance.requests().len(), 1);
    }

    #[test]
    fn connections_that_nobody_asks_with_are_forgotten() {
        let dir = tempfile::tempdir().expect("tempdir");
        let now = Instant::now();
        let mut entrance = Entrance::open(dir.path()).expect("opens");
        let (mut streams, ident) = connections(&mut entrance, dir.path(), now);
        assert_eq!(entrance.deadline(), Some(now + UNUSED));
        entrance.on_time(now + UNUSED);
        assert_eq!(streams[0].read(&mut [0; 1]).expect("closed"), 0);
        write(dir.path(), &Blob::new("test.Add", "vault", &ident).expect("fits").to_bytes());
        assert!(entrance.requests().is_empty() && entrance.deadline().is_none());
    }

    #[test]
    fn a_fifo_that_was_enlarged_and_filled_cuts_no_request() {
        let dir = tempfile::tempdir().expect("tempdir");
        let now = Instant::now();
        let mut entrance = Entrance::open(dir.path()).expect("opens");
        let (_streams, ident) = connections(&mut entrance, dir.path(), now);
        let good = Blob::new("test.Add", "vault", &ident).expect("fits").to_bytes();
        let fifo = File::options().write(true).open(dir.path().join("qrexec_agent")).expect("fifo");
        rustix::pipe::fcntl_setpipe_size(&fifo, 2 * READ).expect("as any user may");
        // The request lies half before and half behind the end of the first read.
        write(dir.path(), &[&vec![b'x'; READ - BLOB_LEN / 2][..], &good].concat());
        assert_eq!(entrance.requests().len(), 1);
    }

    #[test]
    fn both_files_have_both_spellings_and_go() {
        let dir = tempfile::tempdir().expect("tempdir");
        let names = || {
            let all = std::fs::read_dir(dir.path()).expect("folder");
            let mut all: Vec<_> =
                all.map(|entry| entry.expect("entry").file_name().into_string().expect("text")).collect();
            all.sort();
            all
        };
        let entrance = Entrance::open(dir.path()).expect("opens");
        assert_eq!(names(), ["qrexec-agent", "qrexec-agent-fdpass", "qrexec_agent", "qrexec_agent_fdpass"]);
        let mode =
            |name| std::fs::metadata(dir.path().join(name)).expect("there").permissions().mode() & 0o777;
        assert_eq!((mode("qrexec-agent"), mode("qrexec-agent-fdpass")), (0o622, 0o777));
        let successor = Entrance::open(dir.path()).expect("replaces it");
        drop(entrance);
        assert!(dir.path().join("qrexec-agent").exists() && dir.path().join("qrexec_agent").exists());
        drop(successor);
        assert!(names().is_empty(), "{:?}", names());
    }
}
