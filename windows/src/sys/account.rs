#![allow(unsafe_code)] // tokens are handles, and what they say comes in buffers
//! The account under which a program is started.

use std::io;
use std::os::windows::io::{AsRawHandle, FromRawHandle, OwnedHandle, RawHandle};

use windows_sys::Win32::Security::{GetTokenInformation, LookupAccountSidW, TOKEN_USER, TokenUser};
use windows_sys::Win32::System::RemoteDesktop::{WTSGetActiveConsoleSessionId, WTSQueryUserToken};
use windows_sys::Win32::System::WindowsProgramming::GetUserNameW;

use super::done;

/// The account under which a command or service runs.
#[derive(Debug)]
pub(crate) enum Account {
    /// As this process: LocalSystem for the service.
    Own,
    /// As the user who is logged on at the console.
    LoggedOn(OwnedHandle),
}

/// No user of that name is logged on, and there is no password with which to log them on.
#[derive(Debug, thiserror::Error)]
#[error("user {0} is not logged on")]
pub(crate) struct NotLoggedOn(String);

impl Account {
    /// The account for a call's user name.
    pub(crate) fn of(user: &str) -> Result<Self, NotLoggedOn> {
        let own = ["SYSTEM", "root"].iter().any(|name| name.eq_ignore_ascii_case(user));
        if own || own_name().is_ok_and(|name| name.eq_ignore_ascii_case(user)) {
            return Ok(Self::Own);
        }
        match console_user() {
            Ok((token, name)) if name.eq_ignore_ascii_case(user) => Ok(Self::LoggedOn(token)),
            _ => Err(NotLoggedOn(user.to_owned())),
        }
    }

    /// The account's token; `None` for this process's own.
    pub(crate) fn token(&self) -> Option<RawHandle> {
        match self {
            Self::Own => None,
            Self::LoggedOn(token) => Some(token.as_raw_handle()),
        }
    }
}

/// The account of this process.
fn own_name() -> io::Result<String> {
    let mut buffer = [0_u16; 257];
    let mut len = 257;
    // SAFETY: the buffer has `len` characters.
    done(unsafe { GetUserNameW(buffer.as_mut_ptr(), &raw mut len) })?;
    Ok(text(&buffer))
}

/// The user who is logged on at the console: token and name.
fn console_user() -> io::Result<(OwnedHandle, String)> {
    // SAFETY: no parameters.
    let session = unsafe { WTSGetActiveConsoleSessionId() };
    let mut token = std::ptr::null_mut();
    // SAFETY: the pointer is that of a handle.
    done(unsafe { WTSQueryUserToken(session, &raw mut token) })?;
    // SAFETY: the handle is new and has no other owner.
    let token = unsafe { OwnedHandle::from_raw_handle(token) };
    let name = user_of(&token)?;
    Ok((token, name))
}

fn user_of(token: &OwnedHandle) -> io::Result<String> {
    // Room for the structure and the longest identifier, with the structure's alignment.
    let mut room = [0_u64; 32];
    let mut len = u32::try_from(size_of_val(&room)).unwrap_or(0);
    // SAFETY: the handle is open, the buffer has `len` bytes.
    done(unsafe {
        GetTokenInformation(token.as_raw_handle(), TokenUser, room.as_mut_ptr().cast(), len, &raw mut len)
    })?;
    // SAFETY: the call has filled the buffer with this structure, which is aligned there; it points into the buffer.
    let user = unsafe { room.as_ptr().cast::<TOKEN_USER>().read() };
    let (mut name, mut domain, mut kind) = ([0_u16; 257], [0_u16; 257], 0);
    let (mut name_len, mut domain_len) = (257, 257);
    // SAFETY: the identifier is in `room`, the buffers have as many characters as said.
    done(unsafe {
        LookupAccountSidW(
            std::ptr::null(),
            user.User.Sid,
            name.as_mut_ptr(),
            &raw mut name_len,
            domain.as_mut_ptr(),
            &raw mut domain_len,
            &raw mut kind,
        )
    })?;
    Ok(text(&name))
}

/// The text up to its NUL.
fn text(buffer: &[u16]) -> String {
    let end = buffer.iter().position(|unit| *unit == 0).unwrap_or(buffer.len());
    String::from_utf16_lossy(buffer.get(..end).unwrap_or_default())
}
