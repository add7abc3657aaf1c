//! The programs around policy as a person meets them: their help, what they say to wrong arguments, and a machine of
//! R3, where policy is made when it is missing.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::common::{EXE, Said, eventually, talk, within_deadline};
use serde_json::json;

/// Every program, and arguments that it cannot understand.
const PROGRAMS: [(&str, &[&[&str]]); 14] = [
    ("qfile-daemon-dvm", &[&["--bogus"], &[], &["a", "b"], &["a", "b", "c", "d", "e", "f"]]),
    ("qrexec-legacy-convert", &[&["--bogus"]]),
    ("qrexec-policy", &[&["--bogus"], &[], &["a", "b", "c"], &["a", "b", "c", "d", "e", "f"]]),
    ("qrexec-policy-agent", &[&["--bogus"], &["--timeout", "soon"], &["word"]]),
    ("qrexec-policy-daemon", &[&["--bogus"], &["word"]]),
    ("qrexec-policy-eval", &[&["--bogus"]]),
    ("qrexec-policy-exec", &[&["--bogus"], &[], &["a", "b"], &["a", "b", "c", "d"]]),
    ("qrexec-policy-graph", &[&["--bogus"], &["word"]]),
    ("qrexec-policy-restore", &[&["--bogus"], &[]]),
    ("qubes-policy", &[&["--bogus"], &["-g"], &["-l", "-g", "x"], &["-l", "x"], &["a", "b"]]),
    ("qubes-policy-admin", &[&["--bogus"], &[]]),
    ("qubes-policy-editor", &[&["--bogus"], &["a", "b"]]),
    ("qubes-policy-lint", &[&["--bogus"], &[]]),
    ("qrexec-vm-helper", &[&["--bogus"], &[], &["start"], &["start", "a", "b"]]),
];

fn run(program: &str, args: &[&str]) -> Said {
    let mut command = Command::new(EXE);
    command.arg0(program).args(args).env_remove("QREXEC_LOG").env_remove("QREXEC_REMOTE_DOMAIN");
    // What the machine of the test has must not matter.
    command.env("QREXEC_POLICY_DIR", "/nowhere").env("QREXEC_QUBESD_DIR", "/nowhere");
    talk(command, b"")
}

#[test]
fn every_program_has_help_and_says_what_is_wrong_in_one_line() {
    within_deadline(|| {
        for (program, wrong) in PROGRAMS {
            let help = run(program, &["--help"]);
            assert!(help.code == 0 && help.stderr.is_empty(), "{program}: {help:?}");
            assert!(help.text().contains(&format!("Usage: {program}")), "{program}: {}", help.text());
            for args in wrong {
                let said = run(program, args);
                assert_eq!(
                    (said.code, said.stdout.as_slice()),
                    (2, &b""[..]),
                    "{program} {args:?}: {said:?}"
                );
                assert_eq!(said.stderr.lines().count(), 1, "{program} {args:?}: {}", said.stderr);
                assert!(said.stderr.starts_with(&format!("{program}: ")), "{}", said.stderr);
            }
        }
    });
}

#[test]
fn without_qubesd_or_policy_one_line_says_so() {
    within_deadline(|| {
        for (program, args, code) in [
            ("qrexec-policy-exec", &["a", "b", "c"][..], 1),
            ("qrexec-policy-graph", &[][..], 125),
            ("qrexec-policy-restore", &["--dest", "/dev/null/x", "/nowhere"][..], 125),
            ("qubes-policy-lint", &["/nowhere/x.policy"][..], 1),
        ] {
            let said = run(program, args);
            let lines = said.text().lines().filter(|line| *line != "result=deny").count();
            assert_eq!((said.code, lines + said.stderr.lines().count()), (code, 1), "{program}: {said:?}");
        }
    });
}

/// The options of the program that answers for one call, where nobody can be asked.
#[test]
fn the_policy_folders_may_be_named_and_the_user_left_alone() {
    within_deadline(|| {
        let root = tempfile::tempdir().unwrap();
        let path = |name: &str| root.path().join(name).to_str().unwrap().to_owned();
        let rule = |file: &str, text: &str| fs::write(path(file), text).unwrap();
        for folder in ["first", "second", "other"] {
            fs::create_dir(path(folder)).unwrap();
        }
        rule("first/30-user.policy", "demo.Add * work vault allow\ndemo.Ask * work vault ask\n");
        rule("second/30-user.policy", "demo.Add * work vault deny\n");
        rule("second/40-more.policy", "demo.More * work vault allow\n");
        rule("other/30-user.policy", "* * work vault deny\n");
        let qube = json!({"type": "AppVM", "tags": [], "template_for_dispvms": false, "power_state": "Running", "guivm": "dom0"});
        let system = json!({"domains": {"dom0": qube, "work": qube, "vault": qube}});
        fs::write(path("system.json"), system.to_string()).unwrap();
        let exec = |program: &str, options: &[&str], words: &[&str]| {
            let mut command = Command::new(EXE);
            command.arg0(program).args(options).arg("--").args(words).env_remove("QREXEC_LOG");
            // The option comes before the variable. Nobody is there to be asked.
            command.env("QREXEC_POLICY_DIR", path("other")).env("QREXEC_SYSTEM_INFO", path("system.json"));
            command.env("QREXEC_SERVICE_PATH", path("none")).env("QREXEC_SOCKET_DIR", path("none"));
            let said = talk(command, b"");
            (said.code, said.text().lines().next().unwrap_or_default().to_owned())
        };
        let (first, second) = (path("first"), path("second"));
        let both = ["--path", &first, "--path", &second];
        let decided = |folders: &[&str], more: &[&str], service: &str| {
            exec("qrexec-policy-exec", &[folders, more].concat(), &["work", "vault", service])
        };
        let (allowed, denied) = ((0, "user=DEFAULT".to_owned()), (1, "result=deny".to_owned()));
        assert_eq!(decided(&[], &[], "demo.Add"), denied);
        assert_eq!(decided(&both, &[], "demo.Add"), allowed);
        assert_eq!(decided(&both[2..], &[], "demo.Add"), denied);
        assert_eq!(
            decided(&both, &[], "demo.More"),
            allowed,
            "the second folder counts where the first is silent"
        );
        assert_eq!(decided(&both, &[], "demo.Ask"), denied, "nobody can be asked");
        assert_eq!(decided(&both, &["--assume-yes-for-ask"], "demo.Ask"), allowed);
        assert_eq!(decided(&both, &["--just-evaluate"], "demo.Ask"), denied, "asking counts as a denial");
        assert_eq!(decided(&both, &["--just-evaluate"], "demo.Add"), (0, "result=allow".to_owned()));
        // Under its old name it makes the call, for which there is no daemon here.
        let old = |more: &[&str], service: &str| {
            exec("qrexec-policy", &[&both, more].concat(), &["7", "work", "vault", service, "SOCKET1"]).0
        };
        let tried = 125;
        assert_eq!(old(&[], "demo.Add"), tried);
        assert_eq!(old(&["--just-evaluate"], "demo.Add"), 0);
        assert_eq!(old(&["--just-evaluate"], "demo.Ask"), 1);
        assert_eq!(old(&[], "demo.Ask"), 1);
        assert_eq!(old(&["--assume-yes-for-ask"], "demo.Ask"), tried);
    });
}

/// A machine of R3: a folder with a file for each service, and somebody to ask.
struct R3 {
    root: tempfile::TempDir,
    _agent: Running,
}

struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl R3 {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let path = |name: &str| root.path().join(name);
        fs::create_dir(path("old")).unwrap();
        fs::create_dir(path("rpc")).unwrap();
        let qube =
            json!({"type": "AppVM", "tags": [], "template_for_dispvms": false, "power_state": "Running"});
        let system = json!({"domains": {"dom0": qube, "work": qube, "vault": qube, "mail": qube}});
        fs::write(path("system.json"), system.to_string()).unwrap();
        // The dialog notes what it is asked and says what it is told to.
        let dialog = path("dialog");
        let text = "#!/bin/sh\ncd \"$(dirname \"$0\")\"\necho \"$1 $(cat)\" >> asked\n[ ! -x change ] || ./change\ncat \"say-$1\"\n";
        fs::write(&dialog, text).unwrap();
        fs::set_permissions(&dialog, fs::Permissions::from_mode(0o755)).unwrap();
        for service in ["policy.Ask", "policy.New", "policy.Notify"] {
            std::os::unix::fs::symlink(path("agent"), path("rpc").join(service)).unwrap();
        }
        let mut agent = Command::new(EXE);
        agent.arg0("qrexec-policy-agent").arg("-s").arg(path("agent")).arg("--program").arg(&dialog);
        let agent = Running(agent.stdin(Stdio::null()).spawn().unwrap());
        eventually("the agent", || UnixStream::connect(path("agent")).is_ok());
        Self { root, _agent: agent }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    fn say(&self, to: &str, what: &str) {
        fs::write(self.path(&format!("say-{to}")), what).unwrap();
    }

    fn file(&self, name: &str) -> String {
        fs::read_to_string(self.path("old").join(name)).unwrap_or_default()
    }

    /// What was asked since the last time, by kind.
    fn asked(&self) -> Vec<String> {
        let text = fs::read_to_string(self.path("asked")).unwrap_or_default();
        let _ = fs::remove_file(self.path("asked"));
        text.lines().filter_map(|line| line.split(' ').next()).map(str::to_owned).collect()
    }

    fn exec(&self, more: &[&str], source: &str, target: &str, service: &str) -> Said {
        let mut command = Command::new(EXE);
        command.arg0("qrexec-policy-exec").args(["--path", "/nowhere/policy.d", "--old-path"]);
        command.arg(self.path("old")).args(more).args(["--", source, target, service]);
        command
            .env("QREXEC_SYSTEM_INFO", self.path("system.json"))
            .env("QREXEC_SERVICE_PATH", self.path("rpc"));
        command.env_remove("QREXEC_LOG");
        talk(command, b"")
    }
}

#[test]
fn a_missing_policy_is_made_if_the_user_wants_it() {
    within_deadline(|| {
        let r3 = R3::new();
        r3.say("new", "deny");
        r3.say("ask", "allow:vault");
        assert_eq!(r3.exec(&[], "work", "vault", "demo.Add").code, 1);
        assert_eq!((r3.asked(), r3.file("demo.Add").as_str()), (vec!["new".to_owned()], ""));

        // Nobody is asked where nobody may be asked, or by whom nobody knows.
        for (more, source) in [("--just-evaluate", "work"), ("--assume-yes-for-ask", "work")] {
            assert_eq!(r3.exec(&[more], source, "vault", "demo.Add").code, 1);
        }
        assert_eq!(r3.exec(&[], "stranger", "vault", "demo.Add").code, 1);
        for service in ["../demo", ".hidden", "demo.rpmsave", "+x"] {
            assert_eq!(r3.exec(&[], "work", "vault", service).code, 1, "{service}");
        }
        assert_eq!(r3.asked(), Vec::<String>::new());

        r3.say("new", "make");
        let said = r3.exec(&[], "work", "vault", "demo.Add+1");
        assert!(said.code == 0 && said.text().contains("target=vault\n"), "{said:?}");
        assert_eq!(r3.asked(), ["new", "ask"]);
        assert!(r3.file("demo.Add").ends_with("\n$anyvm\t$anyvm\task\n"), "{}", r3.file("demo.Add"));
        let names: Vec<_> =
            fs::read_dir(r3.path("old")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, ["demo.Add"], "one file, named by the service alone");

        // What the administrator wrote while the question was there counts, whatever the answer is.
        let change = "#!/bin/sh\necho 'work vault allow' > old/demo.Sub\n";
        fs::write(r3.path("change"), change).unwrap();
        fs::set_permissions(r3.path("change"), fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(r3.exec(&[], "work", "vault", "demo.Sub").code, 0);
        assert_eq!(
            (r3.asked(), r3.file("demo.Sub").as_str()),
            (vec!["new".to_owned()], "work vault allow\n")
        );
    });
}

#[test]
fn yes_to_all_is_the_first_line_from_then_on() {
    within_deadline(|| {
        let r3 = R3::new();
        let old = |name: &str, text: &str| fs::write(r3.path("old").join(name), text).unwrap();
        let text = "## notes\n$anyvm vault ask,user=root\n$anyvm $anyvm deny\n";
        old("demo.Add", text);
        r3.say("ask", "always:vault");
        let said = r3.exec(&[], "work", "vault", "demo.Add");
        assert!(said.code == 0 && said.text().contains("user=root\n"), "{said:?}");
        assert_eq!(r3.file("demo.Add"), format!("work\tvault\tallow,user=root\n{text}"));
        assert_eq!(r3.asked(), ["ask"]);
        let said = r3.exec(&[], "work", "vault", "demo.Add");
        assert!(said.code == 0 && said.text().contains("user=root\n"), "{said:?}");
        assert_eq!(r3.asked(), Vec::<String>::new(), "nobody is asked again");
        r3.say("ask", "deny");
        assert_eq!(r3.exec(&[], "mail", "vault", "demo.Add").code, 1, "others are");
        assert_eq!(r3.asked(), ["ask"]);

        // The general file would allow other arguments than the one that was asked about: that is not offered.
        r3.say("ask", "always:vault");
        assert_eq!(r3.exec(&[], "mail", "vault", "demo.Add+1").code, 1);
        assert!(!r3.file("demo.Add").contains("mail"));
        old("demo.Add+1", "$anyvm $anyvm ask\n");
        assert_eq!(r3.exec(&[], "mail", "vault", "demo.Add+1").code, 0);
        assert_eq!(r3.file("demo.Add+1"), "mail\tvault\tallow\n$anyvm $anyvm ask\n");

        // A file that changes under the question is left alone; the call itself is allowed.
        old("demo.Sub", "$anyvm $anyvm ask\n");
        fs::write(r3.path("change"), "#!/bin/sh\necho '$anyvm $anyvm deny' > old/demo.Sub\n").unwrap();
        fs::set_permissions(r3.path("change"), fs::Permissions::from_mode(0o755)).unwrap();
        let said = r3.exec(&[], "work", "vault", "demo.Sub");
        assert!(said.code == 0 && said.stderr.contains("changed meanwhile"), "{said:?}");
        assert_eq!(r3.file("demo.Sub"), "$anyvm $anyvm deny\n");
    });
}

/// A call of an administration service, as qrexec makes it: exit status, output, error output and the log.
fn administer(folder: &Path, service: &str, input: &[u8]) -> (i32, String, String, String) {
    let log = folder.join("admin.log");
    let mut child = Command::new(EXE)
        .arg0("qubes-policy-admin")
        .env("QREXEC_REMOTE_DOMAIN", "work")
        .env("QREXEC_SERVICE_FULL_NAME", service)
        .env("QREXEC_POLICY_DIR", folder.join("policy.d"))
        .env("QREXEC_POLICY_ADMIN_LOG", &log)
        .env("QREXEC_LOG", "trace")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input).unwrap();
    let output = child.wait_with_output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    let log = fs::read_to_string(&log).unwrap_or_default();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr), log)
}

/// The caller's library reads the kind of an error from the first word, and gives the rest to its user as it is.
#[test]
fn administration_says_exactly_what_is_wrong_and_logs_each_call() {
    let folder = tempfile::tempdir().unwrap();
    let policy = folder.path().join("policy.d");
    fs::create_dir_all(policy.join("include")).unwrap();
    fs::write(policy.join("30-user.policy"), "a.B * work vault allow\n").unwrap();
    let call = |service: &str, input: &str| administer(folder.path(), service, input.as_bytes());
    let mut logged = Vec::new();
    for (service, input, said) in [
        ("policy.List+", "", ""),
        ("policy.List", "x", "PolicyAdminProtocolException Unexpected payload"),
        ("policy.List+x", "", "PolicyAdminProtocolException Unexpected argument"),
        ("policy.Nothing+", "", "PolicyAdminProtocolException unrecognized method: \"policy.Nothing\""),
        ("policy.Get+none", "", "PolicyAdminFileNotFoundException Not found: "),
        ("policy.Remove+none", "any", "PolicyAdminFileNotFoundException Not found: "),
        ("policy.Get+a.b", "", "PolicyAdminInvalidFileNameException Invalid policy file name: "),
        ("policy.Replace+30-user", "new\n", "PolicyAdminTokenException File exists but token is 'new'"),
        (
            "policy.Replace+30-user",
            "any\nx\n",
            "PolicyAdminSyntaxException Policy change validation failed: ",
        ),
        ("policy.Replace+30-user", "any\na.B * work vault deny\n", ""),
    ] {
        let (code, output, error, log) = call(service, input);
        assert_eq!(code, i32::from(!said.is_empty()), "{service}: {error}");
        assert!(error.starts_with(said) && error.is_empty() == said.is_empty(), "{service}: {error:?}");
        assert!(
            !error.ends_with('\n') && output.is_empty() != (service == "policy.List+"),
            "{error:?} {output:?}"
        );
        logged.push(format!(" {service} (work){}{said}", if said.is_empty() { "" } else { ": error: " }));
        let lines: Vec<&str> = log.lines().collect();
        assert_eq!(lines.len(), logged.len(), "{log}");
        assert!(lines.last().unwrap().contains(logged.last().unwrap().trim_end_matches('"')), "{log}");
    }
    fs::remove_dir_all(&policy).unwrap();
    let (code, output, error, log) = call("policy.List+", "");
    let shown = folder.path().join("admin.log");
    let wanted = format!("Internal error. See '{}' in dom0 for details.", shown.display());
    assert_eq!((code, output.as_str(), error), (2, "", wanted));
    assert!(
        log.lines().last().unwrap().contains(" policy.List+ (work): error: PolicyAdminException "),
        "{log}"
    );

    // A log that somebody put a link or a pipe in place of is left alone, and costs no call.
    fs::create_dir_all(policy.join("include")).unwrap();
    fs::remove_file(&shown).unwrap();
    std::os::unix::fs::symlink(folder.path().join("other"), &shown).unwrap();
    assert_eq!(call("policy.List+", "").0, 0);
    assert!(!folder.path().join("other").exists());
    // And it does not grow for ever.
    fs::remove_file(&shown).unwrap();
    fs::File::create(&shown).unwrap().set_len((4 << 20) + 1).unwrap();
    assert_eq!(call("policy.List+", "").3.lines().count(), 1);
    assert_eq!(fs::metadata(folder.path().join("admin.log.1")).unwrap().len(), (4 << 20) + 1);
}

#[test]
fn a_backup_is_restored_without_overwriting() {
    within_deadline(|| {
        let root = tempfile::tempdir().unwrap();
        let path = |name: &str| root.path().join(name);
        for (name, text) in [
            ("policy.d/30-user.policy", "!include include/x\n"),
            ("policy.d/include/x", "* * * * deny\n"),
            ("policy.d/40-more.policy", ""),
            ("policy.d/readme", ""),
            ("new/40-more.policy", "mine\n"),
        ] {
            std::fs::create_dir_all(path(name).parent().unwrap()).unwrap();
            std::fs::write(path(name), text).unwrap();
        }
        let [new, old] = ["new", "policy.d"].map(|name| path(name).to_str().unwrap().to_owned());
        let said = run("qrexec-policy-restore", &["--dest", &new, &old]);
        assert!(said.code == 0 && said.stderr.contains("not overwriting"), "{said:?}");
        assert_eq!(std::fs::read_to_string(path("new/40-more.policy")).unwrap(), "mine\n");
        assert_eq!(std::fs::read_to_string(path("new/include/x")).unwrap(), "* * * * deny\n");
        assert!(path("new/30-user.policy").exists() && !path("new/readme").exists());
    });
}
