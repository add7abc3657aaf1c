#![allow(unsafe_code)] // declares the functions of a C library
#![allow(non_camel_case_types)] // the names of the C header
#![doc = include_str!("../README.md")]

use std::ffi::{c_int, c_uint};

#[doc(hidden)]
pub mod load;
pub use load::LoadError;

/// The number of a domain, as hypercalls take it.
pub type domid_t = u16;
/// The number of an event channel.
pub type evtchn_port_t = u32;
/// The number of an event channel, or -1 with a reason in `errno`. A number always fits.
pub type xenevtchn_port_or_error_t = c_int;

/// An opened event channel device. Only pointers to it are used.
#[repr(C)]
#[derive(Debug)]
pub struct xenevtchn_handle {
    _opaque: [u8; 0],
}

/// A logger of libxentoollog; null is one that says nothing. Only pointers to it are used.
#[repr(C)]
#[derive(Debug)]
pub struct xentoollog_logger {
    _opaque: [u8; 0],
}

/// For [`Library::xenevtchn_open`]: the descriptor is inherited by programs that this process becomes.
pub const XENEVTCHN_NO_CLOEXEC: c_uint = 1 << 0;

crate::c_library! {
    files [c"libxenevtchn.so.1", c"libxenevtchn.so"];
    always {
        /// Opens the device; null and `errno` if that fails. A forked child may only close what its parent opened.
        fn xenevtchn_open(logger: *mut xentoollog_logger, flags: c_uint) -> *mut xenevtchn_handle;
        /// Closes a handle and all channels that are bound there. 0, or -1 and `errno`.
        fn xenevtchn_close(xce: *mut xenevtchn_handle) -> c_int;
        /// The descriptor to poll before each [`Library::xenevtchn_pending`], or -1. It belongs to the handle.
        fn xenevtchn_fd(xce: *mut xenevtchn_handle) -> c_int;
        /// Signals the other end of a channel. 0, or -1 and `errno`.
        fn xenevtchn_notify(xce: *mut xenevtchn_handle, port: evtchn_port_t) -> c_int;
        /// A new channel to which this domain may bind its end.
        fn xenevtchn_bind_unbound_port(xce: *mut xenevtchn_handle, domid: u32) -> xenevtchn_port_or_error_t;
        /// A new channel whose other end is that one, of that domain.
        fn xenevtchn_bind_interdomain(
            xce: *mut xenevtchn_handle,
            domid: u32,
            remote_port: evtchn_port_t,
        ) -> xenevtchn_port_or_error_t;
        /// A channel on which the hypervisor's virtual interrupt of this number arrives.
        fn xenevtchn_bind_virq(xce: *mut xenevtchn_handle, virq: c_uint) -> xenevtchn_port_or_error_t;
        /// Gives a channel back. 0, or -1 and `errno`.
        fn xenevtchn_unbind(xce: *mut xenevtchn_handle, port: evtchn_port_t) -> c_int;
        /// The next channel that was signalled; waits for one, whatever the descriptor's flags say. It stays masked until
        /// [`Library::xenevtchn_unmask`].
        fn xenevtchn_pending(xce: *mut xenevtchn_handle) -> xenevtchn_port_or_error_t;
        /// Lets a channel be signalled again. 0, or -1 and `errno`.
        fn xenevtchn_unmask(xce: *mut xenevtchn_handle, port: evtchn_port_t) -> c_int;
    }
    later {
        /// From now on the handle reaches that domain only. 0, or -1 and `errno`. Since version 1.1.
        fn xenevtchn_restrict(xce: *mut xenevtchn_handle, domid: domid_t) -> c_int;
        /// A handle of a descriptor that this process has inherited; no flag is allowed today. Since version 1.2.
        fn xenevtchn_fdopen(
            logger: *mut xentoollog_logger,
            fd: c_int,
            open_flags: c_uint,
        ) -> *mut xenevtchn_handle;
    }
}
