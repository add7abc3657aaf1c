//! Administration of a folder, as its services do it.

use super::*;

fn folder() -> (tempfile::TempDir, Admin) {
    let root = tempfile::tempdir().unwrap();
    fs::create_dir_all(root.path().join("policy.d/include")).unwrap();
    fs::write(root.path().join("policy.d/30-user.policy"), "!include include/more\n").unwrap();
    fs::write(root.path().join("policy.d/include/more"), "a.B * work vault allow\n").unwrap();
    let admin = Admin::new(root.path().join("policy.d"), root.path().join("old"));
    (root, admin)
}

fn call(admin: &Admin, service: &str, argument: &str, input: &str) -> Result<String, &'static str> {
    let done = admin.call(service, argument, input.as_bytes());
    done.map(|output| String::from_utf8(output).unwrap()).map_err(|error| error.class())
}

const PROTOCOL: Result<String, &str> = Err("PolicyAdminProtocolException");
const TOKEN: Result<String, &str> = Err("PolicyAdminTokenException");
const SYNTAX: Result<String, &str> = Err("PolicyAdminSyntaxException");
const NOT_FOUND: Result<String, &str> = Err("PolicyAdminFileNotFoundException");

#[test]
fn files_are_listed_got_and_found_by_service() {
    let (_root, admin) = folder();
    assert_eq!(call(&admin, "policy.List", "", "").unwrap(), "30-user\n");
    assert_eq!(call(&admin, "policy.include.List", "", "").unwrap(), "more\n");
    let got = call(&admin, "policy.include.Get", "more", "").unwrap();
    assert_eq!(got, format!("{}\na.B * work vault allow\n", token(b"a.B * work vault allow\n")));
    assert_eq!(token(b""), "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    assert_eq!(call(&admin, "policy.GetFiles", "a.B", "").unwrap(), "more\n");
    assert_eq!(call(&admin, "policy.GetFiles", "a.C", "").unwrap(), "");
    assert_eq!(call(&admin, "policy.Get", "none", ""), NOT_FOUND);
    for (service, argument, input) in [
        ("policy.List", "x", ""),
        ("policy.List", "", "x"),
        ("policy.GetFiles", "a+b", ""),
        ("policy.Other", "", ""),
        ("policy.Replace", "x", "no newline"),
        ("policy.Replace", "x", "token\n"),
        ("other.List", "", ""),
    ] {
        assert_eq!(call(&admin, service, argument, input), PROTOCOL, "{service}+{argument}");
    }
}

#[test]
fn names_are_names_and_texts_are_text() {
    let (_root, admin) = folder();
    for name in ["../x", "a b", "\u{c4}", "a\n"] {
        assert_eq!(call(&admin, "policy.Get", name, ""), PROTOCOL, "{name}: no argument has such characters");
    }
    for name in ["..", "", "30-user.policy", "a+b"] {
        let refused = Err("PolicyAdminInvalidFileNameException");
        assert_eq!(call(&admin, "policy.Get", name, ""), refused, "{name}");
        assert_eq!(call(&admin, "policy.include.Replace", name, "any\n"), refused, "{name}");
    }
    let bytes = admin.call("policy.include.Replace", "unused", b"any\n\xc3\n");
    assert_eq!(bytes.map_err(|error| error.class()), Err("PolicyAdminSyntaxException"));
}

#[test]
fn a_change_needs_the_right_token_and_a_good_text() {
    let (root, admin) = folder();
    let text = |name: &str| fs::read_to_string(root.path().join("policy.d").join(name)).unwrap_or_default();
    let replace = |name: &str, input: &str| call(&admin, "policy.Replace", name, input);
    assert_eq!(replace("50-new", "new\na.B * x y deny\n"), Ok(String::new()));
    assert_eq!(text("50-new.policy"), "a.B * x y deny\n");
    assert_eq!(replace("50-new", "new\n"), TOKEN);
    assert_eq!(replace("60-none", &format!("{}\n", token(b""))), TOKEN);
    assert_eq!(replace("50-new", &format!("{}\n", token(b"else"))), TOKEN);
    assert_eq!(replace("50-new", "any\na.B * x y alow\n"), SYNTAX);
    assert_eq!(replace("50-New", "any\na.B * x y deny\n"), SYNTAX, "no policy file may be called so");
    assert_eq!(text("50-new.policy"), "a.B * x y deny\n");
    let right = format!("{}\n", token(b"a.B * x y deny\n"));
    assert_eq!(replace("50-new", &format!("{right}a.B * x y allow\n")), Ok(String::new()));
    assert_eq!(call(&admin, "policy.Remove", "50-new", &right), TOKEN);
    assert_eq!(call(&admin, "policy.Remove", "50-new", "any"), Ok(String::new()));
    assert_eq!(call(&admin, "policy.Remove", "50-new", "any"), NOT_FOUND);
}

#[test]
fn what_is_included_is_checked_where_it_is_included() {
    let (root, admin) = folder();
    assert_eq!(call(&admin, "policy.include.Replace", "more", "any\nwork vault allow\n"), SYNTAX);
    assert_eq!(call(&admin, "policy.include.Remove", "more", "any"), SYNTAX);
    assert_eq!(call(&admin, "policy.include.Replace", "old", "new\nwork vault allow\n"), Ok(String::new()));
    let include = "any\n!include-service a.B * include/old\n";
    assert_eq!(call(&admin, "policy.Replace", "30-user", include), Ok(String::new()));
    assert_eq!(call(&admin, "policy.include.Remove", "more", "any"), Ok(String::new()));
    fs::write(root.path().join("policy.d/99-bad.policy"), "nonsense\n").unwrap();
    assert_eq!(call(&admin, "policy.Replace", "40-x", "any\n"), SYNTAX, "nothing is added to what is broken");
    assert_eq!(call(&admin, "policy.Replace", "99-bad", "any\n"), Ok(String::new()), "but it can be mended");
    std::os::unix::fs::symlink("/etc/passwd", root.path().join("policy.d/include/link")).unwrap();
    let elsewhere = Err("PolicyAdminInvalidFilePathException");
    assert_eq!(call(&admin, "policy.include.Get", "link", ""), elsewhere);
}
