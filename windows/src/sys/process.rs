#![allow(unsafe_code)] // processes are made by pointers to structures
//! Starting a command line unchanged, and waiting for its process.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::windows::ffi::OsStringExt;
use std::os::windows::io::{AsRawHandle, FromRawHandle, OwnedHandle};

use windows_sys::Win32::System::Environment::{
    CreateEnvironmentBlock, DestroyEnvironmentBlock, GetCommandLineW,
};
use windows_sys::Win32::System::Threading::{
    CREATE_BREAKAWAY_FROM_JOB, CREATE_NO_WINDOW, CREATE_UNICODE_ENVIRONMENT, CreateProcessAsUserW,
    CreateProcessW, GetExitCodeProcess, PROCESS_INFORMATION, STARTF_USESTDHANDLES, STARTUPINFOW,
};

use super::account::Account;
use super::pipe::let_inherit;
use super::{done, wide};

/// The desktop of the user at the console.
const DESKTOP: &str = r"winsta0\default";

/// What is started, and how.
pub(crate) struct Starting<'a> {
    /// The whole command line.
    pub(crate) line: &'a str,
    /// The account.
    pub(crate) account: &'a Account,
    /// The process's three streams; `None`: it has none.
    pub(crate) streams: Option<[OwnedHandle; 3]>,
    /// Variables that are set in its environment, or removed from it.
    pub(crate) variables: &'a [(&'a str, Option<String>)],
    /// It may outlive the agent.
    pub(crate) left_alone: bool,
}

/// A process that was started.
#[derive(Debug)]
pub(crate) struct Process(OwnedHandle);

impl Starting<'_> {
    /// Starts the process. Its ends of the streams are closed in this process.
    pub(crate) fn start(self) -> io::Result<Process> {
        let (mut line, mut desktop) = (wide(self.line)?, wide(DESKTOP)?);
        let mut environment = block(&self.environment()?);
        let mut startup =
            STARTUPINFOW { cb: u32::try_from(size_of::<STARTUPINFOW>()).unwrap_or(0), ..Default::default() };
        if let Some([stdin, stdout, stderr]) = &self.streams {
            for stream in [stdin, stdout, stderr] {
                // Windows refuses handles that cannot be inherited; wine accepts them, but then the process does not
                // have them.
                let_inherit(stream)?;
            }
            startup.dwFlags = STARTF_USESTDHANDLES;
            startup.hStdInput = stdin.as_raw_handle();
            startup.hStdOutput = stdout.as_raw_handle();
            startup.hStdError = stderr.as_raw_handle();
        }
        let inherit = i32::from(self.streams.is_some());
        let apart = if self.left_alone { CREATE_BREAKAWAY_FROM_JOB } else { 0 };
        let flags = CREATE_UNICODE_ENVIRONMENT | CREATE_NO_WINDOW | apart;
        let mut made = PROCESS_INFORMATION::default();
        let answer = match self.account.token() {
            // SAFETY: all pointers are those of texts and blocks that end with NULs, or of structures of the right kind,
            // and live until the call has returned. The command line may be written to: it is ours.
            None => unsafe {
                CreateProcessW(
                    std::ptr::null(),
                    line.as_mut_ptr(),
                    std::ptr::null(),
                    std::ptr::null(),
                    inherit,
                    flags,
                    environment.as_mut_ptr().cast(),
                    std::ptr::null(),
                    &raw const startup,
                    &raw mut made,
                )
            },
            Some(token) => {
                startup.lpDesktop = desktop.as_mut_ptr();
                // SAFETY: the same, and the token is open.
                unsafe {
                    CreateProcessAsUserW(
                        token,
                        std::ptr::null(),
                        line.as_mut_ptr(),
                        std::ptr::null(),
                        std::ptr::null(),
                        inherit,
                        flags,
                        environment.as_mut_ptr().cast(),
                        std::ptr::null(),
                        &raw const startup,
                        &raw mut made,
                    )
                }
            }
        };
        done(answer)?;
        // wine reports success for a Linux program, but gives no handle.
        if made.hProcess.is_null() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "no program for Windows"));
        }
        // SAFETY: the handle is new and has no other owner.
        drop(unsafe { OwnedHandle::from_raw_handle(made.hThread) });
        // SAFETY: the handle is new and has no other owner.
        Ok(Process(unsafe { OwnedHandle::from_raw_handle(made.hProcess) }))
    }

    /// The environment of the account, with the changes.
    fn environment(&self) -> io::Result<BTreeMap<String, (OsString, OsString)>> {
        let theirs = match self.account.token() {
            None => std::env::vars_os().collect(),
            Some(token) => environment_of(token)?,
        };
        // Windows ignores upper and lower case in names, and requires a sorted block.
        let key = |name: &OsStr| name.to_string_lossy().to_uppercase();
        let mut all: BTreeMap<_, _> =
            theirs.into_iter().map(|(name, value)| (key(&name), (name, value))).collect();
        for (name, value) in self.variables {
            match value {
                Some(value) => all.insert(key(name.as_ref()), ((*name).into(), value.into())),
                None => all.remove(&key(name.as_ref())),
            };
        }
        Ok(all)
    }
}

/// The environment in the form that Windows takes: `NAME=VALUE` with a NUL each, and another NUL at the end.
fn block(variables: &BTreeMap<String, (OsString, OsString)>) -> Vec<u16> {
    use std::os::windows::ffi::OsStrExt;
    let mut block = Vec::new();
    for (name, value) in variables.values() {
        block.extend(name.encode_wide());
        block.push(u16::from(b'='));
        block.extend(value.encode_wide());
        block.push(0);
    }
    if block.is_empty() {
        block.push(0);
    }
    block.push(0);
    block
}

/// The environment that every process of the token's user begins with.
fn environment_of(token: std::os::windows::io::RawHandle) -> io::Result<Vec<(OsString, OsString)>> {
    let mut raw = std::ptr::null_mut();
    // SAFETY: the pointer is that of a pointer, the token is open.
    done(unsafe { CreateEnvironmentBlock(&raw mut raw, token, 0) })?;
    let start: *const u16 = raw.cast::<u16>();
    let (mut variables, mut at) = (Vec::new(), 0_usize);
    loop {
        let mut entry = Vec::new();
        loop {
            // SAFETY: the block ends with two NULs, behind which nothing is read: an empty entry ends the outer loop.
            let unit = unsafe { start.add(at).read() };
            at = at.wrapping_add(1);
            if unit == 0 {
                break;
            }
            entry.push(unit);
        }
        if entry.is_empty() {
            break;
        }
        // A name may begin with `=`.
        let equals = entry.iter().skip(1).position(|unit| *unit == u16::from(b'='));
        if let Some((name, value)) = equals.and_then(|at| entry.split_at_checked(at.wrapping_add(1))) {
            let value = value.get(1..).unwrap_or_default();
            variables.push((OsString::from_wide(name), OsString::from_wide(value)));
        }
    }
    // SAFETY: the block is the one that was made above, and it is not used after this.
    unsafe { DestroyEnvironmentBlock(raw) };
    Ok(variables)
}

impl Process {
    /// Its exit code, once it has ended.
    pub(crate) fn exit_code(&self) -> io::Result<u32> {
        let mut code = 0;
        // SAFETY: the handle is open, the pointer that of a number.
        done(unsafe { GetExitCodeProcess(self.0.as_raw_handle(), &raw mut code) })?;
        Ok(code)
    }
}

impl AsRawHandle for Process {
    fn as_raw_handle(&self) -> std::os::windows::io::RawHandle {
        self.0.as_raw_handle()
    }
}

/// The command line of this process, unchanged.
pub(crate) fn command_line() -> String {
    // SAFETY: no parameters; the text lives as long as the process.
    let start = unsafe { GetCommandLineW() };
    let mut units = Vec::new();
    for at in 0.. {
        // SAFETY: the text ends with a NUL, behind which nothing is read.
        let unit = unsafe { start.wrapping_add(at).read() };
        if unit == 0 {
            break;
        }
        units.push(unit);
    }
    String::from_utf16_lossy(&units)
}
