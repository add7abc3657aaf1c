#![allow(unsafe_code)] // a job is made and filled by handles
//! A job: processes that end with their agent.

use std::io;
use std::os::windows::io::{AsRawHandle, FromRawHandle, OwnedHandle, RawHandle};

use windows_sys::Win32::System::JobObjects::{
    AssignProcessToJobObject, CreateJobObjectW, JOB_OBJECT_LIMIT_BREAKAWAY_OK,
    JOB_OBJECT_LIMIT_KILL_ON_JOB_CLOSE, JOBOBJECT_EXTENDED_LIMIT_INFORMATION,
    JobObjectExtendedLimitInformation, SetInformationJobObject,
};

use super::done;

/// All calls of one agent. Its handle is not inherited, so it closes when the agent ends, however that comes.
#[derive(Debug)]
pub(crate) struct Job(OwnedHandle);

impl Job {
    /// An empty one.
    pub(crate) fn new() -> io::Result<Self> {
        // SAFETY: no pointer is passed: no attributes, no name.
        let handle = unsafe { CreateJobObjectW(std::ptr::null(), std::ptr::null()) };
        if handle.is_null() {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the handle is new and nobody else's.
        let job = Self(unsafe { OwnedHandle::from_raw_handle(handle) });
        let mut limits = JOBOBJECT_EXTENDED_LIMIT_INFORMATION::default();
        // What was started without streams is left alone, so it may break away.
        limits.BasicLimitInformation.LimitFlags =
            JOB_OBJECT_LIMIT_KILL_ON_JOB_CLOSE | JOB_OBJECT_LIMIT_BREAKAWAY_OK;
        let size = u32::try_from(size_of_val(&limits)).unwrap_or(0);
        // SAFETY: the pointer is that of a structure of this kind and size.
        done(unsafe {
            SetInformationJobObject(
                job.0.as_raw_handle(),
                JobObjectExtendedLimitInformation,
                (&raw const limits).cast(),
                size,
            )
        })?;
        Ok(job)
    }

    /// Adds a process, and whatever it starts from now on.
    pub(crate) fn add(&self, process: RawHandle) -> io::Result<()> {
        // SAFETY: the job's handle is open; if the other is not that of a process, the call fails.
        done(unsafe { AssignProcessToJobObject(self.0.as_raw_handle(), process) })
    }
}
