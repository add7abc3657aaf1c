//! Folders of before R4.1, without any `policy.d`.

mod support;

use policy::legacy::{LegacyPolicy, always_allow, default_text, file_name};
use policy::{Decision, Files, Request};
use support::{brief, system};

fn decide(files: &Files, source: &str, target: &str, service: &str) -> String {
    let folder = LegacyPolicy::compile(files).expect("the folder is there");
    let request = Request::new(source, target, service);
    match folder.for_service(request.service, request.argument) {
        Some(policy) => brief(&policy.decide(&system(), &request)),
        None => "no file".to_owned(),
    }
}

#[test]
fn the_special_file_decides_alone() {
    let files = Files::new()
        .compat("demo.Add", "$anyvm $anyvm allow\n")
        .compat("demo.Add+x", "work vault allow,user=root\n");
    assert_eq!(decide(&files, "work", "vault", "demo.Add+x"), "allow vault");
    assert_eq!(decide(&files, "work", "home", "demo.Add+x"), "deny");
    assert_eq!(decide(&files, "work", "home", "demo.Add+y"), "allow home");
    assert_eq!(decide(&files, "work", "home", "demo.Add"), "allow home");
    assert_eq!(decide(&files, "work", "home", "demo.Sub"), "no file");
}

#[test]
fn keywords_without_sign_are_those_of_the_first_releases() {
    let files = Files::new().compat("old.Copy", "dom0 anyvm allow\nanyvm dispvm allow\nanyvm anyvm allow\n");
    assert_eq!(decide(&files, "work", "@dispvm", "old.Copy"), "allow @dispvm:dvm");
    assert_eq!(decide(&files, "work", "vault", "old.Copy"), "allow vault");
    assert_eq!(decide(&files, "work", "dom0", "old.Copy"), "deny");
    assert_eq!(decide(&files, "dom0", "work", "old.Copy"), "allow work");
}

/// The examples of upstream's page about R3 with names of the test's system.
#[test]
fn tags_types_defaults_and_bases_of_disposables_are_understood_in_old_files() {
    let files = Files::new()
        .compat("a.Base", "work $dispvm:dvm allow\n")
        .compat("a.Redirect", "work $dispvm allow,target=$dispvm:dvm-red\nwork $dispvm:dvm-red deny\n")
        .compat("a.Default", "work $dispvm allow\n")
        .compat("a.Kinds", "$tag:job $type:AppVM allow\n")
        .compat("a.Mail", "work vault allow\nwork $tag:red ask,default_target=home\nwork $default ask,default_target=home\nwork home ask\n");
    for (target, service, expected) in [
        ("@dispvm:dvm", "a.Base", "allow @dispvm:dvm"),
        ("@dispvm:dvm-red", "a.Base", "deny"),
        ("@dispvm", "a.Redirect", "allow @dispvm:dvm-red"),
        ("@dispvm", "a.Default", "allow @dispvm:dvm"),
        ("@dispvm:dvm", "a.Default", "deny"),
        ("vault", "a.Kinds", "allow vault"),
        ("vault", "a.Mail", "allow vault"),
        ("dvm-red", "a.Mail", "ask dvm-red home vault (home)"),
        ("", "a.Mail", "ask dvm-red home vault (home)"),
        ("relay", "a.Mail", "deny"),
    ] {
        assert_eq!(decide(&files, "work", target, service), expected, "{service} {target:?}");
    }
    assert_eq!(decide(&files, "home", "vault", "a.Kinds"), "deny", "it has no such tag");
}

#[test]
fn an_error_denies_its_own_service_only() {
    let files = Files::new().compat("a.A", "nonsense\n").compat("b.B", "$anyvm $anyvm allow\n");
    assert_eq!(decide(&files, "work", "home", "a.A"), "deny");
    assert_eq!(decide(&files, "work", "home", "b.B"), "allow home");
}

/// The text of a service's file after "Yes to All" to `chosen`.
fn always(text: &str, source: &str, target: &str, chosen: &str) -> Option<String> {
    let folder = LegacyPolicy::compile(&Files::new().compat("a.A", text)).expect("the folder is there");
    let request = Request::new(source, target, "a.A");
    match folder.for_service("a.A", "+").expect("the file is there").decide(&system(), &request) {
        Decision::Ask(ask) => always_allow(text, &request, &ask, chosen),
        other => panic!("{other:?}"),
    }
}

#[test]
fn yes_to_all_stands_before_everything() {
    let text = always(default_text(), "work", "vault", "vault").unwrap();
    let files = Files::new().compat("a.A", text.as_str());
    assert!(text.starts_with("work\tvault\tallow\n##"), "{text}");
    assert_eq!(decide(&files, "work", "vault", "a.A"), "allow vault");
    assert!(decide(&files, "work", "home", "a.A").starts_with("ask "));
    assert!(decide(&files, "home", "vault", "a.A").starts_with("ask "));
}

#[test]
fn yes_to_all_keeps_what_the_rule_said_and_where_the_user_chose() {
    let first = |text: &str, target, chosen| {
        let text = always(text, "work", target, chosen)?;
        text.lines().next().map(str::to_owned)
    };
    let text = "work $anyvm ask,user=root,autostart=no\n$anyvm $anyvm allow\n";
    assert_eq!(first(text, "vault", "vault").as_deref(), Some("work\tvault\tallow,user=root,autostart=no"));
    assert_eq!(first("work $anyvm ask\n", "", "home").as_deref(), Some("work\t$default\tallow,target=home"));
    assert_eq!(
        first("work $anyvm ask\n", "@dispvm", "@dispvm:dvm").as_deref(),
        Some("work\t$dispvm\tallow,target=$dispvm:dvm")
    );
    assert_eq!(first("work $anyvm ask\n", "@dispvm:dvm", "@dispvm:dvm"), None);
    assert_eq!(first("work $anyvm ask\n", "uuid:id-vault", "vault"), None);
}

#[test]
fn a_file_is_made_only_for_what_a_service_may_be_called() {
    assert_eq!(file_name("demo.Add"), Some("demo.Add"));
    for bad in ["", ".hidden", "a+b", "../x", "a.rpmsave", "a b"] {
        assert_eq!(file_name(bad), None, "{bad}");
    }
}
