//! Which files count, in which order, what they may say, and that one error denies everything.

mod support;

use policy::{Decision, Files, Policy, Request, Source};
use support::{Tree, brief, system};

const RUN: &str = "/run";
const ETC: &str = "/etc";

/// The rules in their order, as `FILE:LINE`.
fn order(policy: &Policy) -> Vec<String> {
    policy
        .rules()
        .iter()
        .map(|rule| {
            format!("{}:{}", rule.file, rule.line.map_or("implied".to_owned(), |line| line.to_string()))
        })
        .collect()
}

/// The text of the error, which every decision must then carry.
fn error(source: &dyn Source) -> String {
    let error = Policy::compile(source).expect_err("an error").to_string();
    let decision = Policy::compile_or_deny(source).decide(&system(), &Request::new("work", "home", "a.B"));
    let Decision::Deny(deny) = decision else { panic!("a broken policy allowed a call") };
    assert!(deny.reason.contains(&error), "{}", deny.reason);
    error
}

const ALLOW: &str = "* * * * allow\n";

#[test]
fn files_are_read_in_byte_order_and_run_hides_etc() {
    let tree = Tree::new(&[RUN, ETC])
        .file("/etc/30-b.policy", ALLOW)
        .file("/etc/9.policy", ALLOW)
        .file("/etc/30-a.policy", ALLOW)
        .file("/etc/30_a.policy", ALLOW)
        .file("/run/30-b.policy", "* * * * deny\n")
        .file("/run/10.policy", ALLOW)
        .file("/run/.hidden.policy", "nonsense")
        .file("/run/.Hidden.policy", "nonsense")
        .file("/etc/README", "nonsense")
        .file("/etc/x.policy.bak", "nonsense");
    let policy = tree.compile().unwrap();
    assert_eq!(
        order(&policy),
        [
            "/run/10.policy:1",
            "/etc/30-a.policy:1",
            "/run/30-b.policy:1",
            "/etc/30_a.policy:1",
            "/etc/9.policy:1"
        ]
    );
}

#[test]
fn one_bad_name_or_missing_folder_denies_everything() {
    let good = Tree::new(&[RUN, ETC]).file("/run/a.policy", ALLOW).file("/etc/a.policy", ALLOW);
    assert!(good.compile().is_ok());
    for bad in ["/etc/A.policy", "/run/a b.policy", "/etc/é.policy", "/etc/a+.policy"] {
        assert!(error(&good.clone().file(bad, "")).contains("bad name"), "{bad}");
    }
    assert!(error(&Tree::new(&[RUN, ETC]).file("/etc/a.policy", ALLOW)).contains("\"/run\""));
}

#[test]
fn one_bad_line_denies_everything() {
    for bad in ["x", "* * * * allow user", "!unknown", "* * @default * deny", "\u{feff}* * * * allow", "\0"] {
        let text = format!("{ALLOW}# fine\n  {bad}\n{ALLOW}");
        assert!(error(&Files::new().policy("1.policy", text)).starts_with("1.policy:3:"), "{bad}");
    }
    let files = Files::new().policy("1.policy", ALLOW).policy("2.policy", b"# \xff\n".as_slice());
    assert!(error(&files).starts_with("2.policy:1:3: this byte is not UTF-8"));
}

#[test]
fn includes_are_relative_to_the_top_level_file() {
    let tree = Tree::new(&[ETC])
        .file("/etc/1.policy", "!include include/a\n* * * * deny\n!include /other/b\n")
        .file("/etc/include/a", "!include include/c\na.A * * * allow\n")
        .file("/etc/include/c", "b.B * * * allow\n")
        .file("/other/b", "!include include/c\n");
    assert_eq!(
        order(&tree.compile().unwrap()),
        ["/etc/include/c:1", "/etc/include/a:2", "/etc/1.policy:2", "/etc/include/c:1"]
    );
}

#[test]
fn included_folders_follow_the_rules_of_policy_folders() {
    let tree = Tree::new(&[ETC])
        .file("/etc/1.policy", "!include-dir d\n")
        .file("/etc/d/b.policy", ALLOW)
        .file("/etc/d/a.policy", ALLOW)
        .file("/etc/d/notes", "nonsense");
    assert_eq!(order(&tree.compile().unwrap()), ["/etc/d/a.policy:1", "/etc/d/b.policy:1"]);
    assert!(error(&tree.file("/etc/d/B.policy", "")).contains("bad name"));
}

#[test]
fn included_old_files_get_their_service_from_the_directive() {
    let files = Files::new()
        .policy("1.policy", "!include-service a.A +x include/old\n!include-service * * include/old\n")
        .include("include/old", "# old\n$tag:job $default ask,target=vault,user=root\n$include:include/more")
        .include("include/more", "work\tvault allow , autostart=no");
    let rules: Vec<String> =
        Policy::compile(&files).unwrap().rules().iter().map(ToString::to_string).collect();
    assert_eq!(
        rules,
        [
            "a.A +x @tag:job @default ask target=vault user=root",
            "a.A +x work vault allow autostart=no",
            "* * @tag:job @default ask target=vault user=root",
            "* * work vault allow autostart=no",
        ]
    );
}

#[test]
fn directives_with_the_wrong_words_are_errors() {
    for (line, text) in [
        ("!include", "!include FILE"),
        ("!include a b", "!include FILE"),
        ("!include nothing", "there is no file"),
        ("!include-dir", "!include-dir FOLDER"),
        ("!include-dir nothing", "there is no folder"),
        ("!include-service a.A *", "SERVICE ARGUMENT FILE"),
        ("!include-service a.A x f", "write `*` for any"),
        ("!include-service * +x f", "must be `*` too"),
        ("!compat-4.0 now", "stands alone"),
        ("!compat-4.1", "no directive"),
        ("! include f", "no directive"),
    ] {
        let files = Files::new().policy("1.policy", line).include("f", "");
        let error = error(&files);
        assert!(error.starts_with("1.policy:1:") && error.contains(text), "{line}: {error}");
    }
    let files = Files::new().policy("1.policy", "!include-service a.A * f").include("f", "!include-dir d");
    assert!(error(&files).contains("no directive of the old format"));
}

#[test]
fn include_cycles_end_in_an_error() {
    let own = Files::new().policy("1.policy", "!include 1.policy");
    assert!(error(&own).contains("include cycle: 1.policy -> 1.policy"), "{}", error(&own));
    let pair =
        Files::new().policy("1.policy", "!include a").include("a", "!include b").include("b", "!include a");
    assert!(error(&pair).contains("include cycle: 1.policy -> a -> b -> a"));
    let folder = Files::new().policy("1.policy", "!include-dir d").include("d/a.policy", "!include-dir d");
    assert!(error(&folder).contains("include cycle"));
    let old = Files::new().policy("1.policy", "!include-service * * f").include("f", "$include:f");
    assert!(error(&old).contains("include cycle"));
    let compat = Files::new().policy("1.policy", "!compat-4.0").compat("a.A", "$include:a.A");
    assert!(error(&compat).contains("include cycle"));
}

#[test]
fn includes_without_end_end() {
    // Twice the next file in each of 60: 2^60 files to read.
    let files = (0..60).fold(Files::new().policy("1.policy", "!include 0"), |files, n| {
        let next = format!("!include {0}\n!include {0}\n", n + 1);
        files.include(n.to_string(), next)
    });
    assert!(error(&files.include("60", "")).contains("larger than"));
    let files = (0..200).fold(Files::new().policy("1.policy", "!include 0"), |files, n| {
        files.include(n.to_string(), format!("!include {}", n + 1))
    });
    assert!(error(&files).contains("include one another"));
}

#[test]
fn compat_reads_the_old_folder_in_its_order() {
    let files = Files::new()
        .policy("1.policy", "first.X * * * deny\n!compat-4.0\n* * * * deny\n")
        .compat("b.B", "$anyvm $anyvm allow\n")
        .compat("b.B+y", "work vault allow\n")
        .compat("b.B+x", "work vault allow\n")
        .compat("a.A", "$include:shared\n")
        .compat("b.B.rpmsave", "nonsense")
        .compat("b.B~", "nonsense")
        .compat(".b.B", "nonsense")
        .include("shared", "home vault allow\n");
    let policy = Policy::compile(&files).unwrap();
    assert_eq!(
        order(&policy),
        [
            "1.policy:1",
            "compat/shared:1",
            "compat/b.B+x:1",
            "compat/b.B+x:implied",
            "compat/b.B+x:implied",
            "compat/b.B+y:1",
            "compat/b.B+y:implied",
            "compat/b.B+y:implied",
            "compat/b.B:1",
            "1.policy:3",
        ]
    );
    let decide =
        |source, target, service| brief(&policy.decide(&system(), &Request::new(source, target, service)));
    assert_eq!(decide("work", "vault", "b.B+x"), "allow vault");
    assert_eq!(decide("work", "home", "b.B+x"), "deny");
    assert_eq!(decide("work", "home", "b.B+z"), "allow home");
    assert_eq!(decide("home", "vault", "a.A"), "allow vault");
}

#[test]
fn compat_without_an_old_folder_denies_everything() {
    assert!(error(&Tree::new(&[ETC]).file("/etc/1.policy", "!compat-4.0\n")).contains("\"/old\""));
}
