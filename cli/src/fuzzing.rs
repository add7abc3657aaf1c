//! Entries for the targets in `tests/fuzz`; in builds with `--cfg fuzzing` only.

use std::io;

use crate::policy_tools::daemon::request::{self, Heard};
use crate::policy_tools::judge::Question;

/// A request has fewer bytes than this.
pub const MAX_REQUEST: usize = request::MAX_REQUEST;

/// What the policy daemon makes of these bytes on its socket: `None` while more is needed.
pub fn question(bytes: &[u8], ended: bool) -> Option<Result<Question, impl std::error::Error + PartialEq>> {
    match request::lines(bytes, ended) {
        Heard::Incomplete => None,
        Heard::Question(question) => Some(Ok(question)),
        Heard::Nonsense(why) => Some(Err(why)),
    }
}

/// The same on the socket of the evaluating service `name`.
pub fn evaluation(
    bytes: &[u8],
    ended: bool,
    name: &str,
) -> Option<Result<Question, impl std::error::Error + PartialEq>> {
    let heard = request::evaluation(bytes, ended, name)?;
    Some(heard.map(|evaluation| evaluation.question))
}

/// What `qrexec-policy-eval` answers to these lines.
///
/// # Errors
/// An answer cannot be written.
pub fn policy_eval(mut questions: &[u8], explain: bool) -> io::Result<Vec<u8>> {
    let mut answers = Vec::new();
    crate::policy_eval::answer_lines(&mut questions, &mut answers, explain)?;
    Ok(answers)
}
