#![deny(unsafe_code)] // not forbid: the two layers below open it for themselves
//! The devices of a Xen guest: event channels, pages to grant, granted pages.
//!
//! There are two layers below this one. Plain ioctls are the default: they need nothing but the Linux kernel. With
//! `QREXEC_XEN_DEVICES=libxen` Xen's own libraries libxenevtchn and libxengnttab drive the devices, loaded when they
//! are first needed, for systems with other ioctls. Of the data's way only the doorbell goes through either.

mod ioctls;
mod library;

use std::env;
use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::OnceLock;

use crate::error::Error;
use crate::mapping::Mapping;

/// Which layer is used.
const VARIABLE: &str = "QREXEC_XEN_DEVICES";

/// A port that no domain has.
const IMPOSSIBLE_PORT: u32 = u32::MAX;

/// The layers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Layer {
    Ioctls,
    Library,
}

impl Layer {
    fn named(name: Option<&OsStr>) -> Result<Layer, Error> {
        match name.map(OsStr::to_str) {
            None | Some(Some("ioctl")) => Ok(Layer::Ioctls),
            Some(Some("libxen")) => Ok(Layer::Library),
            _ => Err(Error::Config(format!(
                "{VARIABLE}={:?}: expected ioctl or libxen",
                name.unwrap_or_default()
            ))),
        }
    }
}

/// Fails if the environment names no known layer: to be called once, before anything else here.
pub(crate) fn check() -> Result<(), Error> {
    Layer::named(env::var_os(VARIABLE).as_deref()).map(drop)
}

/// The layer that the environment named at the first call.
fn layer() -> Layer {
    static LAYER: OnceLock<Layer> = OnceLock::new();
    *LAYER.get_or_init(|| Layer::named(env::var_os(VARIABLE).as_deref()).unwrap_or(Layer::Ioctls))
}

/// The device requests that an established channel makes. `None`: Xen's libraries make them, and which is not known.
pub(crate) fn requests() -> Option<&'static [u32]> {
    match layer() {
        Layer::Ioctls => Some(&ioctls::LASTING),
        Layer::Library => None,
    }
}

/// A port of this domain on a descriptor of its own; closed with it.
pub(crate) enum EventChannel {
    Ioctls(ioctls::EventChannel),
    Library(library::EventChannel),
}

impl EventChannel {
    /// A port that waits for `peer` to bind to it.
    pub(crate) fn unbound(peer: u32) -> Result<EventChannel, Error> {
        Ok(match layer() {
            Layer::Ioctls => EventChannel::Ioctls(ioctls::EventChannel::unbound(peer)?),
            Layer::Library => {
                EventChannel::Library(library::EventChannel::unbound(library::events()?, peer)?)
            }
        })
    }

    /// A port bound to `port` of the domain `peer`. `None`: it does not wait for us, or `peer` is not there.
    pub(crate) fn bound(peer: u32, port: u32) -> Result<Option<EventChannel>, Error> {
        Ok(match layer() {
            Layer::Ioctls => ioctls::EventChannel::bound(peer, port)?.map(EventChannel::Ioctls),
            Layer::Library => {
                library::EventChannel::bound(library::events()?, peer, port)?.map(EventChannel::Library)
            }
        })
    }

    /// The same port again, for its next owner.
    pub(crate) fn duplicate(&self) -> Result<EventChannel, Error> {
        Ok(match self {
            EventChannel::Ioctls(channel) => EventChannel::Ioctls(channel.duplicate()?),
            EventChannel::Library(channel) => EventChannel::Library(channel.duplicate()),
        })
    }

    /// The port's number in this domain.
    pub(crate) fn port(&self) -> u32 {
        match self {
            EventChannel::Ioctls(channel) => channel.port(),
            EventChannel::Library(channel) => channel.port(),
        }
    }

    /// Sends an event. Xen does not tell whether anybody receives it.
    pub(crate) fn notify(&self) -> Result<(), Error> {
        match self {
            EventChannel::Ioctls(channel) => channel.notify(),
            EventChannel::Library(channel) => channel.notify(),
        }
    }

    /// Takes a pending event and lets the next one in. `false`: there was none.
    pub(crate) fn take(&self) -> Result<bool, Error> {
        match self {
            EventChannel::Ioctls(channel) => channel.take(),
            EventChannel::Library(channel) => channel.take(),
        }
    }
}

impl AsFd for EventChannel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            EventChannel::Ioctls(channel) => channel.as_fd(),
            EventChannel::Library(channel) => channel.as_fd(),
        }
    }
}

/// Whether Xen still knows a domain. Asks for a port that cannot exist, which fails in one way if the domain exists
/// and in another if it does not; an ordinary guest has no other way to ask. Xen knows what is left of a domain for as
/// long as anybody maps a page of it.
pub(crate) fn knows(domain: u32) -> bool {
    Asker::new().map_or(true, |asker| asker.knows(domain))
}

/// What it takes to ask later, when nothing can be opened any more: see [`knows`].
pub(crate) struct Asker(AskerOf);

enum AskerOf {
    Ioctls(ioctls::Asker),
    Library(library::Asker),
}

impl Asker {
    pub(crate) fn new() -> Result<Asker, Error> {
        Ok(Asker(match layer() {
            Layer::Ioctls => AskerOf::Ioctls(ioctls::Asker::new()?),
            Layer::Library => AskerOf::Library(library::Asker::new(library::events()?)?),
        }))
    }

    pub(crate) fn knows(&self, domain: u32) -> bool {
        match &self.0 {
            AskerOf::Ioctls(asker) => asker.knows(domain),
            AskerOf::Library(asker) => asker.knows(domain),
        }
    }
}

/// What happens when the pages are unmapped, in whatever way: the byte at `offset` of the first one is cleared, and an
/// event is sent from `port`.
#[derive(Clone, Copy)]
pub(crate) struct Notice {
    pub(crate) offset: usize,
    pub(crate) port: u32,
}

/// Granted pages: the first in `head`, perhaps with all the others; and their references, one a page.
pub(crate) struct Granted {
    pub(crate) head: Mapping,
    pub(crate) tail: Option<Mapping>,
    pub(crate) references: Vec<u32>,
}

/// New pages of this domain, zeroed, that `peer` may map and write.
pub(crate) fn grant(peer: u16, count: usize, notice: Notice) -> Result<Granted, Error> {
    match layer() {
        Layer::Ioctls => ioctls::grant(peer, count, notice),
        Layer::Library => library::grant(library::grants()?, peer, count, notice),
    }
}

/// What it takes to ask for a notice about mapped pages.
pub(crate) enum Origin {
    Ioctls(ioctls::Origin),
    Library(library::Origin),
}

impl Origin {
    /// Asks for this notice. `Some`: the first page was mapped anew for that, and the old mapping is to be dropped.
    pub(crate) fn notify_unmap(&self, notice: Notice) -> Result<Option<Mapping>, Error> {
        match self {
            Origin::Ioctls(origin) => origin.notify_unmap(notice).map(|()| None),
            Origin::Library(origin) => origin.notify_unmap(notice).map(|page| Some(page.into())),
        }
    }
}

/// Maps pages that `peer` granted. `None`: Xen refused, so the references are not, or no longer, meant for us.
pub(crate) fn map(peer: u32, references: &[u32]) -> Result<Option<(Origin, Mapping)>, Error> {
    Ok(match layer() {
        Layer::Ioctls => {
            ioctls::map(peer, references)?.map(|(origin, map)| (Origin::Ioctls(origin), map.into()))
        }
        Layer::Library => library::map(library::grants()?, peer, references)?
            .map(|(origin, pages)| (Origin::Library(origin), pages.into())),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_layer_is_named_or_the_plain_one() {
        let named = |name: &str| Layer::named(Some(OsStr::new(name)));
        assert_eq!(Layer::named(None).unwrap(), Layer::Ioctls);
        assert_eq!(named("ioctl").unwrap(), Layer::Ioctls);
        assert_eq!(named("libxen").unwrap(), Layer::Library);
        for bad in ["", "Libxen", "libxenvchan", "ioctl "] {
            let said = named(bad).unwrap_err().to_string();
            assert!(
                said.contains(&format!("QREXEC_XEN_DEVICES={bad:?}: expected ioctl or libxen")),
                "{said}"
            );
        }
    }
}
