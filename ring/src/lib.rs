//! vchan: two byte rings in shared memory, a doorbell, and the ways to meet.
//!
//! The page layout is the public one of Xen's `io/libxenvchan.h`; what surrounds it differs by
//! transport (see [`Transport`]). This is the only crate of the project that touches shared pages,
//! and it never forms a reference to them: payload moves by the kernel's own `readv`/`writev` on
//! [`Producer`]'s and [`Consumer`]'s spans, indices and flags by atomics, headers by byte-wise copies.
//!
//! | module | one job |
//! |---|---|
//! | [`layout`] | where everything is, orders and sizes |
//! | [`index`] | free-running indices: distances, pieces, checks of the peer's values |
//! | `page` | the shared words behind a trait, so that loom can stand in for memory |
//! | `mapping` | mapped memory, and who gives it back |
//! | `region` | the raw mappings |
//! | [`producer`], [`consumer`] | reserve/commit and peek/release |
//! | [`spans`] | scatter/gather lists into ring memory and the system calls that use them |
//! | `trim` | returning the memory of an empty ring to the system |
//! | [`link`] | the notify protocol, liveness, and what differs by transport |
//! | [`channel`] | both rings and their link |
//! | [`spin`] | how often to look again before a sleep |
//! | [`blocking`] | a channel as a plain reader and writer |
//! | [`transport`] | choosing and meeting: `shm`, `socket`, `xen` |
//! | `xendev` | the devices of a Xen guest, by plain ioctls or by Xen's C libraries |
//! | `xenvchan` | Xen's own C library, found at run time, for comparison |

pub mod blocking;
pub mod channel;
pub mod consumer;
pub mod error;
#[cfg(fuzzing)]
pub mod fuzzing;
pub mod index;
pub mod layout;
pub mod link;
#[cfg(test)]
mod loom_tests;
mod mapping;
mod page;
pub mod producer;
mod region;
pub mod spans;
pub mod spin;
pub mod transport;
mod trim;
mod wide;
#[cfg(feature = "xen")]
mod xendev;
#[cfg(feature = "xen")]
mod xenvchan;

pub use blocking::Blocking;
pub use channel::Channel;
pub use consumer::Consumer;
pub use error::{BadIndex, Error};
pub use layout::{Order, Orders, Sizes};
pub use link::{Counters, Habits, Link};
pub use producer::Producer;
pub use spans::{Access, Spans};
pub use spin::Spin;
pub use transport::{Appeared, Connector, DomainMonitor, Kind, Listener, Rings, ServerWatch, Transport};
