//! Policy texts, with what they include and `!compat-4.0`: any bytes end in a policy or an error; an error
//! anywhere denies everything; whatever is allowed is allowed by a line that says so, and the daemon reads the
//! answer as it was meant.
//!
//! The input is one text file; a line `=== policy NAME`, `=== include PATH` or `=== compat NAME` begins another.
#![no_main]
#![allow(dead_code)] // not everything that the policy's own tests share is needed

use std::sync::LazyLock;

use daemon_core::question::Verdict;
use libfuzzer_sys::fuzz_target;
use policy::{Decision, Files, Policy, PolicyError, Request, SystemInfo, Verb};

#[path = "../../../daemon/policy/tests/support/mod.rs"]
mod support;

static SYSTEM: LazyLock<SystemInfo> = LazyLock::new(support::system);

fuzz_target!(|data: &[u8]| {
    let system = &*SYSTEM;
    let files = fuzz::bundle("policy", "30-user.policy", data);
    let policy = Policy::compile_or_deny(&files);
    if let Some(error) = policy.error() {
        check_error(error);
        assert!(policy.rules().is_empty());
    } else {
        // One more line, which is wrong, and nothing is allowed any more.
        let spoiled = files.clone().policy("29-bad.policy", "* * * * alow\n");
        let spoiled = Policy::compile_or_deny(&spoiled);
        assert!(calls().all(|call| matches!(spoiled.decide(system, &call), Decision::Deny(_))));
        check_written(&policy);
    }
    for call in calls() {
        check_decision(&policy, system, &call);
    }
    // How a decision came about is much work to tell: for one call only.
    if let Some(call) = calls().nth(data.len() % 12) {
        assert_eq!(policy.explain(system, &call).decision, policy.decide(system, &call));
    }
});

/// Calls of every kind.
fn calls() -> impl Iterator<Item = Request<'static>> {
    let places = [
        ("work", "vault"),
        ("work", "@default"),
        ("home", "@dispvm"),
        ("work", "@dispvm:dvm-red"),
        ("vault", "@adminvm"),
        ("work", "unknown"),
        ("relay", "far"),
        ("home", "uuid:id-work"),
    ];
    let plain = places.map(|(source, target)| Request::new(source, target, "demo.Add+1"));
    let [first, ..] = plain;
    let special = [
        Request { assume_yes: true, ..first },
        Request { just_evaluate: true, ..first },
        Request { requested_source: Some("far"), ..Request::new("relay", "work", "demo.Add") },
        Request::new("work", "work", "other+"),
    ];
    plain.into_iter().chain(special)
}

fn check_error(error: &PolicyError) {
    assert!(error.line.is_none_or(|line| line > 0) && error.column.is_none_or(|column| column > 0));
    assert!(!error.problem.is_empty() && !error.to_string().contains('\n'), "{error}");
}

/// The rules in their canonical form are the same rules. An old file may have a name that no service has and no line
/// can say; nothing ever matches it.
fn check_written(policy: &Policy) {
    if policy.rules().iter().any(|rule| rule.service.as_ref().is_some_and(|name| name.is_empty())) {
        return;
    }
    let text: String = policy.rules().iter().map(|rule| format!("{rule}\n")).collect();
    let again = Policy::compile(&Files::new().policy("1.policy", text.as_str()));
    let again = again.unwrap_or_else(|error| panic!("{error}\n{text}"));
    assert_eq!(again.rules().iter().map(|rule| format!("{rule}\n")).collect::<String>(), text);
}

fn check_decision(policy: &Policy, system: &SystemInfo, call: &Request<'_>) {
    let decision = policy.decide(system, call);
    let answer = daemon::answer::parse(decision.answer().as_bytes()).map(|answer| answer.verdict);
    match &decision {
        Decision::Allow(allow) => {
            let by = |rule: &&policy::Rule| rule.file == allow.rule.file && rule.line == allow.rule.line;
            let verbs: Vec<Verb> = policy.rules().iter().filter(by).map(|rule| rule.action.verb).collect();
            assert!(verbs.contains(&Verb::Allow) || (call.assume_yes && verbs.contains(&Verb::Ask)));
            // What is called allowed the daemon carries out.
            if !allow.just_evaluated {
                let Ok(Verdict::Allow(read)) = answer else { panic!("{allow:?}: {answer:?}") };
                assert_eq!(read.target.as_str(), allow.target);
                assert_eq!(read.user.as_str(), allow.user.as_deref().unwrap_or("DEFAULT"));
                assert_eq!(read.autostart, allow.autostart);
            }
        }
        Decision::Ask(ask) => {
            assert!(!call.assume_yes && !call.just_evaluate && !ask.choices.is_empty());
            assert!(ask.default_target.as_ref().is_none_or(|default| ask.choices.contains(default)));
            assert!(matches!(ask.choose(system, "no such choice"), Decision::Deny(_)));
        }
        Decision::Deny(deny) => {
            assert!(matches!(answer, Ok(Verdict::Deny(_))));
            assert!(!deny.reason.chars().any(char::is_control), "{:?}", deny.reason);
        }
    }
}
