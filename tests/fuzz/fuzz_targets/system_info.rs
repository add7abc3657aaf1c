//! The system information, JSON of qubesd or of a file: what is read is found again, and no qube has a name
//! that means something else in a policy.
#![no_main]

use libfuzzer_sys::fuzz_target;
use policy::{Decision, Files, Policy, Request, SystemInfo};

fuzz_target!(|data: &[u8]| {
    let Ok(system) = SystemInfo::from_json(data) else { return };
    for domain in system.domains() {
        let name = domain.name.as_str();
        assert!(!name.is_empty() && !name.starts_with(['@']) && !name.starts_with("uuid:") && name != "*");
        assert_eq!(system.get(name), Some(domain));
        if let Some(uuid) = &domain.uuid {
            let by_uuid = system.get(&format!("uuid:{uuid}")).expect("found by UUID");
            assert_eq!(by_uuid.uuid.as_ref(), Some(uuid));
        }
    }
    let files = Files::new().policy("1.policy", "s * * @dispvm ask\ns * * * ask default_target=work\n");
    let policy = Policy::compile(&files).expect("a policy without errors");
    let names: Vec<&str> = system.domains().iter().map(|domain| domain.name.as_str()).take(6).collect();
    for source in &names {
        for target in names.iter().copied().chain(["", "@dispvm", "@adminvm", "@dispvm:work"]) {
            if let Decision::Ask(ask) = policy.decide(&system, &Request::new(source, target, "s+x")) {
                assert!(!ask.choices.is_empty());
                assert!(ask.default_target.as_ref().is_none_or(|default| ask.choices.contains(default)));
            }
        }
    }
});
