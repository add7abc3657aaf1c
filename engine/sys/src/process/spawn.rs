//! Starting another program: one `posix_spawn(3)`, which shares the parent's memory until the exec
//! and so costs neither a copy of page tables nor a helper process.
#![allow(unsafe_code)] // posix_spawn has no safe equivalent with a new session and chosen streams.

use std::ffi::{CStr, CString, c_char};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::process::Pid;

use super::Child;

/// The program to start, and how.
#[derive(Debug)]
pub struct Program<'a> {
    /// The file; not searched for.
    pub file: &'a CStr,
    /// All arguments, the program's own name first.
    pub args: &'a [CString],
    /// The whole environment, `NAME=value` each.
    pub env: &'a [CString],
    /// Standard input, output and error; the program gets no other descriptor.
    pub streams: [BorrowedFd<'a>; 3],
}

/// Starts a program in a session of its own, with default signals, none blocked, in the current
/// folder.
///
/// Marks all descriptors of this process but the standard streams as close-on-exec.
///
/// # Errors
/// `InvalidInput` if a stream would be overwritten before its turn (a number under 3 that is not
/// its own place); otherwise what `posix_spawn(3)` said, which includes the errors of `execve(2)`:
/// no process is left then.
pub fn spawn(program: &Program<'_>) -> io::Result<Child> {
    let args = pointers(program.args);
    let env = pointers(program.env);
    let actions = Actions::new(&program.streams)?;
    let attributes = Attributes::new()?;
    // Descriptors that this process opened are close-on-exec; this is for those it inherited. A kernel before 5.11
    // does not know the call, and there the program inherits them.
    let _ = super::fork::close_all_on_exec();
    let mut pid: libc::pid_t = 0;
    // SAFETY: `file` is NUL-terminated; both arrays end with a null pointer and their strings live
    // until the call returns; actions and attributes are initialised.
    let error = unsafe {
        libc::posix_spawn(
            &raw mut pid,
            program.file.as_ptr(),
            &raw const actions.0,
            &raw const attributes.0,
            args.as_ptr(),
            env.as_ptr(),
        )
    };
    check(error)?;
    match Pid::from_raw(pid) {
        Some(pid) => Child::adopt(pid),
        None => Err(io::Error::other("posix_spawn gave no process id")),
    }
}

/// Executes another program in this process, with default signals, none blocked. Unlike `execvp(3)` it never tries a
/// shell.
///
/// Returns only if that failed.
pub fn replace(file: &CStr, args: &[CString], env: &[CString]) -> io::Error {
    let (args, env) = (pointers(args), pointers(env));
    let _ = super::fork::close_all_on_exec();
    super::fork::default_signals();
    // SAFETY: `file` is NUL-terminated; both arrays end with a null pointer and their strings outlive the call.
    unsafe { libc::execve(file.as_ptr(), args.as_ptr().cast(), env.as_ptr().cast()) };
    let error = io::Error::last_os_error();
    super::fork::ignore_broken_pipes();
    error
}

/// The array that exec wants; it borrows the strings, which must live as long as it is used.
fn pointers(strings: &[CString]) -> Vec<*mut c_char> {
    strings.iter().map(|string| string.as_ptr().cast_mut()).chain([std::ptr::null_mut()]).collect()
}

fn check(error: libc::c_int) -> io::Result<()> {
    if error == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(error)) }
}

/// The file actions: put the three streams in their places.
struct Actions(libc::posix_spawn_file_actions_t);

impl Actions {
    fn new(streams: &[BorrowedFd<'_>; 3]) -> io::Result<Self> {
        let mut raw = MaybeUninit::uninit();
        // SAFETY: a valid pointer to a place that the call initialises.
        check(unsafe { libc::posix_spawn_file_actions_init(raw.as_mut_ptr()) })?;
        // SAFETY: initialised by the call above, which succeeded.
        let mut actions = Self(unsafe { raw.assume_init() });
        for (place, stream) in (0..).zip(streams) {
            let fd = stream.as_raw_fd();
            if fd < 3 && fd != place {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidInput,
                    "a standard stream in another's place",
                ));
            }
            // SAFETY: initialised actions and two descriptor numbers; onto itself, it clears
            // close-on-exec.
            check(unsafe { libc::posix_spawn_file_actions_adddup2(&raw mut actions.0, fd, place) })?;
        }
        Ok(actions)
    }
}

impl Drop for Actions {
    fn drop(&mut self) {
        // SAFETY: initialised, and destroyed only here.
        unsafe { libc::posix_spawn_file_actions_destroy(&raw mut self.0) };
    }
}

/// The attributes: new session, every signal at its default, none blocked.
struct Attributes(libc::posix_spawnattr_t);

impl Attributes {
    fn new() -> io::Result<Self> {
        let mut raw = MaybeUninit::uninit();
        // SAFETY: a valid pointer to a place that the call initialises.
        check(unsafe { libc::posix_spawnattr_init(raw.as_mut_ptr()) })?;
        // SAFETY: initialised by the call above, which succeeded.
        let mut attributes = Self(unsafe { raw.assume_init() });
        let mut set = MaybeUninit::uninit();
        // SAFETY: a valid pointer; the call initialises the set (here: to no signal).
        unsafe { libc::sigemptyset(set.as_mut_ptr()) };
        // SAFETY: attributes and set are initialised.
        check(unsafe { libc::posix_spawnattr_setsigmask(&raw mut attributes.0, set.as_ptr()) })?;
        // SAFETY: a valid pointer; the call sets the set to all signals.
        unsafe { libc::sigfillset(set.as_mut_ptr()) };
        // SAFETY: attributes and set are initialised.
        check(unsafe { libc::posix_spawnattr_setsigdefault(&raw mut attributes.0, set.as_ptr()) })?;
        let flags = libc::POSIX_SPAWN_SETSIGMASK as libc::c_short
            | libc::POSIX_SPAWN_SETSIGDEF as libc::c_short
            | libc::POSIX_SPAWN_SETSID;
        // SAFETY: attributes are initialised and the flags are ones the C library knows.
        check(unsafe { libc::posix_spawnattr_setflags(&raw mut attributes.0, flags) })?;
        Ok(attributes)
    }
}

impl Drop for Attributes {
    fn drop(&mut self) {
        // SAFETY: initialised, and destroyed only here.
        unsafe { libc::posix_spawnattr_destroy(&raw mut self.0) };
    }
}
