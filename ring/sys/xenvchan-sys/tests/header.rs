#![allow(unsafe_code)] // calls of the C library
//! The bindings say what the C header says, and the library, where it is installed, has what they name.

#[path = "../../header.rs"]
mod header;

use header::{Header, same_layout};
use xenvchan_sys::{
    BLOCKING, IS_SERVER, Library, SERVER_PERSIST, SIGNATURES, VCHAN_NOTIFY_READ, VCHAN_NOTIFY_WRITE,
    libxenvchan, libxenvchan_ring, ring_shared, vchan_interface,
};

#[test]
fn bindings_and_header_agree() {
    let Some(mut header) = Header::find("libxenvchan.h") else { return };
    header.has_exactly(&["libxenvchan_"], SIGNATURES, &["xentoollog_logger", "libxenvchan"]);
    same_layout!(header, ring_shared, "struct ring_shared", cons "cons", prod "prod");
    same_layout!(header, vchan_interface, "struct vchan_interface",
        left "left", right "right", left_order "left_order", right_order "right_order", cli_live "cli_live",
        srv_live "srv_live", cli_notify "cli_notify", srv_notify "srv_notify", grants "grants");
    same_layout!(header, libxenvchan_ring, "struct libxenvchan_ring", shr "shr", buffer "buffer", order "order");
    same_layout!(header, libxenvchan, "struct libxenvchan",
        pages "gntshr", ring "ring", event "event", event_port "event_port", read "read", write "write",
        xs_path "xs_path");
    header.holds(&format!("VCHAN_NOTIFY_WRITE == {VCHAN_NOTIFY_WRITE}"));
    header.holds(&format!("VCHAN_NOTIFY_READ == {VCHAN_NOTIFY_READ}"));
    header.agrees();
    Header::notices_a_difference("libxenvchan.h");
}

/// Fields of one bit have no place that `offsetof` knows: a C program sets each and shows the word.
#[test]
fn the_flags_are_where_c_has_them() {
    if Header::find("libxenvchan.h").is_none() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (source, program) = (folder.path().join("flags.c"), folder.path().join("flags"));
    let set = |field: &str| format!("memset(&v, 0, sizeof v); v.{field} = -1; show(&v);\n");
    let at = std::mem::offset_of!(libxenvchan, flags);
    let text = format!(
        "#include <stdio.h>\n#include <string.h>\n#include <libxenvchan.h>\n\
         static void show(struct libxenvchan *v) {{ int word; memcpy(&word, (char *)v + {at}, sizeof word); printf(\"%d \", word); }}\n\
         int main(void) {{ struct libxenvchan v;\n{}{}{} return 0; }}\n",
        set("is_server"),
        set("server_persist"),
        set("blocking")
    );
    std::fs::write(&source, text).unwrap();
    assert!(
        std::process::Command::new("cc").arg(&source).arg("-o").arg(&program).status().unwrap().success()
    );
    let output = std::process::Command::new(&program).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), format!("{IS_SERVER} {SERVER_PERSIST} {BLOCKING} "));
}

#[test]
fn the_library_is_loaded_and_called() {
    let library = match Library::load() {
        Ok(library) => library,
        Err(error) => return println!("skipped: {error}"),
    };
    // SAFETY: a null logger says nothing, and the path is a C string.
    let vchan = unsafe {
        (library.libxenvchan_client_init)(std::ptr::null_mut(), 32_000, c"/no/such/vchan".as_ptr())
    };
    assert!(vchan.is_null(), "nobody is there");
}

/// By pkg-config instead: the linker has found them all.
#[cfg(feature = "link")]
#[test]
fn the_library_is_linked() {
    let functions: [*const (); 2] =
        [xenvchan_sys::libxenvchan_server_init as _, xenvchan_sys::libxenvchan_buffer_space as _];
    assert!(functions.iter().all(|function| !function.is_null()));
}
