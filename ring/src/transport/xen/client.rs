#![forbid(unsafe_code)]
//! The side that maps the server's pages.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::Duration;

use sys::reactor::Reactor;

use super::domain_watch::{DomainWatch, either};
use super::doorbell::Doorbell;
use super::store::Store;
use super::store_messages::number;
use crate::channel::{Channel, announce_client};
use crate::error::Error;
use crate::layout::{CONNECTED, Orders, PAGE, Sizes, WAITING, offset};
use crate::page::{Page, Side};
use crate::region::Region;
use crate::xendev::{self, EventChannel, Notice};

/// A client that looks for its server with one watch in xenstore.
pub(in crate::transport) struct XenConnector {
    peer: u32,
    folder: String,
    /// Handed to the channel once there is one.
    store: Option<Store>,
    /// Ready when either the store or the domain watch is.
    events: Reactor<()>,
    /// Handed to the channel once there is one.
    domain_watch: Option<DomainWatch>,
    /// Nothing was looked at yet, or something changed during the last look: do not wait for a change.
    fresh: bool,
    done: bool,
}

impl XenConnector {
    pub(in crate::transport) fn new(own: u32, server: u32, port: u32) -> Result<XenConnector, Error> {
        super::peer_number(own, server)?;
        let folder = format!("/local/domain/{server}/{}", super::folder(own, port));
        let mut store = Store::open()?;
        store.watch(&format!("{folder}/event-channel"))?;
        let domain_watch = DomainWatch::new(own, server)?;
        let events = either(&store, domain_watch.as_ref())?;
        Ok(XenConnector {
            peer: server,
            folder,
            store: Some(store),
            events,
            domain_watch,
            fresh: true,
            done: false,
        })
    }

    /// Tries once if something has changed; waits for xenstore's answers, never for the server. Fails once the server's
    /// domain is gone: its number will not come back.
    pub(in crate::transport) fn poll(&mut self) -> Result<Option<Channel>, Error> {
        let Some(store) = self.store.as_mut().filter(|_| !self.done) else { return Err(Error::Closed) };
        if !store.changed()? && !self.fresh {
            let gone = self.domain_watch.as_mut().map_or(Ok(false), DomainWatch::is_peer_gone)?;
            return if gone { Err(Error::Closed) } else { Ok(None) };
        }
        let channel = self.connect()?;
        self.done = channel.is_some();
        // The change that came during the attempt was taken from the descriptor, which no longer tells of it.
        self.fresh = !self.done && self.store.as_mut().map_or(Ok(false), Store::changed)?;
        Ok(channel)
    }

    pub(in crate::transport) fn retry_after(&self) -> Option<Duration> {
        self.fresh.then_some(Duration::ZERO)
    }

    /// `None`: not yet. Whatever is missing is announced by the key that the server writes last.
    fn connect(&mut self) -> Result<Option<Channel>, Error> {
        let Some((reference, port)) = self.keys()? else { return Ok(None) };
        let Some(event) = EventChannel::bound(self.peer, port)? else { return Ok(None) };
        let Some((origin, head)) = xendev::map(self.peer, &[reference])? else { return Ok(None) };
        let head = Region::foreign(head, Orders::choose(Sizes::both(0))?);
        let Some(region) = with_rings(head, self.peer)? else { return Ok(None) };
        let notice = Notice { offset: offset::CLI_LIVE, port: event.port() };
        let region = match origin.notify_unmap(notice)? {
            Some(head) => region.with_head(head),
            None => region,
        };
        announce_client(&region);
        event.notify()?;
        let mut domain_watch = self.domain_watch.take();
        domain_watch
            .iter_mut()
            .for_each(|domain_watch| domain_watch.maps(region.orders().region_bytes() / PAGE));
        if let (Some(domain_watch), Some(store)) = (&mut domain_watch, self.store.take()) {
            domain_watch.keep(store, format!("{}/event-channel", self.folder))?;
        }
        let bell = Doorbell::new(event, domain_watch, None)?;
        Ok(Some(Channel::new(Arc::new(region), Side::Client, Box::new(bell))))
    }

    /// Both keys, of one server: it removes a predecessor's `event-channel` before it writes its `ring-ref`, so two
    /// equal looks at the first have the second between them.
    fn keys(&mut self) -> Result<Option<(u32, u32)>, Error> {
        let port = self.key("event-channel")?;
        if port.is_none() {
            return Ok(None);
        }
        let reference = self.key("ring-ref")?;
        let same = self.key("event-channel")? == port;
        Ok(reference.zip(port).filter(|_| same))
    }

    fn key(&mut self, name: &str) -> Result<Option<u32>, Error> {
        let Some(store) = &mut self.store else { return Ok(None) };
        Ok(store.read(&format!("{}/{name}", self.folder))?.as_deref().and_then(number))
    }
}

/// Adds the ring pages that page 0 speaks of. `None`: its server has gone, or has a client.
///
/// All that is used of the page is copied once and checked; the server may have written anything there.
fn with_rings(head: Region, peer: u32) -> Result<Option<Region>, Error> {
    let live = |side: Side| head.flag(side.own_live());
    if live(Side::Server) != CONNECTED || live(Side::Client) != WAITING {
        return Ok(None);
    }
    let mut orders = [0; 4];
    head.copy_out(offset::LEFT_ORDER, &mut orders);
    let [l0, l1, r0, r1] = orders;
    let orders = Orders::validate(u16::from_le_bytes([l0, l1]), u16::from_le_bytes([r0, r1]))?;
    let mut grants = vec![0; 4 * (orders.region_bytes() / PAGE - 1)];
    head.copy_out(offset::GRANTS, &mut grants);
    let references: Vec<u32> = grants.as_chunks().0.iter().map(|bytes| u32::from_le_bytes(*bytes)).collect();
    if references.is_empty() {
        return Ok(Some(head.extended(None, orders)));
    }
    let tail = xendev::map(peer, &references)?;
    Ok(tail.map(|(_, tail)| head.extended(Some(tail), orders)))
}

impl AsFd for XenConnector {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.events.as_fd()
    }
}
