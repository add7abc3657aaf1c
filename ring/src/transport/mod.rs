#![forbid(unsafe_code)]
//! Choosing a transport, and meeting the peer on it.
//!
//! The choice is made at run time: `QREXEC_TRANSPORT=shm|socket|xen`, else by what the machine has. With `libxenvchan`
//! Xen's C library carries the bytes, for comparison.

mod deadline;
mod files;
mod meet;
mod server_watch;
mod shm;
mod stream;
#[cfg(feature = "xen")]
mod xen;
#[cfg(not(feature = "xen"))]
#[path = "no_xen.rs"]
mod xen;

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use rustix::fs::{self, FileType, Mode};

use crate::error::Error;
use crate::layout::{MAX_RING, Orders, Sizes};

use files::{FileConnector, FileListener, Offer};
use meet::{AnyConnector, AnyListener};
pub use meet::{Connector, DomainMonitor, Listener};
pub use server_watch::{Appeared, ServerWatch};
#[cfg(all(fuzzing, feature = "xen"))]
pub use xen::fuzzing as xenstore;

/// The transports.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Sealed shared memory between processes of one machine: the embedded default.
    Shm,
    /// Upstream's test double: the vchan stream on a plain unix socket.
    Socket,
    /// Grant-mapped memory and event channels.
    Xen,
}

/// How vchans are reached from here: which transport, where, and as which domain.
#[derive(Clone, Debug)]
pub struct Transport {
    kind: Kind,
    /// On Xen: Xen's C library carries the bytes.
    library: bool,
    own: u32,
    dir: PathBuf,
    /// Data ring each way where nobody asks for more.
    best: usize,
}

/// Rings of a server, see [`Transport::rings`].
pub struct Rings {
    orders: Orders,
    /// On Xen: how much larger than `orders` they may be, if there is room.
    share: Option<xen::RingShare>,
    /// `None` on Xen, where pages are granted to a domain.
    offer: Option<Offer>,
}

/// Data ring on shared memory between processes, each way. Memory is taken only where it was touched, and returned
/// when the call is quiet; with a smaller ring the other side would be woken more often, for less each time.
const SHM_RING: usize = 1 << 20;
/// Upstream's default data ring, each way.
const UPSTREAM_RING: usize = 64 << 10;

/// The environment variable that sets the size of a data ring on shared memory, in bytes.
const BEST_VARIABLE: &str = "QREXEC_SHM_RING";

/// The size that [`BEST_VARIABLE`] says.
fn best_ring(text: &OsString) -> Result<usize, Error> {
    let size = text.to_str().and_then(|text| text.parse().ok());
    size.filter(|size| (1..=MAX_RING).contains(size)).ok_or_else(|| {
        Error::Config(format!("{BEST_VARIABLE}={text:?}: expected a size in bytes, {MAX_RING} at most"))
    })
}

impl Transport {
    /// As the environment says: `QREXEC_TRANSPORT`, `VCHAN_SOCKET_DIR`, `QREXEC_SHM_DIR`, `VCHAN_DOMAIN`, `QREXEC_SHM_RING`.
    pub fn from_env() -> Result<Transport, Error> {
        let (kind, library) = match env::var_os("QREXEC_TRANSPORT") {
            Some(name) if name == "libxenvchan" => (Kind::Xen, true),
            Some(name) => (named(&name)?, false),
            None => (present()?, false),
        };
        let dir = match kind {
            Kind::Socket => env::var_os("VCHAN_SOCKET_DIR").map_or("/var/run/vchan".into(), PathBuf::from),
            Kind::Shm => shm_dir()?,
            Kind::Xen => {
                return Ok(Transport {
                    kind,
                    library,
                    own: xen::own_domain()?,
                    dir: PathBuf::new(),
                    best: UPSTREAM_RING,
                });
            }
        };
        let best = match env::var_os(BEST_VARIABLE) {
            Some(text) => best_ring(&text)?,
            None => SHM_RING,
        };
        Ok(Transport { kind, library, own: own_domain()?, dir, best })
    }

    /// An explicit choice, for labs and tests.
    pub fn new(kind: Kind, own: u32, dir: &Path) -> Transport {
        Transport { kind, library: false, own, dir: dir.to_owned(), best: SHM_RING }
    }

    /// Which transport.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// This machine's domain id.
    pub fn own_domain(&self) -> u32 {
        self.own
    }

    /// Data rings of at least `minimum` bytes each way; `None`: the caller has no wish.
    ///
    /// A minimum is no wish for small rings: between processes they get the best size, and on Xen their share of what
    /// may be granted (`xen::RingShare`).
    pub fn data_rings(&self, minimum: Option<usize>) -> Result<Rings, Error> {
        let size = match self.kind {
            Kind::Shm => shm::size_within_limits(minimum.unwrap_or(0), minimum.unwrap_or(0).max(self.best))?,
            Kind::Socket | Kind::Xen => minimum.unwrap_or(UPSTREAM_RING),
        };
        let share = (self.kind == Kind::Xen && !self.library).then(xen::RingShare::now);
        Ok(Rings { share, ..self.rings(Sizes::both(size))? })
    }

    /// Prepares rings of at least `min` bytes, as far as that is possible before the client is known.
    pub fn rings(&self, min: Sizes) -> Result<Rings, Error> {
        let orders = Orders::choose(min)?;
        let offer = (self.kind != Kind::Xen).then(|| Offer::new(self.kind, orders)).transpose()?;
        Ok(Rings { orders, share: None, offer })
    }

    /// Offers a channel on `port` to the domain `peer`, with rings of at least `min` bytes.
    pub fn listen(&self, peer: u32, port: u32, min: Sizes) -> Result<Listener, Error> {
        self.listen_with(peer, port, self.rings(min)?)
    }

    /// Offers a channel on `port` to the domain `peer`, with rings that were prepared before.
    pub fn listen_with(&self, peer: u32, port: u32, rings: Rings) -> Result<Listener, Error> {
        let Rings { orders, share, offer } = rings;
        let server = match offer {
            Some(offer) => AnyListener::Files(FileListener::new(self.path(self.own, peer, port), offer)?),
            None if self.library => {
                AnyListener::Library(xen::libxenvchan::LibraryListener::new(peer, port, orders)?)
            }
            None => AnyListener::Xen(Box::new(xen::XenListener::new(self.own, peer, port, orders, share)?)),
        };
        Ok(Listener(server))
    }

    /// Begins to connect to `port` of the domain `server`, which need not be there yet.
    pub fn connect(&self, server: u32, port: u32) -> Result<Connector, Error> {
        let client = match self.kind {
            Kind::Xen if self.library => {
                AnyConnector::Library(xen::libxenvchan::LibraryConnector::new(self.own, server, port)?)
            }
            Kind::Xen => AnyConnector::Xen(Box::new(xen::XenConnector::new(self.own, server, port)?)),
            kind => AnyConnector::Files(FileConnector::new(kind, self.path(server, self.own, port))?),
        };
        Ok(Connector(client))
    }

    /// For the agent of a VM: asks, for all calls of that VM, whether the domains that they are with still exist.
    /// `None`: on this transport each call finds out by itself.
    pub fn domain_monitor(&self) -> Result<Option<DomainMonitor>, Error> {
        (self.kind == Kind::Xen).then(|| xen::DomainMonitor::new(self.own).map(DomainMonitor)).transpose()
    }

    /// For the agent of a VM: sees, for all calls of that VM, when the servers that they wait for appear. `None`: each
    /// call waits by itself.
    pub fn server_watch(&self) -> Option<ServerWatch> {
        ServerWatch::new(self)
    }

    fn path(&self, server: u32, client: u32, port: u32) -> PathBuf {
        let prefix = if self.kind == Kind::Shm { "shm" } else { "vchan" };
        self.dir.join(format!("{prefix}.{server}.{client}.{port}.sock"))
    }
}

fn named(name: &OsString) -> Result<Kind, Error> {
    match name.to_str() {
        Some("shm") => Ok(Kind::Shm),
        Some("socket") => Ok(Kind::Socket),
        Some("xen") => Ok(Kind::Xen),
        _ => {
            Err(Error::Config(format!("QREXEC_TRANSPORT={name:?}: expected shm, socket, xen or libxenvchan")))
        }
    }
}

/// Chooses by what the machine has; a Xen guest never falls back to shared memory silently.
fn present() -> Result<Kind, Error> {
    if env::var_os("VCHAN_SOCKET_DIR").is_some() {
        return Ok(Kind::Socket);
    }
    let device = |name: &str| Path::new("/dev/xen").join(name).exists();
    if device("evtchn") && (device("gntdev") || device("gntalloc")) {
        return Ok(Kind::Xen);
    }
    if std::fs::read("/sys/hypervisor/type").is_ok_and(|t| t.trim_ascii() == b"xen") {
        return Err(Error::Config(
            "a Xen guest without /dev/xen/evtchn and /dev/xen/gntdev: load xen-evtchn, xen-gntdev and \
             xen-gntalloc, or set QREXEC_TRANSPORT"
                .into(),
        ));
    }
    Ok(Kind::Shm)
}

fn own_domain() -> Result<u32, Error> {
    match env::var_os("VCHAN_DOMAIN") {
        None => Ok(0),
        Some(text) => text
            .to_str()
            .and_then(|t| t.parse().ok())
            .ok_or_else(|| Error::Config(format!("VCHAN_DOMAIN={text:?}: expected a domain id, a number"))),
    }
}

/// The private meeting folder: named by the environment, or made where only this user can look.
fn shm_dir() -> Result<PathBuf, Error> {
    if let Some(dir) = env::var_os("QREXEC_SHM_DIR") {
        return private_folder(PathBuf::from(dir), Named::ByUs);
    }
    if let Some(run) = env::var_os("XDG_RUNTIME_DIR").filter(|d| !d.is_empty()) {
        own_folder(Path::new(&run))?;
        return private_folder(Path::new(&run).join("qrexec-shm"), Named::ByDefault);
    }
    let name = format!("qrexec-shm-{}", rustix::process::geteuid().as_raw());
    private_folder(env::temp_dir().join(name), Named::ByDefault)
}

/// Where the folder's name came from.
#[derive(PartialEq, Eq)]
enum Named {
    /// `QREXEC_SHM_DIR`. Root may name another user's folder, to join that user's lab.
    ByUs,
    /// A well-known name, which somebody else may have created first; that holds for root too.
    ByDefault,
}

/// Refuses a folder of another user, who could replace the folder that is made in it.
fn own_folder(path: &Path) -> Result<(), Error> {
    let stat = fs::stat(path).map_err(|e| Error::io(format!("looking at {}", path.display()))(e.into()))?;
    let uid = rustix::process::geteuid().as_raw();
    if stat.st_uid == uid {
        return Ok(());
    }
    Err(Error::Config(format!(
        "XDG_RUNTIME_DIR={} belongs to user {}, and this is user {uid}: unset it, or name a folder of this user",
        path.display(),
        stat.st_uid
    )))
}

/// Makes the folder if it is missing; refuses one that is a link, somebody else's, or open to others.
fn private_folder(path: PathBuf, named: Named) -> Result<PathBuf, Error> {
    match fs::mkdir(&path, Mode::RWXU) {
        Ok(()) | Err(rustix::io::Errno::EXIST) => {}
        Err(error) => return Err(Error::io(format!("making {}", path.display()))(error.into())),
    }
    let stat = fs::lstat(&path).map_err(|e| Error::io(format!("looking at {}", path.display()))(e.into()))?;
    let euid = rustix::process::geteuid();
    let ours = stat.st_uid == euid.as_raw() || (named == Named::ByUs && euid.is_root());
    if FileType::from_raw_mode(stat.st_mode) != FileType::Directory || !ours || stat.st_mode & 0o077 != 0 {
        return Err(Error::Config(format!(
            "{}: must be a folder of your own with mode 0700, since whoever can enter it can join your calls",
            path.display()
        )));
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_gets_the_rings_that_suit_its_transport_and_never_less_than_it_asked_for() {
        let rings = |kind, minimum| {
            let rings = Transport::new(kind, 1, Path::new("/nowhere")).data_rings(minimum).unwrap();
            assert_eq!(rings.orders.left, rings.orders.right);
            rings.orders.left.bytes()
        };
        for (minimum, shm, socket) in [
            (None, SHM_RING, UPSTREAM_RING),
            (Some(UPSTREAM_RING), SHM_RING, UPSTREAM_RING),
            (Some(UPSTREAM_RING + 1), SHM_RING, 2 * UPSTREAM_RING),
            (Some(SHM_RING), SHM_RING, SHM_RING),
        ] {
            assert_eq!(rings(Kind::Shm, minimum), shm, "{minimum:?}");
            assert_eq!(rings(Kind::Socket, minimum), socket, "{minimum:?}");
        }
        let too_large = Transport::new(Kind::Shm, 1, Path::new("/nowhere")).data_rings(Some(SHM_RING + 1));
        assert!(matches!(too_large, Err(Error::TooLarge { asked }) if asked == SHM_RING + 1));
    }
}
