#![forbid(unsafe_code)]
//! The shared page and the sizes of what belongs to it (Xen's public `io/libxenvchan.h`).
//!
//! *left* carries bytes from client to server, *right* from server to client.

use crate::error::Error;

/// Bytes in a page, on every machine this protocol runs on.
pub const PAGE: usize = 4096;
/// The smallest ring: `1 << 10` bytes, kept inside page 0.
pub const MIN_ORDER: u16 = 10;
/// The largest ring: `1 << 20` bytes (the format's own limit of 256 grants a ring).
pub const MAX_ORDER: u16 = 20;
/// Largest ring in bytes.
pub const MAX_RING: usize = 1 << MAX_ORDER;

/// The live byte of a side: it has closed.
pub const CLOSED: u8 = 0;
/// The live byte of a side: it is connected.
pub const CONNECTED: u8 = 1;
/// The client's live byte before any client came.
pub const WAITING: u8 = 2;

/// Notify bit: "ring me when you wrote data".
pub const NOTIFY_WRITE: u8 = 0x1;
/// Notify bit: "ring me when you read data", that is, made room.
pub const NOTIFY_READ: u8 = 0x2;

/// Indices of one ring as they lie in page 0.
#[repr(C)]
struct RingShared {
    cons: u32,
    prod: u32,
}

/// Page 0 up to the grant list. Never instantiated: it exists so that the compiler computes the offsets.
#[repr(C)]
struct Interface {
    left: RingShared,
    right: RingShared,
    left_order: u16,
    right_order: u16,
    cli_live: u8,
    srv_live: u8,
    cli_notify: u8,
    srv_notify: u8,
    grants: [u32; 0],
}

/// Byte offsets inside page 0.
pub mod offset {
    use super::{Interface, RingShared};
    use core::mem::offset_of;

    /// `left.cons: u32`
    pub const LEFT_CONS: usize = offset_of!(Interface, left) + offset_of!(RingShared, cons);
    /// `left.prod: u32`
    pub const LEFT_PROD: usize = offset_of!(Interface, left) + offset_of!(RingShared, prod);
    /// `right.cons: u32`
    pub const RIGHT_CONS: usize = offset_of!(Interface, right) + offset_of!(RingShared, cons);
    /// `right.prod: u32`
    pub const RIGHT_PROD: usize = offset_of!(Interface, right) + offset_of!(RingShared, prod);
    /// `left_order: u16`
    pub const LEFT_ORDER: usize = offset_of!(Interface, left_order);
    /// `right_order: u16`
    pub const RIGHT_ORDER: usize = offset_of!(Interface, right_order);
    /// `cli_live: u8`
    pub const CLI_LIVE: usize = offset_of!(Interface, cli_live);
    /// `srv_live: u8`
    pub const SRV_LIVE: usize = offset_of!(Interface, srv_live);
    /// `cli_notify: u8`, what the client is asked to ring for
    pub const CLI_NOTIFY: usize = offset_of!(Interface, cli_notify);
    /// `srv_notify: u8`, what the server is asked to ring for
    pub const SRV_NOTIFY: usize = offset_of!(Interface, srv_notify);
    /// `grants: [u32]`, left's pages, then right's
    pub const GRANTS: usize = offset_of!(Interface, grants);
}

const _: () = {
    assert!(offset::LEFT_CONS == 0 && offset::LEFT_PROD == 4);
    assert!(offset::RIGHT_CONS == 8 && offset::RIGHT_PROD == 12);
    assert!(offset::LEFT_ORDER == 16 && offset::RIGHT_ORDER == 18);
    assert!(offset::CLI_LIVE == 20 && offset::SRV_LIVE == 21);
    assert!(offset::CLI_NOTIFY == 22 && offset::SRV_NOTIFY == 23);
    assert!(offset::GRANTS == 24 && size_of::<Interface>() == 24);
    // The longest grant list ends before the second half of the page, where a ring of order 11 would lie; a pair of
    // rings with so long a list has none there, since both rings have pages of their own.
    assert!(offset::GRANTS + 4 * 2 * (MAX_RING / PAGE) <= PAGE);
};

/// A ring's size as a power of two: 10 to 20.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Order(u16);

impl Order {
    /// Accepts 10 to 20 and nothing else.
    pub fn new(order: u16) -> Option<Order> {
        (MIN_ORDER..=MAX_ORDER).contains(&order).then_some(Order(order))
    }

    /// The exponent.
    pub fn get(self) -> u16 {
        self.0
    }

    /// Ring size in bytes.
    pub fn bytes(self) -> usize {
        1 << self.0
    }

    /// Pages of its own: none for the two small orders, which live in page 0.
    pub fn pages(self) -> usize {
        if self.0 < 12 { 0 } else { 1 << (self.0 - 12) }
    }

    /// The smallest order of at least 12 that holds `min` bytes, `None` above 1 MiB.
    fn at_least(min: usize) -> Option<Order> {
        let bytes = min.max(PAGE).checked_next_power_of_two()?;
        Order::new(bytes.trailing_zeros() as u16)
    }
}

/// Minimum sizes in bytes that a server is asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sizes {
    /// Client to server.
    pub left: usize,
    /// Server to client.
    pub right: usize,
}

impl Sizes {
    /// The same minimum both ways.
    pub fn both(bytes: usize) -> Sizes {
        Sizes { left: bytes, right: bytes }
    }
}

/// The two orders of one channel, known to fit together.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Orders {
    /// Client to server.
    pub left: Order,
    /// Server to client.
    pub right: Order,
}

impl Orders {
    /// All pairs larger than this one, with rings of the same size up to `most` bytes each way, the largest first.
    pub fn up_to(self, most: usize) -> impl Iterator<Item = Orders> {
        let least = self.left.max(self.right).0;
        let larger = (least + 1..=MAX_ORDER).rev().map(Order).filter(move |order| order.bytes() <= most);
        larger.map(|order| Orders { left: order, right: order })
    }

    /// Checks a pair that a peer named: each 10 to 20, and not the same small order twice,
    /// since both would lie at the same place of page 0.
    pub fn validate(left: u16, right: u16) -> Result<Orders, Error> {
        match (Order::new(left), Order::new(right)) {
            (Some(l), Some(r)) if l != r || l.get() >= 12 => Ok(Orders { left: l, right: r }),
            _ => Err(Error::BadOrders { left, right }),
        }
    }

    /// The server's choice, as libxenvchan makes it, so that a C peer computes the same.
    pub fn choose(min: Sizes) -> Result<Orders, Error> {
        let pick = |left, right| Orders::validate(left, right);
        let big = |min| Order::at_least(min).map(Order::get).ok_or(Error::TooLarge { asked: min });
        match (min.left, min.right) {
            (0..=1024, 0..=2048) => pick(10, 11),
            (0..=2048, 0..=1024) => pick(11, 10),
            (0..=2048, right) => pick(11, big(right)?),
            (left, 0..=2048) => pick(big(left)?, 11),
            (left, right) => pick(big(left)?, big(right)?),
        }
    }

    /// The same two rings seen from the other end.
    pub fn swapped(self) -> Orders {
        Orders { left: self.right, right: self.left }
    }

    /// Bytes of page 0 and all ring pages together.
    pub fn region_bytes(self) -> usize {
        PAGE * (1 + self.left.pages() + self.right.pages())
    }

    /// Where left's bytes begin in the region.
    pub fn left_offset(self) -> usize {
        small_offset(self.left).unwrap_or(PAGE)
    }

    /// Where right's bytes begin in the region.
    pub fn right_offset(self) -> usize {
        small_offset(self.right).unwrap_or(PAGE * (1 + self.left.pages()))
    }
}

/// Orders 10 and 11 lie in page 0, each at the offset of its own size.
fn small_offset(order: Order) -> Option<usize> {
    (order.pages() == 0).then(|| order.bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn chosen(left: usize, right: usize) -> (u16, u16) {
        let o = Orders::choose(Sizes { left, right }).unwrap();
        (o.left.get(), o.right.get())
    }

    #[test]
    fn the_servers_choice_is_libxenvchans() {
        assert_eq!(chosen(1024, 2048), (10, 11));
        assert_eq!(chosen(2048, 1024), (11, 10));
        assert_eq!(chosen(2048, 2048), (11, 12));
        // A C server was seen to choose this pair; as its client we accept such pairs too.
        assert_eq!(chosen(1024, 1024), (10, 11));
        assert_eq!(chosen(1, 4096), (11, 12));
        assert_eq!(chosen(0, 0), (10, 11));
        assert_eq!(chosen(4096, 4096), (12, 12));
        assert_eq!(chosen(5000, 100), (13, 11));
        assert_eq!(chosen(100, 65_536), (11, 16));
        assert_eq!(chosen(1024, 1024), (10, 11));
        assert_eq!(chosen(1, 4096), (11, 12));
        assert_eq!(chosen(MAX_RING, MAX_RING), (20, 20));
        assert!(Orders::choose(Sizes::both(MAX_RING + 1)).is_err());
        assert!(Orders::choose(Sizes::both(usize::MAX)).is_err());
    }

    #[test]
    fn foreign_orders_are_checked() {
        for (l, r) in [(9, 12), (12, 21), (10, 10), (11, 11), (0, 0), (u16::MAX, 12)] {
            assert!(Orders::validate(l, r).is_err(), "{l}/{r}");
        }
        assert!(Orders::validate(12, 12).is_ok());
    }

    proptest! {
        #[test]
        fn rings_never_overlap_each_other_or_the_header(l in 10u16..=20, r in 10u16..=20) {
            prop_assume!(Orders::validate(l, r).is_ok());
            let o = Orders::validate(l, r).unwrap();
            let left = o.left_offset()..o.left_offset() + o.left.bytes();
            let right = o.right_offset()..o.right_offset() + o.right.bytes();
            prop_assert!(left.end <= right.start || right.end <= left.start);
            prop_assert!(left.start.min(right.start) >= offset::GRANTS);
            prop_assert!(left.end.max(right.end) <= o.region_bytes());
        }
    }
}
