//! Policy in labs: the user asked, disposables, qubes that are started, administration, remote qubes.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::common::{
    self, EXE, Said, call, eventually, eventually_within, full, lab, run, within, within_deadline,
};
use lab::{Builder, DOM0, Lab, Part};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

/// Changes what the policy knows about the qubes.
fn change_system(lab: &Lab, change: impl FnOnce(&mut serde_json::Map<String, Value>)) {
    let path = lab.layout().system_info();
    let mut system: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    change(system["domains"].as_object_mut().unwrap());
    fs::write(path, system.to_string()).unwrap();
}

fn qube(kind: &str) -> Value {
    json!({"type": kind, "tags": [], "template_for_dispvms": false, "power_state": "Halted"})
}

fn assert_said(said: &Said, code: i32, stdout: &str) {
    assert_eq!((said.code, said.text().as_str()), (code, stdout), "{said:?}");
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

/// A process that ends with its test.
struct Running(std::process::Child);

impl Running {
    fn start(mut command: Command) -> Self {
        Self(command.stdin(Stdio::null()).spawn().unwrap())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

const ECHO: &str = "#!/bin/sh\necho \"$QREXEC_REMOTE_DOMAIN:$QREXEC_SERVICE_ARGUMENT\"\n";

fn asking(builder: Builder) -> (Lab, tempfile::TempDir, Running) {
    let builder = builder.policy("test.Echo * work @anyvm ask\n").script("vault", "test.Echo", ECHO);
    asking_for(builder, "work")
}

/// A lab in which the user of dom0 answers questions about this qube with what the file `reply` says.
fn asking_for(builder: Builder, qube: &str) -> (Lab, tempfile::TempDir, Running) {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("agent");
    let lab =
        builder.program(DOM0, "dialog", "#!/bin/sh\n[ \"$1\" = ask ] && cat ~/reply\n").start().unwrap();
    for service in ["policy.Ask", "policy.Notify"] {
        std::os::unix::fs::symlink(&socket, lab.layout().services(DOM0).join(service)).unwrap();
    }
    change_system(&lab, |domains| domains[qube]["guivm"] = json!("dom0"));
    let program = lab.layout().programs(DOM0).join("dialog");
    let args =
        ["qrexec-policy-agent", "-s", socket.to_str().unwrap(), "--program", program.to_str().unwrap()];
    let agent = Running::start(lab.command(DOM0, args).unwrap());
    eventually("the agent", || std::os::unix::net::UnixStream::connect(&socket).is_ok());
    (lab, folder, agent)
}

fn user_decides(lab: &Lab) {
    let reply = lab.layout().home(DOM0).join("reply");
    fs::write(&reply, "allow:vault").unwrap();
    assert_said(&call(lab, "work", "vault", "test.Echo+1", b""), 0, "work:1\n");
    fs::write(&reply, "deny").unwrap();
    assert_said(&call(lab, "work", "vault", "test.Echo+1", b""), 126, "");
    fs::write(&reply, "allow:dom0").unwrap();
    assert_said(&call(lab, "work", "vault", "test.Echo+1", b""), 126, "");
}

#[test]
fn the_user_of_a_lab_is_asked() {
    within_deadline(|| {
        let (lab, _folder, _agent) = asking(lab());
        user_decides(&lab);
        drop(lab);
    });
}

#[test]
fn the_user_is_asked_and_told_in_the_qube_that_shows_their_windows() {
    within_deadline(|| {
        let lab = ["work", "vault", "gui"]
            .into_iter()
            .fold(lab(), Builder::vm)
            .policy("test.Echo * work @anyvm ask\n")
            .script("vault", "test.Echo", ECHO)
            .script("gui", "policy.Ask", "#!/bin/sh\ncat >~/question\nexec cat ~/reply\n")
            .script("gui", "policy.Notify", "#!/bin/sh\ncat >~/notice.new && mv ~/notice.new ~/notice\n")
            .start()
            .unwrap();
        change_system(&lab, |domains| domains["work"]["guivm"] = json!("gui"));
        let home = lab.layout().home("gui");
        let heard = |name: &str| -> Value { serde_json::from_str(&read(&home.join(name))).unwrap() };
        fs::write(home.join("reply"), "allow:vault").unwrap();
        assert_said(&call(&lab, "work", "vault", "test.Echo+1", b""), 0, "work:1\n");
        let question = heard("question");
        assert_eq!((&question["source"], &question["targets"]), (&json!("work"), &json!(["gui", "vault"])));
        for reply in ["deny", "allow:work", "allow:dom0", "nonsense"] {
            fs::write(home.join("reply"), reply).unwrap();
            fs::remove_file(home.join("question")).unwrap();
            assert_said(&call(&lab, "work", "vault", "test.Echo+1", b""), 126, "");
            assert_eq!(heard("question")["service"], "test.Echo", "asked again");
        }
        let _ = fs::remove_file(home.join("notice"));
        assert_said(&call(&lab, "work", "vault", "test.Other", b""), 126, "");
        eventually("a notice", || home.join("notice").exists());
        assert_eq!(heard("notice")["resolution"], "deny");
        assert_eq!(heard("notice")["source"], "work");
    });
}

#[test]
fn daemons_ask_the_policy_daemon_where_there_is_one() {
    within_deadline(|| {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("policy.sock");
        let (lab, _agents, _agent) = asking(lab().env("QREXEC_POLICY_SOCKET", socket.to_str().unwrap()));
        let log = folder.path().join("log");
        let mut command = lab.command(DOM0, ["qrexec-policy-daemon"]).unwrap();
        command.stderr(fs::File::create(&log).unwrap());
        let daemon = Running::start(command);
        eventually("the policy daemon", || socket.exists());
        user_decides(&lab);
        assert!(read(&log).contains("allowed to vault by"), "{}", read(&log));
        drop(daemon);
        // Without it the program is asked, and decides the same.
        user_decides(&lab);
    });
}

/// A lab in which `disp` stands for the disposables of `tmpl`, and `vault` is found as `sleeper` once that
/// was started.
fn with_vms(folder: &Path) -> Lab {
    with_vms_in(folder, lab())
}

fn with_vms_in(folder: &Path, lab: Builder) -> Lab {
    let command = folder.join("vms");
    let log = folder.join("log");
    // What the file `hold` names waits until somebody opens `go`.
    let text = format!(
        "#!/bin/sh\necho \"$@\" >> {log}\n[ \"$1\" = \"$(cat {hold} 2>/dev/null)\" ] && : < {go}\n\
         case \"$1 $2\" in\n'create tmpl') echo disp;;\n'start sleeper') ln -s qrexec.vault \
         \"$QREXEC_SOCKET_DIR/qrexec.sleeper\";;\n'start broken') exit 1;;\nesac\n",
        log = log.display(),
        hold = folder.join("hold").display(),
        go = folder.join("go").display()
    );
    fs::write(&command, text).unwrap();
    fs::set_permissions(&command, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let lab = lab
        .vm("work")
        .vm("vault")
        .vm("disp")
        .policy("* * work @dispvm:tmpl allow\n* * work sleeper allow\n* * work broken allow\n")
        .script("vault", "test.Echo", ECHO)
        .script("disp", "test.Echo", ECHO)
        .script("disp", "test.Wait", "#!/bin/sh\nexec cat\n")
        .env("QREXEC_VM_COMMAND", command.to_str().unwrap())
        .start()
        .unwrap();
    change_system(&lab, |domains| {
        for name in ["tmpl", "sleeper", "broken"] {
            domains.insert(name.to_owned(), qube("AppVM"));
        }
        domains["tmpl"]["template_for_dispvms"] = json!(true);
    });
    lab
}

#[test]
fn a_target_that_does_not_run_is_started() {
    within_deadline(|| {
        let folder = tempfile::tempdir().unwrap();
        let lab = with_vms(folder.path());
        for _ in 0..2 {
            assert_said(&call(&lab, "work", "sleeper", "test.Echo+1", b""), 0, "work:1\n");
        }
        assert_eq!(read(&folder.path().join("log")), "start sleeper\n");
        assert_said(&call(&lab, "work", "broken", "test.Echo+1", b""), 126, "");
    });
}

/// A package manager puts the new file in the old one's place, and the old one has no name any more.
#[test]
fn an_upgrade_leaves_those_that_run_all_that_they_could_do() {
    within_deadline(|| {
        let folder = tempfile::tempdir().unwrap();
        let [program, new] = ["qrexec", "qrexec.new"].map(|name| folder.path().join(name));
        for file in [&program, &new] {
            fs::copy(EXE, file).unwrap();
        }
        let lab = with_vms_in(folder.path(), lab().exe(&program));
        fs::rename(new, program).unwrap();
        assert_said(&call(&lab, "work", "sleeper", "test.Echo+1", b""), 0, "work:1\n");
    });
}

#[test]
fn a_disposable_lives_as_long_as_its_call_even_if_the_daemon_dies() {
    within_deadline(|| {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("log");
        let lab = with_vms(folder.path());
        assert_said(&call(&lab, "work", "@dispvm:tmpl", "test.Echo+1", b""), 0, "work:1\n");
        let life = "create tmpl\nstart disp\nkill disp\n";
        eventually("the removal after the call", || read(&log) == life);

        // No such service: the disposable goes all the same.
        assert_eq!(call(&lab, "work", "@dispvm:tmpl", "test.None", b"").code, 127);
        eventually("the removal after a failure", || read(&log) == life.repeat(2));

        let mut command = lab.command("work", ["qrexec-client-vm", "@dispvm:tmpl", "test.Wait"]).unwrap();
        let mut waiting = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        std::io::Write::write_all(waiting.stdin.as_mut().unwrap(), b"x").unwrap();
        let mut byte = [0_u8];
        std::io::Read::read_exact(waiting.stdout.as_mut().unwrap(), &mut byte).unwrap();
        assert_eq!(read(&log), life.repeat(2) + "create tmpl\nstart disp\n");
        let is_daemon = |process: &lab::Process| process.program == "qrexec-daemon";
        for daemon in lab.processes().iter().filter(|process| is_daemon(process)) {
            let _ = kill_process(Pid::from_raw(daemon.pid).unwrap(), Signal::KILL);
        }
        eventually("the removal after the death of the daemons", || read(&log) == life.repeat(3));
        drop(waiting.stdin.take());
        let _ = waiting.wait();
        let _ = lab.restart("work", Part::Daemon);
    });
}

/// What the log says when a disposable was made, used and removed.
const LIFE: [&str; 3] = ["create tmpl\n", "start disp\n", "kill disp\n"];

/// Kills the daemon or the client of a call to a disposable while `hold` is done with it, or while it is used;
/// gives the lab back when the disposable is gone.
fn kill_at(lab: &Lab, folder: &Path, hold: &str, victim: &str, limit: Duration) {
    let path = |name| folder.join(name);
    let _ = fs::remove_file(path("log"));
    fs::write(path("hold"), hold).unwrap();
    let mut command = lab.command("work", ["qrexec-client-vm", "@dispvm:tmpl", "test.Wait"]).unwrap();
    let mut client = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let step = if hold == "create" { 1 } else { 2 };
    eventually("the step", || read(&path("log")) == LIFE[..step].concat());
    if hold.is_empty() {
        std::io::Write::write_all(client.stdin.as_mut().unwrap(), b"x").unwrap();
        std::io::Read::read_exact(client.stdout.as_mut().unwrap(), &mut [0_u8]).unwrap();
    }
    match victim {
        "qrexec-daemon" => kill_daemon_of(lab, "work"),
        _ => client.kill().unwrap(),
    }
    if !hold.is_empty() {
        drop(fs::File::options().write(true).open(path("go")).unwrap());
    }
    let what = format!("the removal after {victim} was killed, held at {hold:?}");
    eventually_within(limit, &what, || read(&path("log")) == LIFE.concat());
    drop(client.stdin.take());
    let _ = client.kill();
    let _ = client.wait();
    if victim == "qrexec-daemon" {
        lab.restart("work", Part::Daemon).unwrap();
    }
}

/// A lab with disposables, and the fifo that holds them up.
fn with_held_vms(folder: &Path) -> Lab {
    let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
    let (kind, fifo) = (rustix::fs::FileType::Fifo, folder.join("go"));
    rustix::fs::mknodat(rustix::fs::CWD, fifo, kind, mode, 0).unwrap();
    with_vms(folder)
}

/// Whatever is killed, and wherever the disposable stands: it is removed, once.
#[test]
fn a_disposable_goes_at_whatever_step_its_daemon_or_its_client_is_killed() {
    within_deadline(|| {
        let folder = tempfile::tempdir().unwrap();
        let lab = with_held_vms(folder.path());
        for (hold, victim) in [
            ("create", "qrexec-daemon"),
            ("start", "qrexec-daemon"),
            ("", "qrexec-daemon"),
            ("", "qrexec-client-vm"),
        ] {
            kill_at(&lab, folder.path(), hold, victim, Duration::from_secs(30));
        }
        // And the next call finds everything as it was.
        eventually("a call", || call(&lab, "work", "@dispvm:tmpl", "test.Echo+1", b"").code == 0);
    });
}

/// A client that dies before its service is there is not missed before the disposable has waited for it.
#[test]
fn a_disposable_goes_if_the_client_is_killed_before_it_is_there() {
    if !full() {
        return println!("skipped: the service waits two minutes for each client that does not come");
    }
    within(Duration::from_secs(400), || {
        let folder = tempfile::tempdir().unwrap();
        let lab = with_held_vms(folder.path());
        for hold in ["create", "start"] {
            kill_at(&lab, folder.path(), hold, "qrexec-client-vm", Duration::from_secs(150));
        }
    });
}

/// Kills the daemon of a VM, which has the VM's name among its arguments.
fn kill_daemon_of(lab: &Lab, vm: &str) {
    let all = lab.processes();
    let is_its = |process: &&lab::Process| {
        process.program == "qrexec-daemon" && process.args.iter().any(|argument| argument == vm)
    };
    let daemons: Vec<i32> = all.iter().filter(is_its).map(|process| process.pid).collect();
    assert!(!daemons.is_empty(), "{all:?}");
    daemons.iter().for_each(|pid| kill_process(Pid::from_raw(*pid).unwrap(), Signal::KILL).unwrap());
}

#[test]
fn a_qube_may_administer_the_policy_if_the_policy_says_so() {
    within_deadline(|| {
        let exe = common::EXE;
        let mut builder = lab().policy(
            "policy.List * work dom0 allow\npolicy.Get * work dom0 allow\npolicy.Replace * work dom0 allow\n\
             policy.RegisterArgument +u2f.Use vault @anyvm allow target=dom0\n",
        );
        // A service does not inherit where the lab's policy is.
        let links = tempfile::tempdir().unwrap();
        for service in ["policy.List", "policy.Get", "policy.Replace", "policy.RegisterArgument"] {
            let link = links.path().join(service);
            std::os::unix::fs::symlink(exe, &link).unwrap();
            let script = format!(
                "#!/bin/sh\nexport QREXEC_POLICY_DIR=\"$HOME/../policy.d\"\nexec {}\n",
                link.display()
            );
            builder = builder.script(DOM0, service, &script);
        }
        let lab = builder.script("vault", "test.Echo", ECHO).start().unwrap();
        let before = read(&lab.layout().policy().join("50-new.policy"));
        assert_eq!(before, "");
        let said = call(&lab, "work", "dom0", "policy.Replace+50-new", b"new\ntest.Echo * work vault alow\n");
        assert_eq!(said.code, 1, "{said:?}");
        assert_eq!(call(&lab, "work", "vault", "test.Echo", b"").code, 126);
        let said =
            call(&lab, "work", "dom0", "policy.Replace+50-new", b"new\ntest.Echo * work vault allow\n");
        assert_said(&said, 0, "");
        assert_said(&call(&lab, "work", "vault", "test.Echo+2", b""), 0, "work:2\n");
        let list = call(&lab, "work", "dom0", "policy.List", b"");
        assert!(list.code == 0 && list.text().contains("50-new\n"), "{list:?}");
        assert_eq!(call(&lab, "vault", "dom0", "policy.List", b"").code, 126);
        assert_eq!(call(&lab, "work", "dom0", "policy.Get+none", b"").code, 1);

        assert_eq!(call(&lab, "vault", "work", "policy.RegisterArgument+u2f.Use", b"key1").code, 0);
        assert_ne!(call(&lab, "vault", "work", "policy.RegisterArgument+u2f.Use", b"key1").code, 0);
        let rules = read(&lab.layout().policy().join("60-registered-arguments.policy"));
        assert_eq!(rules, "u2f.Use +key1 work vault allow\n");

        // In dom0 itself the client and the linter work on the folder.
        let link = links.path().join("qubes-policy");
        std::os::unix::fs::symlink(exe, &link).unwrap();
        let client =
            |args: &[&str], input: &[u8]| run(&lab, DOM0, &[&[link.to_str().unwrap()], args].concat(), input);
        let listed = client(&["-l"], b"");
        assert!(listed.text().contains("60-registered-arguments\n"), "{listed:?}");
        assert_said(&client(&["--get", "50-new"], b""), 0, "test.Echo * work vault allow\n");
        assert_said(&client(&["-r", "50-new"], b"test.Echo * work vault deny\n"), 0, "");
        assert_eq!(call(&lab, "work", "vault", "test.Echo", b"").code, 126);
        assert_said(&client(&["-d", "50-new"], b""), 0, "");
        assert_eq!(client(&["-g", "50-new"], b"").code, 1);
        assert_eq!(client(&["-g"], b"").code, 2);
    });
}

fn remote(relay: &str, transport: &str) -> Value {
    let mut remote = qube("RemoteVM");
    remote["relayvm"] = json!(relay);
    remote["transport_rpc"] = json!(transport);
    remote
}

/// The remote qube that was decided on is the one that is called, whoever decided; and its own calls are asked about where
/// its relay's are, and logged under its name.
#[test]
fn remote_qubes_are_called_by_their_names_and_call_under_them() {
    within_deadline(|| {
        let policy = "test.Transport * @anyvm relay allow\ntest.Sent * work @anyvm allow target=far\n\
                      test.Sent * work @default allow target=far\ntest.Named * far vault allow\n\
                      test.Named * relay vault deny\ntest.Asked * @anyvm @anyvm ask\n";
        let builder = ["work", "vault", "relay"]
            .into_iter()
            .fold(lab(), Builder::vm)
            .policy(policy)
            .script("relay", "test.Transport", "#!/bin/sh\necho \"$QREXEC_REMOTE_DOMAIN $1\"\n")
            .script("vault", "test.Named", ECHO)
            .script("vault", "test.Asked", ECHO);
        let (lab, _folder, _agent) = asking_for(builder, "relay");
        change_system(&lab, |domains| {
            domains["work"]["guivm"] = json!("dom0");
            domains.insert("far".to_owned(), remote("relay", "test.Transport"));
        });
        let reply = lab.layout().home(DOM0).join("reply");
        fs::write(&reply, "allow:far").unwrap();
        let (sent, asked) = ("test.Sent+1", "test.Asked+1");
        for (target, service) in
            [("mail", sent), ("vault", sent), ("@default", sent), ("", asked), ("vault", asked)]
        {
            assert_said(&call(&lab, "work", target, service, b""), 0, &format!("work far+{service}\n"));
        }
        let as_far = |service: &str| {
            run(&lab, "relay", &["qrexec-client-vm", "--source-qube=far", "vault", service], b"")
        };
        fs::write(&reply, "allow:vault").unwrap();
        assert_said(&as_far("test.Asked+1"), 0, "far:1\n");
        assert_said(&as_far("test.Named+1"), 0, "far:1\n");
        assert_said(&as_far("test.None+1"), 126, "");
        let claimed = ["qrexec-client-vm", "--source-qube=far", "vault", "test.Named"];
        assert_said(&run(&lab, "work", &claimed, b""), 126, "");
        let log = |vm: &str| read(&lab.layout().log(DOM0).join(format!("daemon-{vm}.log")));
        for (vm, line) in [
            ("relay", "far (by relay) -> vault: test.Named+1: allowed to vault by "),
            ("relay", "far (by relay) -> vault: test.None+1: refused, denied: "),
            ("work", "far (by work) -> vault: test.Named: refused, denied: "),
            ("vault", "far -> vault: test.Named+1: ended after "),
        ] {
            eventually(line, || log(vm).contains(line));
        }
    });
}

/// Two labs are two machines. `far` is a qube of the other one; calls to it go by way of `relay`, whose service
/// makes them over there, in the name that `work` has there.
#[test]
fn a_remote_qube_is_called_through_relays() {
    within_deadline(|| {
        let there = lab()
            .vm("relay")
            .vm("far")
            .policy("test.Echo * here-work far allow\ntest.Echo * @anyvm @anyvm deny\n")
            .script("far", "test.Echo", ECHO)
            .start()
            .unwrap();
        change_system(&there, |domains| {
            domains.insert("here-work".to_owned(), remote("relay", "test.Relay"));
        });
        let variables: String = there
            .environment("relay")
            .unwrap()
            .into_iter()
            .map(|(name, value)| match value {
                Some(value) => format!("export {}='{}'\n", name.display(), value.display()),
                None => format!("unset {}\n", name.display()),
            })
            .collect();
        // TARGET+SERVICE+ARGUMENT, as the policy here makes it.
        let relay = format!(
            "#!/bin/sh\nsource=$QREXEC_REMOTE_DOMAIN\ntarget=${{1%%+*}}\n{variables}exec qrexec-client-vm \
             --source-qube=here-$source \"$target\" \"${{1#*+}}\"\n"
        );
        let here = lab()
            .vm("work")
            .vm("mail")
            .vm("relay")
            .policy("test.Echo * @anyvm far allow user=root\n")
            .script("relay", "test.Relay", &relay)
            .start()
            .unwrap();
        change_system(&here, |domains| {
            domains.insert("far".to_owned(), remote("relay", "test.Relay"));
        });
        let said = call(&here, "work", "far", "test.Echo+1", b"");
        assert_said(&said, 0, "here-work:1\n");
        assert_eq!(call(&here, "mail", "far", "test.Echo+1", b"").code, 126, "nobody knows it over there");
        assert_eq!(call(&there, "relay", "far", "test.Echo+1", b"").code, 126, "the relay itself may not");
        let spoof = ["qrexec-client-vm", "--source-qube=here-work", "far", "test.Echo+1"];
        assert_eq!(run(&there, "far", &spoof, b"").code, 126, "it is nobody's relay");
    });
}
