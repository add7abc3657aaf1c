//! A stand-in for the kernel that imports a device: what `vhci_hcd` and the drivers above it would send.
//!
//! [`Host`] is the stream with its requests. [`describe`], [`Disk`], [`mod@stream`] and [`keys`] are the drivers, which
//! measure what they wait for and check what they get.

mod camera;
mod device;
mod disk;
mod keyboard;
mod measure;
mod stream;

pub use camera::{Stream, Streamed, stream};
pub use device::{Class, Described, control_transfers, describe};
pub use disk::{Content, Disk, Way};
pub use keyboard::keys;
pub use measure::{Measured, Waits};
pub use stream::{Answered, Host, Request};

use std::io;

use wire::usbip::Violation;

/// Why a device is not what it should be.
#[derive(Debug, thiserror::Error)]
pub enum Trouble {
    /// The stream has ended: the device was unplugged.
    #[error("the device has gone")]
    Gone,
    /// No answer within the time that was set.
    #[error("the device does not answer")]
    Silent,
    /// The socket does not work.
    #[error("{0}: {1}")]
    System(&'static str, io::Error),
    /// What came is not USB/IP.
    #[error("{0}")]
    Violation(#[from] Violation),
    /// A request failed.
    #[error("{0}: status {1}")]
    Failed(&'static str, i32),
    /// An answer that cannot be right.
    #[error("{0}")]
    Wrong(&'static str),
}
