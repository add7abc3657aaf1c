#![allow(unsafe_code)] // The C boundary: exported names, a caller's pointers, errno.
//! `libvchan.so`: upstream's C interface to vchans, on our rings.
//!
//! The interface and its rules are in `include/libvchan.h`. The environment says which transport is used and as which
//! domain, exactly as for the programs of this project.
//!
//! Nothing unwinds into C: a panic ends the vchan it happened on, and the call returns -1.
//!
//! | module | one job |
//! |---|---|
//! | `vchan` | the states of a `libvchan_t`, and what each call means in each |
//! | `background_writer` | sends what a program has written while it does something else; the `libvchan_t` itself |
//! | `link` | the connected vchan; no wake-up is lost between a caller's check and its sleep |
//! | `pollable` | the one descriptor to poll |
//! | `memory` | the one copy between a caller's buffer and the ring |
//! | `failure` | reasons, as `errno` |
//! | `signals` | the library's signals do not reach the program, and the program's do not reach the library's thread |

mod background_writer;
mod failure;
mod link;
mod memory;
mod pollable;
mod signals;
mod vchan;

use std::ffi::{c_int, c_void};
use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};

pub use background_writer::Handle;
use failure::Failure;
use link::Amount;
use memory::{Source, Target};
use ring::Error;
use signals::{quietly, without_sigpipe};
use vchan::Vchan;

fn set_errno(code: i32) {
    // SAFETY: no preconditions; the result points to this thread's own errno for as long as the thread lives.
    let errno = unsafe { libc::__errno_location() };
    // SAFETY: as just said, valid, aligned and ours alone.
    unsafe { errno.write(code) };
}

/// Makes a new vchan with `make`; null, a line on stderr and errno if that fails.
fn create(make: impl FnOnce() -> Result<Vchan, Failure>) -> *mut Handle {
    let code = match catch_unwind(AssertUnwindSafe(|| without_sigpipe(make))) {
        Ok(Ok(vchan)) => return Box::into_raw(Box::new(Handle::new(vchan))),
        Ok(Err(failure)) => {
            // Without a stderr there is still errno.
            let _ = without_sigpipe(|| writeln!(std::io::stderr(), "libvchan: {failure}"));
            failure.errno()
        }
        Err(_) => libc::EIO,
    };
    set_errno(code);
    std::ptr::null_mut()
}

/// Runs `work` on the vchan behind `ctrl`; -1 and errno if that fails.
///
/// # Safety
/// `ctrl` is null, or came from one of the three init functions and was not closed; no other thread uses it meanwhile.
unsafe fn with(ctrl: *mut Handle, work: impl FnOnce(&mut Vchan) -> Result<usize, Failure>) -> c_int {
    // SAFETY: by this function's contract `ctrl` is null or a live `Handle` that nobody else uses.
    let Some(handle) = (unsafe { ctrl.as_mut() }) else {
        set_errno(libc::EINVAL);
        return -1;
    };
    let done = catch_unwind(AssertUnwindSafe(|| run(handle, work)));
    let code = match done {
        Ok(Ok(n)) => return c_int::try_from(n).unwrap_or(c_int::MAX),
        Ok(Err(failure)) => failure.errno(),
        Err(_) => libc::EIO,
    };
    set_errno(code);
    -1
}

/// Runs `work` under the vchan's lock, then leaves what could not be sent yet to the background thread.
fn run(
    handle: &mut Handle,
    work: impl FnOnce(&mut Vchan) -> Result<usize, Failure>,
) -> Result<usize, Failure> {
    let mut vchan = handle.vchan();
    // Once connected, only sockets and devices are written, which raise no SIGPIPE; while connecting, a pipe may be.
    let result = if vchan.is_settled() {
        catch_unwind(AssertUnwindSafe(|| work(&mut vchan)))
    } else {
        catch_unwind(AssertUnwindSafe(|| without_sigpipe(|| work(&mut vchan))))
    };
    let Ok(result) = result else {
        vchan.ruin();
        return Err(Failure::Fatal(Error::io("libvchan")(std::io::ErrorKind::Other.into())));
    };
    drop(vchan);
    handle.tend(quietly);
    result
}

/// # Safety
/// `ctrl` as for [`with`]; `data` is null or readable for `size` bytes.
unsafe fn put(ctrl: *mut Handle, data: *const c_void, size: usize, amount: Amount) -> c_int {
    // SAFETY: by this function's contract.
    let from = unsafe { Source::new(data, size) };
    // SAFETY: likewise.
    unsafe { with(ctrl, |vchan| vchan.write(&from?, amount)) }
}

/// # Safety
/// `ctrl` as for [`with`]; `data` is null or writable for `size` bytes.
unsafe fn get(ctrl: *mut Handle, data: *mut c_void, size: usize, amount: Amount) -> c_int {
    // SAFETY: by this function's contract.
    let to = unsafe { Target::new(data, size) };
    // SAFETY: likewise.
    unsafe { with(ctrl, |vchan| vchan.read(&mut to?, amount)) }
}

/// Offers a vchan on `port` to the client `domain`, with rings of at least so many bytes. Does not wait for the client.
#[unsafe(no_mangle)]
pub extern "C" fn libvchan_server_init(
    domain: c_int,
    port: c_int,
    read_min: usize,
    write_min: usize,
) -> *mut Handle {
    create(|| Vchan::listen(domain, port, read_min, write_min))
}

/// Connects to `port` of the server `domain`; waits until it is there.
#[unsafe(no_mangle)]
pub extern "C" fn libvchan_client_init(domain: c_int, port: c_int) -> *mut Handle {
    create(|| Vchan::connect(domain, port))
}

/// Begins to connect to `port` of the server `domain`; poll what is stored in `watch_fd`.
///
/// # Safety
/// `watch_fd` is null or can be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn libvchan_client_init_async(
    domain: c_int,
    port: c_int,
    watch_fd: *mut c_int,
) -> *mut Handle {
    if watch_fd.is_null() {
        set_errno(libc::EINVAL);
        return std::ptr::null_mut();
    }
    create(|| {
        let vchan = Vchan::connect_async(domain, port)?;
        // SAFETY: not null, and by this function's contract it can be written.
        unsafe { watch_fd.write(vchan.descriptor()) };
        Ok(vchan)
    })
}

/// Goes on connecting: 0 when connected, 1 when not yet, -1 when it failed.
///
/// # Safety
/// That of every function here: `ctrl` is null or a vchan from one of the init functions that was not closed, used by
/// this thread alone.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn libvchan_client_init_async_finish(ctrl: *mut Handle, blocking: bool) -> c_int {
    // SAFETY: our own contract is `with`'s.
    unsafe { with(ctrl, |vchan| vchan.finish(blocking).map(|connected| usize::from(!connected))) }
}

/// Writes all of it, in pieces where the ring is smaller; without blocking, as much as there is room for.
///
/// # Safety
/// `ctrl` as above; `data` is null or readable for `size` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn libvchan_write(ctrl: *mut Handle, data: *const c_void, size: usize) -> c_int {
    // SAFETY: our own contract is `put`'s.
    unsafe { put(ctrl, data, size, Amount::Some) }
}

/// Writes all of it, in one piece.
///
/// # Safety
/// As `libvchan_write`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn libvchan_send(ctrl: *mut Handle, data: *const c_void, size: usize) -> c_int {
    // SAFETY: our own contract is `put`'s.
    unsafe { put(ctrl, data, size, Amount::All) }
}

/// Reads at least one byte, as many as are there.
///
/// # Safety
/// `ctrl` as above; `data` is null or writable for `size` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn libvchan_read(ctrl: *mut Handle, data: *mut c_void, size: usize) -> c_int {
    // SAFETY: our own contract is `get`'s.
    unsafe { get(ctrl, data, size, Amount::Some) }
}

/// Reads exactly so much.
///
/// # Safety
/// As `libvchan_read`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn libvchan_recv(ctrl: *mut Handle, data: *mut c_void, size: usize) -> c_int {
    // SAFETY: our own contract is `get`'s.
    unsafe { get(ctrl, data, size, Amount::All) }
}

/// Waits until the descriptor is readable, and makes it unreadable until something new happens.
///
/// # Safety
/// `ctrl` as above.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn libvchan_wait(ctrl: *mut Handle) -> c_int {
    // SAFETY: our own contract is `with`'s.
    unsafe { with(ctrl, |vchan| vchan.wait().map(|()| 0)) }
}

/// Closes the vchan and frees it. What was written before can still be read by the peer.
///
/// # Safety
/// `ctrl` as above; it must not be used any more afterwards.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn libvchan_close(ctrl: *mut Handle) {
    if ctrl.is_null() {
        return;
    }
    // SAFETY: it came from `Box::into_raw` in `create`, and is given back only here, for the last time.
    let handle = unsafe { Box::from_raw(ctrl) };
    let _ = catch_unwind(AssertUnwindSafe(move || without_sigpipe(move || handle.linger())));
}

/// The descriptor to poll for input, or -1.
///
/// # Safety
/// `ctrl` as above.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn libvchan_fd_for_select(ctrl: *mut Handle) -> c_int {
    // SAFETY: our own contract is `with`'s.
    unsafe { with(ctrl, |vchan| usize::try_from(vchan.descriptor()).map_err(|_| Failure::Invalid)) }
}

/// 1 connected, 2 waiting for the peer, 0 disconnected.
///
/// # Safety
/// `ctrl` as above.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn libvchan_is_open(ctrl: *mut Handle) -> c_int {
    // SAFETY: our own contract is `with`'s.
    let state =
        unsafe { with(ctrl, |vchan| usize::try_from(vchan.is_open()?).map_err(|_| Failure::Invalid)) };
    // Callers take anything but 0 to mean that the vchan is alive.
    state.max(0)
}

/// Bytes that can be read at once.
///
/// # Safety
/// `ctrl` as above.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn libvchan_data_ready(ctrl: *mut Handle) -> c_int {
    // SAFETY: our own contract is `with`'s.
    unsafe { with(ctrl, Vchan::data_ready) }
}

/// Bytes that can be written at once.
///
/// # Safety
/// `ctrl` as above.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn libvchan_buffer_space(ctrl: *mut Handle) -> c_int {
    // SAFETY: our own contract is `with`'s.
    unsafe { with(ctrl, Vchan::buffer_space) }
}
