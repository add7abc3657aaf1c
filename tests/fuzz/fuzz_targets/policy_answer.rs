//! The answers that a daemon gets from the policy socket or a policy program: only a complete allowance
//! allows, and what it allows was said in so many words.
#![no_main]

use daemon::answer::{MAX_ANSWER, parse};
use daemon_core::question::Verdict;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(answer) = parse(data) else { return };
    assert!(data.len() < MAX_ANSWER);
    let text = std::str::from_utf8(data).expect("an answer is text");
    let said = |key: &str| -> Vec<&str> {
        let value = |line: &'_ str| line.strip_prefix(key).and_then(|rest| rest.strip_prefix('=')).is_some();
        text.lines().filter(|line| value(line)).map(|line| &line[key.len() + 1..]).collect()
    };
    match answer.verdict {
        Verdict::Allow(allow) => {
            assert_eq!(said("result"), ["allow"]);
            assert_eq!(said("user"), [allow.user.as_str()]);
            assert_eq!(said("target"), [allow.target.as_str()]);
            assert_eq!(said("autostart"), [if allow.autostart { "True" } else { "False" }]);
            assert_eq!(said("requested_target"), [allow.requested_target.as_str()]);
            assert_eq!(said("service").first().copied(), allow.service.as_ref().map(|name| name.as_str()));
            assert_eq!(
                said("policy_source").first().copied(),
                allow.policy_source.as_ref().map(|name| name.as_str())
            );
            assert_eq!(
                said("target_uuid").first().copied(),
                allow.target_uuid.as_ref().map(|name| name.as_str())
            );
        }
        Verdict::Deny(reason) => {
            assert!(fuzz::is_plain(&reason));
            // What was allowed and cannot be carried out is denied, and the reason says so.
            if reason.starts_with("allowed by the policy program, but ") {
                assert_eq!(said("result"), ["allow"]);
            } else {
                assert_eq!(said("result"), ["deny"]);
                assert!(said("target").is_empty());
            }
        }
        Verdict::Made => panic!("an answer does not say that the call is made"),
    }
});
