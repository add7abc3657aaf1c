//! `qvm-run` in a dom0 with `qubesd`: qubes that are started, passed over, made and removed.

use std::process::Stdio;

use crate::common::{self, DEADLINE, Said, run, within_deadline};
use crate::qubesd::{Qubesd, lab_with};
use lab::{DOM0, Lab};
use rustix::process::{Pid, Signal, kill_process};

const LIST: &str =
    "dom0 class=AdminVM state=Running\nwork class=AppVM state=STATE\nvault class=AppVM state=Running\n";

/// Answers about `work` in this state; a feature only where it is named.
fn qubesd(state: &'static str, features: &'static [(&'static str, &'static str)]) -> Qubesd {
    Qubesd::start(move |method, qube| {
        let answer = match method {
            "admin.vm.List+" => LIST.replace("STATE", state),
            "admin.vm.CreateDisposable+" => "work".to_owned(),
            "admin.vm.Start+" | "admin.vm.Unpause+" | "admin.vm.Kill+" => String::new(),
            "admin.property.Get+clockvm" => "default=False type=vm vault".to_owned(),
            "admin.vm.CurrentState+" => "mem=1 power_state=Running".to_owned(),
            _ => {
                let feature = method.rsplit('+').next().unwrap();
                let found = features.iter().find(|(of, name)| *of == qube && *name == feature);
                match found {
                    Some(_) => "1".to_owned(),
                    None => return b"2\0QubesFeatureNotFoundError\0\0\0".to_vec(),
                }
            }
        };
        [b"0\0", answer.as_bytes()].concat()
    })
}

fn ask(lab: &Lab, words: &[&str]) -> Said {
    run(lab, DOM0, &[&["qvm-run"], words].concat(), b"")
}

#[test]
fn a_qube_that_does_not_run_is_started_or_passed_over() {
    within_deadline(|| {
        let qubesd = qubesd("Halted", &[]);
        let lab = lab_with(&qubesd.folder());
        let said = ask(&lab, &["-n", "-p", "work", "true"]);
        assert!(said.code == 1 && said.stderr.contains("Qube 'work' not started"), "{said:?}");
        assert!(qubesd.heard().iter().all(|request| !request.starts_with("admin.vm.Start")));
        let said = ask(&lab, &["-p", "work", "echo up"]);
        assert_eq!(said.text(), "up\n", "{said:?}");
        assert!(qubesd.heard().contains(&"admin.vm.Start+ dom0 name work|".to_owned()));
    });
}

#[test]
fn a_paused_qube_goes_on() {
    within_deadline(|| {
        let qubesd = qubesd("Paused", &[("work", "vmexec")]);
        let lab = lab_with(&qubesd.folder());
        assert_eq!(ask(&lab, &["-n", "work", "true"]).code, 1);
        assert_eq!(ask(&lab, &["-p", "work", "--", "echo", "a  b"]).text(), "a  b\n");
        assert!(qubesd.heard().contains(&"admin.vm.Unpause+ dom0 name work|".to_owned()));
    });
}

/// A qube without `qubes.VMExec` gets the words by its shell, each as it is.
#[test]
fn words_go_through_the_shell_where_a_qube_has_nothing_else() {
    within_deadline(|| {
        let qubesd = qubesd("Running", &[]);
        let lab = lab_with(&qubesd.folder());
        std::fs::remove_file(lab.layout().services("work").join("qubes.VMExec")).unwrap();
        assert_eq!(ask(&lab, &["-p", "work", "--", "echo", "it's  $HOME"]).text(), "it's  $HOME\n");
    });
}

#[test]
fn all_are_those_that_run_and_are_nobodys_inner_parts() {
    within_deadline(|| {
        let qubesd = qubesd("Running", &[("vault", "internal")]);
        let lab = lab_with(&qubesd.folder());
        let said = ask(&lab, &["--all", "-p", "--prefix", "echo x"]);
        assert_eq!(said.text(), "work: x\n", "{said:?}");
    });
}

#[test]
fn a_disposable_is_removed_whatever_happens() {
    within_deadline(|| {
        let qubesd = qubesd("Running", &[]);
        let lab = lab_with(&qubesd.folder());
        let killed = || qubesd.heard().last().cloned() == Some("admin.vm.Kill+ dom0 name work|".to_owned());
        let said = ask(&lab, &["-p", "--dispvm=t", "--", "echo $QUBES_LAB_VM; exit 4"]);
        assert_eq!((said.code, said.text().as_str()), (4, "work\n"), "{said:?}");
        assert!(killed());
        let mut command =
            lab.command(DOM0, ["qvm-run", "-p", "--dispvm", "--", "echo ready; exec sleep 1000"]).unwrap();
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
        assert!(common::readable_within(child.stdout.as_ref().unwrap(), DEADLINE));
        kill_process(Pid::from_raw(child.id() as i32).unwrap(), Signal::TERM).unwrap();
        assert_eq!(common::wait_within(&mut child, DEADLINE), Some(143));
        assert!(killed());
    });
}

/// dom0 says the time of the qube that has the clock.
#[test]
fn the_date_is_that_of_the_clocks_qube() {
    within_deadline(|| {
        let qubesd = qubesd("Running", &[]);
        let lab = common::lab().env("QREXEC_QUBESD_DIR", qubesd.folder().to_str().unwrap());
        let lab = lab.script("vault", "qubes.GetDate", "#!/bin/sh\necho \"vault's $1\"\n").start().unwrap();
        assert_eq!(run(&lab, DOM0, &["qubes.GetDate"], b"").text(), "vault's \n");
        assert_eq!(run(&lab, DOM0, &["qubes.GetDate", "x"], b"").text(), "vault's nanoseconds\n");
    });
}
