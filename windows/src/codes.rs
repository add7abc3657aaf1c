//! Exit codes: Windows has 32 bits for them, a caller on Linux 8.

/// A call that was refused.
pub const REFUSED: i32 = 126;
/// A service, or a program, that does not exist.
pub const NOT_FOUND: i32 = 127;
/// A call that could not be started for another reason.
pub const TROUBLE: i32 = 125;
/// A lost link, and every exit code that does not fit into 8 bits.
pub const LOST: i32 = 255;

/// `ERROR_FILE_NOT_FOUND` and `ERROR_PATH_NOT_FOUND`.
const FILE_NOT_FOUND: i32 = 2;
const PATH_NOT_FOUND: i32 = 3;

/// The exit code for the caller when a process has ended with `code`: 0 to 255 unchanged, all others 255, so that no
/// failure looks like success because its low byte is 0.
#[must_use]
pub fn of_process(code: u32) -> i32 {
    match i32::try_from(code) {
        Ok(code @ 0..=255) => code,
        _ => LOST,
    }
}

/// The exit code for a process that Windows did not start, by Windows' error.
#[must_use]
pub const fn of_start(error: Option<i32>) -> i32 {
    match error {
        Some(FILE_NOT_FOUND | PATH_NOT_FOUND) => NOT_FOUND,
        _ => TROUBLE,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_failure_looks_like_success() {
        for code in [0, 1, 3, 255] {
            assert_eq!(of_process(code), i32::try_from(code).unwrap());
        }
        for code in [256, 512, 65_536, 0xC000_0005, u32::MAX] {
            assert_eq!(of_process(code), 255, "{code:#x}");
        }
    }

    #[test]
    fn only_a_missing_program_is_not_found() {
        assert_eq!(of_start(Some(2)), 127);
        assert_eq!(of_start(Some(3)), 127);
        assert_eq!(of_start(Some(5)), 125);
        assert_eq!(of_start(None), 125);
    }
}
