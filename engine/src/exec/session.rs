//! PAM: a session for the user of a call that root starts.
#![allow(unsafe_code)] // PAM is a C library, and no safe binding of it opens sessions.

use std::ffi::{CStr, CString, NulError, OsStr, OsString, c_char, c_int, c_void};
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::ptr::NonNull;

use libpam_sys as pam;
use rustix::io::Errno;
use rustix::process::Gid;

/// The name of PAM's configuration file: `/etc/pam.d/qrexec`.
const SERVICE: &CStr = c"qrexec";

/// An open session. It lasts until [`Session::close`] or the end of the process.
#[derive(Debug)]
pub(super) struct Session(NonNull<pam::pam_handle>);

/// Why there is no session.
#[derive(Debug, thiserror::Error)]
pub(super) enum PamError {
    /// The user's name contains a NUL, which PAM would take for its end.
    #[error("user: {0}")]
    Name(#[from] NulError),
    /// The process cannot join the user's groups.
    #[error("groups: {0}")]
    Groups(Errno),
    /// One of PAM's functions has failed.
    #[error("{function}: {code}")]
    Pam {
        /// Its name.
        function: &'static str,
        /// What it returned.
        code: PamCode,
    },
}

/// A number that a function of PAM has returned.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct PamCode(c_int);

impl fmt::Display for PamCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // SAFETY: this function accepts a null handle, and any number.
        let text = unsafe { pam::pam_strerror(std::ptr::null(), self.0) };
        if text.is_null() {
            return write!(f, "error {}", self.0);
        }
        // SAFETY: not null, so a string that lives for ever.
        f.write_str(&unsafe { CStr::from_ptr(text) }.to_string_lossy())
    }
}

impl Session {
    /// Opens a session for `user` in this process, which must be root's and joins the user's groups. No question is
    /// ever answered: if the configuration wants a password, this fails.
    pub(super) fn open(user: &str, groups: &[Gid]) -> Result<Self, PamError> {
        let name = CString::new(user)?;
        let mut conversation = pam::pam_conv { conv: converse, appdata_ptr: std::ptr::null_mut() };
        let mut handle = std::ptr::null_mut();
        // SAFETY: two NUL-terminated strings, a conversation that PAM copies, a place for the handle.
        let code = unsafe {
            pam::pam_start(SERVICE.as_ptr(), name.as_ptr(), &raw mut conversation, &raw mut handle)
        };
        let handle = NonNull::new(handle).filter(|_| code == pam::PAM_SUCCESS);
        let session = Self(handle.ok_or(PamError::Pam { function: "pam_start", code: PamCode(code) })?);
        session.establish(groups).inspect_err(|_| session.end(pam::PAM_ABORT))?;
        Ok(session)
    }

    fn establish(&self, groups: &[Gid]) -> Result<(), PamError> {
        let handle = self.0.as_ptr();
        // SAFETY: the handle is open.
        check("pam_authenticate", unsafe { pam::pam_authenticate(handle, 0) })?;
        // PAM's modules add to the groups that the process has now.
        rustix::thread::set_thread_groups(groups).map_err(PamError::Groups)?;
        // SAFETY: the handle is open.
        check("pam_setcred", unsafe { pam::pam_setcred(handle, pam::PAM_ESTABLISH_CRED) })?;
        // SAFETY: the handle is open.
        check("pam_open_session", unsafe { pam::pam_open_session(handle, 0) })
    }

    /// The variables that the session has set.
    pub(super) fn environment(&self) -> Vec<(OsString, OsString)> {
        // SAFETY: the handle is open.
        let list = unsafe { pam::pam_getenvlist(self.0.as_ptr()) };
        let mut variables = Vec::new();
        if list.is_null() {
            return variables;
        }
        let mut place = list;
        loop {
            // SAFETY: the list ends with a null pointer, at which this loop ends.
            let text = unsafe { *place };
            if text.is_null() {
                break;
            }
            // SAFETY: every pointer before the end is a NUL-terminated string that is now ours.
            variables.extend(variable(unsafe { CStr::from_ptr(text) }));
            // SAFETY: allocated by malloc, ours, and not used again.
            unsafe { libc::free(text.cast()) };
            // SAFETY: the end has not been reached, so the next place is part of the list.
            place = unsafe { place.add(1) };
        }
        // SAFETY: the list itself, for which the same holds.
        unsafe { libc::free(list.cast()) };
        variables
    }

    /// Closes the session, after the user's program has ended.
    pub(super) fn close(self) {
        let handle = self.0.as_ptr();
        // SAFETY: the handle is open.
        if let Err(error) = check("pam_close_session", unsafe { pam::pam_close_session(handle, 0) }) {
            tracing::warn!("{error}");
        }
        // SAFETY: the handle is open.
        let code = unsafe { pam::pam_setcred(handle, pam::PAM_DELETE_CRED | pam::PAM_SILENT) };
        self.end(code);
    }

    fn end(&self, code: c_int) {
        // SAFETY: the handle is open; both callers give it up after this.
        unsafe { pam::pam_end(self.0.as_ptr(), code) };
    }
}

/// Splits `NAME=value`.
fn variable(text: &CStr) -> Option<(OsString, OsString)> {
    let bytes = text.to_bytes();
    let (name, rest) = bytes.split_at_checked(bytes.iter().position(|b| *b == b'=')?)?;
    Some((OsStr::from_bytes(name).to_owned(), OsStr::from_bytes(rest.get(1..)?).to_owned()))
}

fn check(function: &'static str, code: c_int) -> Result<(), PamError> {
    if code == pam::PAM_SUCCESS { Ok(()) } else { Err(PamError::Pam { function, code: PamCode(code) }) }
}

/// Handles what PAM's modules say and ask: errors go to the log, questions get an empty answer.
unsafe extern "C" fn converse(
    count: c_int,
    messages: *const *const pam::pam_message,
    responses: *mut *mut pam::pam_response,
    _data: *mut c_void,
) -> c_int {
    let Some(count) = usize::try_from(count).ok().filter(|n| *n > 0) else { return pam::PAM_CONV_ERR };
    // SAFETY: calloc takes two numbers. PAM frees the array and the strings in it.
    let answers = unsafe { libc::calloc(count, size_of::<pam::pam_response>()) };
    let answers = answers.cast::<pam::pam_response>();
    if answers.is_null() {
        return pam::PAM_BUF_ERR;
    }
    // SAFETY: Linux-PAM gives an array of `count` pointers to messages.
    let messages = unsafe { std::slice::from_raw_parts(messages, count) };
    // SAFETY: the array above, zeroed: null pointers and zeros are answers.
    let places = unsafe { std::slice::from_raw_parts_mut(answers, count) };
    for (message, answer) in messages.iter().zip(places) {
        // SAFETY: each pointer is valid for this call.
        let message = unsafe { &**message };
        match message.msg_style {
            pam::PAM_PROMPT_ECHO_OFF | pam::PAM_PROMPT_ECHO_ON => {
                // SAFETY: copies an empty string; a null pointer is no answer.
                answer.resp = unsafe { libc::strdup(c"".as_ptr()) };
            }
            pam::PAM_ERROR_MSG => log(message.msg),
            _ => {}
        }
    }
    // SAFETY: PAM gives a place for the array.
    unsafe { *responses = answers };
    pam::PAM_SUCCESS
}

fn log(text: *const c_char) {
    if !text.is_null() {
        // SAFETY: a message is a NUL-terminated string.
        let text = unsafe { CStr::from_ptr(text) };
        tracing::warn!("PAM: {}", wire::escape::Escaped::new(text.to_bytes()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_are_taken_apart_at_the_first_sign() {
        assert_eq!(variable(c"A=b=c"), Some(("A".into(), "b=c".into())));
        assert_eq!(variable(c"A="), Some(("A".into(), "".into())));
        assert_eq!(variable(c"A"), None);
    }

    #[test]
    fn an_error_names_the_function_and_the_reason_in_words() {
        let error = check("pam_open_session", pam::PAM_SESSION_ERR).unwrap_err().to_string();
        assert!(error.starts_with("pam_open_session: "), "{error}");
        assert!(error.len() > "pam_open_session: ".len() && !error.contains("error 14"), "{error}");
        assert!(check("pam_open_session", pam::PAM_SUCCESS).is_ok());
        let named = Session::open("a\0b", &[]).unwrap_err();
        assert!(matches!(named, PamError::Name(_)), "{named}");
    }

    #[test]
    fn questions_get_an_empty_answer() {
        let message = |style| pam::pam_message { msg_style: style, msg: c"text".as_ptr() };
        let (error, question) = (message(pam::PAM_ERROR_MSG), message(pam::PAM_PROMPT_ECHO_OFF));
        let messages = [&raw const error, &raw const question];
        let mut answers = std::ptr::null_mut();
        // SAFETY: two valid messages and a place for the answers.
        let code = unsafe { converse(2, messages.as_ptr(), &raw mut answers, std::ptr::null_mut()) };
        assert_eq!(code, pam::PAM_SUCCESS);
        // SAFETY: the callback made an array of two.
        let made = unsafe { std::slice::from_raw_parts(answers, 2) };
        let (first, second) = (made[0].resp, made[1].resp);
        assert!(first.is_null());
        // SAFETY: a string of malloc's, freed below and not used again.
        assert!(unsafe { CStr::from_ptr(second) }.is_empty());
        // SAFETY: as above.
        unsafe { libc::free(second.cast()) };
        // SAFETY: the array, likewise.
        unsafe { libc::free(answers.cast()) };
        // SAFETY: an impossible count is refused before any pointer is used.
        let none = unsafe { converse(-1, messages.as_ptr(), &raw mut answers, std::ptr::null_mut()) };
        assert_eq!(none, pam::PAM_CONV_ERR);
    }
}
