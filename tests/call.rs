//! Calls through the real programs: data, exit codes, policy, and what a caller finds unchanged afterwards.

use std::io::{BufRead, BufReader, Write};
use std::os::fd::AsFd;
use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::common::{
    self, Said, call, eventually, lab, leftovers, meeting_places, run, talk, wait_within, within_deadline,
};
use lab::{DOM0, Lab, Part};
use rustix::process::{Pid, Signal, kill_process};

/// How long the processes of a call may take to go after the caller has its exit code.
const GONE: Duration = Duration::from_secs(5);

/// Upstream's example of a service that adds: its two scripts as its documentation gives them.
const ADD_CLIENT: &str = "#!/bin/sh
echo $1 $2    # pass data to RPC server
exec cat >&$SAVED_FD_1 # print result to the original stdout, not to the other RPC endpoint
";
const ADD_SERVER: &str = "#!/bin/sh
read arg1 arg2 # read from stdin, which is received from the RPC client
echo $(($arg1+$arg2)) # print to stdout - so, pass to the RPC client
";

/// The path of a program that the lab has put into a machine.
fn program(lab: &Lab, vm: &str, name: &str) -> String {
    lab.layout().programs(vm).join(name).to_str().unwrap().to_owned()
}

fn assert_said(said: &Said, code: i32, stdout: &str) {
    assert_eq!((said.code, said.text().as_str()), (code, stdout), "{said:?}");
}

/// Nothing of finished calls is left, neither processes nor sockets.
fn assert_quiet(lab: &Lab, before: &[String]) {
    assert_eq!(leftovers(lab, GONE), []);
    assert_eq!(meeting_places(lab), before);
}

#[test]
fn upstreams_example_adds() {
    within_deadline(|| {
        let lab = lab()
            .policy("test.Add * @anyvm @anyvm allow\n")
            .program("work", "our_test_add_client", ADD_CLIENT)
            .program("vault", "our_test_add_server", ADD_SERVER)
            .script("vault", "test.Add", "#!/bin/sh\nexec our_test_add_server\n")
            .start()
            .unwrap();
        let before = meeting_places(&lab);
        let client = program(&lab, "work", "our_test_add_client");
        let said = run(&lab, "work", &["qrexec-client-vm", "vault", "test.Add", &client, "1", "2"], b"");
        assert_said(&said, 0, "3\n");
        assert_quiet(&lab, &before);
        assert_said(&call(&lab, "work", "vault", "test.Other", b""), 126, "");
        lab.down().unwrap();
    });
}

/// The example of upstream's page about R3: a service whose argument names a file, allowed by argument and caller.
#[test]
fn upstreams_example_with_an_argument_reads_files() {
    within_deadline(|| {
        let service = "#!/bin/sh\n[ -n \"$1\" ] || { echo no argument; exit 1; }\nexec cat \"$HOME/rpc-file-storage/$1\"\n";
        let lab = lab()
            .vm("work")
            .vm("mail")
            .vm("vault")
            .policy(
                "test.File +testfile1 work vault allow\ntest.File +testfile2 mail vault allow\n\
                 test.File * @anyvm @anyvm deny\n",
            )
            .script("vault", "test.File", service)
            .start()
            .unwrap();
        let storage = lab.layout().home("vault").join("rpc-file-storage");
        std::fs::create_dir(&storage).unwrap();
        for name in ["testfile1", "testfile2", "testfile3"] {
            std::fs::write(storage.join(name), format!("this is {name}\n")).unwrap();
        }
        assert_said(&call(&lab, "work", "vault", "test.File+testfile1", b""), 0, "this is testfile1\n");
        assert_said(&call(&lab, "mail", "vault", "test.File+testfile2", b""), 0, "this is testfile2\n");
        for (vm, argument) in
            [("work", "+testfile2"), ("mail", "+testfile1"), ("work", "+testfile3"), ("work", "")]
        {
            assert_said(&call(&lab, vm, "vault", &format!("test.File{argument}"), b""), 126, "");
        }
        lab.down().unwrap();
    });
}

#[test]
fn bytes_pass_unchanged_in_both_directions() {
    within_deadline(|| {
        let lab = lab().script("vault", "test.Cat", "#!/bin/sh\nexec cat\n").start().unwrap();
        let before = meeting_places(&lab);
        let every: Vec<u8> = (0..=255).cycle().take(300_000).collect();
        for input in [&b""[..], b"x", &every[..4096], &every] {
            let said = call(&lab, "work", "vault", "test.Cat", input);
            assert_eq!(said.code, 0, "{}", said.stderr);
            assert!(said.stdout == input, "{} bytes became {}", input.len(), said.stdout.len());
        }
        assert_quiet(&lab, &before);
    });
}

#[test]
fn a_service_of_dom0_may_ask_for_one_socket() {
    within_deadline(|| {
        let script = "#!/bin/sh\necho old; kill -USR1 $QREXEC_AGENT_PID; exec 1>&-; echo new >&0; cat >&0\n\
                      kill -USR1 $QREXEC_AGENT_PID; exit 7\n";
        let lab = lab().policy("* * @anyvm @adminvm allow\n").script(DOM0, "test.One", script);
        let lab = lab.start().unwrap();
        assert_said(&call(&lab, "work", "dom0", "test.One", b"through\n"), 7, "old\nnew\nthrough\n");
        assert_eq!(leftovers(&lab, GONE), []);
    });
}

#[test]
fn the_service_knows_who_calls_and_with_what() {
    within_deadline(|| {
        let script = "#!/bin/sh
echo \"$QREXEC_REMOTE_DOMAIN/$QREXEC_SERVICE_FULL_NAME/$QREXEC_SERVICE_ARGUMENT/$1/$QREXEC_REQUESTED_TARGET_TYPE\"
echo complaint >&2
";
        let lab = lab().script("vault", "test.Who", script).start().unwrap();
        let said = call(&lab, "work", "vault", "test.Who+some-arg", b"");
        assert_said(&said, 0, "work/test.Who+some-arg/some-arg/some-arg/\n");
        assert_eq!(said.stderr, "complaint\n");
        assert_said(&call(&lab, "work", "vault", "test.Who", b""), 0, "work/test.Who+///\n");
    });
}

#[test]
fn the_exit_code_is_the_services() {
    within_deadline(|| {
        let lab = lab()
            .script("vault", "test.Exit", "#!/bin/sh\nexit $1\n")
            .script("vault", "test.Signal", "#!/bin/sh\nkill -$1 $$\n")
            .start()
            .unwrap();
        for code in [0, 1, 77, 126, 255] {
            assert_eq!(call(&lab, "work", "vault", &format!("test.Exit+{code}"), b"").code, code);
        }
        assert_eq!(call(&lab, "work", "vault", "test.Signal+TERM", b"").code, 143);
        assert_eq!(call(&lab, "work", "vault", "test.Signal+KILL", b"").code, 137);
    });
}

/// Its caller has not ended its side, and says nothing.
#[test]
fn the_end_of_a_service_ends_the_call_and_what_it_said_comes_first() {
    within_deadline(|| {
        // More than the ring and the caller's pipe hold, less than the service's own socket holds besides.
        let script = "#!/bin/sh\nhead -c 150000 /dev/zero\n: >\"$HOME/said\"\nexit 3\n";
        let lab = lab().script("vault", "test.Leaves", script).start().unwrap();
        let before = meeting_places(&lab);
        let mut command = lab.command("work", ["qrexec-client-vm", "vault", "test.Leaves"]).unwrap();
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let stdin = child.stdin.take();
        // Nothing is read before the service has gone.
        let said = lab.layout().home("vault").join("said");
        let is_service = |process: &lab::Process| process.vm == "vault" && process.program != "qrexec-agent";
        eventually("the end of the service", || {
            said.exists() && !common::extras(&lab).iter().any(is_service)
        });
        let mut said = Vec::new();
        std::io::Read::read_to_end(child.stdout.as_mut().unwrap(), &mut said).unwrap();
        assert_eq!((said.len(), child.wait().unwrap().code()), (150_000, Some(3)));
        drop(stdin);
        assert_quiet(&lab, &before);
    });
}

/// What a service says after its caller has ended their side: only that side is closed.
#[test]
fn the_end_of_the_callers_side_is_half_an_end() {
    within_deadline(|| {
        let lab = lab()
            .policy("* * @anyvm @anyvm allow\n* * @anyvm @adminvm allow\n")
            .script("vault", "test.Count", "#!/bin/sh\nwc -c\necho after\n")
            .script(DOM0, "test.Count", "#!/bin/sh\nwc -c\necho after\n")
            .start()
            .unwrap();
        for target in ["vault", "dom0"] {
            assert_said(&call(&lab, "work", target, "test.Count", b"12345"), 0, "5\nafter\n");
        }
        let argv = ["qrexec-client", "-d", "vault", "DEFAULT:wc -c; echo after"];
        assert_said(&run(&lab, DOM0, &argv, b"12345"), 0, "5\nafter\n");
    });
}

#[test]
fn neither_the_programs_nor_the_services_failure_is_lost() {
    within_deadline(|| {
        let lab = lab()
            .script("vault", "test.Exit", "#!/bin/sh\nexit $1\n")
            .program("work", "leave", "#!/bin/sh\nexit $1\n")
            .program("work", "die", "#!/bin/sh\nkill -TERM $$\n")
            .start()
            .unwrap();
        let leave = program(&lab, "work", "leave");
        for (own, service, expected) in [(0, 0, 0), (0, 3, 3), (4, 0, 4), (5, 6, 6)] {
            let service = format!("test.Exit+{service}");
            let said =
                run(&lab, "work", &["qrexec-client-vm", "vault", &service, &leave, &own.to_string()], b"");
            assert_eq!(said.code, expected, "{said:?}");
        }
        let die = program(&lab, "work", "die");
        let said = run(&lab, "work", &["qrexec-client-vm", "vault", "test.Exit+0", &die], b"");
        assert_eq!(said.code, 143, "{said:?}");
    });
}

#[test]
fn failures_have_their_codes() {
    within_deadline(|| {
        let lab = lab()
            .policy("test.No * @anyvm @anyvm deny\n* * @anyvm @anyvm allow\n")
            .script("vault", "test.No", "#!/bin/sh\necho never\n")
            .program("work", "mark", "#!/bin/sh\necho started >&$SAVED_FD_1\n")
            .start()
            .unwrap();
        std::fs::create_dir(lab.layout().services("vault").join("test.Folder")).unwrap();
        let before = meeting_places(&lab);
        let refused = call(&lab, "work", "vault", "test.No", b"");
        assert_said(&refused, 126, "");
        assert!(refused.stderr.contains("Request refused"), "{refused:?}");
        assert_said(&call(&lab, "work", "nobody", "test.Cat", b""), 126, "");
        assert_said(&call(&lab, "work", "work", "test.Cat", b""), 126, "");
        assert_said(&call(&lab, "work", "vault", "test.Missing", b""), 127, "");
        assert_said(&call(&lab, "work", "vault", "test.Folder", b""), 125, "");

        let mark = program(&lab, "work", "mark");
        let said = run(&lab, "work", &["qrexec-client-vm", "vault", "test.No", &mark], b"");
        assert_said(&said, 126, "");

        let with = |args: &[&str]| run(&lab, "work", &[&["qrexec-client-vm"], args].concat(), b"");
        assert_eq!(with(&[]).code, 2);
        assert_eq!(with(&["vault"]).code, 2);
        assert_eq!(with(&["--no-such-option", "vault", "test.Cat"]).code, 2);
        assert_eq!(with(&["--buffer-size=rubbish", "vault", "test.Cat"]).code, 2);
        assert_eq!(with(&["--buffer-size=1048577", "vault", "test.Cat"]).code, 125);
        assert_eq!(with(&["--agent-socket=/nowhere/at/all", "vault", "test.Cat"]).code, 125);
        assert_quiet(&lab, &before);
    });
}

#[test]
fn policy_redirects_and_names_targets() {
    within_deadline(|| {
        let policy = "\
test.Where +to-third work vault allow target=third
test.Where *         work @default allow target=vault
test.Where *         work vault allow
";
        let lab = lab()
            .vm("work")
            .vm("vault")
            .vm("third")
            .policy(policy)
            .script("vault", "test.Where", "#!/bin/sh\necho vault\n")
            .script("third", "test.Where", "#!/bin/sh\necho third\n")
            .start()
            .unwrap();
        assert_said(&call(&lab, "work", "vault", "test.Where", b""), 0, "vault\n");
        assert_said(&call(&lab, "work", "vault", "test.Where+to-third", b""), 0, "third\n");
        assert_said(&call(&lab, "work", "", "test.Where", b""), 0, "vault\n");
        assert_said(&call(&lab, "work", "@default", "test.Where", b""), 0, "vault\n");
        assert_said(&call(&lab, "work", "$default", "test.Where", b""), 0, "vault\n");
        assert_said(&call(&lab, "work", "third", "test.Where", b""), 126, "");
        assert_said(&call(&lab, "vault", "third", "test.Where", b""), 126, "");
    });
}

#[test]
fn a_vm_calls_dom0_if_the_policy_says_so() {
    within_deadline(|| {
        let script = "#!/bin/sh
read line
echo \"$line from $QREXEC_REMOTE_DOMAIN $QREXEC_REQUESTED_TARGET_TYPE $QREXEC_REQUESTED_TARGET_KEYWORD\"
exit 9
";
        let lab = lab()
            .policy("test.Report * work @adminvm allow\n")
            .script(DOM0, "test.Report", script)
            .start()
            .unwrap();
        let before = meeting_places(&lab);
        for name in ["@adminvm", "dom0", "uuid:00000000-0000-0000-0000-000000000000"] {
            let said = call(&lab, "work", name, "test.Report", b"news\n");
            assert_eq!(said.code, 9, "{said:?}");
            assert!(said.text().starts_with("news from work "), "{said:?}");
        }
        assert_eq!(call(&lab, "vault", "dom0", "test.Report", b"").code, 126);
        assert_quiet(&lab, &before);
    });
}

#[test]
fn services_of_dom0_wait_for_the_session_too() {
    within_deadline(|| {
        // It fails, which is no reason not to go on.
        let wait = "#!/bin/sh\nread user\necho \"$user $QREXEC_REMOTE_DOMAIN\" >>\"$HOME/went\"\nexit 1\n";
        let lab = lab()
            .policy("test.Gui * work @adminvm allow\n")
            .script(DOM0, "qubes.WaitForSession", wait)
            .script(DOM0, "test.Gui", "#!/bin/sh\ncat \"$HOME/went\"\n")
            .config(DOM0, "test.Gui", "wait-for-session=1\n")
            .start()
            .unwrap();
        let line = format!("{} work\n", lab.plan().user);
        let said = call(&lab, "work", "dom0", "test.Gui", b"");
        assert_eq!((said.code, said.text()), (0, line.clone()), "{said:?}");
        let argv = ["qrexec-client", "-d", "dom0", "DEFAULT:QUBESRPC test.Gui work"];
        let said = run(&lab, DOM0, &argv, b"");
        assert_eq!((said.code, said.text()), (0, line.repeat(2)), "{said:?}");
        let argv = ["qrexec-client", "-d", "dom0", "DEFAULT:nogui:QUBESRPC test.Gui work"];
        assert_eq!(run(&lab, DOM0, &argv, b"").text(), line.repeat(2));
    });
}

#[test]
fn dom0_runs_commands_and_services_in_a_vm() {
    within_deadline(|| {
        let lab = lab().script("vault", "test.Cat", "#!/bin/sh\ncat; exit 8\n").start().unwrap();
        let before = meeting_places(&lab);
        let client = |args: &[&str], input: &[u8]| {
            run(&lab, DOM0, &[&["qrexec-client", "-d", "vault"], args].concat(), input)
        };
        assert_said(&client(&["DEFAULT:cat; exit 6"], b"abc"), 6, "abc");
        assert_said(&client(&["DEFAULT:QUBESRPC test.Cat dom0"], b"abc"), 8, "abc");
        assert_said(&client(&["-E", "DEFAULT:exit 6"], b""), 0, "");
        assert_said(&client(&["-e", "DEFAULT:exit 6"], b""), 0, "");
        assert_eq!(client(&["DEFAULT:QUBESRPC test.Missing dom0"], b"").code, 127);
        assert_said(&client(&["-l", "echo local; exec cat >&2", "DEFAULT:cat"], b""), 0, "");
        let absent = run(&lab, DOM0, &["qrexec-client", "-d", "nobody", "DEFAULT:true"], b"");
        assert_eq!(absent.code, 125, "{absent:?}");
        assert_quiet(&lab, &before);
    });
}

#[test]
fn agents_and_daemons_can_be_started_anew() {
    within_deadline(|| {
        let lab = lab().script("vault", "test.Cat", "#!/bin/sh\nexec cat\n").start().unwrap();
        for vm in ["work", "vault"] {
            for part in [Part::Agent, Part::Daemon] {
                lab.restart(vm, part).unwrap();
                assert_said(&call(&lab, "work", "vault", "test.Cat", b"again"), 0, "again");
            }
        }
    });
}

#[test]
fn a_service_of_dom0_is_told_what_one_in_a_vm_is_told() {
    within_deadline(|| {
        let script = "#!/bin/sh\nset -u\necho \"$QREXEC_SERVICE_FULL_NAME <$QREXEC_SERVICE_ARGUMENT> $#\"\n";
        let lab = lab().policy("* * @anyvm * allow\n").script("vault", "test.Told", script);
        let lab = lab.script(DOM0, "test.Told", script).start().unwrap();
        for target in ["vault", "@adminvm", "dom0"] {
            for service in ["test.Told", "test.Told+"] {
                assert_said(&call(&lab, "work", target, service, b""), 0, "test.Told+ <> 0\n");
            }
            assert_said(&call(&lab, "work", target, "test.Told+a", b""), 0, "test.Told+a <a> 1\n");
        }
    });
}

/// A call whose service says when it runs and then waits.
fn waiting_call(lab: &Lab) -> (std::process::Child, BufReader<std::process::ChildStdout>) {
    let mut command = lab.command("work", ["qrexec-client-vm", "vault", "test.Wait"]).unwrap();
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    stdout.read_line(&mut line).unwrap();
    assert_eq!(line, "here\n");
    (child, stdout)
}

#[test]
fn a_lost_link_is_reported_never_a_silent_success() {
    within_deadline(|| {
        let lab = lab().script("vault", "test.Wait", "#!/bin/sh\necho here\nexec cat\n").start().unwrap();
        let (mut child, _stdout) = waiting_call(&lab);
        let in_vault = common::extras(&lab).into_iter().filter(|process| process.vm == "vault");
        let call_process = in_vault.into_iter().find(|process| process.program == "qrexec-agent").unwrap();
        kill_process(Pid::from_raw(call_process.pid).unwrap(), Signal::KILL).unwrap();
        assert_eq!(wait_within(&mut child, Duration::from_secs(1)), Some(255));
        let mut reason = String::new();
        std::io::Read::read_to_string(child.stderr.as_mut().unwrap(), &mut reason).unwrap();
        assert!(!reason.trim().is_empty(), "255 without a reason");
        assert_eq!(leftovers(&lab, GONE), []);
    });
}

#[test]
fn the_service_ends_when_its_caller_is_killed() {
    within_deadline(|| {
        let lab = lab().script("vault", "test.Wait", "#!/bin/sh\necho here\nexec cat\n").start().unwrap();
        let (mut child, _stdout) = waiting_call(&lab);
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(leftovers(&lab, GONE), []);
    });
}

#[test]
fn pipes_of_the_caller_are_left_as_they_were() {
    within_deadline(|| {
        let lab = lab().script("vault", "test.Cat", "#!/bin/sh\nexec cat\n").start().unwrap();
        let (reader, writer) = std::io::pipe().unwrap();
        let (answer, out) = std::io::pipe().unwrap();
        let flags = |fd: &dyn AsFd| rustix::fs::fcntl_getfl(fd.as_fd()).unwrap();
        let before = (flags(&reader), flags(&out));
        let mut command = lab.command("work", ["qrexec-client-vm", "vault", "test.Cat"]).unwrap();
        command.stdin(reader.try_clone().unwrap()).stdout(out.try_clone().unwrap());
        let mut child = command.spawn().unwrap();
        drop(command);
        (&writer).write_all(b"line\n").unwrap();
        let mut line = String::new();
        BufReader::new(answer).read_line(&mut line).unwrap();
        assert_eq!((flags(&reader), flags(&out)), before, "in the middle");
        drop(writer);
        assert!(child.wait().unwrap().success());
        assert_eq!((flags(&reader), flags(&out)), before, "afterwards");
    });
}

#[test]
fn terminal_escapes_are_filtered_when_asked() {
    within_deadline(|| {
        let lab =
            lab().script("vault", "test.Escape", "#!/bin/sh\nprintf 'a\\033[2Jb\\n'\n").start().unwrap();
        assert_said(&call(&lab, "work", "vault", "test.Escape", b""), 0, "a\x1b[2Jb\n");
        let said = run(&lab, "work", &["qrexec-client-vm", "-t", "vault", "test.Escape"], b"");
        assert_said(&said, 0, "a_[2Jb\n");
    });
}

#[test]
fn a_command_inside_the_lab_can_call_too() {
    within_deadline(|| {
        let lab = lab().script("vault", "test.Cat", "#!/bin/sh\nexec cat\n").start().unwrap();
        let script = "echo nested | qrexec-client-vm vault test.Cat";
        assert_said(&talk(lab.command("work", ["sh", "-c", script]).unwrap(), b""), 0, "nested\n");
    });
}

#[test]
fn a_caller_is_told_that_its_targets_agent_is_gone() {
    within_deadline(|| {
        let lab = lab().start().unwrap();
        let before = meeting_places(&lab);
        let is_agent = |process: &lab::Process| process.vm == "vault" && process.program == "qrexec-agent";
        let agent = lab.processes().into_iter().find(is_agent).expect("an agent").pid;
        let agent = Pid::from_raw(agent).unwrap();
        // It takes no command any more; dom0 does not know that yet.
        kill_process(agent, Signal::STOP).unwrap();
        let mut command = lab.command("work", ["qrexec-client-vm", "vault", "test.Echo"]).unwrap();
        let command = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let caller = command.spawn().unwrap();
        eventually("the caller waits", || meeting_places(&lab).len() > before.len());
        kill_process(agent, Signal::KILL).unwrap();
        let begun = Instant::now();
        let output = caller.wait_with_output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(125) && stderr.contains("can't come"), "{output:?}");
        assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
        let log = std::fs::read_to_string(lab.layout().log(DOM0).join("daemon-work.log")).unwrap();
        assert!(log.contains("its target's agent is gone"), "{log}");
    });
}
