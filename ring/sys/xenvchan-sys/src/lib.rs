#![allow(unsafe_code)] // declares the functions of a C library
#![allow(non_camel_case_types)] // the names of the C header
#![doc = include_str!("../README.md")]

use std::ffi::{c_char, c_int, c_void};

pub use xenevtchn_sys::{LoadError, xenevtchn_handle, xentoollog_logger};
pub use xengnttab_sys::{xengntshr_handle, xengnttab_handle};

/// In a notify byte: the other side wants to be signalled when data were written.
pub const VCHAN_NOTIFY_WRITE: u8 = 0x1;
/// In a notify byte: the other side wants to be signalled when data were read.
pub const VCHAN_NOTIFY_READ: u8 = 0x2;

/// The indices of one ring. They lie in memory that the peer may change at any moment.
#[repr(C)]
#[derive(Debug)]
pub struct ring_shared {
    /// Bytes read so far, modulo 2^32.
    pub cons: u32,
    /// Bytes written so far, modulo 2^32.
    pub prod: u32,
}

/// The first shared page, up to its list of grants. The peer may change it at any moment: never make a reference to it.
#[repr(C)]
#[derive(Debug)]
pub struct vchan_interface {
    /// From client to server.
    pub left: ring_shared,
    /// From server to client.
    pub right: ring_shared,
    /// The size of the left ring, as a power of two.
    pub left_order: u16,
    /// The size of the right ring.
    pub right_order: u16,
    /// 0: the client is gone, 1: it is there, 2: none has come yet.
    pub cli_live: u8,
    /// The same for the server.
    pub srv_live: u8,
    /// What the client is asked to signal.
    pub cli_notify: u8,
    /// What the server is asked to signal.
    pub srv_notify: u8,
    /// The rings' pages, left's, then right's.
    pub grants: [u32; 0],
}

/// One ring, as this side knows it.
#[repr(C)]
#[derive(Debug)]
pub struct libxenvchan_ring {
    /// Its indices in the shared page.
    pub shr: *mut ring_shared,
    /// Its bytes.
    pub buffer: *mut c_void,
    /// Its size as a power of two, copied when the connection was made.
    pub order: c_int,
}

/// The grant device of a connection.
#[repr(C)]
#[derive(Clone, Copy)]
pub union libxenvchan_pages {
    /// Of a server.
    pub gntshr: *mut xengntshr_handle,
    /// Of a client.
    pub gnttab: *mut xengnttab_handle,
}

/// One connection. It is made and freed by the library.
#[repr(C)]
pub struct libxenvchan {
    /// Its grant device.
    pub pages: libxenvchan_pages,
    /// Its first page.
    pub ring: *mut vchan_interface,
    /// Its event channel device.
    pub event: *mut xenevtchn_handle,
    /// Its event channel.
    pub event_port: u32,
    /// [`IS_SERVER`], [`SERVER_PERSIST`] and [`BLOCKING`], which are fields of one bit each in C.
    pub flags: c_int,
    /// What is read.
    pub read: libxenvchan_ring,
    /// What is written.
    pub write: libxenvchan_ring,
    /// Where a server's keys are in xenstore.
    pub xs_path: *mut c_char,
}

/// In [`libxenvchan::flags`]: this side is the server.
pub const IS_SERVER: c_int = if cfg!(target_endian = "little") { 1 } else { c_int::MIN };
/// In [`libxenvchan::flags`]: the server stays when its client closes, for the next one.
pub const SERVER_PERSIST: c_int = if cfg!(target_endian = "little") { 2 } else { 1 << 30 };
/// In [`libxenvchan::flags`]: transfers wait. Set when a connection is made; a program may clear it.
pub const BLOCKING: c_int = if cfg!(target_endian = "little") { 4 } else { 1 << 29 };

xenevtchn_sys::c_library! {
    // The name has the version of Xen: the newest that is there. Its interface has been the same since Xen 4.2.
    files [
        c"libxenvchan.so.4.22", c"libxenvchan.so.4.21", c"libxenvchan.so.4.20", c"libxenvchan.so.4.19",
        c"libxenvchan.so.4.18", c"libxenvchan.so.4.17", c"libxenvchan.so.4.16", c"libxenvchan.so.4.15",
        c"libxenvchan.so.4.14", c"libxenvchan.so",
    ];
    always {
        /// Offers a connection to a domain below a path of xenstore; null and `errno` if that fails. The rings hold at least
        /// so many bytes toward the server, and from it.
        fn libxenvchan_server_init(
            logger: *mut xentoollog_logger,
            domain: c_int,
            xs_path: *const c_char,
            read_min: usize,
            write_min: usize,
        ) -> *mut libxenvchan;
        /// Connects to the server of a domain, which must be there; null and `errno` if that fails. Nothing keeps a second
        /// client away.
        fn libxenvchan_client_init(
            logger: *mut xentoollog_logger,
            domain: c_int,
            xs_path: *const c_char,
        ) -> *mut libxenvchan;
        /// Closes and frees a connection. What was written before can still be read by the peer.
        fn libxenvchan_close(ctrl: *mut libxenvchan);
        /// Reads exactly `size` bytes. 0: so many are not there; -1: an error.
        fn libxenvchan_recv(ctrl: *mut libxenvchan, data: *mut c_void, size: usize) -> c_int;
        /// Reads what is there, `size` bytes at most, and returns how many. -1: an error.
        fn libxenvchan_read(ctrl: *mut libxenvchan, data: *mut c_void, size: usize) -> c_int;
        /// Writes exactly `size` bytes. 0: there is no room for so many; -1: an error.
        fn libxenvchan_send(ctrl: *mut libxenvchan, data: *const c_void, size: usize) -> c_int;
        /// Writes what there is room for, or with [`BLOCKING`] all, and returns how many. -1: an error.
        fn libxenvchan_write(ctrl: *mut libxenvchan, data: *const c_void, size: usize) -> c_int;
        /// Waits for the next event of the connection.
        fn libxenvchan_wait(ctrl: *mut libxenvchan) -> c_int;
        /// The descriptor to poll; when it is readable, [`Library::libxenvchan_wait`] does not wait.
        fn libxenvchan_fd_for_select(ctrl: *mut libxenvchan) -> c_int;
        /// 0: one side has closed; 1: both are there; 2: no client has come.
        fn libxenvchan_is_open(ctrl: *mut libxenvchan) -> c_int;
        /// Bytes that can be read at once.
        fn libxenvchan_data_ready(ctrl: *mut libxenvchan) -> c_int;
        /// Bytes that can be written at once.
        fn libxenvchan_buffer_space(ctrl: *mut libxenvchan) -> c_int;
    }
    later {}
}
