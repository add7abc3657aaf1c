#![allow(unsafe_code)] // pipes are made, read and written by handles
//! Pipes: the one on which programs ask, and those for a process's streams.

use std::io;
use std::os::windows::io::{AsRawHandle, FromRawHandle, OwnedHandle};
use std::time::Instant;

use windows_sys::Win32::Foundation::{
    ERROR_BROKEN_PIPE, ERROR_IO_PENDING, ERROR_MORE_DATA, ERROR_NO_DATA, ERROR_PIPE_CONNECTED,
    ERROR_PIPE_NOT_CONNECTED, HANDLE_FLAG_INHERIT, INVALID_HANDLE_VALUE, LocalFree, SetHandleInformation,
};
use windows_sys::Win32::Security::Authorization::{
    ConvertStringSecurityDescriptorToSecurityDescriptorW, SDDL_REVISION_1,
};
use windows_sys::Win32::Security::{PSECURITY_DESCRIPTOR, SECURITY_ATTRIBUTES};
use windows_sys::Win32::Storage::FileSystem::{
    FILE_FLAG_FIRST_PIPE_INSTANCE, FILE_FLAG_OVERLAPPED, PIPE_ACCESS_DUPLEX, ReadFile, WriteFile,
};
use windows_sys::Win32::System::IO::{CancelIoEx, GetOverlappedResult, OVERLAPPED};
use windows_sys::Win32::System::Pipes::{
    ConnectNamedPipe, CreateNamedPipeW, CreatePipe, PIPE_READMODE_MESSAGE, PIPE_REJECT_REMOTE_CLIENTS,
    PIPE_TYPE_MESSAGE, PIPE_UNLIMITED_INSTANCES, WaitNamedPipeW,
};

use super::event::{Event, wait_for};
use super::{done, wide};

/// The pipe on which programs ask.
pub(crate) const TRIGGER: &str = r"\\.\pipe\qrexec_trigger";

/// Everybody may read and write it. Only its owner and the system may create another end of it, which would receive
/// requests that are meant for the agent.
const ACCESS: &str = "D:(A;;0x0012019b;;;WD)(A;;GA;;;SY)(A;;GA;;;BA)(A;;GA;;;OW)";

/// Bytes in each direction that are buffered.
const BUFFER: u32 = 4096;

/// The agent's end of the pipe on which programs ask.
#[derive(Debug)]
pub(crate) struct PipeEnd(OwnedHandle);

/// The result of reading.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum PipeRead {
    /// So many bytes, perhaps 0.
    Bytes(usize),
    /// The other end is closed.
    End,
    /// Another event came first.
    Other,
    /// The time has passed.
    Late,
}

impl PipeEnd {
    /// Creates an end; the `first` one fails if another process has the name.
    pub(crate) fn new(first: bool) -> io::Result<Self> {
        let name = wide(TRIGGER)?;
        let access = Access::new()?;
        let attributes = SECURITY_ATTRIBUTES {
            nLength: u32::try_from(size_of::<SECURITY_ATTRIBUTES>()).unwrap_or(0),
            lpSecurityDescriptor: access.0,
            bInheritHandle: 0,
        };
        let once = if first { FILE_FLAG_FIRST_PIPE_INSTANCE } else { 0 };
        // SAFETY: the name ends with a NUL, and the attributes and what they point to live until the call has returned.
        let handle = unsafe {
            CreateNamedPipeW(
                name.as_ptr(),
                PIPE_ACCESS_DUPLEX | FILE_FLAG_OVERLAPPED | once,
                PIPE_TYPE_MESSAGE | PIPE_READMODE_MESSAGE | PIPE_REJECT_REMOTE_CLIENTS,
                PIPE_UNLIMITED_INSTANCES,
                BUFFER,
                BUFFER,
                0,
                &raw const attributes,
            )
        };
        if handle == INVALID_HANDLE_VALUE {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the handle is new and has no other owner.
        Ok(Self(unsafe { OwnedHandle::from_raw_handle(handle) }))
    }

    /// Waits until a program has connected.
    pub(crate) fn accept(&self) -> io::Result<()> {
        let operation = Overlapped::new()?;
        // SAFETY: the handle is open; the structure stays where it is until the operation is over, see `Overlapped`.
        let answer = unsafe { ConnectNamedPipe(self.0.as_raw_handle(), operation.raw()) };
        match operation.finish(&self.0, answer, None, None) {
            Err(error) if is(&error, ERROR_PIPE_CONNECTED) => Ok(()),
            Err(error) => Err(error),
            Ok(_) => Ok(()),
        }
    }

    /// Reads a message, or its beginning if it is longer than the buffer.
    pub(crate) fn read(
        &self,
        buffer: &mut [u8],
        other: Option<&Event>,
        until: Option<Instant>,
    ) -> io::Result<PipeRead> {
        let operation = Overlapped::new()?;
        let len = u32::try_from(buffer.len()).unwrap_or(u32::MAX);
        // SAFETY: the handle is open, the buffer has `len` bytes, and both it and the structure stay where they are until
        // the operation is over, see `Overlapped`.
        let answer = unsafe {
            ReadFile(self.0.as_raw_handle(), buffer.as_mut_ptr(), len, std::ptr::null_mut(), operation.raw())
        };
        operation.finish(&self.0, answer, other, until)
    }

    /// Writes one message. It waits only if the pipe is full, because the program does not read its answers.
    pub(crate) fn write(&self, bytes: &[u8], until: Instant) -> io::Result<()> {
        let operation = Overlapped::new()?;
        let len = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        // SAFETY: the handle is open, there are `len` bytes, and both they and the structure stay where they are until the
        // operation is over, see `Overlapped`.
        let answer = unsafe {
            WriteFile(self.0.as_raw_handle(), bytes.as_ptr(), len, std::ptr::null_mut(), operation.raw())
        };
        match operation.finish(&self.0, answer, None, Some(until))? {
            PipeRead::Bytes(count) if count == bytes.len() => Ok(()),
            _ => Err(io::Error::new(io::ErrorKind::BrokenPipe, "the program does not take its answer")),
        }
    }
}

/// An operation that continues after its call. [`Overlapped::finish`] returns when it is over, and not before.
struct Overlapped {
    /// On the heap, so that it stays in place while this value is moved.
    raw: Box<OVERLAPPED>,
    event: Event,
}

impl Overlapped {
    fn new() -> io::Result<Self> {
        let event = Event::new()?;
        Ok(Self { raw: Box::new(OVERLAPPED { hEvent: event.as_raw_handle(), ..Default::default() }), event })
    }

    fn raw(&self) -> *mut OVERLAPPED {
        (&raw const *self.raw).cast_mut()
    }

    fn finish(
        self,
        pipe: &OwnedHandle,
        answer: windows_sys::core::BOOL,
        other: Option<&Event>,
        until: Option<Instant>,
    ) -> io::Result<PipeRead> {
        if answer == 0 {
            let error = io::Error::last_os_error();
            if !is(&error, ERROR_IO_PENDING) {
                return ended(error);
            }
        }
        let handles: Vec<_> = [Some(self.event.as_raw_handle()), other.map(AsRawHandle::as_raw_handle)]
            .into_iter()
            .flatten()
            .collect();
        // If the operation is over already, its event is set.
        let happened = wait_for(&handles, until);
        let cut_short = match happened {
            Ok(Some(0)) => None,
            Ok(Some(_)) => Some(PipeRead::Other),
            Ok(None) => Some(PipeRead::Late),
            Err(_) => Some(PipeRead::End),
        };
        if cut_short.is_some() {
            // SAFETY: the handle is open, the structure that of an operation on it.
            unsafe { CancelIoEx(pipe.as_raw_handle(), self.raw()) };
        }
        let mut count = 0;
        // SAFETY: the handle is open, the structure that of an operation on it; the call waits until that is over.
        let answer = unsafe { GetOverlappedResult(pipe.as_raw_handle(), self.raw(), &raw mut count, 1) };
        let result = done(answer);
        match (result, cut_short) {
            // It was completed just before it was cancelled.
            (Ok(()), _) => Ok(PipeRead::Bytes(usize::try_from(count).unwrap_or(0))),
            (Err(error), _) if is(&error, ERROR_MORE_DATA) => {
                Ok(PipeRead::Bytes(usize::try_from(count).unwrap_or(0)))
            }
            (Err(_), Some(why)) => Ok(why),
            (Err(error), None) => ended(error),
        }
    }
}

/// The end of a pipe is no error here.
fn ended(error: io::Error) -> io::Result<PipeRead> {
    let codes = [ERROR_BROKEN_PIPE, ERROR_PIPE_NOT_CONNECTED, ERROR_NO_DATA];
    if codes.iter().any(|code| is(&error, *code)) { Ok(PipeRead::End) } else { Err(error) }
}

fn is(error: &io::Error, code: u32) -> bool {
    error.raw_os_error() == i32::try_from(code).ok()
}

/// Who may do what with the pipe, in the form that Windows takes.
struct Access(PSECURITY_DESCRIPTOR);

impl Access {
    fn new() -> io::Result<Self> {
        let text = wide(ACCESS)?;
        let mut descriptor = std::ptr::null_mut();
        // SAFETY: the text ends with a NUL; the pointer is that of a pointer; the size is not wanted.
        done(unsafe {
            ConvertStringSecurityDescriptorToSecurityDescriptorW(
                text.as_ptr(),
                SDDL_REVISION_1,
                &raw mut descriptor,
                std::ptr::null_mut(),
            )
        })?;
        Ok(Self(descriptor))
    }
}

impl Drop for Access {
    fn drop(&mut self) {
        // SAFETY: the conversion has allocated it with this allocator, and it is not used after this.
        unsafe { LocalFree(self.0) };
    }
}

/// Waits until an end of the agent's pipe is free.
pub(crate) fn wait_for_trigger(millis: u32) -> io::Result<()> {
    let name = wide(TRIGGER)?;
    // SAFETY: the name ends with a NUL.
    done(unsafe { WaitNamedPipeW(name.as_ptr(), millis) })
}

/// A pipe between this process and one that it starts: the read end and the write end.
pub(crate) fn anonymous(size: u32) -> io::Result<(OwnedHandle, OwnedHandle)> {
    let (mut read, mut write) = (std::ptr::null_mut(), std::ptr::null_mut());
    // SAFETY: the pointers are those of handles; no attributes.
    done(unsafe { CreatePipe(&raw mut read, &raw mut write, std::ptr::null(), size) })?;
    // SAFETY: the handle is new and has no other owner.
    let read = unsafe { OwnedHandle::from_raw_handle(read) };
    // SAFETY: the handle is new and has no other owner.
    let write = unsafe { OwnedHandle::from_raw_handle(write) };
    Ok((read, write))
}

/// Lets processes that are started from now on inherit this handle.
pub(crate) fn let_inherit(handle: &OwnedHandle) -> io::Result<()> {
    // SAFETY: the handle is open.
    done(unsafe { SetHandleInformation(handle.as_raw_handle(), HANDLE_FLAG_INHERIT, HANDLE_FLAG_INHERIT) })
}

/// Reads from a pipe of a process. `None` is the end; a message of 0 bytes is not.
pub(crate) fn read(handle: &OwnedHandle, buffer: &mut [u8]) -> io::Result<Option<usize>> {
    let len = u32::try_from(buffer.len()).unwrap_or(u32::MAX);
    let mut count = 0;
    // SAFETY: the handle is open, the buffer has `len` bytes, and the call returns when it is done with both.
    let answer = unsafe {
        ReadFile(handle.as_raw_handle(), buffer.as_mut_ptr(), len, &raw mut count, std::ptr::null_mut())
    };
    match done(answer) {
        Ok(()) => Ok(usize::try_from(count).ok()),
        Err(error) => match ended(error)? {
            PipeRead::End => Ok(None),
            _ => Ok(Some(0)),
        },
    }
}
