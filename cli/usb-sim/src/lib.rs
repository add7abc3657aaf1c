//! USB devices that are programs, for everyone without hardware, and a stand-in for the kernel that would import them.
//!
//! [`Machine`] is a device: bytes of USB/IP in, bytes out, the time as an argument, nothing else. What it is good at is
//! its [`Kind`]: a stick, a camera, a keyboard. [`run_controller`] drives it over one socket, as a service of qrexec does.
//! [`host::Host`] is the other end: it sends what `vhci_hcd` and the drivers above it would and measures the answers.
//!
//! The devices are complete enough to be imported by Linux; nothing here knows who is at the other end.
#![forbid(unsafe_code)]
#![deny(clippy::print_stdout, clippy::print_stderr)]

mod answers;
mod args;
mod camera;
mod control;
mod description;
mod driver;
mod function;
pub mod host;
pub mod kernel;
mod keyboard;
mod machine;
mod medium;
mod scsi;
mod stick;
mod urb;

pub use args::{PROGRAM, command, main};
pub use description::DEVID;
pub use driver::{Failure, hand_over, run_controller, run_controllers};
pub use function::Counts;
pub use machine::{Kind, Machine};
pub use medium::{Medium, pattern};
