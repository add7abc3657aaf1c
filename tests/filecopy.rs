//! Bulk file copy through calls of a lab: what people type, the policy between, the service behind.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use crate::common::{self, Said, lab, run, skipped, within_deadline};
use lab::Lab;
use rustix::fs::{CWD, FileType, Mode, mknodat};

/// Runs a command in a VM, in its home folder.
pub(crate) fn in_home(lab: &Lab, vm: &str, argv: &[&str]) -> Said {
    let mut command = lab.command(vm, argv).unwrap();
    command.current_dir(lab.layout().home(vm));
    common::talk(command, b"")
}

pub(crate) fn home(lab: &Lab, vm: &str) -> PathBuf {
    lab.layout().home(vm)
}

/// What has arrived in `vault` from `work`.
pub(crate) fn arrived(lab: &Lab) -> PathBuf {
    home(lab, "vault").join("QubesIncoming/work")
}

/// What vault's service `qubes.Filecopy` is told.
pub(crate) fn config(lab: &Lab) -> PathBuf {
    lab.layout().config("vault").join("qubes.Filecopy")
}

pub(crate) fn write(path: &Path, text: &str) {
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
        fs::remove_file(config(&lab)).unwrap();
        let said = in_home(&lab, "work", &["qvm-copy", "--to", "vault", "d"]);
        assert_eq!(said.code, 0, "our command, their receiver: {said:?}");
        assert_eq!(fs::read_to_string(arrived(&lab).join("d/f")).unwrap(), "content");
    });
}

#[test]
fn a_built_in_service_starts_no_program_and_its_file_is_run_without_the_setting() {
    within_deadline(|| {
        let lab = lab().start().unwrap();
        let work = home(&lab, "work");
        write(&work.join("f"), "content");
        let service = lab.layout().services("vault").join("qubes.Filecopy");
        fs::write(&service, "#!/bin/sh\necho the file was run >&2\nexit 9\n").unwrap();
        let said = in_home(&lab, "work", &["qvm-copy", "--to", "vault", "f"]);
        assert_eq!((said.code, said.stderr.contains("was run")), (0, false), "{said:?}");
        assert_eq!(fs::read_to_string(arrived(&lab).join("f")).unwrap(), "content");
        // A file that is not there any more is no service, whatever its setting says.
        fs::rename(&service, service.with_extension("away")).unwrap();
        assert_eq!(in_home(&lab, "work", &["qvm-copy", "--to", "vault", "f"]).code, 127);
        fs::rename(service.with_extension("away"), &service).unwrap();
        fs::remove_file(config(&lab)).unwrap();
        let said = in_home(&lab, "work", &["qvm-copy", "--to", "vault", "f"]);
        assert_eq!((said.code, said.stderr.contains("was run")), (9, true), "{said:?}");
        fs::write(config(&lab), "builtin='other'\n").unwrap();
        assert_eq!(in_home(&lab, "work", &["qvm-copy", "--to", "vault", "f"]).code, 125);
    });
}

#[test]
fn what_a_built_in_receiver_says_reaches_the_caller_and_the_targets_log() {
    within_deadline(|| {
        let lab = lab().start().unwrap();
        // A file of five bytes, of which none comes.
        let mut stream = [0; 34];
        for (at, byte) in [(0, 2), (4, 0o244), (5, 0o201), (8, 5), (32, b'f')] {
            stream[at] = byte;
        }
        let said = run(&lab, "work", &["qrexec-client-vm", "vault", "qubes.Filecopy"], &stream);
        assert_eq!((said.code, said.stdout.len()), (118, 21), "{said:?}");
        assert!(said.stderr.contains("broke off in the middle"), "{said:?}");
        let logs = fs::read_dir(lab.layout().log("vault")).unwrap();
        let mut texts = logs.map(|entry| fs::read_to_string(entry.unwrap().path()).unwrap());
        assert!(texts.any(|text| text.contains("broke off in the middle")));
    });
}

#[test]
fn a_large_tree_arrives_whole_by_the_built_in_ends_and_by_programs() {
    within_deadline(|| {
        let lab = lab().start().unwrap();
        let work = home(&lab, "work");
        for name in 0..200 {
            write(&work.join(format!("d/{}/{name}", name % 7)), &name.to_string().repeat(name));
        }
        let large: Vec<u8> =
            (0..5_000_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        fs::write(work.join("d/large"), &large).unwrap();
        let agent = lab.layout().bin().join("qfile-agent").display().to_string();
        let by_program = ["qrexec-client-vm", "vault", "qubes.Filecopy", &agent, "d"];
        for builtin in [true, false] {
            if !builtin {
                fs::remove_file(config(&lab)).unwrap();
            }
            for argv in [&["qvm-copy", "--to", "vault", "d"][..], &by_program] {
                let said = in_home(&lab, "work", argv);
                assert_eq!(said.code, 0, "{builtin} {argv:?}: {said:?}");
                assert!(fs::read(arrived(&lab).join("d/large")).unwrap() == large);
                for name in 0..200 {
                    let path = arrived(&lab).join(format!("d/{}/{name}", name % 7));
                    assert_eq!(fs::read_to_string(path).unwrap(), name.to_string().repeat(name));
                }
                fs::remove_dir_all(arrived(&lab)).unwrap();
            }
        }
    });
}

#[test]
fn the_targets_rule_decides_about_names_that_are_there() {
    within_deadline(|| {
        let lab = lab().start().unwrap();
        let work = home(&lab, "work");
        let rule = |rule: &str| {
            fs::write(config(&lab), format!("builtin='filecopy'\nexisting='{rule}'\n")).unwrap();
        };
        let copy = |what: &str| in_home(&lab, "work", &["qvm-copy", "--to", "vault", what]);
        let text = |name: &str| fs::read_to_string(arrived(&lab).join(name)).unwrap();
        write(&work.join("d/f"), "first");
        write(&work.join("g.txt"), "first");
        for what in ["d", "g.txt"] {
            assert_eq!(copy(what).code, 0);
        }
        write(&work.join("d/f"), "second");
        write(&work.join("g.txt"), "second");

        rule("fail");
        assert_eq!((copy("d").code, copy("g.txt").code), (17, 17));
        assert_eq!((text("d/f"), text("g.txt")), ("first".into(), "first".into()));

        rule("rename");
        for what in ["d", "g.txt"] {
            let said = copy(what);
            assert!(said.code == 0 && said.stderr.contains("(2)"), "{said:?}");
        }
        assert_eq!((text("d (2)/f"), text("g (2).txt")), ("second".into(), "second".into()));
        assert_eq!((text("d/f"), text("g.txt")), ("first".into(), "first".into()));

        rule("new-folder");
        assert_eq!(copy("d").code, 0);
        let folder = fs::read_dir(arrived(&lab)).unwrap().map(|entry| entry.unwrap().file_name());
        let folder = folder.map(|name| name.into_string().unwrap()).find(|name| name.ends_with('Z')).unwrap();
        assert_eq!(text(&format!("{folder}/d/f")), "second");

        rule("skip-same");
        let there = |name: &str| fs::metadata(arrived(&lab).join(name)).unwrap();
        let said = copy("d");
        assert_eq!(said.code, 17, "another size and time: {said:?}");
        fs::rename(arrived(&lab).join("d (2)"), arrived(&lab).join("e")).unwrap();
        fs::rename(work.join("d"), work.join("e")).unwrap();
        write(&work.join("e/new"), "new");
        symlink("f", work.join("e/l")).unwrap();
        let before = std::os::unix::fs::MetadataExt::ino(&there("e/f"));
        assert_eq!(copy("e").code, 0);
        assert_eq!(copy("e").code, 0, "all of it is there now");
        assert_eq!((text("e/new"), text("e/f")), ("new".into(), "second".into()));
        assert_eq!(std::os::unix::fs::MetadataExt::ino(&there("e/f")), before);
        // The same size and time, but another content: nothing is lost by a move.
        let time = fs::metadata(work.join("e/f")).unwrap().modified().unwrap();
        write(&work.join("e/f"), "secosd");
        let times = fs::FileTimes::new().set_modified(time);
        fs::File::options().write(true).open(work.join("e/f")).unwrap().set_times(times).unwrap();
        let said = in_home(&lab, "work", &["qvm-move", "--to", "vault", "e"]);
        assert_eq!((said.code, text("e/f")), (17, "second".into()), "{said:?}");
        assert!(work.join("e/f").exists());
    });
}

#[test]
fn dom0_copies_and_moves_to_a_qube_without_an_agent() {
    within_deadline(|| {
        let lab = lab().start().unwrap();
        let dom0 = home(&lab, "dom0");
        let arrived = home(&lab, "vault").join("QubesIncoming/dom0");
        write(&dom0.join("d/f"), "content");
        let said = in_home(&lab, "dom0", &["qvm-copy-to-vm", "vault", "d"]);
        assert!(said.code == 0 && said.stderr.contains("QubesIncoming/dom0 of vault"), "{said:?}");
        assert_eq!(fs::read_to_string(arrived.join("d/f")).unwrap(), "content");
        fs::remove_dir_all(arrived.join("d")).unwrap();
        let said = in_home(&lab, "dom0", &["qvm-move-to-vm", "vault", "d"]);
        assert_eq!((said.code, dom0.join("d").exists()), (0, false), "{said:?}");
        assert_eq!(fs::read_to_string(arrived.join("d/f")).unwrap(), "content");
        write(&dom0.join("d/f"), "content");
        let said = in_home(&lab, "dom0", &["qvm-move-to-vm", "nowhere", "d"]);
        assert!(said.code == 1 && said.stderr.contains("daemon"), "{said:?}");
        assert!(dom0.join("d/f").exists());
        // The options are those of qubes.
        symlink("f", dom0.join("d/l")).unwrap();
        fs::remove_dir_all(arrived.join("d")).unwrap();
        let said = in_home(&lab, "dom0", &["qvm-copy-to-vm", "--ignore-symlinks", "vault", "d"]);
        assert!(said.code == 0 && said.stderr.contains("left out"), "{said:?}");
        assert!(arrived.join("d/f").exists() && !arrived.join("d/l").exists());
        fs::remove_dir_all(arrived.join("d")).unwrap();
        let said = in_home(&lab, "dom0", &["qvm-copy-to-vm", "--dereference", "vault", "d"]);
        assert_eq!(said.code, 0, "{said:?}");
        assert!(fs::symlink_metadata(arrived.join("d/l")).unwrap().is_file());
        // Nobody there could ask for another qube.
        for program in ["qvm-copy", "qvm-move"] {
            let said = in_home(&lab, "dom0", &[program, "d"]);
            assert_eq!((said.code, said.stderr.as_str()), (1, ""), "{said:?}");
            assert!(said.text().contains(&format!("use {program}-to-vm QUBE FILE")), "{said:?}");
        }
    });
}
