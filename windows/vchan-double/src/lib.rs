//! A stand-in for `libvchan.dll` in a lab's Windows VM: the same exports, over a stream to the lab's relay.
//!
//! A file beside the program says where the relay is and what proves that we are of the lab. The tested programs know nothing of this: they load a library by its path and call its exports.

#[cfg(windows)]
mod channel;
#[cfg(windows)]
mod exports;
