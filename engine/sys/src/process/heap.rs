//! Returning unused memory to the system: of the heap and of the stack.
#![allow(unsafe_code)] // malloc_trim(3) and madvise(2) of a stack have no safe equivalent.

/// How much of the stack is returned: as much as a process has when it begins, and more than a call's start touches.
const STACK: usize = 128 << 10;

/// Pages that may hold the caller's frames and those of the system call itself.
const MARGIN: usize = 3;

/// Returns freed heap pages of this process to the system, where the C library can.
///
/// For processes that are many and mostly wait: what reading a command line left behind is a third of a waiting call's
/// private memory.
pub fn trim_heap() {
    #[cfg(target_env = "gnu")]
    // SAFETY: takes no pointer and touches only memory that the allocator itself knows to be free.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Returns the pages of this process's stack below the caller: deeper calls find zeroes there later, as on first use.
///
/// Starting a service and preparing a call go much deeper than waiting does, and leave some 50 KiB behind.
#[inline(never)]
pub fn trim_stack() {
    // Another thread's stack has other memory close below.
    if !rustix::thread::gettid().eq(&rustix::process::getpid()) {
        return;
    }
    let here = 0_u8;
    // rustix may have to open a file for this, and this process may be confined.
    // SAFETY: takes a number and returns one.
    let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    let Some(page) = usize::try_from(page).ok().filter(|page| page.is_power_of_two()) else { return };
    let end = (&raw const here).addr() / page * page;
    let Some(end) = end.checked_sub(MARGIN * page) else { return };
    let Some(start) = end.checked_sub(STACK) else { return };
    // SAFETY: `here` is in this function's frame, which is small and is not merged with a caller's, so everything below it
    // but for this function's own calls, which fit the margin, belongs to no living frame. The first thread's stack
    // grows downwards, and below what it has grown to the kernel keeps a gap of 1 MiB free of mappings: there, nothing
    // is mapped, which the call passes over.
    unsafe {
        libc::madvise(std::ptr::without_provenance_mut(start), STACK, libc::MADV_DONTNEED);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[inline(never)]
    fn deep(levels: u32) -> u32 {
        let filled = std::hint::black_box([levels as u8; 1 << 10]);
        let below = if levels == 0 { 0 } else { deep(levels - 1) };
        below + u32::from(filled[levels as usize])
    }

    /// Tests run in threads of their own, where nothing is returned; `tests/process.rs` tests the first thread.
    #[test]
    fn the_stack_of_a_thread_stays() {
        let kept = std::hint::black_box([7_u8; 64 << 10]);
        trim_stack();
        assert_eq!(deep(60), (0..=60).sum());
        assert!(kept.iter().all(|byte| *byte == 7));
    }
}
