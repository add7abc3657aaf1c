//! `qvm-run` and the services behind it, in labs that have nothing but what every lab has.

use std::fs;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::common::{self, DEADLINE, Said, eventually, extras, lab, leftovers, run, within_deadline};
use lab::Lab;
use rustix::process::{Pid, Signal, kill_process};

/// `qvm-run` in dom0 and the same from a VM: what both say.
fn both(lab: &Lab, words: &[&str], input: &[u8]) -> [Said; 2] {
    ["dom0", "work"].map(|vm| run(lab, vm, &[&["qvm-run"], words].concat(), input))
}

fn expect(lab: &Lab, words: &[&str], input: &[u8], code: i32, text: &str) {
    for said in both(lab, words, input) {
        assert_eq!((said.code, said.text().as_str()), (code, text), "{words:?}: {said:?}");
    }
}

#[test]
fn a_line_and_words_run_with_their_streams_and_status() {
    within_deadline(|| {
        let lab = lab().start().unwrap();
        expect(&lab, &["-p", "vault", "echo hi; exit 3"], b"", 3, "hi\n");
        expect(&lab, &["-p", "vault", "--", "sh", "-c", "echo \"a  b\"; exit 4"], b"", 4, "a  b\n");
        expect(&lab, &["-p", "vault", "kill -9 $$"], b"", 137, "");
        expect(&lab, &["-p", "vault", "kill -15 $$"], b"", 143, "");
        expect(
            &lab,
            &["-p", "vault", "read x; echo \"got $x\"; cat"],
            b"line1\nline2\n",
            0,
            "got line1\nline2\n",
        );
        expect(&lab, &["-p", "vault", "echo $QUBES_LAB_VM"], b"", 0, "vault\n");
        let said = common::run(&lab, "dom0", &["qvm-run", "vault", "echo hi"], b"");
        assert_eq!((said.code, said.text().as_str()), (0, ""), "{said:?}");
        assert!(said.stderr.contains("Running 'echo hi' on vault"), "{said:?}");
        let said = common::run(&lab, "dom0", &["qvm-run", "-p", "dom0", "--", "echo", "a  b"], b"");
        assert_eq!(said.text(), "a  b\n", "{said:?}");
    });
}

#[test]
fn much_data_goes_through() {
    within_deadline(|| {
        let lab = lab().start().unwrap();
        let data = vec![b'x'; 20_000_000];
        expect(&lab, &["-p", "vault", "wc -c"], &data, 0, "20000000\n");
    });
}

/// The caller's data are data, whatever the command ends in.
#[test]
fn what_is_read_never_becomes_a_command() {
    within_deadline(|| {
        let lab = lab().start().unwrap();
        let data = b"echo X\n";
        expect(&lab, &["-p", "vault", "echo a #note"], data, 0, "a\n");
        expect(&lab, &["-p", "vault", "echo a\\"], data, 0, "a\\\n");
        expect(&lab, &["-p", "vault", "true &"], data, 0, "");
        for said in both(&lab, &["-p", "vault", "echo 'open"], data) {
            assert!(said.code != 0 && !said.text().contains('X'), "{said:?}");
        }
        for said in both(&lab, &["-p", "vault", "exit() { :; }"], data) {
            assert_eq!(said.text(), "", "{said:?}");
        }
    });
}

#[test]
fn who_asks_for_no_stdin_keeps_it() {
    within_deadline(|| {
        let lab = lab().start().unwrap();
        let line = "qvm-run -pN vault cat; cat";
        let said = run(&lab, "work", &["sh", "-c", line], b"one\ntwo\n");
        assert_eq!(said.text(), "one\ntwo\n", "{said:?}");
    });
}

#[test]
fn a_wrong_command_line_or_qube_is_status_2() {
    within_deadline(|| {
        let lab = lab().start().unwrap();
        let said = run(&lab, "dom0", &["qvm-run", "nosuch", "true"], b"");
        assert!(said.code == 2 && said.stderr.contains("no qube nosuch"), "{said:?}");
        for words in [&["vault"][..], &["-p", "--all", "true"], &["--service", "--no-shell", "vault", "x"]] {
            for said in both(&lab, words, b"") {
                assert_eq!((said.code, said.stderr.lines().count()), (2, 1), "{said:?}");
            }
        }
        let said = run(&lab, "work", &["qvm-run", "-u", "root", "vault", "true"], b"");
        assert!(said.code == 2 && said.stderr.contains("dom0"), "{said:?}");
        let said = run(&lab, "work", &["qvm-run", "nosuch", "true"], b"");
        assert!(said.code == 126 && said.stderr.contains("refused by policy"), "{said:?}");
    });
}

#[test]
fn a_service_or_program_that_is_not_there_is_127_and_a_user_who_is_not_125() {
    within_deadline(|| {
        let lab = lab().start().unwrap();
        for words in [&["--service", "vault", "test.Nope"][..], &["vault", "--", "no-such-program"]] {
            for said in both(&lab, words, b"") {
                assert!(said.code == 127 && said.stderr.contains("no such"), "{said:?}");
            }
        }
        let said = run(&lab, "dom0", &["qvm-run", "-u", "nosuchuser", "vault", "true"], b"");
        assert!(said.code == 125 && said.stderr.contains("trouble"), "{said:?}");
        let long = "x".repeat(5000);
        for said in both(&lab, &["-p", "vault", "--", "echo", &long], b"") {
            assert!([125, 126].contains(&said.code) && said.stderr.contains("4000"), "{said:?}");
        }
    });
}

#[test]
fn all_qubes_get_it_and_the_largest_status_counts() {
    within_deadline(|| {
        let lab = lab().start().unwrap();
        let ask = |words: &[&str]| run(&lab, "dom0", &[&["qvm-run"], words].concat(), b"");
        assert_eq!(ask(&["--all", "exit 6"]).code, 6);
        let said = ask(&["--all", "-p", "--prefix", "echo $QUBES_LAB_VM; printf tail"]);
        let mut lines: Vec<String> = said.text().lines().map(str::to_owned).collect();
        lines.sort();
        assert_eq!(lines, ["vault: tail", "vault: vault", "work: tail", "work: work"], "{said:?}");
        assert_eq!(ask(&["--all", "--exclude", "work", "--exclude", "vault", "exit 6"]).code, 0);
        assert_eq!(ask(&["--all", "--exclude", "wrk", "true"]).code, 2);
        fs::remove_file(lab.layout().services("vault").join("qubes.VMShell")).unwrap();
        let said = ask(&["--all", "exit 6"]);
        assert_eq!(said.code, 127, "{said:?}");
        assert!(
            said.stderr.contains("vault: no such") && said.stderr.contains("work: the command failed"),
            "{said:?}"
        );
    });
}

#[test]
fn a_local_command_takes_the_place_of_our_streams() {
    within_deadline(|| {
        let lab = lab().start().unwrap();
        let words = ["-p", "--localcmd", "echo L; exit 9", "vault", "cat >&2; exit 2"];
        for said in both(&lab, &words, b"") {
            assert_eq!((said.code, said.text().as_str()), (9, ""), "{said:?}");
            assert!(said.stderr.contains('L'), "{said:?}");
        }
        expect(&lab, &["-p", "--localcmd", "true", "vault", "false"], b"", 1, "");
        expect(&lab, &["-p", "--localcmd", "false", "vault", "true"], b"", 1, "");
    });
}

#[test]
fn a_script_of_this_side_runs_over_there() {
    within_deadline(|| {
        let lab = lab().start().unwrap();
        for vm in ["dom0", "work"] {
            fs::write(lab.layout().home(vm).join("s"), "echo \"$QUBES_LAB_VM: $1\"; exit 5\n").unwrap();
        }
        expect(&lab, &["-p", "--script", "s", "vault", "a b"], b"unread", 5, "vault: a b\n");
    });
}

#[test]
fn output_is_filtered_and_coloured_as_asked() {
    within_deadline(|| {
        let lab = lab().start().unwrap();
        let words = ["-p", "--filter-escape-chars", "vault", "printf 'tab\\tesc\\033x\\303\\251\\n'"];
        expect(&lab, &words, b"", 0, "\x1b[0;31mtab\tesc_x__\n\x1b[0m");
        expect(&lab, &["-p", "vault", "printf 'esc\\033'"], b"", 0, "esc\x1b");
    });
}

/// The client that makes the call is killed; the program itself is told to end.
#[test]
fn a_lost_or_interrupted_call_is_never_a_good_end() {
    within_deadline(|| {
        let lab = lab().start().unwrap();
        for (vm, client) in [("dom0", "qrexec-client"), ("work", "qrexec-client-vm")] {
            let start = || {
                let mut command =
                    lab.command(vm, ["qvm-run", "-p", "vault", "echo ready; exec sleep 1000"]).unwrap();
                let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
                let mut line = String::new();
                let mut out = std::io::BufReader::new(child.stdout.take().unwrap());
                std::io::BufRead::read_line(&mut out, &mut line).unwrap();
                assert_eq!(line, "ready\n");
                child
            };
            let mut child = start();
            let call = lab.processes().into_iter().find(|process| process.program == client).unwrap();
            kill_process(Pid::from_raw(call.pid).unwrap(), Signal::KILL).unwrap();
            assert_eq!(common::wait_within(&mut child, DEADLINE), Some(137), "{vm}");
            for (signal, status) in [(Signal::INT, 130), (Signal::TERM, 143)] {
                let mut child = start();
                kill_process(Pid::from_raw(child.id() as i32).unwrap(), signal).unwrap();
                assert_eq!(common::wait_within(&mut child, DEADLINE), Some(status), "{vm}");
            }
            eventually("the calls' end", || extras(&lab).iter().all(|process| process.program != client));
        }
        for process in leftovers(&lab, Duration::ZERO) {
            let _ = Pid::from_raw(process.pid).map(|pid| kill_process(pid, Signal::KILL));
        }
    });
}

#[test]
fn qvm_run_vm_takes_one_word_as_a_line_and_more_as_they_are() {
    within_deadline(|| {
        let lab = lab().start().unwrap();
        let ask = |words: &[&str]| run(&lab, "work", &[&["qvm-run-vm"], words].concat(), b"");
        let said = ask(&["vault", "echo hi; exit 3"]);
        assert_eq!((said.code, said.text().as_str()), (3, "hi\n"), "{said:?}");
        assert_eq!(ask(&["--", "vault", "echo", "-n", "x"]).text(), "x");
        assert_eq!(ask(&["vault", "echo", "a  b", ";", "echo", "c"]).text(), "a  b ; echo c\n");
        assert_eq!(ask(&["vault"]).code, 1);
        assert_eq!(ask(&["--bogus", "vault", "true"]).code, 1);
        assert_eq!(ask(&["--dispvm", "true"]).code, 126);
    });
}

#[test]
fn vmexec_decodes_or_refuses() {
    within_deadline(|| {
        let lab = lab().start().unwrap();
        let ask =
            |argument: &str| common::call(&lab, "work", "vault", &format!("qubes.VMExec+{argument}"), b"");
        assert_eq!(ask("printf+-25s-7C-25s+a-0Ab+-C3-A9").text(), "a\nb|é");
        assert_eq!(ask("-2Fbin-2Fecho+--n+x").text(), "x");
        for bad in ["illegal-single", "incomplete-A", "smalletters-0a-0d", "ls+---threeslashes"] {
            let said = ask(bad);
            assert_eq!(said.code, 1, "{bad}");
            assert!(said.stderr.contains("Decode error: '-' can be used only in '-HH' or '--'"), "{said:?}");
        }
        let said = ask("");
        assert!(said.code == 1 && said.stderr.contains("exactly one argument"), "{said:?}");
        let said = ask("no-2Dsuch");
        assert!(said.code == 127 && said.stderr.contains("no-such"), "{said:?}");
        assert_eq!(ask("-2Ftmp").code, 125);
    });
}

#[test]
fn vmshell_leaves_a_command_what_stands_behind_its_line() {
    within_deadline(|| {
        let lab = lab().start().unwrap();
        let said = common::call(&lab, "work", "vault", "qubes.VMShell", b"exec cat\nrest of\nthe data");
        assert_eq!((said.code, said.text().as_str()), (0, "rest of\nthe data"));
        let said = common::call(&lab, "work", "vault", "qubes.VMShell+WaitForSession", b"echo a\n");
        assert_eq!(said.text(), "a\n");
    });
}

#[test]
fn a_lab_may_be_without_services() {
    within_deadline(|| {
        let lab = lab().default_services(false).start().unwrap();
        let said = run(&lab, "work", &["qvm-run", "-p", "vault", "true"], b"");
        assert_eq!(said.code, 127, "{said:?}");
        assert_eq!(fs::read_dir(lab.layout().services("vault")).unwrap().count(), 0);
    });
}

/// As in the first line of the page about labs.
#[test]
fn a_lab_that_was_just_made_runs_commands() {
    within_deadline(|| {
        let mut command: Command = common::called("qrexec-lab");
        command.args(["run", "--", "qvm-run", "-p", "vault", "--", "echo", "hello"]);
        let said = common::talk(command, b"");
        assert_eq!((said.code, said.text().as_str()), (0, "hello\n"), "{said:?}");
    });
}
