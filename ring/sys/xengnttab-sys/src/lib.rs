#![allow(unsafe_code)] // declares the functions of a C library
#![allow(non_camel_case_types, non_upper_case_globals)] // the names of the C header
#![doc = include_str!("../README.md")]

use std::ffi::{c_int, c_uint, c_void};

pub use xenevtchn_sys::{LoadError, evtchn_port_t, xentoollog_logger};

/// An opened grant device, of either kind. Only pointers to it are used.
#[repr(C)]
#[derive(Debug)]
pub struct xengntdev_handle {
    _opaque: [u8; 0],
}

/// Of the device by which pages of others are mapped (`/dev/xen/gntdev`).
pub type xengnttab_handle = xengntdev_handle;
/// Of the device by which own pages are granted (`/dev/xen/gntalloc`).
pub type xengntshr_handle = xengntdev_handle;

/// For [`xengnttab_grant_copy_segment::flags`]: the source is a grant of another domain.
pub const GNTCOPY_source_gref: u16 = 1 << 0;
/// For [`xengnttab_grant_copy_segment::flags`]: the destination is a grant of another domain.
pub const GNTCOPY_dest_gref: u16 = 1 << 1;
/// For DMA buffers: write-combined memory of the DMA interface.
pub const GNTDEV_DMA_FLAG_WC: u32 = 1 << 0;
/// For DMA buffers: coherent memory of the DMA interface.
pub const GNTDEV_DMA_FLAG_COHERENT: u32 = 1 << 1;

/// A place in a page that another domain has granted.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct xengnttab_copy_ptr_foreign {
    /// The grant.
    pub r#ref: u32,
    /// Byte in the page.
    pub offset: u16,
    /// Who granted it.
    pub domid: u16,
}

/// One end of a copy; the segment's flags say which member counts.
#[repr(C)]
#[derive(Clone, Copy)]
pub union xengnttab_copy_ptr {
    /// Memory of this process; may cross pages.
    pub virt: *mut c_void,
    /// Memory of another domain.
    pub foreign: xengnttab_copy_ptr_foreign,
}

/// One copy to or from a grant.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct xengnttab_grant_copy_segment {
    /// From where.
    pub source: xengnttab_copy_ptr,
    /// To where.
    pub dest: xengnttab_copy_ptr,
    /// Bytes; a grant's end of it may not leave its page.
    pub len: u16,
    /// Which ends are grants.
    pub flags: u16,
    /// The result: 0, or a negative number of the hypervisor's.
    pub status: i16,
}

/// As the C header names it.
pub type xengnttab_grant_copy_segment_t = xengnttab_grant_copy_segment;

xenevtchn_sys::c_library! {
    files [c"libxengnttab.so.1", c"libxengnttab.so"];
    always {
        /// Opens the device for mapping; null and `errno` if that fails. A forked child may only close what its parent
        /// opened, and not touch what is mapped.
        fn xengnttab_open(logger: *mut xentoollog_logger, open_flags: c_uint) -> *mut xengnttab_handle;
        /// Closes a handle, and unmaps what is mapped there. 0, or -1 and `errno`.
        fn xengnttab_close(xgt: *mut xengnttab_handle) -> c_int;
        /// Maps one granted page; null and `errno` if that fails. `prot` is that of `mmap(2)`.
        fn xengnttab_map_grant_ref(xgt: *mut xengnttab_handle, domid: u32, r#ref: u32, prot: c_int) -> *mut c_void;
        /// Maps `count` granted pages of any domains, one behind the other: all of them, or none and null.
        fn xengnttab_map_grant_refs(
            xgt: *mut xengnttab_handle,
            count: u32,
            domids: *mut u32,
            refs: *mut u32,
            prot: c_int,
        ) -> *mut c_void;
        /// The same for pages of one domain.
        fn xengnttab_map_domain_grant_refs(
            xgt: *mut xengnttab_handle,
            count: u32,
            domid: u32,
            refs: *mut u32,
            prot: c_int,
        ) -> *mut c_void;
        /// Maps one granted page. When it is unmapped, however this process ends, the byte at `notify_offset` becomes
        /// zero and `notify_port` is signalled; all bits set is neither.
        fn xengnttab_map_grant_ref_notify(
            xgt: *mut xengnttab_handle,
            domid: u32,
            r#ref: u32,
            prot: c_int,
            notify_offset: u32,
            notify_port: evtchn_port_t,
        ) -> *mut c_void;
        /// Unmaps what one of the functions above has mapped. 0, or -1 and `errno`.
        fn xengnttab_unmap(xgt: *mut xengnttab_handle, start_address: *mut c_void, count: u32) -> c_int;
        /// How many pages the handle may map; to be called first of all. 0, or -1 and `errno`.
        fn xengnttab_set_max_grants(xgt: *mut xengnttab_handle, nr_grants: u32) -> c_int;
        /// Opens the device for granting; null and `errno` if that fails. A forked child may only close what its parent
        /// opened.
        fn xengntshr_open(logger: *mut xentoollog_logger, open_flags: c_uint) -> *mut xengntshr_handle;
        /// Closes a handle. 0, or -1 and `errno`.
        fn xengntshr_close(xgs: *mut xengntshr_handle) -> c_int;
        /// Makes `count` pages and grants them to a domain; their grants are stored in `refs`. Null and `errno` if that
        /// fails. Only memory that is made here can be granted.
        fn xengntshr_share_pages(
            xgs: *mut xengntshr_handle,
            domid: u32,
            count: c_int,
            refs: *mut u32,
            writable: c_int,
        ) -> *mut c_void;
        /// The same for one page, with what [`Library::xengnttab_map_grant_ref_notify`] has for its end.
        fn xengntshr_share_page_notify(
            xgs: *mut xengntshr_handle,
            domid: u32,
            r#ref: *mut u32,
            writable: c_int,
            notify_offset: u32,
            notify_port: evtchn_port_t,
        ) -> *mut c_void;
        /// Gives back what one of the two has made. 0, or -1 and `errno`.
        fn xengntshr_unshare(xgs: *mut xengntshr_handle, start_address: *mut c_void, count: u32) -> c_int;
    }
    later {
        /// Copies between grants and memory; each segment has its own result. Since version 1.1.
        fn xengnttab_grant_copy(
            xgt: *mut xengnttab_handle,
            count: u32,
            segs: *mut xengnttab_grant_copy_segment,
        ) -> c_int;
        /// The descriptor of the handle, for what the library does not do. Since version 1.2.
        fn xengnttab_fd(xgt: *mut xengnttab_handle) -> c_int;
        /// Makes a DMA buffer of granted pages, whose descriptor is stored in `fd`. Since version 1.2.
        fn xengnttab_dmabuf_exp_from_refs(
            xgt: *mut xengnttab_handle,
            domid: u32,
            flags: u32,
            count: u32,
            refs: *const u32,
            fd: *mut u32,
        ) -> c_int;
        /// Waits until such a buffer is given back. Since version 1.2.
        fn xengnttab_dmabuf_exp_wait_released(xgt: *mut xengnttab_handle, fd: u32, wait_to_ms: u32) -> c_int;
        /// Grants the pages of a DMA buffer, at most `count`. Since version 1.2.
        fn xengnttab_dmabuf_imp_to_refs(
            xgt: *mut xengnttab_handle,
            domid: u32,
            fd: u32,
            count: u32,
            refs: *mut u32,
        ) -> c_int;
        /// Lets go of such a buffer. Since version 1.2.
        fn xengnttab_dmabuf_imp_release(xgt: *mut xengnttab_handle, fd: u32) -> c_int;
        /// The descriptor of the handle, for what the library does not do. Since version 1.2.
        fn xengntshr_fd(xgs: *mut xengntshr_handle) -> c_int;
    }
}
