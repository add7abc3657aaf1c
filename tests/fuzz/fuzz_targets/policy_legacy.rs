//! The folders of before R4.1, one file per service: any bytes end in a policy or an error, which denies the
//! calls that its file is about; "Yes to All" allows the call that it was said to, and keeps the rest.
//!
//! The input is the file `demo.Add`; a line `=== compat NAME` or `=== include PATH` begins another.
#![no_main]
#![allow(dead_code)] // not everything that the policy's own tests share is needed

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use policy::legacy::{LegacyPolicy, always_allow, default_text};
use policy::{Decision, Files, Policy, Request, SystemInfo, Verb};

#[path = "../../../daemon/policy/tests/support/mod.rs"]
mod support;

static SYSTEM: LazyLock<SystemInfo> = LazyLock::new(support::system);

fuzz_target!(|data: &[u8]| {
    let system = &*SYSTEM;
    let policy =
        LegacyPolicy::compile(&fuzz::bundle("compat", "demo.Add", data)).expect("a folder in memory");
    for (service, argument) in [("demo.Add", "+1"), ("demo.Add", "+"), ("other", "+x")] {
        let Some(policy) = policy.for_service(service, argument) else { continue };
        for (source, target) in
            [("work", "vault"), ("home", "@default"), ("vault", "@dispvm"), ("work", "dom0")]
        {
            let call = Request { service, argument, ..Request::new(source, target, "") };
            let decision = policy.decide(system, &call);
            check(policy, &decision);
        }
    }
    yes_to_all(data);
});

fn check(policy: &Policy, decision: &Decision) {
    if policy.error().is_some() {
        return assert!(matches!(decision, Decision::Deny(_)));
    }
    if let Decision::Allow(allow) = decision {
        let mut rules = policy.rules().iter().filter(|rule| rule.line == allow.rule.line);
        assert!(rules.any(|rule| rule.action.verb == Verb::Allow));
    }
}

fn yes_to_all(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let compile = |text: &str| {
        let files = Files::new().compat("demo.Add", text).include("more", default_text());
        let policy = LegacyPolicy::compile(&files).expect("a folder in memory");
        policy.for_service("demo.Add", "+").expect("the file is there").clone()
    };
    let (before, request) = (compile(text), Request::new("work", "vault", "demo.Add"));
    let Decision::Ask(ask) = before.decide(&SYSTEM, &request) else { return };
    for chosen in &ask.choices {
        let Some(text) = always_allow(text, &request, &ask, chosen) else { continue };
        let after = compile(&text);
        let decision = after.decide(&SYSTEM, &request);
        assert!(matches!(decision, Decision::Allow(_)), "{decision:?}");
        assert_eq!(after.rules().len(), before.rules().len() + 1);
    }
}
