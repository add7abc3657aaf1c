#![forbid(unsafe_code)]
//! The side that owns the pages.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use sys::reactor::Reactor;

use super::domain_watch::{DomainWatch, either};
use super::doorbell::Doorbell;
use super::ring_share::{Place, RingShare};
use super::store::Store;
use super::store_messages::number;
use crate::channel::{Channel, initialise};
use crate::error::Error;
use crate::layout::{Orders, PAGE, WAITING, offset};
use crate::page::{Page, Side};
use crate::region::Region;
use crate::xendev::{self, EventChannel, Granted, Notice};

/// A server that waits for its one client. Its keys stay in xenstore until it is dropped: xenstore may be slow, and
/// the client must not wait for that. A second client sees on the page that there is one already.
pub(in crate::transport) struct XenListener {
    keys: Keys,
    event: EventChannel,
    /// Ready when the event channel or the domain watch is.
    events: Reactor<()>,
    /// Handed to the channel once there is one.
    domain_watch: Option<DomainWatch>,
    region: Arc<Region>,
    /// Handed to the channel once there is one.
    place: Option<Place>,
    taken: bool,
}

impl XenListener {
    /// With rings of at least `least`, and larger ones if a share is given and the kernel grants them.
    pub(in crate::transport) fn new(
        own: u32,
        peer: u32,
        port: u32,
        least: Orders,
        share: Option<RingShare>,
    ) -> Result<XenListener, Error> {
        let number = super::peer_number(own, peer)?;
        let event = EventChannel::unbound(peer)?;
        let notice = Notice { offset: offset::SRV_LIVE, port: event.port() };
        let Pages { granted, orders, place } = Pages::grant(number, least, share, notice)?;
        let Granted { head, tail, references } = granted;
        let region = Arc::new(Region::of(head, tail, orders));
        let Some((first, rest)) = references.split_first() else {
            return Err(Error::Config("no page was granted".into()));
        };
        for (i, reference) in rest.iter().enumerate() {
            region.copy_in(offset::GRANTS + 4 * i, &reference.to_le_bytes());
        }
        initialise(&region);
        let domain_watch = DomainWatch::new(own, peer)?;
        let events = either(&event, domain_watch.as_ref())?;
        let keys = Keys { folder: super::folder(peer, port), event: event.port() };
        keys.publish(*first, own, peer)?;
        Ok(XenListener { keys, event, events, domain_watch, region, place, taken: false })
    }

    /// Takes the client if it is there. Fails once its domain is gone.
    pub(in crate::transport) fn accept(&mut self) -> Result<Option<Channel>, Error> {
        if self.taken {
            return Err(Error::Closed);
        }
        let woken = self.event.take()?;
        // A client that has come and gone is accepted too: what it wrote can still be read.
        if self.region.flag(Side::Client.own_live()) == WAITING {
            let gone = !woken && self.domain_watch.as_mut().map_or(Ok(false), DomainWatch::is_peer_gone)?;
            return if gone { Err(Error::Closed) } else { Ok(None) };
        }
        self.taken = true;
        let bell = Doorbell::new(self.event.duplicate()?, self.domain_watch.take(), self.place.take())?;
        Ok(Some(Channel::new(self.region.clone(), Side::Server, Box::new(bell))))
    }
}

impl AsFd for XenListener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.events.as_fd()
    }
}

impl Drop for XenListener {
    fn drop(&mut self) {
        self.keys.withdraw();
    }
}

/// The granted pages, and the size of the rings in them.
struct Pages {
    granted: Granted,
    orders: Orders,
    place: Option<Place>,
}

impl Pages {
    /// If larger rings cannot be had, for whatever reason, smaller ones are tried: it fails only if `least` cannot be
    /// had.
    fn grant(peer: u16, least: Orders, share: Option<RingShare>, notice: Notice) -> Result<Pages, Error> {
        let pages = |orders: Orders| xendev::grant(peer, orders.region_bytes() / PAGE, notice);
        let larger: Vec<Orders> = share.map(|share| least.up_to(share.ring).collect()).unwrap_or_default();
        let place = if larger.is_empty() { None } else { share.and_then(|share| share.take()) };
        if place.is_some() {
            for orders in larger {
                if let Ok(granted) = pages(orders) {
                    return Ok(Pages { granted, orders, place });
                }
            }
        }
        Ok(Pages { granted: pages(least)?, orders: least, place: None })
    }
}

/// The two keys in xenstore by which a client finds the pages and the event channel.
struct Keys {
    folder: String,
    /// The event channel's port. If the key names another one, a successor has written it.
    event: u32,
}

impl Keys {
    /// A predecessor's `event-channel` is removed first, so that no client ever sees it together with this `ring-ref`.
    fn publish(&self, first_page: u32, own: u32, peer: u32) -> Result<(), Error> {
        let mut store = Store::open()?;
        store.remove(&self.event_channel())?;
        let published = store
            .publish(&format!("{}/ring-ref", self.folder), first_page, own, peer)
            .and_then(|()| store.publish(&self.event_channel(), self.event, own, peer));
        published.inspect_err(|_| {
            // One key without the other is of no use to a client.
            let _ = store.remove(&self.folder);
        })
    }

    /// Removes the keys unless a successor has replaced them. Keys that cannot be removed do no harm: they lead to an
    /// event channel that nobody can bind to, and the next server replaces them.
    fn withdraw(&self) {
        let _ = Store::open().and_then(|mut store| {
            let found = store.read(&self.event_channel())?;
            if found.and_then(|value| number(&value)) == Some(self.event) {
                store.remove(&self.folder)?;
            }
            Ok(())
        });
    }

    fn event_channel(&self) -> String {
        format!("{}/event-channel", self.folder)
    }
}
