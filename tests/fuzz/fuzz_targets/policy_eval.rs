//! `qrexec-policy-eval`'s JSON lines: one answer for each question, always JSON, and what is not understood is
//! denied.
#![no_main]

use libfuzzer_sys::fuzz_target;
use serde_json::Value;

fuzz_target!(|data: &[u8]| {
    let (explain, lines) = (data.len() % 2 == 1, data);
    let answers = cli::fuzzing::policy_eval(lines, explain).expect("a buffer takes everything");
    let answers: Vec<&[u8]> = answers.split_inclusive(|byte| *byte == b'\n').collect();
    let asked = lines.split(|byte| *byte == b'\n').filter(|line| !line.trim_ascii().is_empty()).count();
    assert_eq!(answers.len(), asked);
    for answer in answers {
        let answer: Value = serde_json::from_slice(answer).expect("an answer is JSON");
        let text = answer["answer"].as_str();
        match answer["result"].as_str() {
            Some("allow") => {
                let text = text.expect("an answer to an allowed call");
                assert!(text.contains("result=allow") && !text.contains("result=deny"), "{text}");
                assert!(answer["rule"].is_string() && answer["target"].is_string());
            }
            Some("ask") => {
                assert!(text.is_none());
                assert!(!answer["targets_for_ask"].as_array().expect("choices").is_empty());
            }
            Some("deny" | "error") => {
                assert_eq!(text, Some("result=deny"));
                assert!(answer["reason"].is_string());
            }
            other => panic!("{other:?} is no result"),
        }
    }
});
