//! Folders of before R4.1, without any `policy.d`.

mod support;

use policy::legacy::{LegacyPolicy, always_allow, default_text};
use policy::{Files, Request};
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

#[test]
fn an_error_denies_its_own_service_only() {
    let files = Files::new().compat("a.A", "nonsense\n").compat("b.B", "$anyvm $anyvm allow\n");
    assert_eq!(decide(&files, "work", "home", "a.A"), "deny");
    assert_eq!(decide(&files, "work", "home", "b.B"), "allow home");
}

#[test]
fn yes_to_all_stands_before_everything() {
    let text = always_allow(default_text(), "work", "vault");
    let files = Files::new().compat("a.A", text.as_str());
    assert!(text.find("work\tvault\tallow").unwrap() < text.find("##").unwrap());
    assert_eq!(decide(&files, "work", "vault", "a.A"), "allow vault");
    assert!(decide(&files, "work", "home", "a.A").starts_with("ask "));
}
