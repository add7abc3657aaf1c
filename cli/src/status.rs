//! Exit statuses of qrexec itself.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;

/// A command line that makes no sense.
pub const USAGE: i32 = 2;
/// Trouble of qrexec itself.
pub const TROUBLE: i32 = 125;
/// The call was refused.
pub const REFUSED: i32 = 126;
/// There is no such program.
pub const NOT_FOUND: i32 = 127;
/// The link was lost before the service's exit code came. Also what stands for codes that no exit status can express.
pub const LOST: i32 = engine::pump::EXIT_LOST;

/// Why a program was not started. The kernel says "permission denied" of a name that is searched for if one folder of the
/// search path may not be entered, though nobody sees a file of that name in any: that program is not there.
#[must_use]
pub fn not_started(program: &OsStr, error: io::Error) -> io::Error {
    let is_seen = || {
        let path = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&path).any(|folder| folder.join(program).symlink_metadata().is_ok())
    };
    match error.kind() {
        io::ErrorKind::PermissionDenied if !program.as_bytes().contains(&b'/') && !is_seen() => {
            rustix::io::Errno::NOENT.into()
        }
        _ => error,
    }
}

/// The exit status for a program that was not started.
#[must_use]
pub fn of_start(error: &io::Error) -> i32 {
    if error.kind() == io::ErrorKind::NotFound { NOT_FOUND } else { TROUBLE }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_nobody_sees_is_no_program() {
        let denied = || io::Error::from(rustix::io::Errno::ACCESS);
        assert_eq!(of_start(&not_started("no-such-program-anywhere".as_ref(), denied())), NOT_FOUND);
        assert_eq!(of_start(&not_started("sh".as_ref(), denied())), TROUBLE);
        assert_eq!(of_start(&not_started("/etc/passwd".as_ref(), denied())), TROUBLE);
    }
}
