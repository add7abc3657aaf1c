//! What dom0 of R2 decides and has made: questions to the user, users, disposables. Numbers are those of the cases in
//! docs/r2.md.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Stdio};

use crate::common::{Said, eventually, run, within_deadline};
use crate::r2::{OldClient, adding, lab_of, program};
use lab::{Age, DOM0, Lab};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

/// Answers questions of one kind with what a file of that name says, and writes down that it was asked.
const DIALOG: &str = "#!/bin/sh\necho $1 >>~/asked\ncat ~/reply-$1\n";

/// The user of dom0, who ends with the test.
struct User<'a> {
    lab: &'a Lab,
    agent: Child,
}

impl<'a> User<'a> {
    fn of(lab: &'a Lab) -> Self {
        let socket = lab.layout().policy_agent();
        let dialog = lab.layout().programs(DOM0).join("dialog");
        let args =
            ["qrexec-policy-agent", "-s", socket.to_str().unwrap(), "--program", dialog.to_str().unwrap()];
        let agent = lab.command(DOM0, args).unwrap().stdin(Stdio::null()).spawn().unwrap();
        eventually("the policy agent", || std::os::unix::net::UnixStream::connect(&socket).is_ok());
        Self { lab, agent }
    }

    fn says(&self, kind: &str, reply: &str) {
        fs::write(self.lab.layout().home(DOM0).join(format!("reply-{kind}")), reply).unwrap();
    }

    /// What was asked since this was called last.
    fn was_asked(&self) -> String {
        let path = self.lab.layout().home(DOM0).join("asked");
        let asked = read(&path);
        let _ = fs::remove_file(path);
        asked
    }
}

impl Drop for User<'_> {
    fn drop(&mut self) {
        let _ = self.agent.kill();
        let _ = self.agent.wait();
    }
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

/// The command of the first example, word for word.
fn add(lab: &Lab) -> Said {
    let client = program(lab, "our_test_add_client");
    run(lab, "work", &["qrexec_client_vm", "vault", "test.Add", &client, "11", "22"], b"")
}

/// Cases 1 and 13: the missing file is asked for; yes, no, and yes to all.
#[test]
fn the_user_makes_the_policy_and_answers_its_questions() {
    within_deadline(|| {
        let lab = adding(Age::R2).ask(true).program(DOM0, "dialog", DIALOG).start().unwrap();
        let user = User::of(&lab);
        let policy = lab.layout().policy().join("test.Add");
        user.says("new", "deny");
        assert_eq!(add(&lab).stderr, "", "refused: the program reads the end");
        assert_eq!((user.was_asked().as_str(), policy.exists()), ("new\n", false));

        user.says("new", "make");
        user.says("ask", "allow:vault");
        assert_eq!(add(&lab).stderr, "33\n");
        assert_eq!(user.was_asked(), "new\nask\n");
        let made = read(&policy);
        assert!(made.ends_with("\n$anyvm\t$anyvm\task\n"), "{made}");

        user.says("ask", "deny");
        assert_eq!(add(&lab).stderr, "");
        assert_eq!((user.was_asked().as_str(), read(&policy)), ("ask\n", made.clone()));

        user.says("ask", "always:vault");
        assert_eq!(add(&lab).stderr, "33\n");
        assert_eq!(user.was_asked(), "ask\n");
        assert_eq!(read(&policy), format!("work\tvault\tallow\n{made}"));
        assert_eq!(add(&lab).stderr, "33\n");
        assert_eq!(user.was_asked(), "", "nobody is asked again");
        drop(user);
        lab.down().unwrap();
    });
}

/// Case 14: the user that the policy names is the one that the target's agent is told.
#[test]
fn the_policy_names_the_user() {
    within_deadline(|| {
        let lab = lab_of(Age::R2)
            .script("vault", "test.Who", "echo served\n")
            .script("vault", "test.Other", "echo served\n")
            .old_policy("test.Other", "$anyvm $anyvm allow,user=nosuchuser\n");
        let lab = lab.start().unwrap();
        let own = format!("$anyvm $anyvm allow,user={}\n", lab.plan().user);
        fs::write(lab.layout().policy().join("test.Who"), own).unwrap();
        assert_eq!(OldClient::ask(&lab, "vault", "test.Who").read_all(), "served\n");
        assert_eq!(OldClient::ask(&lab, "vault", "test.Other").read_all(), "");
        let log = lab.layout().log("vault").join("agent.log");
        eventually("the agent's line about the user", || read(&log).contains("nosuchuser"));
        lab.down().unwrap();
    });
}

/// A lab of R2 in which `disp` stands for the disposables of `tmpl`, and there are none of `broken`.
fn with_disposables(folder: &Path) -> Lab {
    let command = folder.join("vms");
    let text = format!(
        "#!/bin/sh\necho \"$@\" >>{}\ncase \"$1 $2\" in\n'create tmpl') echo disp;;\n'create broken') exit 1;;\nesac\n",
        folder.join("log").display()
    );
    fs::write(&command, text).unwrap();
    fs::set_permissions(&command, fs::Permissions::from_mode(0o755)).unwrap();
    let lab = lab_of(Age::R2)
        .vm("work")
        .vm("vault")
        .vm("disp")
        .script("disp", "test.Who", "read word; echo $QUBES_LAB_VM for $QREXEC_REMOTE_DOMAIN: $word $#\n")
        .script("disp", "test.Fails", "exit 3\n")
        .script("disp", "test.Wait", "echo begun; cat\n")
        // It takes no notice of the end of its input.
        .script("disp", "test.Deaf", "echo begun; exec sleep 600\n")
        .env("QREXEC_VM_COMMAND", command.to_str().unwrap());
    let lab = ["test.Who", "test.Fails", "test.Wait", "test.Deaf", "test.None"]
        .into_iter()
        .fold(lab, |lab, service| lab.old_policy(service, "$anyvm $dispvm allow\n"))
        .start()
        .unwrap();
    let path = lab.layout().system_info();
    let mut system: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    for name in ["tmpl", "broken"] {
        system["domains"][name] =
            json!({"type": "AppVM", "tags": [], "template_for_dispvms": true, "power_state": "Halted"});
    }
    system["domains"]["work"]["default_dispvm"] = json!("tmpl");
    system["domains"]["vault"]["default_dispvm"] = json!("broken");
    fs::write(path, system.to_string()).unwrap();
    lab
}

/// Calls a service of a disposable that says that it has begun.
fn begun(lab: &Lab, service: &str) -> OldClient {
    begun_in(lab, "$dispvm", service)
}

fn begun_in(lab: &Lab, target: &str, service: &str) -> OldClient {
    let mut caller = OldClient::ask(lab, target, service);
    let mut word = [0; 6];
    caller.streams[0].read_exact(&mut word).unwrap();
    assert_eq!(&word, b"begun\n");
    caller
}

/// Case 16: made, called, removed; removed as well if the service fails, the caller goes or the program that made it is
/// killed.
#[test]
fn a_disposable_goes_with_its_call() {
    within_deadline(|| {
        let folder = tempfile::tempdir().unwrap();
        let lab = with_disposables(folder.path());
        let log = folder.path().join("log");
        let mut lives = 0;
        let mut removed = |why: &str| {
            lives += 1;
            let all = "create tmpl\nstart disp\nkill disp\n".repeat(lives);
            eventually(&format!("the removal: {why}"), || read(&log) == all);
        };
        let mut caller = OldClient::ask(&lab, "$dispvm", "test.Who");
        caller.streams[1].write_all(b"hello\n").unwrap();
        assert_eq!(caller.read_all(), "disp for work: hello 0\n");
        removed("the call is over");

        assert_eq!(OldClient::ask(&lab, "$dispvm", "test.Fails").read_all(), "");
        removed("the service has failed");
        assert_eq!(OldClient::ask(&lab, "$dispvm", "test.None").read_all(), "");
        removed("there is no such service");

        drop(begun(&lab, "test.Wait"));
        removed("the caller is gone");
        drop(begun(&lab, "test.Deaf"));
        removed("the caller is gone, and the service takes no notice");

        let mut caller = begun(&lab, "test.Wait");
        let is_it = |process: &lab::Process| process.program == "qfile-daemon-dvm";
        let creators: Vec<i32> = lab.processes().iter().filter(|one| is_it(one)).map(|one| one.pid).collect();
        let [creator] = creators[..] else { panic!("{creators:?}") };
        kill_process(Pid::from_raw(creator).unwrap(), Signal::KILL).unwrap();
        removed("what made it was killed");
        // In a lab nothing ends the machine itself; the call ends with its caller.
        caller.streams[1].shutdown(std::net::Shutdown::Write).unwrap();
        assert_eq!(caller.read_all(), "");
        lab.down().unwrap();
    });
}

/// Case 16: where none can be made, the caller reads the end, and nothing is removed.
#[test]
fn without_a_disposable_the_caller_reads_the_end() {
    within_deadline(|| {
        let folder = tempfile::tempdir().unwrap();
        let lab = with_disposables(folder.path());
        assert_eq!(OldClient::ask_from(&lab, "vault", "$dispvm", "test.Who").read_all(), "");
        assert_eq!(read(&folder.path().join("log")), "create broken\n");
        lab.down().unwrap();
    });
}

/// A VM whose agent and daemon of R2 have made room for those of today.
struct Newer(Vec<Child>);

impl Newer {
    fn start(lab: &Lab, vm: &str) -> Self {
        let of_vm = |process: &lab::Process| match process.program.as_str() {
            "qrexec-agent" => process.vm == vm,
            "qrexec-daemon" => process.args.iter().any(|word| word == vm),
            _ => false,
        };
        let old = || lab.processes().into_iter().filter(of_vm).map(|one| one.pid).collect::<Vec<_>>();
        assert_eq!(old().len(), 2);
        for pid in old() {
            kill_process(Pid::from_raw(pid).unwrap(), Signal::TERM).unwrap();
        }
        eventually("their ends", || old().is_empty());
        let id = lab.plan().id(vm).unwrap().to_string();
        let socket = lab.layout().agent_socket(vm);
        let agent = format!("--agent-socket={}", socket.display());
        let folder = format!("--socket-dir={}", lab.layout().sockets().display());
        let daemon = ["qrexec-daemon", "-D", &folder, &id, vm, &lab.plan().user];
        let start = |machine: &str, words: &[&str]| {
            let mut command = lab.command(machine, words).unwrap();
            command.stdin(Stdio::null()).spawn().unwrap()
        };
        let parts = vec![start(vm, &["qrexec-agent", &agent, "--no-fork-server"]), start(DOM0, &daemon)];
        eventually("agent and daemon of today", || {
            socket.exists() && lab.layout().daemon_socket(vm).exists()
        });
        Self(parts)
    }
}

impl Drop for Newer {
    fn drop(&mut self) {
        for part in &mut self.0 {
            let _ = part.kill();
            let _ = part.wait();
        }
    }
}

/// Cases 20 and 21: a VM of R2 calls one of today by two clients, of which each speaks what its daemon speaks.
#[test]
fn a_vm_of_r2_calls_one_of_today() {
    within_deadline(|| {
        let lab = lab_of(Age::R2)
            .vm("work")
            .vm("newer")
            .script("newer", "test.Echo", "exec cat\n")
            .script("newer", "test.Who", "echo $QUBES_LAB_VM for $QREXEC_REMOTE_DOMAIN; exit 5\n")
            .script("newer", "test.Wait", "echo begun; cat; echo over >$HOME/mark\n")
            .script("newer", "test.No", "echo never\n")
            .program("work", "both", "#!/bin/sh\ncat <&$SAVED_FD_0 & exec cat >&$SAVED_FD_1\n")
            .old_policy("test.No", "$anyvm $anyvm deny\n")
            .start()
            .unwrap();
        let newer = Newer::start(&lab, "newer");
        assert_eq!(OldClient::ask(&lab, "newer", "test.Who").read_all(), "newer for work\n");
        assert_eq!(OldClient::ask(&lab, "newer", "test.No").read_all(), "");
        let bytes: Vec<u8> = (0..16_u32 << 20).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        let both = program(&lab, "both");
        let said = run(&lab, "work", &["qrexec-client-vm", "newer", "test.Echo", &both], &bytes);
        assert!(said.code == 0 && said.stdout == bytes, "{} bytes, {}", said.stdout.len(), said.stderr);
        drop(begun_in(&lab, "newer", "test.Wait"));
        let mark = lab.layout().home("newer").join("mark");
        eventually("the service whose caller is gone to end", || read(&mark) == "over\n");

        // dom0 reaches both, and what each is asked in is its own.
        for (vm, code) in [("work", 3), ("newer", 4)] {
            let command = format!("DEFAULT:echo $QUBES_LAB_VM; exit {code}");
            let said = run(&lab, DOM0, &["qrexec-client", "-d", vm, &command], b"");
            assert_eq!((said.code, said.text()), (code, format!("{vm}\n")));
        }
        let words =
            ["qrexec-client", "-d", "work", "-c", "SOCKET1,newer,2", "DEFAULT:QUBESRPC test.Who newer"];
        let said = run(&lab, DOM0, &words, b"");
        assert!(said.code != 0 && said.stderr.contains("is of R2"), "{said:?}");
        drop(newer);
        lab.down().unwrap();
    });
}
