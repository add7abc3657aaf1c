//! The only `fork(2)` of the project: a process of its own for the data of one call.
#![allow(unsafe_code)] // fork, sigaction, sigprocmask, close_range, a shared mapping and _exit have no safe equivalent.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64};

use rustix::process::Pid;

use super::{Child, EXIT_TROUBLE};

/// First descriptor that is not a standard stream.
const FIRST_FD: u32 = 3;

/// Signals that a parent may handle in its event loop; a call's process starts with the system's defaults. `SIGPIPE`
/// stays ignored, as in every Rust program: the pump expects `EPIPE`.
const RESET: [libc::c_int; 6] =
    [libc::SIGHUP, libc::SIGINT, libc::SIGTERM, libc::SIGCHLD, libc::SIGUSR1, libc::SIGUSR2];

/// Runs `body` in a new process that has the standard streams of this one and no other descriptor.
///
/// The process ends with the number `body` returns, or with 125 if it panics; nothing of the
/// parent's state is dropped, flushed or run in it. Signals have their default effect and none is
/// blocked.
///
/// `body` must not use a descriptor that was opened before: they are closed. See [`fork_keeping`]
/// for the exception.
///
/// # Errors
/// `InvalidInput` if this process has more than one thread: only the forking thread would exist in the child, and a
/// lock held by another thread would stay locked for ever. Otherwise what `fork(2)` or `pidfd_open(2)` said.
pub fn fork_pump(body: impl FnOnce() -> i32) -> io::Result<Child> {
    fork_keeping(&[], body)
}

/// [`fork_pump`], but the descriptors in `keep` stay open in the child; `body` may use these and no
/// others.
///
/// # Errors
/// As for [`fork_pump`].
pub fn fork_keeping(keep: &[BorrowedFd<'_>], body: impl FnOnce() -> i32) -> io::Result<Child> {
    if !is_single_threaded()? {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "fork from a process with several threads"));
    }
    let kept = numbers(keep);
    // SAFETY: this process has one thread (checked above), so the child is a full copy in a
    // consistent state: no lock is held by a thread that does not exist in it, and all of libc may
    // be used there.
    let pid = unsafe { libc::fork() };
    match Pid::from_raw(pid) {
        None => in_child(&kept, body),
        Some(_) if pid < 0 => Err(io::Error::last_os_error()),
        Some(pid) => Child::adopt(pid),
    }
}

/// Whether the calling thread is the only one of this process.
fn is_single_threaded() -> io::Result<bool> {
    // A folder of `/proc` has one link for each folder in it and two more: one system call, and no need to list the
    // folder.
    Ok(rustix::fs::stat("/proc/self/task")?.st_nlink == 3)
}

/// What the child does from its first moment to its end.
fn in_child(kept: &[u32], body: impl FnOnce() -> i32) -> ! {
    reset_signals();
    exit_on_panic(EXIT_TROUBLE);
    end(if close_all_but(kept).is_ok() { body() } else { EXIT_TROUBLE })
}

fn end(code: i32) -> ! {
    // SAFETY: `_exit` ends the process at once; it takes no pointer and runs nothing of ours.
    unsafe { libc::_exit(code) }
}

/// From now on a panic prints its message and ends the process with this status: nothing is unwound or dropped, as if
/// the process had been killed. Without this, a program that is built to abort on panic would end by a signal and
/// leave a core file.
pub fn exit_on_panic(status: i32) {
    static STATUS: AtomicI32 = AtomicI32::new(EXIT_TROUBLE);
    static HOOKED: AtomicBool = AtomicBool::new(false);
    STATUS.store(status, Relaxed);
    // A forked process has its parent's hook already, and only sets its own status.
    if !HOOKED.swap(true, Relaxed) {
        let say = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            say(panic);
            end(STATUS.load(Relaxed))
        }));
    }
}

/// Words, all 0, that this process shares with every process that it forks from now on, for as long as any of them
/// runs. If no such memory can be had, each process has its own.
#[must_use]
pub fn words_for_all_forks<const N: usize>() -> &'static [AtomicU64; N] {
    // SAFETY: no address is asked for and no file is mapped, so the kernel makes a new range that nothing refers to.
    let start = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            size_of::<[AtomicU64; N]>(),
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_SHARED | libc::MAP_ANONYMOUS,
            -1,
            0,
        )
    };
    if start == libc::MAP_FAILED {
        return Box::leak(Box::new([const { AtomicU64::new(0) }; N]));
    }
    // SAFETY: a page-aligned range of this size, zeroed, readable and writable, which is never unmapped. Every bit
    // pattern is a valid atomic, and every process accesses the words by atomic operations only.
    unsafe { &*start.cast::<[AtomicU64; N]>() }
}

/// Lets ended children wait to be reaped. A program may inherit the opposite, from a shell that ran `trap '' CHLD`,
/// and would lose every exit code. To be called once, before the first child.
pub fn claim_children() {
    // SAFETY: the number is a valid signal and `SIG_DFL` a valid disposition; no handler is installed.
    unsafe { libc::signal(libc::SIGCHLD, libc::SIG_DFL) };
}

fn reset_signals() {
    for signal in RESET {
        // SAFETY: the number is a valid signal and `SIG_DFL` a valid disposition; no handler is
        // installed.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
    super::signals::unblock_all();
}

/// Gives every signal its default effect and blocks none, for a program that this process is about to execute.
pub(super) fn default_signals() {
    for signal in 1..=libc::SIGRTMAX() {
        // SAFETY: `SIG_DFL` is a valid disposition and no handler is installed; a number that cannot be set is refused.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
    super::signals::unblock_all();
}

/// Ignores `SIGPIPE` again, after [`default_signals`]: writing to a closed pipe must not end this process.
pub(super) fn ignore_broken_pipes() {
    // SAFETY: a valid signal and a valid disposition; no handler is installed.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
}

/// Closes every descriptor from 3 upward that is not in `kept` (sorted).
fn close_all_but(kept: &[u32]) -> io::Result<()> {
    let mut from = FIRST_FD;
    for &fd in kept.iter().filter(|fd| **fd >= FIRST_FD) {
        if fd > from {
            close_range(from, fd - 1, 0)?;
        }
        from = from.max(fd.saturating_add(1));
    }
    close_range(from, u32::MAX, 0)
}

/// Closes every descriptor but the standard streams and those in `keep`, in a process that [`fork_keeping`] started:
/// `body` may not use a descriptor that is closed here.
///
/// # Errors
/// What `close_range(2)` said.
pub fn close_inherited(keep: &[BorrowedFd<'_>]) -> io::Result<()> {
    close_all_but(&numbers(keep))
}

/// The numbers of descriptors, sorted.
fn numbers(fds: &[BorrowedFd<'_>]) -> Vec<u32> {
    let mut numbers: Vec<u32> = fds.iter().filter_map(|fd| u32::try_from(fd.as_raw_fd()).ok()).collect();
    numbers.sort_unstable();
    numbers
}

/// Makes every descriptor from 3 upward close on exec, those that this process inherited included.
///
/// # Errors
/// What `close_range(2)` said: kernels before 5.11 do not know how.
pub fn close_all_on_exec() -> io::Result<()> {
    close_range(FIRST_FD, u32::MAX, libc::CLOSE_RANGE_CLOEXEC)
}

fn close_range(first: u32, last: u32, flags: libc::c_uint) -> io::Result<()> {
    // SAFETY: the system call takes three numbers. With a flag it closes nothing. Without, it runs
    // in a child only: the descriptors it closes belong to values of the parent's state, none of
    // which is used or dropped there any more (the child runs `body` and then `_exit`s, and `body`
    // has promised to use nothing but `kept`).
    let result = unsafe { libc::syscall(libc::SYS_close_range, first, last, flags) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shared_words_start_at_zero_and_belong_to_whoever_made_them() {
        let [one, other] = [words_for_all_forks::<600>(), words_for_all_forks::<600>()];
        assert!(one.iter().all(|word| word.load(Relaxed) == 0));
        one.iter().for_each(|word| word.store(7, Relaxed));
        assert!(other.iter().all(|word| word.load(Relaxed) == 0));
    }

    #[test]
    fn a_process_with_several_threads_is_not_forked() {
        let (keep_alive, gate) = std::sync::mpsc::channel::<()>();
        let second = std::thread::spawn(move || gate.recv());
        let error = fork_pump(|| 0).map(|child| child.pid()).expect_err("two threads at least");
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
        drop(keep_alive);
        let _ = second.join();
    }
}
