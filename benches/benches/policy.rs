//! What a decision costs. Promise: at most 10 µs with 1,000 rules; loading 10,000 rules at most 50 ms.

use std::fmt::Write as _;
use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use policy::{Domain, Files, Policy, Request, SystemInfo};

const QUBES: usize = 100;

fn system() -> SystemInfo {
    let domains = (0..QUBES).map(|n| Domain {
        tags: vec![format!("tag-{}", n % 7)],
        uuid: Some(format!("{n:08x}-0000-4000-8000-000000000000")),
        power_state: "Running".to_owned(),
        template_for_dispvms: n % 10 == 0,
        default_dispvm: Some("qube-0".to_owned()),
        ..Domain::new(format!("qube-{n}"), "AppVM")
    });
    SystemInfo::new(domains).expect("good names")
}

/// Rules for one service that match no call, and one at the end that does.
fn one_service(rules: usize, last: &str) -> String {
    let mut text = String::new();
    for n in 0..rules {
        let line = match n % 4 {
            0 => format!("qube-{} qube-{} allow", n % 50 + 2, n % 90),
            1 => format!("qube-1 qube-{} deny", n % 40 + 3),
            2 => format!("@tag:tag-{} qube-{} allow", n % 6 + 2, n % 90),
            _ => format!("qube-1 @tag:none-{n} deny"),
        };
        writeln!(text, "demo.Add * {line}").expect("memory takes text");
    }
    text + last
}

/// As many services as rules.
fn many_services(rules: usize) -> String {
    let mut text = String::new();
    for n in 0..rules {
        writeln!(text, "demo.Service{n} * qube-{} @anyvm allow", n % QUBES).expect("memory takes text");
    }
    text + "* * * * deny\n"
}

fn compile(text: &str) -> Policy {
    Policy::compile(&Files::new().policy("30-user.policy", text)).expect("a good policy")
}

fn decisions(c: &mut Criterion) {
    let system = system();
    let cases = [
        ("1000 rules, all for the service", one_service(1000, "demo.Add * * * allow\n"), "demo.Add+x"),
        ("1000 rules, ask", one_service(1000, "demo.Add * * * ask\n"), "demo.Add+x"),
        ("1000 rules, each for its service", many_services(1000), "demo.Service501+x"),
        ("100000 rules, each for its service", many_services(100_000), "demo.Service501+x"),
    ];
    let mut group = c.benchmark_group("policy/decide");
    for (name, text, service) in &cases {
        let policy = compile(text);
        let request = Request::new("qube-1", "qube-2", service);
        group.bench_function(*name, |b| b.iter(|| black_box(&policy).decide(&system, black_box(&request))));
    }
    group.finish();
}

fn loading(c: &mut Criterion) {
    let files = Files::new().policy("30-user.policy", many_services(10_000));
    c.bench_function("policy/compile 10000 rules", |b| {
        b.iter(|| Policy::compile(black_box(&files)).expect("a good policy"));
    });
}

criterion_group!(benches, decisions, loading);
criterion_main!(benches);
