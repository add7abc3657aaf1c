#![allow(unsafe_code)] // calls of the C library
//! The bindings say what the C header says, and the library, where it is installed, has what they name.

#[path = "../../header.rs"]
mod header;

use header::{Header, same_layout};
use xengnttab_sys::{
    GNTCOPY_dest_gref, GNTCOPY_source_gref, GNTDEV_DMA_FLAG_COHERENT, GNTDEV_DMA_FLAG_WC, Library,
    SIGNATURES, xengnttab_copy_ptr, xengnttab_copy_ptr_foreign, xengnttab_grant_copy_segment,
};

#[test]
fn bindings_and_header_agree() {
    let Some(mut header) = Header::find("xengnttab.h") else { return };
    let structs = ["xentoollog_logger", "xengnttab_grant_copy_segment"];
    header.has_exactly(&["xengnttab_", "xengntshr_"], SIGNATURES, &structs);
    same_layout!(header, xengnttab_grant_copy_segment, "struct xengnttab_grant_copy_segment",
        source "source", dest "dest", len "len", flags "flags", status "status");
    same_layout!(header, xengnttab_copy_ptr, "union xengnttab_copy_ptr", virt "virt", foreign "foreign");
    same_layout!(header, xengnttab_copy_ptr_foreign,
        "__typeof__(((union xengnttab_copy_ptr *)0)->foreign)", r#ref "ref", offset "offset", domid "domid");
    for (name, value) in [
        ("GNTCOPY_source_gref", u32::from(GNTCOPY_source_gref)),
        ("GNTCOPY_dest_gref", u32::from(GNTCOPY_dest_gref)),
        ("GNTDEV_DMA_FLAG_WC", GNTDEV_DMA_FLAG_WC),
        ("GNTDEV_DMA_FLAG_COHERENT", GNTDEV_DMA_FLAG_COHERENT),
    ] {
        header.holds(&format!("{name} == {value}"));
    }
    header.holds("__builtin_types_compatible_p(xengnttab_handle, xengntshr_handle)");
    header.agrees();
    Header::notices_a_difference("xengnttab.h");
}

#[test]
fn the_library_is_loaded_and_called() {
    let library = match Library::load() {
        Ok(library) => library,
        Err(error) => return println!("skipped: {error}"),
    };
    // SAFETY: a null logger says nothing, and no flags are set.
    let handle = unsafe { (library.xengnttab_open)(std::ptr::null_mut(), 0) };
    if handle.is_null() {
        return println!("skipped: no grants here: {}", std::io::Error::last_os_error());
    }
    // SAFETY: just opened, and used no more.
    assert_eq!(unsafe { (library.xengnttab_close)(handle) }, 0);
}

/// By pkg-config instead: the linker has found them all.
#[cfg(feature = "link")]
#[test]
fn the_library_is_linked() {
    let functions: [*const (); 2] =
        [xengnttab_sys::xengnttab_open as _, xengnttab_sys::xengntshr_unshare as _];
    assert!(functions.iter().all(|function| !function.is_null()));
}
