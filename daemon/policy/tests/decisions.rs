//! One rule or a few, one call, one decision.

mod support;

use policy::{Decision, Domain, Files, Policy, Request, SystemInfo};
use support::{brief, decide, policy, system};

fn check(table: &[(&str, &str, &str, &str)]) {
    for (text, source, target, want) in table {
        assert_eq!(brief(&decide(text, source, target)), *want, "{source} -> {target}\n{text}");
    }
}

#[test]
fn service_and_argument_columns() {
    for (columns, want) in [
        ("demo.Add *", "allow vault"),
        ("demo.Add +1", "allow vault"),
        ("* *", "allow vault"),
        ("demo.Add +", "deny"),
        ("demo.Add +11", "deny"),
        ("demo.Ad *", "deny"),
        ("demo.add *", "deny"),
    ] {
        assert_eq!(
            brief(&decide(&format!("{columns} work vault allow"), "work", "vault")),
            want,
            "{columns}"
        );
    }
}

#[test]
fn the_source_column() {
    check(&[
        ("* * work vault allow", "work", "vault", "allow vault"),
        ("* * home vault allow", "work", "vault", "deny"),
        ("* * uuid:id-work vault allow", "work", "vault", "allow vault"),
        ("* * work vault allow", "uuid:id-work", "vault", "allow vault"),
        ("* * uuid:id-work vault allow", "uuid:id-work", "vault", "allow vault"),
        ("* * * vault allow", "dom0", "vault", "allow vault"),
        ("* * @anyvm vault allow", "dom0", "vault", "deny"),
        ("* * @anyvm vault allow", "stranger", "vault", "allow vault"),
        ("* * dom0 vault allow", "dom0", "vault", "allow vault"),
        ("* * @adminvm vault allow", "dom0", "vault", "allow vault"),
        ("* * @tag:job vault allow", "work", "vault", "allow vault"),
        ("* * @tag:job vault allow", "home", "vault", "deny"),
        ("* * @type:AppVM vault allow", "home", "vault", "allow vault"),
        ("* * @type:TemplateVM vault allow", "home", "vault", "deny"),
        ("* * @dispvm:dvm vault allow", "dvm", "vault", "deny"),
        ("* * @dispvm:@tag:red vault allow", "dvm-red", "vault", "deny"),
    ]);
}

#[test]
fn the_target_column() {
    check(&[
        ("* * work * allow", "work", "vault", "allow vault"),
        ("* * work @anyvm allow", "work", "vault", "allow vault"),
        ("* * work @anyvm allow", "work", "dom0", "deny"),
        ("* * work * allow", "work", "dom0", "allow dom0"),
        ("* * work dom0 allow", "work", "@adminvm", "allow dom0"),
        ("* * work @adminvm allow", "work", "uuid:00000000-0000-0000-0000-000000000000", "allow dom0"),
        ("* * work uuid:00000000-0000-0000-0000-000000000000 allow", "work", "dom0", "allow dom0"),
        ("* * work uuid:id-vault allow", "work", "vault", "allow vault"),
        ("* * work vault allow", "work", "uuid:id-vault", "allow uuid:id-vault"),
        ("* * work @tag:red allow", "work", "dvm-red", "allow dvm-red"),
        ("* * work @type:RemoteVM allow", "work", "far", "allow relay"),
        // Tags and types are facts of named qubes, not of keywords.
        ("* * work @type:AdminVM allow", "work", "@adminvm", "deny"),
        ("* * work @type:AdminVM allow", "work", "dom0", "allow dom0"),
    ]);
}

#[test]
fn what_callers_may_ask_for() {
    check(&[
        ("* * * * allow", "work", "@anyvm", "deny"),
        ("* * * * allow", "work", "*", "deny"),
        ("* * * * allow", "work", "@tag:job", "deny"),
        ("* * * * allow", "work", "@type:AppVM", "deny"),
        ("* * * * allow", "work", "@nonsense", "deny"),
        ("* * * * allow", "work", "", "deny"),
        ("* * * * allow target=vault", "work", "", "allow vault"),
        ("* * * * allow target=vault", "work", "no-such-qube", "allow vault"),
        ("* * * * allow", "work", "work", "deny"),
        ("* * * * allow", "work", "vau\nlt", "deny"),
    ]);
}

#[test]
fn default_targets() {
    check(&[
        ("* * work @default allow target=vault", "work", "@default", "allow vault"),
        ("* * work @default allow target=vault", "work", "home", "deny"),
        ("* * work @anyvm allow target=vault", "work", "@default", "allow vault"),
        ("* * work vault allow", "work", "@default", "deny"),
    ]);
}

#[test]
fn disposables() {
    check(&[
        ("* * work @dispvm allow", "work", "@dispvm", "allow @dispvm:dvm"),
        ("* * work @dispvm allow", "work", "@dispvm:dvm", "deny"),
        ("* * work @dispvm:dvm allow", "work", "@dispvm", "allow @dispvm:dvm"),
        ("* * work @dispvm:dvm allow", "work", "@dispvm:dvm", "allow @dispvm:dvm"),
        ("* * work @dispvm:uuid:id-dvm allow", "work", "@dispvm:dvm", "allow @dispvm:dvm"),
        ("* * work @dispvm:dvm-red allow", "work", "@dispvm", "deny"),
        ("* * work @dispvm:@tag:red allow", "work", "@dispvm:dvm-red", "allow @dispvm:dvm-red"),
        ("* * work @dispvm:@tag:red allow", "work", "@dispvm", "deny"),
        ("* * work @anyvm allow", "work", "@dispvm", "allow @dispvm:dvm"),
        ("* * work @anyvm allow", "work", "@dispvm:vault", "deny"),
        // No default: `@dispvm` leads nowhere, and a rule that needs it cannot be evaluated.
        ("* * vault @dispvm allow", "vault", "@dispvm", "deny"),
        ("* * * @dispvm:dvm deny\n* * * * allow target=home", "vault", "@dispvm", "deny"),
        ("* * * @dispvm:@tag:red deny\n* * * * allow target=home", "vault", "@dispvm", "allow home"),
    ]);
}

#[test]
fn redirection() {
    check(&[
        ("* * work * allow target=vault", "work", "home", "allow vault"),
        ("* * work * allow target=@adminvm", "work", "home", "allow dom0"),
        ("* * work * allow target=dom0", "work", "home", "allow dom0"),
        ("* * work * allow target=@dispvm", "work", "home", "allow @dispvm:dvm"),
        ("* * work * allow target=@dispvm:dvm-red", "work", "home", "allow @dispvm:dvm-red"),
        ("* * work * allow target=@dispvm:vault", "work", "home", "deny"),
        ("* * work * allow target=no-such-qube", "work", "home", "deny"),
        ("* * work * allow target=work", "work", "home", "deny"),
        ("* * work home allow target=vault\n* * work vault deny", "work", "home", "allow vault"),
    ]);
}

#[test]
fn autostart() {
    check(&[
        ("* * work * allow autostart=no", "work", "home", "allow home"),
        ("* * work * allow autostart=no", "work", "vault", "deny"),
        ("* * work * allow autostart=no", "work", "dom0", "allow dom0"),
        ("* * work * allow autostart=no", "work", "@dispvm", "deny"),
        ("* * work * ask autostart=no", "work", "home", "ask dom0 far home relay"),
        ("* * work * ask target=vault autostart=no", "work", "home", "deny"),
    ]);
}

#[test]
fn choices_of_a_question() {
    check(&[
        (
            "* * work * ask",
            "work",
            "home",
            "ask @dispvm:dvm @dispvm:dvm-red dom0 dvm dvm-red far home relay vault",
        ),
        ("* * work @anyvm ask", "vault", "home", "deny"),
        (
            "* * * home ask\n* * * vault allow\n* * * relay deny\n* * * relay ask",
            "work",
            "home",
            "ask home vault",
        ),
        ("* * * home ask\n* * * @adminvm allow", "work", "home", "ask dom0 home"),
        // `@adminvm` takes away only `@adminvm`.
        ("* * * @adminvm deny\n* * * dom0 ask\n* * * home ask", "work", "home", "ask dom0 home"),
        ("* * * home ask target=vault", "work", "home", "ask vault"),
        ("* * * home ask target=@adminvm", "work", "home", "ask dom0"),
        ("* * * home ask default_target=home", "work", "home", "ask home (home)"),
        ("* * * home ask default_target=vault", "work", "home", "ask home"),
        ("* * * @dispvm ask default_target=@dispvm", "work", "@dispvm", "ask @dispvm:dvm (@dispvm:dvm)"),
        ("* * * dom0 ask default_target=@adminvm", "work", "dom0", "ask dom0 (dom0)"),
        ("* * * @dispvm:@tag:red ask", "work", "@dispvm:dvm-red", "ask @dispvm:dvm-red"),
        ("* * * hidden ask", "work", "hidden", "deny"),
        ("* * * work ask", "work", "work", "deny"),
        ("* * * @default ask\n* * * vault allow target=home", "work", "", "ask home"),
        ("* * * home ask", "stranger", "home", "deny"),
        ("* * * home ask\n* * * @dispvm:no-such-qube allow", "work", "home", "deny"),
        ("* * home @default ask\n* * @tag:job vault allow", "home", "", "deny"),
    ]);
}

#[test]
fn the_users_answer() {
    let Decision::Ask(ask) = decide("* * work * ask user=root notify=yes", "work", "home") else {
        panic!("a question was expected");
    };
    let system = system();
    assert_eq!(
        ask.choose(&system, "vault").answer(),
        "user=root\nresult=allow\ntarget=vault\ntarget_uuid=uuid:id-vault\nautostart=True\nrequested_target=home"
    );
    assert_eq!(brief(&ask.choose(&system, "dom0")), "allow dom0");
    assert_eq!(brief(&ask.choose(&system, "@dispvm:dvm")), "allow @dispvm:dvm");
    for bad in ["hidden", "work", "@dispvm", "@adminvm", "", "no-such-qube"] {
        assert_eq!(brief(&ask.choose(&system, bad)), "deny", "{bad:?}");
    }
    assert!(ask.refuse().notify);
    assert_eq!(ask.source(), "work");
}

#[test]
fn answers_are_in_upstreams_order() {
    let system = system();
    let answer = |text: &str, target: &str| {
        policy(text).decide(&system, &Request::new("work", target, "demo.Add+1")).answer()
    };
    assert_eq!(
        answer("* * * * allow", "@adminvm"),
        "user=DEFAULT\nresult=allow\ntarget=dom0\nautostart=True\nrequested_target=@adminvm"
    );
    assert_eq!(
        answer("* * * * allow user=root autostart=no", "home"),
        "user=root\nresult=allow\ntarget=home\ntarget_uuid=uuid:id-home\nautostart=False\nrequested_target=home"
    );
    assert_eq!(
        answer("* * * * allow", "@dispvm"),
        "user=DEFAULT\nresult=allow\ntarget=@dispvm:dvm\ntarget_uuid=@dispvm:uuid:id-dvm\nautostart=True\n\
         requested_target=@dispvm"
    );
    assert_eq!(
        answer("* * * * allow user=root", "far"),
        "user=DEFAULT\nresult=allow\ntarget=relay\ntarget_uuid=uuid:id-relay\nautostart=True\n\
         requested_target=far\nservice=air.Ssh+far+demo.Add+1"
    );
    assert_eq!(answer("* * * * ask", "home"), "result=deny");
    assert_eq!(answer("* * * * deny", "home"), "result=deny");
}

#[test]
fn the_remote_qube_that_was_decided_on_is_the_one_that_is_called() {
    let system = system();
    let service = |text: &str, target: &str| match policy(text)
        .decide(&system, &Request::new("work", target, "demo.Add+1"))
    {
        Decision::Allow(allow) => (allow.target, allow.service.unwrap_or_default()),
        Decision::Ask(ask) => match ask.choose(&system, "far") {
            Decision::Allow(allow) => (allow.target, allow.service.unwrap_or_default()),
            other => panic!("{other:?}"),
        },
        Decision::Deny(deny) => panic!("{}", deny.reason),
    };
    let far = ("relay".to_owned(), "air.Ssh+far+demo.Add+1".to_owned());
    for (text, target) in [
        ("* * * * allow", "far"),
        ("* * * * allow", "uuid:id-far"),
        ("* * * * allow target=far", "home"),
        ("* * * @default allow target=far", "@default"),
        ("* * * @default allow target=uuid:id-far", ""),
        ("* * * * allow target=far", "no-such-qube"),
        ("* * * * ask", "@default"),
        ("* * * * ask target=uuid:id-far", "home"),
    ] {
        assert_eq!(service(text, target), far, "{text} {target}");
    }
}

/// What the policy allows the daemon can carry out, and nobody is asked about what could not be done.
#[test]
fn allowed_is_only_what_can_be_done() {
    let mut domains = system().domains().to_vec();
    let named = |name: &str| Domain { uuid: Some(format!("id-{name}")), ..Domain::new(name, "AppVM") };
    domains.push(named("a b"));
    domains.push(named(&"x".repeat(64)));
    domains.push(Domain { uuid: Some("u/1".to_owned()), ..named("odd-uuid") });
    domains.push(Domain { uuid: Some("00000000-0000-0000-0000-000000000000".to_owned()), ..named("zero") });
    domains.push(Domain {
        relayvm: Some("relay".to_owned()),
        transport_rpc: Some("air:Ssh".to_owned()),
        ..Domain::new("odd-road", "RemoteVM")
    });
    domains.push(Domain { relayvm: Some("relay".to_owned()), ..Domain::new("no-road", "RemoteVM") });
    let system = SystemInfo::new(domains).unwrap();
    let long = "s".repeat(4100);
    let user = "u".repeat(256);
    let user = user.as_str();
    for (user, target, service) in [
        ("root:nogui", "home", "a.B"),
        ("../root", "home", "a.B"),
        ("a\u{7f}b", "home", "a.B"),
        (user, "home", "a.B"),
        ("root", "a b", "a.B"),
        ("root", &"x".repeat(64), "a.B"),
        ("root", "odd-uuid", "a.B"),
        ("root", "zero", "a.B"),
        ("root", "odd-road", "a.B"),
        ("root", "no-road", "a.B"),
        ("root", "home", &long),
        ("root", "far", &long),
    ] {
        for (just_evaluate, assume_yes) in [(false, false), (true, false), (false, true), (true, true)] {
            let request = Request { just_evaluate, assume_yes, ..Request::new("work", target, service) };
            for action in ["allow", "ask", "allow target=", "ask target="] {
                let to = if action.ends_with('=') && !target.contains(' ') { target } else { "" };
                let action = if to.is_empty() { action.trim_end_matches(" target=") } else { action };
                let rules = format!("* * * * {action}{to} user={user}\n");
                let Decision::Ask(ask) = policy(&rules).decide(&system, &request) else {
                    let said = policy(&rules).explain(&system, &request);
                    assert!(matches!(said.decision, Decision::Deny(_)), "{rules}{request:?}: {said}");
                    assert!(!said.to_string().contains("matches: allowed"), "{said}");
                    continue;
                };
                assert!(!ask.choices.iter().any(|choice| choice == target), "{rules}{request:?}");
            }
        }
    }
    // The user of a remote qube is the business of the other machine.
    let decision = policy("* * * * allow user=a:b").decide(&system, &Request::new("work", "far", "a.B"));
    assert_eq!(brief(&decision), "allow relay");
}

#[test]
fn questions_name_qubes_by_their_names() {
    check(&[
        ("* * * home ask default_target=uuid:id-home", "work", "home", "ask home (home)"),
        ("* * * vault ask target=uuid:id-home default_target=home", "work", "vault", "ask home (home)"),
        ("* * * home ask target=home default_target=uuid:id-home", "work", "home", "ask home (home)"),
        ("* * * home ask target=@dispvm", "work", "home", "ask @dispvm:dvm"),
        ("* * * home ask target=@dispvm", "vault", "home", "deny"),
        (
            "* * * @dispvm ask default_target=@dispvm:uuid:id-dvm",
            "work",
            "@dispvm",
            "ask @dispvm:dvm (@dispvm:dvm)",
        ),
        ("* * * home ask target=no-such-qube", "work", "home", "deny"),
        ("* * * home ask target=work", "work", "home", "deny"),
    ]);
}

#[test]
fn questions_about_a_remote_qube_are_asked_where_its_relays_are() {
    let mut domains = system().domains().to_vec();
    let set = |domains: &mut Vec<Domain>, name: &str, guivm: Option<&str>| {
        let domain = domains.iter_mut().find(|domain| domain.name == name).unwrap();
        domain.guivm = guivm.map(str::to_owned);
    };
    set(&mut domains, "relay", Some("gui"));
    set(&mut domains, "work", Some("dom0"));
    set(&mut domains, "far", Some("nonsense"));
    let system = SystemInfo::new(domains.clone()).unwrap();
    for (source, asked_in) in [
        ("dom0", Some("dom0")),
        ("@adminvm", Some("dom0")),
        ("work", Some("dom0")),
        ("relay", Some("gui")),
        ("far", Some("gui")),
        ("home", None),
        ("no-such-qube", None),
    ] {
        assert_eq!(system.asked_in(source), asked_in, "{source}");
    }
    let far = domains.iter_mut().find(|domain| domain.name == "far").unwrap();
    far.relayvm = Some("dom0".to_owned());
    assert_eq!(SystemInfo::new(domains).unwrap().asked_in("far"), Some("dom0"));
}

#[test]
fn remote_qubes_need_their_relay() {
    let mut domains = system().domains().to_vec();
    let far = domains.iter_mut().find(|domain| domain.name == "far").unwrap();
    for (relay, transport) in
        [(None, Some("air.Ssh")), (Some("relay"), None), (Some("gone"), Some("air.Ssh"))]
    {
        far.relayvm = relay.map(str::to_owned);
        far.transport_rpc = transport.map(str::to_owned);
        let far = far.clone();
        let system =
            SystemInfo::new([Domain::new("work", "AppVM"), Domain::new("relay", "AppVM"), far]).unwrap();
        let decision = policy("* * * * allow").decide(&system, &Request::new("work", "far", "a.B"));
        assert_eq!(brief(&decision), "deny", "{relay:?} {transport:?}");
    }
}

#[test]
fn a_relay_speaks_for_its_own_remote_qubes_only() {
    let system = system();
    let policy = policy("* * far vault allow");
    let ask = |source, requested| {
        let request = Request { requested_source: Some(requested), ..Request::new(source, "vault", "a.B") };
        policy.decide(&system, &request)
    };
    let Decision::Allow(allow) = ask("relay", "far") else { panic!("allowed") };
    assert_eq!(allow.policy_source.as_deref(), Some("far"));
    assert!(allow.answer().ends_with("requested_target=vault\npolicy_source=far"));
    let request = Request { requested_source: Some("far"), ..Request::new("relay", "@adminvm", "a.B") };
    let to_dom0 = self::policy("* * far @adminvm allow").decide(&system, &request);
    assert!(to_dom0.answer().ends_with("requested_target=@adminvm\npolicy_source=far"), "{to_dom0:?}");
    for (source, requested) in [("work", "far"), ("relay", "home"), ("relay", "gone"), ("relay", "")] {
        assert_eq!(brief(&ask(source, requested)), "deny", "{source} {requested}");
    }
}

#[test]
fn only_the_verdict() {
    let system = system();
    let ask = |text: &str, assume_yes, just_evaluate| {
        let request = Request { assume_yes, just_evaluate, ..Request::new("work", "home", "a.B") };
        policy(text).decide(&system, &request).answer()
    };
    let lines = |answer: String| answer.lines().count();
    assert_eq!(ask("* * * * allow", false, true), "result=allow");
    assert_eq!(ask("* * * * ask", false, true), "result=deny");
    assert_eq!(ask("* * * * ask", true, true), "result=allow");
    assert_eq!(lines(ask("* * * * ask", true, false)), 6);
    assert_eq!(ask("* * * * ask target=vault", true, false), "result=deny");
    assert_eq!(ask("* * * * deny", true, false), "result=deny");
}

#[test]
fn whom_to_tell() {
    let notify = |text: &str, target: &str| match decide(text, "work", target) {
        Decision::Allow(allow) => allow.notify,
        Decision::Ask(ask) => ask.notify,
        Decision::Deny(deny) => deny.notify,
    };
    assert!(notify("* * * * deny", "home"));
    assert!(!notify("* * * * deny notify=no", "home"));
    assert!(!notify("* * * * allow", "home"));
    assert!(notify("* * * * allow notify=yes", "home"));
    assert!(!notify("* * * * allow autostart=no", "vault"));
    assert!(notify("* * * * allow autostart=no notify=yes", "vault"));
    assert!(!notify("* * * * ask", "home"));
    assert!(notify("", "home"));
    assert!(!notify("* * * * allow", "@anyvm"));
    let broken = Policy::compile_or_deny(&Files::new().policy("a.policy", "nonsense"));
    let Decision::Deny(deny) = broken.decide(&system(), &Request::new("work", "home", "a.B")) else {
        panic!("denied");
    };
    assert!(!deny.notify && deny.reason.contains("a.policy:1:"), "{}", deny.reason);
}

#[test]
fn systems_without_uuids_have_no_target_uuid() {
    let system = SystemInfo::new([Domain::new("a", "AppVM"), Domain::new("b", "AppVM")]).unwrap();
    let decision = policy("* * * * allow").decide(&system, &Request::new("a", "b", "a.B"));
    assert_eq!(decision.answer(), "user=DEFAULT\nresult=allow\ntarget=b\nautostart=True\nrequested_target=b");
    assert!(
        !policy("* * * * allow")
            .decide(&system, &Request::new("a", "uuid:", "a.B"))
            .answer()
            .contains("allow")
    );
}

#[test]
fn the_first_line_that_matches_is_named() {
    let text = "# a comment\n\n* * home * allow\n* * work * allow\n* * work * deny\n";
    let Decision::Allow(allow) = decide(text, "work", "home") else { panic!("allowed") };
    assert_eq!(allow.rule.to_string(), "10-test.policy:4");
}
