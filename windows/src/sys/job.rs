#![allow(unsafe_code)] // a job is made and filled by handles
//! A job object, which ends processes together with their agent.

use std::io;
use std::os::windows::io::{AsRawHandle, FromRawHandle, OwnedHandle, RawHandle};

use windows_sys::Win32::System::JobObjects::{
    AssignProcessToJobObject, CreateJobObjectW, JOB_OBJECT_LIMIT_BREAKAWAY_OK,
    JOB_OBJECT_LIMIT_KILL_ON_JOB_CLOSE, JOBOBJECT_EXTENDED_LIMIT_INFORMATION,
    JobObjectExtendedLimitInformation, SetInformationJobObject,
};

use super::done;

/// Holds all calls of one agent. Its handle is not inherited, so it is closed when the agent ends, in whatever way.
#[derive(Debug)]
pub(crate) struct Job(OwnedHandle);

impl Job {
    /// A job without processes.
    pub(crate) fn new() -> io::Result<Self> {
        // SAFETY: no pointer is passed: no attributes, no name.
        let handle = unsafe { CreateJobObjectW(std::ptr::null(), std::ptr::null()) };
        if handle.is_null() {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the handle is new and has no other owner.
        let job = Self(unsafe { OwnedHandle::from_raw_handle(handle) });
        let mut limits = JOBOBJECT_EXTENDED_LIMIT_INFORMATION::default();
        // Programs that were started without streams may outlive the agent, so they may leave the job.
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

    /// Adds a process, and everything that it starts from now on.
    pub(crate) fn add(&self, process: RawHandle) -> io::Result<()> {
        // SAFETY: the job's handle is open; if the other is not that of a process, the call fails.
        done(unsafe { AssignProcessToJobObject(self.0.as_raw_handle(), process) })
    }
}
