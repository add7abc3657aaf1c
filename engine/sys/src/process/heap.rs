//! Giving memory that was freed back to the system.
#![allow(unsafe_code)] // malloc_trim(3) has no safe equivalent.

/// Returns freed heap pages of this process to the system, where the C library can.
///
/// For processes that are many and rest: what parsing a command line left behind is a third of a waiting
/// call's private memory.
pub fn trim_heap() {
    #[cfg(target_env = "gnu")]
    // SAFETY: takes no pointer and touches only memory that the allocator itself knows to be free.
    unsafe {
        libc::malloc_trim(0);
    }
}
