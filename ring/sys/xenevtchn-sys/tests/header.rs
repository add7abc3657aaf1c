#![allow(unsafe_code)] // calls of the C library
//! The bindings say what the C header says, and the library, where it is installed, has what they name.

#[path = "../../header.rs"]
mod header;

use header::Header;
use xenevtchn_sys::{Library, SIGNATURES, XENEVTCHN_NO_CLOEXEC};

#[test]
fn bindings_and_header_agree() {
    let Some(mut header) = Header::find("xenevtchn.h") else { return };
    header.has_exactly(&["xenevtchn_"], SIGNATURES, &["xentoollog_logger"]);
    header.holds(&format!("XENEVTCHN_NO_CLOEXEC == {XENEVTCHN_NO_CLOEXEC}"));
    header.holds("__builtin_types_compatible_p(domid_t, uint16_t)");
    header.holds("__builtin_types_compatible_p(evtchn_port_t, uint32_t)");
    header.holds("__builtin_types_compatible_p(xenevtchn_port_or_error_t, int)");
    header.agrees();
    Header::notices_a_difference("xenevtchn.h");
}

#[test]
fn the_library_is_loaded_and_called() {
    let library = match Library::load() {
        Ok(library) => library,
        Err(error) => return println!("skipped: {error}"),
    };
    // SAFETY: a null logger says nothing, and no flags are set.
    let handle = unsafe { (library.xenevtchn_open)(std::ptr::null_mut(), 0) };
    if handle.is_null() {
        return println!("skipped: no event channels here: {}", std::io::Error::last_os_error());
    }
    // SAFETY: just opened, and used no more.
    assert_eq!(unsafe { (library.xenevtchn_close)(handle) }, 0);
}

#[test]
fn what_is_missing_is_an_error_with_words() {
    let error = xenevtchn_sys::load::Handle::open(&[c"libno-such-library.so.7"]).unwrap_err();
    assert!(error.to_string().contains("libno-such-library.so.7"), "{error}");
    let Ok(library) = xenevtchn_sys::load::Handle::open(&[c"libc.so.6"]) else { return };
    let error = library.symbol(c"no_such_function").unwrap_err();
    assert!(error.to_string().contains("no_such_function"), "{error}");
}

/// By pkg-config instead: the linker has found them all.
#[cfg(feature = "link")]
#[test]
fn the_library_is_linked() {
    let functions: [*const (); 2] =
        [xenevtchn_sys::xenevtchn_open as _, xenevtchn_sys::xenevtchn_fdopen as _];
    assert!(functions.iter().all(|function| !function.is_null()));
}
