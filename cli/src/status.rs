//! Exit statuses of qrexec itself.

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
