#![forbid(unsafe_code)]
//! The side that maps the server's pages.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::DOM0;
use super::bell::Doorbell;
use super::store::Store;
use super::wire::number;
use crate::channel::{Channel, announce_client};
use crate::error::Error;
use crate::layout::{CONNECTED, Orders, PAGE, Sizes, WAITING, offset};
use crate::page::{Page, Side};
use crate::region::Region;
use crate::xendev::{self, EventChannel};

/// How often to look whether the server's domain is there at all, of which no watch tells.
const PATROL: Duration = Duration::from_secs(1);

/// A client that looks for its server, by one watch.
pub(in crate::transport) struct Client {
    peer: u32,
    folder: String,
    store: Store,
    /// Look before any change is seen: nothing was looked at yet.
    fresh: bool,
    patrolled: Instant,
    done: bool,
}

impl Client {
    pub(in crate::transport) fn new(own: u32, server: u32, port: u32) -> Result<Client, Error> {
        super::peer_number(own, server)?;
        let folder = format!("/local/domain/{server}/{}", super::folder(own, port));
        let mut store = Store::open()?;
        store.watch(&format!("{folder}/event-channel"))?;
        Ok(Client { peer: server, folder, store, fresh: true, patrolled: Instant::now(), done: false })
    }

    /// Tries once if something has changed; waits for xenstore's answers, never for the server.
    pub(in crate::transport) fn poll(&mut self) -> Result<Option<Channel>, Error> {
        if self.done {
            return Err(Error::Closed);
        }
        if !self.store.changed()? && !self.fresh {
            return self.patrol().map(|()| None);
        }
        let channel = self.connect()?;
        self.done = channel.is_some();
        // A change that was seen while we tried makes the descriptor readable for nobody any more.
        self.fresh = !self.done && self.store.changed()?;
        Ok(channel)
    }

    pub(in crate::transport) fn retry_after(&self) -> Option<Duration> {
        Some(if self.fresh { Duration::ZERO } else { PATROL })
    }

    /// Fails once the server's domain is gone: its number will not come back.
    fn patrol(&mut self) -> Result<(), Error> {
        if self.peer == DOM0 || self.patrolled.elapsed() < PATROL {
            return Ok(());
        }
        self.patrolled = Instant::now();
        // A store that does not answer this question leaves only waiting.
        if self.store.serves(self.peer).unwrap_or(true) { Ok(()) } else { Err(Error::Closed) }
    }

    /// `None`: not yet. Whatever is missing, the server's writing its last key announces it.
    fn connect(&mut self) -> Result<Option<Channel>, Error> {
        let Some((reference, port)) = self.keys()? else { return Ok(None) };
        let Some(event) = EventChannel::bound(self.peer, port)? else { return Ok(None) };
        let Some((origin, head)) = xendev::map(self.peer, &[reference])? else { return Ok(None) };
        let head = Region::whole(head, Orders::choose(Sizes::both(0))?);
        let Some(region) = with_rings(head, self.peer)? else { return Ok(None) };
        origin.notify_unmap(offset::CLI_LIVE, event.port())?;
        announce_client(&region);
        event.notify()?;
        let bell = Doorbell::new(event, self.peer)?;
        Ok(Some(Channel::new(Arc::new(region), Side::Client, Box::new(bell))))
    }

    /// Both keys, of one server: it removes a predecessor's `event-channel` before it writes its `ring-ref`, so two
    /// equal looks at the first have the second between them.
    fn keys(&mut self) -> Result<Option<(u32, u32)>, Error> {
        let port = self.key("event-channel")?;
        let reference = self.key("ring-ref")?;
        let same = self.key("event-channel")? == port;
        Ok(reference.zip(port).filter(|_| same))
    }

    fn key(&mut self, name: &str) -> Result<Option<u32>, Error> {
        Ok(self.store.read(&format!("{}/{name}", self.folder))?.as_deref().and_then(number))
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

impl AsFd for Client {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.store.as_fd()
    }
}
