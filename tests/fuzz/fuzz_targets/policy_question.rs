//! What comes in on the policy daemon's sockets: a question is one however its bytes arrive, what follows it
//! changes nothing, and no more is collected than a question may have.
#![no_main]

use cli::fuzzing::{MAX_REQUEST, evaluation, question};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let (by, bytes) = fuzz::split(data);
    let bytes = fuzz::stretched(bytes, by);
    // The daemon asks no further once there is an answer.
    let mut settled = None;
    for end in ends(bytes.len(), by) {
        let heard = question(&bytes[..end], false);
        match (&settled, heard) {
            (None, None) => assert!(end < MAX_REQUEST),
            (None, Some(first)) => settled = Some(first),
            (Some(Ok(first)), later) => assert_eq!(later.as_ref(), Some(&Ok(first.clone()))),
            (Some(Err(_)), _) => {}
        }
    }
    if let Some(Ok(asked)) = &settled {
        assert_eq!(question(&bytes, true).as_ref(), Some(&Ok(asked.clone())));
    }
    assert!(question(&bytes, true).is_some(), "the end settles it");

    let name = "policy.EvalSimple";
    let at_end = evaluation(&bytes, true, name).expect("the end settles it");
    if let Some(early) = evaluation(&bytes, false, name) {
        assert!(early.is_err() && at_end.is_err(), "only the end completes an evaluation");
    }
    let Ok(asked) = at_end else { return };
    assert!(asked.assume_yes && asked.just_evaluate && !asked.service.starts_with('+'));
    assert!(fuzz::is_plain(&asked.source) && fuzz::is_plain(&asked.target));
});

/// A few places to look from, the last the end.
fn ends(len: usize, seed: u8) -> impl Iterator<Item = usize> {
    let step = len / (2 + usize::from(seed % 4)) + 1;
    (0..len).step_by(step).chain([len])
}
