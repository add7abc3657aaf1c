//! An explanation names the lines that were looked at and says why each did or did not match.

mod support;

use policy::{Files, Policy, Request};
use support::{policy, system};

#[test]
fn every_line_looked_at_has_a_reason() {
    let policy = policy(
        "other.X * * * deny\n\
         demo.Add +2 * * deny\n\
         * * home * deny\n\
         demo.Add * @tag:none * deny\n\
         demo.Add * work @adminvm deny\n\
         demo.Add * work @type:RemoteVM deny\n\
         demo.Add * work vault allow target=home\n\
         demo.Add * * * deny\n",
    );
    let explanation = policy.explain(&system(), &Request::new("work", "vault", "demo.Add+1"));
    let lines: Vec<_> =
        explanation.steps.iter().map(|step| (step.rule.line.unwrap(), step.why.as_str())).collect();
    assert_eq!(
        lines,
        [
            (2, "the argument +1 is not +2"),
            (3, "the source work is not home"),
            (4, "the source work has no tag none"),
            (5, "the target vault is not dom0"),
            (6, "the target vault is not of type RemoteVM"),
            (7, "matches: allowed, but to home"),
        ]
    );
    assert_eq!(explanation.other_services, 1);
    let text = explanation.to_string();
    assert!(text.contains("=> 10-test.policy:7: demo.Add * work vault allow target=home"), "{text}");
    assert!(text.ends_with("allow, target home (10-test.policy:7)"), "{text}");
}

#[test]
fn choices_are_traced_to_their_lines() {
    let policy =
        policy("* * * vault deny\n* * home * deny\n* * work home ask\n* * work * allow target=relay\n");
    let explanation = policy.explain(&system(), &Request::new("work", "home", "a.B"));
    let offers: Vec<_> =
        explanation.offers.iter().map(|step| (step.rule.line.unwrap(), step.why.as_str())).collect();
    assert_eq!(offers, [(1, "keeps vault out"), (3, "offers home"), (4, "offers relay")]);
    assert!(explanation.to_string().ends_with("ask, choices home relay (10-test.policy:3)"));
}

#[test]
fn what_is_decided_before_the_rules_is_said() {
    let system = system();
    let ask =
        |policy: &Policy, target| policy.explain(&system, &Request::new("work", target, "a.B")).to_string();
    let open = policy("* * * * allow target=vault");
    assert!(ask(&open, "gone").starts_with("note: \"gone\" is not in the system; taken as @default"));
    assert!(ask(&open, "@anyvm").starts_with("note: denied before any rule"));
    let broken = Policy::compile_or_deny(&Files::new().policy("1.policy", "nonsense"));
    assert!(ask(&broken, "home").starts_with("note: the policy is broken"));
    let fault = policy("* * * @dispvm:dvm deny\n* * * * allow");
    let text = fault.explain(&system, &Request::new("vault", "@dispvm", "a.B")).to_string();
    assert!(text.contains("cannot be evaluated, so the call is denied"), "{text}");
}
