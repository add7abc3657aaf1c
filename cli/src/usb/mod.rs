//! USB devices of one VM in another: what binds a device to the kernel's USB/IP here, and a call to it.
//!
//! *Export* is the VM that has the device, *import* the one that gets it. Both ends are kernels; these programs connect
//! them and go out of the way. See `docs/usb.md`.

pub mod attach;
pub mod detach;
pub mod export;
pub mod import;
pub mod list;
mod names;
mod ports;
mod tree;
pub mod udev;

use engine::say;

/// A reason for people, in one line.
type Reason = String;

/// Says a reason, which may contain a peer's bytes: bounded and escaped.
fn complain(reason: &str) -> i32 {
    let shown: String = reason.chars().take(400).flat_map(char::escape_default).collect();
    say::error(format_args!("{shown}"));
    1
}

/// Something that was tried, for a reason why not.
fn because<E: std::fmt::Display>(what: impl std::fmt::Display) -> impl FnOnce(E) -> Reason {
    move |error| format!("{what}: {error}")
}
