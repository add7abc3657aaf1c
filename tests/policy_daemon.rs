//! The policy daemon, the policy program and the agent that asks the user, by their sockets and outputs.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::Shutdown;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::common::{self, Said, ended_within, eventually, processor_time, talk, within_deadline};
use serde_json::{Value, json};

/// A dom0 of its own: policy, system, services, and the programs that use them.
struct Dom0 {
    root: tempfile::TempDir,
}

/// A program that ends with its test.
struct Running {
    child: Child,
    log: PathBuf,
}

impl Drop for Running {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- log\n{}---", self.log());
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Running {
    fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Dom0 {
    fn new(policy: &str) -> Self {
        let dom0 = Self { root: tempfile::tempdir().unwrap() };
        fs::create_dir(dom0.path("policy.d")).unwrap();
        fs::create_dir(dom0.path("rpc")).unwrap();
        dom0.write("policy.d/30-user.policy", policy);
        let qube = |kind: &str, guivm: Value| {
            json!({"type": kind, "tags": ["guivm-gui"], "template_for_dispvms": false,
                   "power_state": "Running", "icon": "app-red", "guivm": guivm})
        };
        let gui = || json!("dom0");
        let domains = json!({"dom0": qube("AdminVM", gui()), "work": qube("AppVM", gui()), "vault": qube("AppVM", gui()),
            "mail": qube("AppVM", gui()), "alone": qube("AppVM", Value::Null)});
        dom0.write("system.json", &json!({ "domains": domains }).to_string());
        dom0
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    fn script(&self, name: &str, text: &str) -> PathBuf {
        // One that still runs cannot be written to.
        let _ = fs::remove_file(self.path(name));
        self.write(name, &format!("#!/bin/sh\n{text}\n"));
        fs::set_permissions(self.path(name), fs::Permissions::from_mode(0o755)).unwrap();
        self.path(name)
    }

    fn command(&self, program: &str, args: &[&str]) -> Command {
        let mut command = Command::new(common::EXE);
        command
            .arg0(program)
            .args(args)
            .env("QREXEC_POLICY_DIR", self.path("policy.d"))
            .env("QREXEC_SYSTEM_INFO", self.path("system.json"))
            .env("QREXEC_SERVICE_PATH", self.path("rpc"))
            .env_remove("QREXEC_LOG");
        command
    }

    fn start(&self, program: &str, args: &[&str], socket: &str) -> Running {
        let log = self.path(&format!("{program}.log"));
        // A predecessor's socket may live on for a moment, in a child that has yet to become another program.
        let _ = fs::remove_file(self.path(socket));
        let mut command = self.command(program, args);
        let child = command.stdin(Stdio::null()).stderr(fs::File::create(&log).unwrap()).spawn().unwrap();
        let running = Running { child, log };
        eventually("the socket", || UnixStream::connect(self.path(socket)).is_ok());
        running
    }

    fn daemon(&self) -> Running {
        let path = |name| self.path(name).to_str().unwrap().to_owned();
        let args = [
            "--socket",
            &path("sock"),
            "--eval-socket-path",
            &path("eval"),
            "--gui-socket-path",
            &path("gui"),
        ];
        self.start("qrexec-policy-daemon", &args, "sock")
    }

    /// An agent that runs this script to ask; it is what `policy.Ask` and `policy.Notify` lead to.
    fn agent(&self, script: &str, more: &[&str]) -> Running {
        let program = self.script("dialog", script);
        let socket = self.path("agent").to_str().unwrap().to_owned();
        for service in ["policy.Ask", "policy.Notify"] {
            let link = self.path("rpc").join(service);
            let _ = fs::remove_file(&link);
            std::os::unix::fs::symlink(&socket, link).unwrap();
        }
        let args = [&["-s", &socket, "--program", program.to_str().unwrap()][..], more].concat();
        self.start("qrexec-policy-agent", &args, "agent")
    }

    fn ask_raw(&self, request: &str) -> String {
        let mut stream = UnixStream::connect(self.path("sock")).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        read_all(stream)
    }

    fn ask(&self, source: &str, target: &str, service: &str) -> String {
        self.ask_raw(&format!("source={source}\nintended_target={target}\nservice_and_arg={service}\n\n"))
    }

    fn exec(&self, program: &str, args: &[&str]) -> Said {
        talk(self.command(program, args), b"")
    }
}

fn read_all(mut stream: impl Read) -> String {
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

fn allow(target: &str) -> String {
    format!("user=DEFAULT\nresult=allow\ntarget={target}\nautostart=True\nrequested_target={target}")
}

#[test]
fn an_edit_counts_for_the_next_question_and_a_bad_one_denies() {
    within_deadline(|| {
        let dom0 = Dom0::new("demo.Add * work vault allow\n");
        let daemon = dom0.daemon();
        for _ in 0..20 {
            dom0.write("policy.d/30-user.policy", "demo.Add * work vault allow\n");
            assert_eq!(dom0.ask("work", "vault", "demo.Add+1"), allow("vault"));
            dom0.write(
                "policy.d/30-user.policy",
                "demo.Add * work vault alow\ndemo.Add * work vault allow\n",
            );
            assert_eq!(dom0.ask("work", "vault", "demo.Add+1"), "result=deny");
        }
        assert!(daemon.log().contains("30-user.policy:1:23: "), "{}", daemon.log());
    });
}

#[test]
fn requests_that_make_no_sense_are_denied_and_cost_nobody_else_anything() {
    within_deadline(|| {
        let dom0 = Dom0::new("* * work vault allow\n");
        let _daemon = dom0.daemon();
        let slow: Vec<UnixStream> = (0..50)
            .map(|_| {
                let mut stream = UnixStream::connect(dom0.path("sock")).unwrap();
                stream.write_all(b"source=work\nintended").unwrap();
                stream
            })
            .collect();
        for request in [
            "\n",
            "source=work\n\n",
            "rubbish\n\n",
            "source=a\nsource=b\nintended_target=c\nservice_and_arg=d\n\n",
        ] {
            assert_eq!(dom0.ask_raw(request), "result=deny", "{request:?}");
        }
        let mut endless = UnixStream::connect(dom0.path("sock")).unwrap();
        let _ = endless.write_all(&[b'x'; 100_000]);
        // What it did not read may turn its answer into an error.
        let mut answer = String::new();
        let _ = endless.read_to_string(&mut answer);
        assert!(answer.is_empty() || answer == "result=deny");
        assert_eq!(dom0.ask("work", "vault", "demo.Add\nresult=allow"), "result=deny");
        assert_eq!(dom0.ask("work", "vault", "demo.Add"), allow("vault"));
        drop(slow);
        let old = "domain_id=3\nsource=work\nintended_target=vault\nservice_and_arg=a.B\nprocess_ident=1\n\n";
        assert_eq!(dom0.ask_raw(old), allow("vault"));
        let verdict = "source=work\nintended_target=vault\nservice_and_arg=a.B\njust_evaluate=yes\n\n";
        assert_eq!(dom0.ask_raw(verdict), "result=allow");
    });
}

#[test]
fn the_user_is_asked_and_their_word_counts() {
    within_deadline(|| {
        let dom0 = Dom0::new("demo.Add * @anyvm @anyvm ask default_target=vault\n");
        let _daemon = dom0.daemon();
        assert_eq!(dom0.ask("work", "@default", "demo.Add+1"), "result=deny", "nobody asks yet");
        let question = dom0.path("question");
        let script = format!("cat > {}.$1; echo $(cat {})", question.display(), dom0.path("reply").display());
        dom0.write("reply", "allow:vault");
        let _agent = dom0.agent(&script, &[]);
        let answer = "user=DEFAULT\nresult=allow\ntarget=vault\nautostart=True\nrequested_target=@default";
        assert_eq!(dom0.ask("work", "@default", "demo.Add+1"), answer);
        let asked: Value = serde_json::from_slice(&fs::read(dom0.path("question.ask")).unwrap()).unwrap();
        assert_eq!(asked["source"], "work");
        assert_eq!((&asked["service"], &asked["argument"]), (&json!("demo.Add"), &json!("+1")));
        assert_eq!(asked["targets"], json!(["alone", "mail", "vault"]));
        assert_eq!(asked["default_target"], "vault");
        for reply in ["deny", "allow:work", "allow:nobody", "allow:", "yes", "", "allow:vault\nallow:mail"] {
            dom0.write("reply", reply);
            assert_eq!(dom0.ask("work", "@default", "demo.Add+1"), "result=deny", "{reply:?}");
        }
        dom0.write("reply", "allow:vault");
        assert_eq!(dom0.ask("alone", "@default", "demo.Add+1"), "result=deny", "no guivm");
    });
}

#[test]
fn a_denial_is_told_and_one_by_a_rule_with_notify_no_is_not() {
    within_deadline(|| {
        let dom0 = Dom0::new("demo.Silent * * * deny notify=no\ndemo.Told * work vault allow notify=yes\n");
        let told = dom0.path("told");
        let _daemon = dom0.daemon();
        let _agent = dom0.agent(&format!("text=$(cat); printf '%s\\n' \"$text\" >> {}", told.display()), &[]);
        dom0.ask("work", "vault", "demo.Silent");
        assert_eq!(dom0.ask("work", "vault", "demo.Other"), "result=deny");
        assert_eq!(dom0.ask("work", "vault", "demo.Told"), allow("vault"));
        let lines =
            || fs::read_to_string(&told).unwrap_or_default().lines().map(str::to_owned).collect::<Vec<_>>();
        eventually("two notices", || lines().len() == 2);
        let mut notices: Vec<Value> =
            lines().iter().map(|line| serde_json::from_str(line).unwrap()).collect();
        notices.sort_by_key(|notice| notice["resolution"].to_string());
        let expected = |resolution, service| json!({"resolution": resolution, "service": service, "argument": "+", "source": "work", "target": "vault"});
        assert_eq!(notices, [expected("allow", "demo.Told"), expected("deny", "demo.Other")]);
    });
}

#[test]
fn a_call_that_fails_after_it_was_allowed_is_told() {
    within_deadline(|| {
        let dom0 = Dom0::new("demo.Told * work vault allow notify=yes\ndemo.Quiet * work vault allow\n");
        let told = dom0.path("told");
        let _agent = dom0.agent(&format!("text=$(cat); printf '%s\\n' \"$text\" >> {}", told.display()), &[]);
        let make = |service: &str| {
            let mut command = dom0.command("qrexec-policy", &["7", "work", "vault", service, "SOCKET1"]);
            command.env("QREXEC_SOCKET_DIR", dom0.path("rpc")).env("QREXEC_VM_COMMAND", "false");
            assert!(![0, 1].contains(&talk(command, b"").code), "{service} cannot be made");
        };
        // The target cannot be started; then it has a socket behind which there is no daemon.
        make("demo.Told");
        make("demo.Quiet");
        dom0.write("rpc/qrexec.vault", "");
        make("demo.Told");
        make("demo.Quiet");
        let text = fs::read_to_string(&told).unwrap();
        let notices = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        let resolutions: Vec<_> = notices.map(|notice| notice["resolution"].clone()).collect();
        assert_eq!(resolutions, ["allow", "fail", "allow", "fail"]);
    });
}

#[test]
fn a_question_ends_with_its_caller_and_with_its_time() {
    within_deadline(|| {
        let dom0 = Dom0::new("demo.Add * @anyvm @anyvm ask\n");
        let daemon = dom0.daemon();
        let pids = dom0.path("pids");
        let script = format!("[ $1 = ask ] || exit; echo $$ >> {}; exec sleep 1000", pids.display());
        let pid = |number: usize| {
            let mut pid = None;
            eventually("a dialog", || {
                let text = fs::read_to_string(&pids).unwrap_or_default();
                pid = text.lines().nth(number).and_then(|line| line.parse::<i32>().ok());
                pid.is_some()
            });
            pid.unwrap()
        };
        {
            let _agent = dom0.agent(&script, &[]);
            let mut caller = UnixStream::connect(dom0.path("sock")).unwrap();
            caller.write_all(b"source=work\nintended_target=vault\nservice_and_arg=demo.Add\n\n").unwrap();
            let dialog = pid(0);
            drop(caller);
            assert!(ended_within(dialog, Duration::from_secs(10)), "the dialog of a caller that is gone");
        }
        let _agent = dom0.agent(&script, &["--timeout", "1"]);
        assert_eq!(dom0.ask("work", "vault", "demo.Add"), "result=deny");
        assert!(ended_within(pid(1), Duration::from_secs(10)));
        drop(daemon);
    });
}

#[test]
fn what_a_caller_says_while_the_user_thinks_keeps_nobody_awake() {
    within_deadline(|| {
        let dom0 = Dom0::new("demo.Add * @anyvm @anyvm ask\n");
        let daemon = dom0.daemon();
        let asked = dom0.path("asked");
        let _agent = dom0.agent(&format!("[ $1 = ask ] && : > {}; exec sleep 1000", asked.display()), &[]);
        let mut caller = UnixStream::connect(dom0.path("sock")).unwrap();
        caller.write_all(b"source=work\nintended_target=vault\n").unwrap();
        // Whoever comes later is answered: so the first one's half has been read.
        assert_eq!(dom0.ask_raw("nonsense\n\n"), "result=deny");
        caller.write_all(b"service_and_arg=demo.Add\n\n").unwrap();
        eventually("a dialog", || asked.exists());
        caller.write_all(b"and more").unwrap();
        let before = processor_time(daemon.child.id());
        std::thread::sleep(Duration::from_secs(1));
        let taken = processor_time(daemon.child.id()) - before;
        assert!(taken < Duration::from_millis(300), "{taken:?} of a second");
    });
}

#[test]
fn services_evaluate() {
    within_deadline(|| {
        let dom0 = Dom0::new("demo.Add * work vault ask\ndemo.Add * work mail deny\n");
        let _daemon = dom0.daemon();
        let ask = |socket: &str, text: &str| {
            let mut stream = UnixStream::connect(dom0.path(socket)).unwrap();
            stream.write_all(text.as_bytes()).unwrap();
            stream.shutdown(Shutdown::Write).unwrap();
            read_all(stream)
        };
        assert_eq!(ask("eval", "policy.EvalSimple+demo.Add alone\0work\0vault"), "result=allow\n");
        assert_eq!(ask("eval", "policy.EvalSimple+demo.Add alone\0work\0mail"), "result=deny\n");
        assert_eq!(ask("eval", "policy.EvalSimple alone\0work\0mail"), "");
        assert_eq!(ask("gui", "policy.EvalGUI+demo.Add gui name dom0\0work\0vault"), "result=allow\n");
        assert_eq!(ask("gui", "policy.EvalGUI+demo.Add alone name dom0\0work\0vault"), "");
    });
}

#[test]
fn the_program_answers_like_the_socket() {
    within_deadline(|| {
        let dom0 = Dom0::new("demo.Add * work vault allow\ndemo.Ask * work vault ask\n");
        let said = dom0.exec("qrexec-policy-exec", &["--", "work", "vault", "demo.Add+1"]);
        assert_eq!((said.code, said.text()), (0, allow("vault") + "\n"));
        let said = dom0.exec("qrexec-policy-exec", &["work", "mail", "demo.Add+1"]);
        assert_eq!((said.code, said.text().as_str()), (1, "result=deny\n"));
        // One line for a refusal, whatever there is to say.
        for (target, noted) in [("mail", false), ("nobody", true)] {
            let mut command = dom0.command("qrexec-policy-exec", &["work", target, "demo.Add"]);
            command.env("QREXEC_LOG", "info");
            let said = talk(command, b"");
            let lines: Vec<&str> = said.stderr.lines().filter(|line| line.contains(target)).collect();
            let [line] = lines[..] else { panic!("{said:?}") };
            assert_eq!((line.contains("denied"), line.contains("no such qube")), (true, noted), "{line}");
        }
        let said = dom0.exec("qrexec-policy-exec", &["--just-evaluate", "work", "vault", "demo.Add"]);
        assert_eq!((said.code, said.text().as_str()), (0, "result=allow\n"));
        let said = dom0.exec("qrexec-policy-exec", &["--assume-yes-for-ask", "work", "vault", "demo.Ask"]);
        assert_eq!((said.code, said.text()), (0, allow("vault") + "\n"));
        let said = dom0.exec("qrexec-policy-exec", &["--just-evaluate", "work", "vault", "demo.Ask"]);
        assert_eq!(said.code, 1);
        let said =
            dom0.exec("qrexec-policy", &["--just-evaluate", "7", "work", "vault", "demo.Add", "SOCKET1"]);
        assert_eq!(said.code, 0);
        let said = dom0.exec("qrexec-policy", &["7", "work", "mail", "demo.Add", "SOCKET1"]);
        assert_eq!(said.code, 1);
        assert_eq!(dom0.exec("qrexec-policy-exec", &["work", "vault"]).code, 2);
    });
}

#[test]
fn a_machine_of_r3_is_decided_by_its_own_files() {
    within_deadline(|| {
        let dom0 = Dom0::new("");
        fs::create_dir(dom0.path("old")).unwrap();
        dom0.write("old/demo.Add", "work $anyvm allow\n$anyvm $anyvm deny\n");
        dom0.write("old/demo.Bad", "work $anyvm nonsense\n");
        let exec = |source: &str, service: &str| {
            let mut command =
                dom0.command("qrexec-policy-exec", &["--path", "/nowhere/policy.d", "--old-path"]);
            command.arg(dom0.path("old")).args(["--", source, "vault", service]);
            talk(command, b"")
        };
        assert_eq!(exec("work", "demo.Add").code, 0);
        assert_eq!(exec("mail", "demo.Add").code, 1);
        assert_eq!(exec("work", "demo.Bad").code, 1);
        let none = exec("work", "demo.None");
        assert!(none.code == 1 && none.stderr.contains("$anyvm $anyvm ask"), "{}", none.stderr);
    });
}

#[test]
fn a_terminal_refuses_what_was_typed_before_and_takes_a_number() {
    within_deadline(|| {
        let Some(script) = ["/usr/bin/script"].iter().map(Path::new).find(|path| path.exists()) else {
            return;
        };
        let dom0 = Dom0::new("demo.Add * work @anyvm ask default_target=vault\n");
        let _daemon = dom0.daemon();
        for service in ["policy.Ask", "policy.Notify"] {
            std::os::unix::fs::symlink(dom0.path("agent"), dom0.path("rpc").join(service)).unwrap();
        }
        let link = dom0.path("qrexec-policy-agent");
        std::os::unix::fs::symlink(common::EXE, &link).unwrap();
        let command = format!("exec {} --terminal -s {}", link.display(), dom0.path("agent").display());
        let mut terminal = Command::new(script)
            .args(["-qec", &command, "/dev/null"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut keys = terminal.stdin.take().unwrap();
        let mut screen = BufReader::new(terminal.stdout.take().unwrap());
        eventually("the agent", || UnixStream::connect(dom0.path("agent")).is_ok());
        let mut wait_for = |what: &str| {
            let mut seen = Vec::new();
            while !String::from_utf8_lossy(&seen).contains(what) {
                assert!(
                    screen.read_until(b' ', &mut seen).unwrap() > 0,
                    "{}",
                    String::from_utf8_lossy(&seen)
                );
            }
        };
        std::thread::scope(|scope| {
            // Keys that nobody asked for, in the terminal's queue as soon as their echo is there.
            keys.write_all(b"y\nmore ").unwrap();
            wait_for("more ");
            for (typed, answer) in
                [("\n", "result=deny"), ("y\n", "target=vault\n"), ("2\n", "target=alone\n")]
            {
                let asked = scope.spawn(|| dom0.ask("work", "@default", "demo.Add+1"));
                wait_for("anything else refuses: ");
                keys.write_all(typed.as_bytes()).unwrap();
                let said = asked.join().unwrap();
                assert!(format!("{said}\n").contains(answer), "{typed:?}: {said}");
            }
        });
        let _ = terminal.kill();
        let _ = terminal.wait();
    });
}

#[test]
fn rules_are_linted_drawn_and_edited() {
    within_deadline(|| {
        let dom0 = Dom0::new("demo.Add * work vault alow\ndemo.Add * work mail allow\n");
        let file = dom0.path("policy.d/30-user.policy");
        let said = dom0.exec("qubes-policy-lint", &["-s", file.to_str().unwrap()]);
        assert_eq!(said.code, 1);
        assert!(said.text().starts_with(&format!("{}:1: error: column 23: ", file.display())), "{said:?}");
        assert!(said.text().ends_with(": demo.Add * work vault alow\n"), "{said:?}");
        assert_eq!(dom0.exec("qubes-policy-lint", &["/nowhere"]).code, 1);
        assert_eq!(dom0.exec("qrexec-policy-graph", &[]).code, 125, "a broken policy has no picture");

        // An editor that mends the line at its second try.
        let editor = dom0.script(
            "editor",
            "if [ -e \"$0.again\" ]; then sed -i s/alow/allow/ \"$1\"; else touch \"$0.again\"; echo >> \"$1\"; fi",
        );
        let edit = |input: &[u8]| {
            let mut command = dom0.command("qubes-policy-editor", &[]);
            command.env_remove("VISUAL").env("EDITOR", &editor).env("TMPDIR", dom0.root.path());
            talk(command, input)
        };
        for (answer, code) in [(&b"q\n"[..], 0), (b"", 1)] {
            let said = edit(answer);
            assert!(said.code == code && said.stderr.contains("your text is "), "{said:?}");
            fs::remove_file(dom0.path("editor.again")).unwrap();
            assert!(fs::read_to_string(&file).unwrap().contains("alow"));
        }
        let said = edit(b"e\n");
        assert_eq!(said.code, 0, "{said:?}");
        assert!(said.stderr.contains("not taken: it has errors"), "{said:?}");
        assert!(fs::read_to_string(&file).unwrap().starts_with("demo.Add * work vault allow\n"));
        assert_eq!(dom0.exec("qubes-policy-lint", &[file.to_str().unwrap()]).code, 0);

        let drawn = dom0.exec("qrexec-policy-graph", &["--source", "work", "--target", "vault"]);
        assert!(
            drawn.code == 0
                && drawn.text().contains("  \"work\" -> \"vault\" [label=\"demo.Add\" color=red];\n")
        );
        assert!(!drawn.text().contains("mail"), "{drawn:?}");
        if Path::new("/usr/bin/dot").exists() {
            let svg = dom0.path("picture.svg");
            assert_eq!(dom0.exec("qrexec-policy-graph", &["--output", svg.to_str().unwrap()]).code, 0);
            assert!(fs::read_to_string(svg).unwrap().contains("<svg"));
        }
    });
}
