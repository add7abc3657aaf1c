#![allow(unsafe_code)] // the service manager calls back
//! Running as a service, and installing and removing one.

use std::ffi::c_void;
use std::io;
use std::path::Path;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicIsize, Ordering};

use windows_sys::Win32::Foundation::{ERROR_CALL_NOT_IMPLEMENTED, NO_ERROR};
use windows_sys::Win32::System::Services::{
    ChangeServiceConfig2W, CloseServiceHandle, ControlService, CreateServiceW, DeleteService, OpenSCManagerW,
    OpenServiceW, RegisterServiceCtrlHandlerExW, SC_HANDLE, SC_MANAGER_CREATE_SERVICE,
    SERVICE_ACCEPT_SHUTDOWN, SERVICE_ACCEPT_STOP, SERVICE_ALL_ACCESS, SERVICE_AUTO_START,
    SERVICE_CONFIG_DESCRIPTION, SERVICE_CONTROL_INTERROGATE, SERVICE_CONTROL_SHUTDOWN, SERVICE_CONTROL_STOP,
    SERVICE_DESCRIPTIONW, SERVICE_ERROR_IGNORE, SERVICE_RUNNING, SERVICE_STATUS, SERVICE_STOP_PENDING,
    SERVICE_STOPPED, SERVICE_TABLE_ENTRYW, SERVICE_WIN32_OWN_PROCESS, SetServiceStatus,
    StartServiceCtrlDispatcherW,
};

use super::event::Event;
use super::{done, wide};

/// The service's name, as in every release.
pub(crate) const NAME: &str = "QrexecAgent";
const DISPLAY_NAME: &str = "Qubes RPC Agent";
const DESCRIPTION: &str = "Runs services for other qubes and asks for theirs.";

/// How many milliseconds the service may take to end.
const STOP_HINT: u32 = 3000;

/// What the service manager's callbacks need: they are functions and cannot capture anything.
struct Called {
    stop: &'static Event,
    work: fn(),
    status: AtomicIsize,
    asked: AtomicBool,
}

static CALLED: OnceLock<Called> = OnceLock::new();

/// Runs `work` as a service; it has to return soon after `stop` was set. Fails if no service manager has started this
/// program.
pub(crate) fn run(stop: &'static Event, work: fn()) -> io::Result<()> {
    let called = Called { stop, work, status: AtomicIsize::new(0), asked: AtomicBool::new(false) };
    CALLED.set(called).map_err(|_| io::Error::other("a service runs once"))?;
    let mut name = wide(NAME)?;
    let table = [
        SERVICE_TABLE_ENTRYW { lpServiceName: name.as_mut_ptr(), lpServiceProc: Some(service_main) },
        SERVICE_TABLE_ENTRYW::default(),
    ];
    // SAFETY: the table ends with an empty row, and lives until the call returns, when the service has ended.
    done(unsafe { StartServiceCtrlDispatcherW(table.as_ptr()) })
}

extern "system" fn service_main(_: u32, _: *mut *mut u16) {
    let (Some(called), Ok(name)) = (CALLED.get(), wide(NAME)) else { return };
    // SAFETY: the name ends with a NUL, and the function is one for this; it gets no context.
    let status = unsafe { RegisterServiceCtrlHandlerExW(name.as_ptr(), Some(control), std::ptr::null()) };
    called.status.store(status as isize, Ordering::SeqCst);
    report(called, SERVICE_RUNNING, 0);
    (called.work)();
    report(called, SERVICE_STOPPED, 0);
}

extern "system" fn control(code: u32, _: u32, _: *mut c_void, _: *mut c_void) -> u32 {
    let Some(called) = CALLED.get() else { return NO_ERROR };
    match code {
        SERVICE_CONTROL_STOP | SERVICE_CONTROL_SHUTDOWN => {
            called.asked.store(true, Ordering::SeqCst);
            report(called, SERVICE_STOP_PENDING, STOP_HINT);
            called.stop.set();
            NO_ERROR
        }
        SERVICE_CONTROL_INTERROGATE => {
            let stopping = called.asked.load(Ordering::SeqCst);
            report(called, if stopping { SERVICE_STOP_PENDING } else { SERVICE_RUNNING }, 0);
            NO_ERROR
        }
        _ => ERROR_CALL_NOT_IMPLEMENTED,
    }
}

fn report(called: &Called, state: u32, hint: u32) {
    let accepted = if state == SERVICE_RUNNING { SERVICE_ACCEPT_STOP | SERVICE_ACCEPT_SHUTDOWN } else { 0 };
    let status = SERVICE_STATUS {
        dwServiceType: SERVICE_WIN32_OWN_PROCESS,
        dwCurrentState: state,
        dwControlsAccepted: accepted,
        dwWaitHint: hint,
        ..Default::default()
    };
    // SAFETY: the handle is the one that registering gave, which is never closed; the pointer that of such a structure.
    unsafe { SetServiceStatus(called.status.load(Ordering::SeqCst) as *mut c_void, &raw const status) };
}

/// A handle of the service manager.
struct Managed(SC_HANDLE);

impl Managed {
    fn new(handle: SC_HANDLE) -> io::Result<Self> {
        if handle.is_null() { Err(io::Error::last_os_error()) } else { Ok(Self(handle)) }
    }

    fn manager() -> io::Result<Self> {
        // SAFETY: no pointers: this machine, the active services.
        Self::new(unsafe { OpenSCManagerW(std::ptr::null(), std::ptr::null(), SC_MANAGER_CREATE_SERVICE) })
    }
}

impl Drop for Managed {
    fn drop(&mut self) {
        // SAFETY: the handle is open, and it is not used after this.
        unsafe { CloseServiceHandle(self.0) };
    }
}

/// Installs the service: as LocalSystem, started with the system.
pub(crate) fn create(program: &Path) -> io::Result<()> {
    let manager = Managed::manager()?;
    let (name, shown) = (wide(NAME)?, wide(DISPLAY_NAME)?);
    let path = wide(format!("\"{}\"", program.display()))?;
    // SAFETY: the manager's handle is open, the texts end with NULs; null is: no group, no tag, no dependencies,
    // LocalSystem, no password.
    let handle = unsafe {
        CreateServiceW(
            manager.0,
            name.as_ptr(),
            shown.as_ptr(),
            SERVICE_ALL_ACCESS,
            SERVICE_WIN32_OWN_PROCESS,
            SERVICE_AUTO_START,
            SERVICE_ERROR_IGNORE,
            path.as_ptr(),
            std::ptr::null(),
            std::ptr::null_mut(),
            std::ptr::null(),
            std::ptr::null(),
            std::ptr::null(),
        )
    };
    let service = Managed::new(handle)?;
    let mut text = wide(DESCRIPTION)?;
    let description = SERVICE_DESCRIPTIONW { lpDescription: text.as_mut_ptr() };
    // SAFETY: the service's handle is open, the pointer that of a structure of this kind. The service works without a
    // description too, so the result does not matter.
    unsafe { ChangeServiceConfig2W(service.0, SERVICE_CONFIG_DESCRIPTION, (&raw const description).cast()) };
    Ok(())
}

/// Stops and removes the service.
pub(crate) fn delete() -> io::Result<()> {
    let manager = Managed::manager()?;
    let name = wide(NAME)?;
    // SAFETY: the manager's handle is open, the name ends with a NUL.
    let service = Managed::new(unsafe { OpenServiceW(manager.0, name.as_ptr(), SERVICE_ALL_ACCESS) })?;
    let mut status = SERVICE_STATUS::default();
    // SAFETY: the service's handle is open, the pointer that of such a structure. If the service does not run, the
    // call fails without effect.
    unsafe { ControlService(service.0, SERVICE_CONTROL_STOP, &raw mut status) };
    // SAFETY: the service's handle is open.
    done(unsafe { DeleteService(service.0) })
}
