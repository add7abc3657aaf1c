//! `qrexec-client`: commands and services in qubes, asked for from dom0.

use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::{Command, Stdio};

use crate::common::{Said, lab, run, talk, within_deadline};
use lab::{DOM0, Lab};

/// `qrexec-client` in dom0.
fn client(lab: &Lab, args: &[&str], input: &[u8]) -> Said {
    run(lab, DOM0, &[&["qrexec-client"], args].concat(), input)
}

/// A command line for the user that the lab's services run as.
fn as_user(lab: &Lab, command: &str) -> String {
    format!("{}:{command}", lab.plan().user)
}

fn assert_said(said: &Said, code: i32, stdout: &str) {
    assert_eq!((said.code, said.text().as_str()), (code, stdout), "{said:?}");
}

/// A failure of the program itself: its code and one line that says why.
fn assert_failed(said: &Said, code: i32) {
    assert_eq!((said.code, said.stderr.lines().count()), (code, 1), "{said:?}");
    assert!(said.stderr.starts_with("qrexec-client: "), "{said:?}");
}

#[test]
fn commands_run_in_the_qube() {
    within_deadline(|| {
        let lab = lab().start().unwrap();
        let user = |command| as_user(&lab, command);
        let said = client(&lab, &["-d", "work", &user("echo out; echo err >&2; exit 5")], b"");
        assert_said(&said, 5, "out\n");
        assert_eq!(said.stderr, "err\n");
        assert_said(&client(&lab, &["-d", "work", "DEFAULT:cat"], b"in"), 0, "in");
        assert_said(&client(&lab, &["-d", "work", "-p", "<", "DEFAULT:cat"], b"in"), 0, "<in");
        assert_said(&client(&lab, &["-d", "work", "-E", "DEFAULT:exit 9"], b""), 0, "");
        assert_said(&client(&lab, &["-d", "work", "DEFAULT:kill -9 $$"], b""), 137, "");
        let odd =
            client(&lab, &["-d", "work", "-t", "-T", "DEFAULT:printf 'a\\033b'; printf 'c\\033' >&2"], b"");
        assert_eq!((odd.text().as_str(), odd.stderr.as_str()), ("a_b", "c_"));
        assert_said(&client(&lab, &["-d", "work", "no-such-user:ls"], b""), 125, "");
        let long = client(&lab, &["-d", "work", &user(&format!("true {}", "x".repeat(4087)))], b"");
        assert!(long.code == 125 && long.stderr.contains("takes 4087 at most"), "{long:?}");
        assert_said(&client(&lab, &["-Edwork", "-w0", "-p<", "--", "DEFAULT:cat; exit 9"], b"in"), 0, "<in");
        let id = lab.plan().id("work").unwrap();
        for name in [id.to_string(), format!("uuid:00000000-0000-0000-0000-{id:012}")] {
            assert_said(&client(&lab, &["-d", &name, "DEFAULT:echo $((6 * 7))"], b""), 0, "42\n");
        }
        lab.down().unwrap();
    });
}

#[test]
fn the_prefix_is_sent_at_once() {
    within_deadline(|| {
        let lab = lab().start().unwrap();
        for option in ["-p", "--prefix-data"] {
            let argv =
                ["qrexec-client", "-d", "work", option, "first\n", "DEFAULT:read line; echo \"got $line\""];
            let mut command = lab.command(DOM0, argv).unwrap();
            let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
            // The command has its line, and its caller the answer, while stdin is open and silent.
            let stdin = child.stdin.take();
            let mut said = String::new();
            std::io::Read::read_to_string(child.stdout.as_mut().unwrap(), &mut said).unwrap();
            assert_eq!((said.as_str(), child.wait().unwrap().code()), ("got first\n", Some(0)), "{option}");
            drop(stdin);
        }
    });
}

#[test]
fn services_run_in_the_qube() {
    within_deadline(|| {
        let script = "#!/bin/sh\necho \"$QREXEC_REMOTE_DOMAIN/$QREXEC_SERVICE_FULL_NAME/$1\"\ncat\nexit 3\n";
        let lab = lab().script("work", "test.Who", script).start().unwrap();
        let said = client(&lab, &["-d", "work", "DEFAULT:QUBESRPC test.Who+arg dom0"], b"in");
        assert_said(&said, 3, "dom0/test.Who+arg/arg\nin");
        let said = client(&lab, &["-d", "work", "DEFAULT:QUBESRPC test.Missing dom0"], b"");
        assert_said(&said, 127, "");
        let said = client(&lab, &["-d", "work", "DEFAULT:QUBESRPC"], b"");
        assert_said(&said, 125, "");
    });
}

#[test]
fn only_starting_gives_the_code_of_the_start() {
    within_deadline(|| {
        let lab = lab().start().unwrap();
        assert_said(&client(&lab, &["-d", "work", "-e", "DEFAULT:echo unheard; exit 5"], b"unread"), 0, "");
        assert_said(&client(&lab, &["-d", "work", "-e", "DEFAULT:QUBESRPC test.Missing dom0"], b""), 127, "");
        assert_said(&client(&lab, &["-d", "work", "-e", "no-such-user:ls"], b""), 125, "");
        assert_said(&client(&lab, &["-d", "work", "-e", "DEFAULT:touch hello-world.txt"], b""), 0, "");
        let file = lab.layout().home("work").join("hello-world.txt");
        crate::common::eventually("the file in the user's home", || file.exists());
    });
}

#[test]
fn a_local_command_or_service_is_the_other_end() {
    within_deadline(|| {
        let lab = lab()
            .script(DOM0, "test.Upper", "#!/bin/sh\nread line\necho \"$line\" | tr a-z A-Z\nexit 4\n")
            .start()
            .unwrap();
        let local = "read line; echo \"$line from $QREXEC_REMOTE_DOMAIN\" >&2; echo answer";
        let command = "echo question; read line; test \"$line\" = answer";
        let said = client(&lab, &["-d", "work", "-l", local, &as_user(&lab, command)], b"");
        assert_said(&said, 0, "");
        assert_eq!(said.stderr, "question from work\n");

        if std::path::Path::new("/bin/bash").exists() {
            let said =
                client(&lab, &["-d", "work", "-l", "echo ${BASH_VERSION:+bash} >&2", "DEFAULT:true"], b"");
            assert_eq!((said.code, said.stderr.as_str()), (0, "bash\n"), "a local command is one for bash");
            // It has a socket for its stdin, from which the user's start-up file must not read.
            std::fs::write(lab.layout().home(DOM0).join(".bashrc"), "echo from bashrc; read line\n").unwrap();
            let said = client(&lab, &["-d", "work", "-l", local, &as_user(&lab, command)], b"");
            assert_said(&said, 0, "");
            assert_eq!(said.stderr, "question from work\n");
        }

        let command = "echo word; read line; echo \"$line\" >&2";
        let said =
            client(&lab, &["-d", "work", "-l", "QUBESRPC test.Upper dom0", &as_user(&lab, command)], b"");
        assert_eq!((said.code, said.stderr.as_str()), (4, "WORD\n"));

        let said = client(&lab, &["-d", "work", "-l", "QUBESRPC test.Missing dom0", "DEFAULT:cat"], b"");
        assert_failed(&said, 127);

        // Who fails is heard; where both do it is the command in the qube.
        for (local, command, code) in [
            ("exit 4", "exit 9", 9),
            ("exit 4", "true", 4),
            ("true", "exit 9", 9),
            ("kill -9 $$", "exit 9", 9),
        ] {
            let said = client(&lab, &["-d", "work", "-l", local, &as_user(&lab, command)], b"");
            assert_said(&said, code, "");
        }
    });
}

#[test]
fn a_local_command_or_service_may_ask_for_one_socket() {
    within_deadline(|| {
        let local = "kill -USR1 $QREXEC_AGENT_PID; exec 1>&-; echo question >&0; read line; \
                     kill -USR1 $QREXEC_AGENT_PID; test \"$line\" = answer";
        let lab = lab().script(DOM0, "test.One", &format!("#!/bin/sh\n{local}\n")).start().unwrap();
        let command = as_user(&lab, "read line; echo \"heard $line\" >&2; echo answer");
        for local in [local, "QUBESRPC test.One dom0"] {
            let said = client(&lab, &["-d", "work", "-l", local, &command], b"");
            assert_eq!((said.code, said.stderr.as_str()), (0, "heard question\n"), "{local}");
        }
    });
}

#[test]
fn dom0_calls_its_own_services() {
    within_deadline(|| {
        let script = "#!/bin/sh\necho \"$QREXEC_REMOTE_DOMAIN/$1\"\ncat\nexit 3\n";
        let lab = lab().script(DOM0, "test.Own", script).start().unwrap();
        for dom0 in ["dom0", "@adminvm", "uuid:00000000-0000-0000-0000-000000000000"] {
            let said = client(&lab, &["-d", dom0, "DEFAULT:QUBESRPC test.Own+x dom0"], b"in");
            assert_said(&said, 3, "dom0/x\nin");
        }
        for (command, code) in [
            ("DEFAULT:QUBESRPC test.Missing dom0", 127),
            ("DEFAULT:ls", 125),
            ("user:QUBESRPC test.Own dom0", 125),
        ] {
            assert_failed(&client(&lab, &["-d", "dom0", command], b""), code);
        }
        // Programs only.
        let _listener = UnixListener::bind(lab.layout().services(DOM0).join("test.Socket")).unwrap();
        assert_failed(&client(&lab, &["-d", "dom0", "DEFAULT:QUBESRPC test.Socket dom0"], b""), 125);
        assert_failed(
            &client(&lab, &["-d", "dom0", "-l", "true", "DEFAULT:QUBESRPC test.Own dom0"], b""),
            125,
        );
    });
}

#[test]
fn a_lost_link_is_no_success_even_if_the_exit_code_does_not_matter() {
    within_deadline(|| {
        let lab = lab().start().unwrap();
        // The agent's process of this call, which alone could say how it ended.
        for (options, code) in [(&["-d", "work"][..], 255), (&["-E", "-d", "work"], 255)] {
            let said =
                client(&lab, &[options, &["DEFAULT:read x; kill -9 $QREXEC_AGENT_PID"]].concat(), b"\n");
            assert_failed(&said, code);
        }
    });
}

#[test]
fn force_user_does_not_count_in_dom0_and_a_line_says_so() {
    within_deadline(|| {
        let lab = lab().policy("* * @anyvm @adminvm allow\n");
        let lab = lab.script(DOM0, "test.Forced", "#!/bin/sh\nexit 3\n");
        let lab = lab.config(DOM0, "test.Forced", "force-user='nobody'\n").start().unwrap();
        let said = client(&lab, &["-d", "dom0", "DEFAULT:QUBESRPC test.Forced dom0"], b"");
        assert_eq!((said.code, said.stderr.lines().count()), (3, 1), "{said:?}");
        assert!(said.stderr.contains("force-user=\"nobody\" is ignored"), "{said:?}");
        assert_eq!(run(&lab, "work", &["qrexec-client-vm", "dom0", "test.Forced"], b"").code, 3);
        let log = std::fs::read_to_string(lab.layout().log(DOM0).join("daemon-work.log")).unwrap();
        assert_eq!(log.matches("is ignored: services in dom0").count(), 1, "{log}");
    });
}

#[test]
fn one_socket_for_both_directions() {
    within_deadline(|| {
        let lab = lab().start().unwrap();
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        let argv = ["qrexec-client", "--use-stdin-socket", "-d", "work", "DEFAULT:tr a-z A-Z"];
        let mut command: Command = lab.command(DOM0, argv).unwrap();
        let mut child = command.stdin(OwnedFd::from(theirs)).stdout(Stdio::null()).spawn().unwrap();
        drop(command);
        ours.write_all(b"both ways").unwrap();
        ours.shutdown(std::net::Shutdown::Write).unwrap();
        let mut answer = String::new();
        std::io::Read::read_to_string(&mut ours, &mut answer).unwrap();
        assert_eq!(answer, "BOTH WAYS");
        assert_eq!(child.wait().unwrap().code(), Some(0));
        let said = client(&lab, &["--use-stdin-socket", "-d", "work", "DEFAULT:cat"], b"");
        assert_failed(&said, 2);
    });
}

#[test]
fn a_qube_that_does_not_run_or_does_not_connect() {
    within_deadline(|| {
        let lab = lab().start().unwrap();
        assert_failed(&client(&lab, &["-d", "nobody", "DEFAULT:ls"], b""), 125);
        let said = client(&lab, &["-d", "work", "-c", "SOCKET77,vault,99", "DEFAULT:ls"], b"");
        assert_failed(&said, 137);
        // Meeting in another folder than the agent's: nobody comes.
        let mut command =
            lab.command(DOM0, ["qrexec-client", "-w", "1", "-d", "work", "DEFAULT:ls"]).unwrap();
        let elsewhere = lab.layout().root().join("elsewhere");
        command.env("QREXEC_TRANSPORT", "shm").env("QREXEC_SHM_DIR", elsewhere);
        let said = talk(command, b"");
        assert_eq!(said.code, 125, "{said:?}");
        assert!(said.stderr.contains("no vchan peer within 1s"), "{said:?}");
    });
}

#[test]
fn usage_errors_are_one_line() {
    within_deadline(|| {
        let lab = lab().start().unwrap();
        for args in [&[][..], &["-d", "work"], &["-d", "work", "-e", "-l", "x", "u:c"], &["-d", "a/b", "u:c"]]
        {
            assert_failed(&client(&lab, args, b""), 2);
        }
    });
}
