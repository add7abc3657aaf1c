//! What must hold for every policy, whatever its text.

mod support;

use policy::{Decision, Files, Policy, Request, RuleRef, SystemInfo};
use proptest::prelude::*;
use proptest::sample::select;
use support::{QUBES, brief, compile, system};

const SERVICES: &[&str] = &["demo.Add", "demo.Sub", "x.Y"];
const ARGUMENTS: &[&str] = &["+", "+1", "+2"];

fn qube() -> impl Strategy<Value = String> {
    select(QUBES).prop_map(str::to_owned)
}

fn source() -> impl Strategy<Value = String> {
    prop_oneof![
        3 => qube(),
        2 => select(vec!["*", "@anyvm", "@tag:job", "@type:AppVM", "@adminvm", "uuid:id-work"]).prop_map(str::to_owned),
    ]
}

fn target() -> impl Strategy<Value = String> {
    let words = vec![
        "*",
        "@anyvm",
        "@adminvm",
        "@default",
        "@dispvm",
        "@dispvm:dvm",
        "@dispvm:@tag:red",
        "@tag:red",
        "@type:RemoteVM",
        "dom0",
        "uuid:id-vault",
    ];
    prop_oneof![3 => qube(), 3 => select(words).prop_map(str::to_owned)]
}

fn redirect() -> impl Strategy<Value = String> {
    prop_oneof![3 => qube(), 1 => select(vec!["@adminvm", "@dispvm", "@dispvm:dvm-red", "gone"]).prop_map(str::to_owned)]
}

fn action() -> impl Strategy<Value = String> {
    prop_oneof![
        Just("deny".to_owned()),
        redirect().prop_map(|target| format!("allow target={target}")),
        redirect().prop_map(|target| format!("allow target={target} autostart=no user=root")),
        redirect().prop_map(|target| format!("ask target={target} default_target={target}")),
        Just("ask autostart=no".to_owned()),
        Just("ask".to_owned()),
    ]
}

/// A correct line about one of a few services.
fn rule() -> impl Strategy<Value = String> {
    let service = prop_oneof![
        4 => (select(SERVICES), select(vec!["*", "*", "+", "+1", "+2"])).prop_map(|(s, a)| format!("{s} {a}")),
        1 => Just("* *".to_owned()),
    ];
    (service, source(), target(), action()).prop_map(|(service, source, target, action)| {
        let bare = action == "ask" || action == "deny" || target == "@default";
        // Let some rules allow what was asked for.
        let action = if !bare && action.ends_with("=vault") { "allow".to_owned() } else { action };
        format!("{service} {source} {target} {action}\n")
    })
}

fn rules() -> impl Strategy<Value = Vec<String>> {
    prop::collection::vec(rule(), 0..12)
}

#[derive(Clone, Debug)]
struct Call {
    source: String,
    target: String,
    service: String,
}

impl Call {
    fn request(&self) -> Request<'_> {
        Request::new(&self.source, &self.target, &self.service)
    }
}

fn call() -> impl Strategy<Value = Call> {
    let asked = prop_oneof![
        3 => qube(),
        1 => select(vec!["", "@default", "@dispvm", "@dispvm:dvm", "@adminvm", "dom0", "gone", "@anyvm"])
            .prop_map(str::to_owned),
    ];
    (qube(), asked, select(SERVICES), select(ARGUMENTS)).prop_map(|(source, target, service, argument)| {
        Call { source, target, service: format!("{service}{argument}") }
    })
}

fn decide(lines: &[String], call: &Call, system: &SystemInfo) -> Decision {
    compile(&lines.concat()).expect("good lines").decide(system, &call.request())
}

/// Whether any rule had a word in it.
fn undecided(decision: &Decision) -> bool {
    matches!(decision, Decision::Deny(deny) if deny.reason == "no rule matches")
}

fn is_allowed(decision: &Decision) -> bool {
    matches!(decision, Decision::Allow(_))
}

fn decided_by(decision: &Decision) -> Option<RuleRef> {
    match decision {
        Decision::Allow(allow) => Some(allow.rule.clone()),
        Decision::Ask(ask) => Some(ask.rule.clone()),
        Decision::Deny(deny) => deny.rule.clone(),
    }
}

/// An explanation looks at every rule for the service.
fn decides_as_explained(lines: &[String], call: &Call) -> Result<(), TestCaseError> {
    let system = system();
    let policy = compile(&lines.concat()).unwrap();
    let explained = policy.explain(&system, &call.request());
    let rule = decided_by(&policy.decide(&system, &call.request()));
    match explained.steps.last() {
        Some(last) if last.matched || last.why.starts_with("cannot be evaluated") => {
            prop_assert_eq!(Some(&last.rule), rule.as_ref());
        }
        _ => prop_assert!(rule.is_none()),
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_first_rule_that_alone_would_decide_decides(lines in rules(), call in call()) {
        let system = system();
        let whole = decide(&lines, &call, &system);
        let first = lines.iter().position(|line| !undecided(&decide(std::slice::from_ref(line), &call, &system)));
        match first {
            // Calls that are denied before any rule, too.
            None => prop_assert!(matches!(whole, Decision::Deny(_))),
            Some(first) => {
                let upto = decide(&lines[..=first], &call, &system);
                match &whole {
                    // More targets may be offered by what follows; the line that asks is the same.
                    Decision::Ask(ask) => prop_assert_eq!(ask.rule.line, u32::try_from(first + 1).ok()),
                    Decision::Allow(_) => prop_assert_eq!(&whole, &upto),
                    // A question may also come to nothing by a later line that cannot be evaluated.
                    Decision::Deny(_) => prop_assert!(!is_allowed(&upto)),
                }
            }
        }
    }

    #[test]
    fn a_denial_in_front_shadows_everything(lines in rules(), call in call()) {
        let system = system();
        let mut shadowed = vec!["* * * * deny\n".to_owned()];
        shadowed.extend(lines);
        prop_assert!(matches!(decide(&shadowed, &call, &system), Decision::Deny(_)));
    }

    #[test]
    fn a_denied_target_is_never_offered(lines in rules(), call in call(), denied in qube()) {
        let system = system();
        let mut shadowed = vec![format!("* * * {denied} deny\n")];
        shadowed.extend(lines);
        if let Decision::Ask(ask) = decide(&shadowed, &call, &system) {
            // Only a rule that names its one target itself does not collect.
            let collected = shadowed[ask.rule.line.unwrap() as usize - 1].contains("ask target=");
            prop_assert!(collected || !ask.choices.contains(&denied));
        }
    }

    #[test]
    fn a_redirection_leads_where_it_says(call in call(), to in qube()) {
        let system = system();
        let decision = decide(&[format!("* * * * allow target={to}\n")], &call, &system);
        if let Decision::Allow(allow) = decision {
            let want = if to == "far" { "relay" } else { &to };
            prop_assert_eq!(allow.target, want);
            prop_assert_ne!(&to, &call.source);
        }
    }

    #[test]
    fn rules_for_other_services_change_nothing(
        lines in rules(), others in prop::collection::vec((rule(), any::<prop::sample::Index>()), 0..6), call in call()
    ) {
        let system = system();
        let own: Vec<String> = lines;
        let before = decide(&own, &call, &system);
        let mut mixed = own;
        for (line, at) in others {
            let (_, rest) = line.split_once(' ').unwrap();
            mixed.insert(at.index(mixed.len() + 1), format!("other.Service {rest}"));
        }
        let after = decide(&mixed, &call, &system);
        prop_assert_eq!(brief(&before), brief(&after));
    }

    #[test]
    fn one_bad_line_denies_everything(
        lines in rules(), bad in select(vec!["x", "* * * *", "* * * * alow", "!include", "* * * @x deny", "* * * * deny x=y"]),
        at in any::<prop::sample::Index>(), call in call()
    ) {
        let mut lines = lines;
        lines.insert(0, "* * * * allow target=vault\n".to_owned());
        lines.insert(at.index(lines.len() + 1), format!("{bad}\n"));
        let files = Files::new().policy("1.policy", lines.concat());
        prop_assert!(Policy::compile(&files).is_err());
        let decision = Policy::compile_or_deny(&files).decide(&system(), &call.request());
        prop_assert!(matches!(decision, Decision::Deny(_)));
    }

    #[test]
    fn no_rule_is_passed_over_that_would_match(lines in rules(), call in call()) {
        decides_as_explained(&lines, &call)?;
    }

    #[test]
    fn none_of_many_either(lines in prop::collection::vec(rule(), 60..400), passed in 0..400_usize, call in call()) {
        decides_as_explained(&lines, &call)?;
        // Without those in front that would decide, so that the one that does is far behind.
        let system = system();
        let alone = |line: &String| decided_by(&decide(std::slice::from_ref(line), &call, &system)).is_some();
        let kept = lines.into_iter().enumerate().filter(|(place, line)| *place >= passed || !alone(line));
        let kept: Vec<String> = kept.map(|(_, line)| line).collect();
        decides_as_explained(&kept, &call)?;
    }

    #[test]
    fn any_bytes_end_and_allow_nothing_behind_a_denial(text in prop::collection::vec(any::<u8>(), 0..400), call in call()) {
        let files = Files::new().policy("1.policy", "* * * * deny\n").policy("2.policy", text.as_slice());
        let decision = Policy::compile_or_deny(&files).decide(&system(), &call.request());
        prop_assert!(!is_allowed(&decision));
    }

    #[test]
    fn damaged_policies_allow_only_what_a_line_of_theirs_allows(
        lines in rules(), damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4), call in call()
    ) {
        let mut text = lines.concat().into_bytes();
        for (at, byte) in damage {
            if !text.is_empty() {
                let at = at.index(text.len());
                text[at] = byte;
            }
        }
        let policy = Policy::compile_or_deny(&Files::new().policy("1.policy", text.as_slice()));
        let system = system();
        if let Decision::Allow(allow) = policy.decide(&system, &call.request()) {
            let said = policy.rules().iter().find(|rule| rule.line == allow.rule.line);
            prop_assert!(said.is_some_and(|rule| rule.to_string().contains(" allow")));
        }
        let explained = policy.explain(&system, &call.request());
        prop_assert_eq!(explained.decision, policy.decide(&system, &call.request()));
    }

    #[test]
    fn any_request_gets_a_decision(
        source in any::<String>(), target in any::<String>(), service in any::<String>(), requested in any::<Option<String>>()
    ) {
        let request = Request { requested_source: requested.as_deref(), ..Request::new(&source, &target, &service) };
        let open = compile("* * * * allow").unwrap();
        let decision = open.decide(&system(), &request);
        prop_assert_eq!(decision.answer().lines().filter(|line| line.starts_with("result=")).count(), 1);
    }

    #[test]
    fn rules_are_written_as_they_are_read(lines in rules()) {
        let policy = compile(&lines.concat()).unwrap();
        let written: String = policy.rules().iter().map(|rule| format!("{rule}\n")).collect();
        let again = compile(&written).unwrap();
        prop_assert_eq!(policy.rules(), again.rules());
    }
}
