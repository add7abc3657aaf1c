//! A stand-in for `libvchan.dll` in a lab's Windows VM: the same exports, over a stream to the lab's relay.
//!
//! `QREXEC_LAB_RELAY` names the file in which the relay says where it is and what proves that we are of the lab. The
//! tested programs know nothing of this: they load a library by its path and call its exports.

#[cfg(windows)]
mod channel;
#[cfg(windows)]
mod exports;
