//! Bulk file copy through calls of a lab: what people type, the policy between, the service behind.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use crate::common::{self, Said, lab, run, skipped, within_deadline};
use lab::Lab;
use rustix::fs::{CWD, FileType, Mode, mknodat};

/// Runs a command in a VM, in its home folder.
fn in_home(lab: &Lab, vm: &str, argv: &[&str]) -> Said {
    let mut command = lab.command(vm, argv).unwrap();
    command.current_dir(lab.layout().home(vm));
    common::talk(command, b"")
}

fn home(lab: &Lab, vm: &str) -> PathBuf {
    lab.layout().home(vm)
}

/// What has arrived in `vault` from `work`.
fn arrived(lab: &Lab) -> PathBuf {
    home(lab, "vault").join("QubesIncoming/work")
}

fn write(path: &Path, text: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

#[test]
fn a_copy_arrives_and_says_what_arrived_where() {
    within_deadline(|| {
        let lab = lab().start().unwrap();
        let work = home(&lab, "work");
        write(&work.join("d/f"), "content");
        write(&work.join("g"), "more");
        let said = in_home(&lab, "work", &["qvm-copy", "--to", "vault", "d", "g"]);
        assert_eq!(said.code, 0, "{said:?}");
        assert!(
            said.stderr.contains("2 files, 1 folder (11 bytes) arrived in QubesIncoming/work of vault"),
            "{said:?}"
        );
        assert_eq!(fs::read_to_string(arrived(&lab).join("d/f")).unwrap(), "content");
        assert!(work.join("g").exists());
        let said = in_home(&lab, "work", &["qvm-copy-to-vm", "vault", "g"]);
        // The receiver ends with the number of EEXIST, and so does the call.
        assert_eq!(said.code, 17, "it is there already: {said:?}");
        assert!(said.stderr.contains("\"g\"") && said.stderr.contains("already"), "{said:?}");
    });
}

#[test]
fn a_move_removes_what_was_confirmed_and_nothing_else() {
    within_deadline(|| {
        let lab = lab().start().unwrap();
        let work = home(&lab, "work");
        write(&work.join("d/sub/f"), "content");
        write(&work.join("e/g"), "more");
        let said = in_home(&lab, "work", &["qvm-move", "--to", "vault", "d", "e"]);
        assert_eq!(said.code, 0, "{said:?}");
        assert!(!work.join("d").exists() && !work.join("e").exists());
        assert_eq!(fs::read_to_string(arrived(&lab).join("d/sub/f")).unwrap(), "content");

        write(&work.join("h/f"), "content");
        mknodat(CWD, work.join("h/fifo"), FileType::Fifo, Mode::RUSR, 0).unwrap();
        symlink("f", work.join("h/l")).unwrap();
        let said = in_home(&lab, "work", &["qvm-move", "--ignore-symlinks", "--to", "vault", "h"]);
        assert_eq!(said.code, 1, "{said:?}");
        assert!(said.stderr.contains("h/fifo\" stays") && said.stderr.contains("h/l\" stays"), "{said:?}");
        assert!(work.join("h/fifo").exists() && !work.join("h/f").exists());
        assert!(fs::symlink_metadata(work.join("h/l")).is_ok());
    });
}

#[test]
fn a_refused_or_failed_move_removes_nothing() {
    within_deadline(|| {
        let lab = lab()
            .policy("* * work vault allow\n* * @anyvm @anyvm deny\n")
            .vm("work")
            .vm("vault")
            .vm("other")
            .start();
        let lab = lab.unwrap();
        let work = home(&lab, "work");
        write(&work.join("f"), "new");
        let said = in_home(&lab, "work", &["qvm-move", "--to", "other", "f"]);
        assert_eq!(said.code, 126, "{said:?}");
        assert!(work.join("f").exists());
        write(&arrived(&lab).join("f"), "old");
        let said = in_home(&lab, "work", &["qvm-move", "--to", "vault", "f"]);
        assert_eq!(said.code, 17, "{said:?}");
        assert!(work.join("f").exists());
        assert_eq!(fs::read_to_string(arrived(&lab).join("f")).unwrap(), "old");
    });
}

#[test]
fn what_cannot_be_sent_is_named_before_any_call() {
    within_deadline(|| {
        let lab = lab().start().unwrap();
        let work = home(&lab, "work");
        write(&work.join("d/f"), "");
        symlink("/etc", work.join("d/out")).unwrap();
        symlink("d", work.join("top")).unwrap();
        let arguments = ["qvm-copy", "--to", "vault", "d", "top", ".", "..", "/", "d/..", "", "missing"];
        let said = in_home(&lab, "work", &arguments);
        assert_eq!(said.code, 1, "{said:?}");
        for name in ["\"d/out\"", "\"top\"", "\".\"", "\"..\"", "\"/\"", "\"d/..\"", "empty", "\"missing\""] {
            assert!(said.stderr.contains(name), "{name}: {said:?}");
        }
        assert!(!home(&lab, "vault").join("QubesIncoming").exists(), "no call was made");
    });
}

#[test]
fn unusual_names_ask_for_all_names_and_say_so() {
    within_deadline(|| {
        let policy = "qubes.Filecopy +allow-all-names @anyvm @anyvm deny\n* * @anyvm @anyvm allow\n";
        for (policy, code) in [(lab::DEFAULT_POLICY, 0), (policy, 126)] {
            let lab = lab().policy(policy).start().unwrap();
            write(&home(&lab, "work").join("\u{1f600}"), "");
            let said = in_home(&lab, "work", &["qvm-copy", "--to", "vault", "\u{1f600}"]);
            assert_eq!(said.code, code, "{said:?}");
            assert!(said.stderr.contains("allow-all-names"), "{said:?}");
            assert_eq!(arrived(&lab).join("\u{1f600}").exists(), code == 0);
        }
    });
}

#[test]
fn another_argument_of_the_service_is_refused_by_name() {
    within_deadline(|| {
        let lab = lab().start().unwrap();
        let said = run(&lab, "work", &["qrexec-client-vm", "vault", "qubes.Filecopy+foo"], b"");
        assert_eq!((said.code, said.stdout.len()), (1, 0), "{said:?}");
        assert!(said.stderr.contains("foo"), "{said:?}");
    });
}

#[test]
fn upstreams_command_and_ours_reach_each_others_programs() {
    within_deadline(|| {
        let Some(peer) = std::env::var_os("QREXEC_COPY_PEER_DIR").map(PathBuf::from) else {
            return skipped("upstream's qvm-copy through a call: no peer");
        };
        let lab = lab().start().unwrap();
        let work = home(&lab, "work");
        write(&work.join("d/f"), "content");
        let incoming = arrived(&lab).display().to_string();
        let unpacker = peer.join("qfile-unpacker").display().to_string();
        let theirs = format!("#!/bin/sh\nmkdir -p {incoming}\nexec {unpacker} $(id -u) {incoming}\n");
        // Their command looks for its helpers beside its folder.
        let place = lab.layout().root().join("theirs");
        for name in ["bin", "lib/qubes"] {
            fs::create_dir_all(place.join(name)).unwrap();
        }
        symlink(peer.join("qvm-copy"), place.join("bin/qvm-copy-to-vm")).unwrap();
        for name in ["qfile-agent", "qubes-fs-tree-check"] {
            symlink(peer.join(name), place.join("lib/qubes").join(name)).unwrap();
        }
        symlink(lab.layout().bin().join("qrexec-client-vm"), place.join("lib/qubes/qrexec-client-vm"))
            .unwrap();
        let command = place.join("bin/qvm-copy-to-vm").display().to_string();
        let said = in_home(&lab, "work", &[&command, "vault", "d"]);
        assert_eq!(said.code, 0, "their command, our service: {said:?}");
        assert_eq!(fs::read_to_string(arrived(&lab).join("d/f")).unwrap(), "content");
        fs::remove_dir_all(arrived(&lab)).unwrap();
        fs::write(lab.layout().services("vault").join("qubes.Filecopy"), theirs).unwrap();
        let said = in_home(&lab, "work", &["qvm-copy", "--to", "vault", "d"]);
        assert_eq!(said.code, 0, "our command, their receiver: {said:?}");
        assert_eq!(fs::read_to_string(arrived(&lab).join("d/f")).unwrap(), "content");
    });
}
