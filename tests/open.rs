//! Files and addresses opened in another qube, by openers of the tests' own, and images fetched from one.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use crate::common::{self, DEADLINE, Said, call, eventually, lab, within_deadline};
use lab::{Builder, Lab};
use rustix::process::{Pid, Signal, kill_process};

/// A lab in which `vault` opens by this script; and where its temporary files are.
fn with_opener(script: &str) -> (Builder, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let text = format!("#!/bin/sh\n{script}\n");
    let builder = lab().env("QUBES_OPEN", "test-open").env("TMPDIR", folder.path().to_str().unwrap());
    (builder.program("vault", "test-open", &text), folder)
}

fn home(lab: &Lab, vm: &str) -> PathBuf {
    lab.layout().home(vm)
}

fn in_home(lab: &Lab, argv: &[&str]) -> Said {
    let mut command = lab.command("work", argv).unwrap();
    command.current_dir(home(lab, "work"));
    common::talk(command, b"")
}

/// A file of `work` that others may read.
fn write(lab: &Lab, name: &str, text: &str) -> PathBuf {
    let path = home(lab, "work").join(name);
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    path
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap()
}

fn is_empty(folder: &tempfile::TempDir) -> bool {
    fs::read_dir(folder.path()).unwrap().next().is_none()
}

/// Within the same second, too: nobody asks a clock.
#[test]
fn what_is_changed_comes_back_with_the_originals_mode() {
    within_deadline(|| {
        let (builder, folder) =
            with_opener("echo noise; printf more >>\"$1\"; basename \"$1\" >\"$HOME/name\"");
        let lab = builder.start().unwrap();
        let path = write(&lab, "ü b$c.txt", "text,");
        let said = in_home(&lab, &["qvm-open-in-vm", "vault", "ü b$c.txt"]);
        assert_eq!((said.code, said.text().as_str()), (0, ""), "{said:?}");
        assert!(said.stderr.contains("changed: 9 bytes"), "{said:?}");
        assert_eq!(read(&path), "text,more");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o640);
        assert_eq!(read(&home(&lab, "vault").join("name")), "___b_c.txt\n");
        assert!(is_empty(&folder));
        assert_eq!(fs::read_dir(home(&lab, "work")).unwrap().count(), 1);
    });
}

#[test]
fn what_is_not_changed_stays_and_the_openers_words_are_no_content() {
    within_deadline(|| {
        let (builder, _folder) = with_opener("echo noise; touch \"$1\"");
        let lab = builder.start().unwrap();
        let path = write(&lab, "f", "text");
        let before = fs::metadata(&path).unwrap().modified().unwrap();
        let said = in_home(&lab, &["qvm-open-in-vm", "vault", "f"]);
        assert_eq!((said.code, said.text().as_str()), (0, ""), "{said:?}");
        assert_eq!(
            (read(&path).as_str(), fs::metadata(&path).unwrap().modified().unwrap()),
            ("text", before)
        );
    });
}

#[test]
fn what_is_only_to_be_looked_at_does_not_come_back() {
    within_deadline(|| {
        let script = "stat -c %a \"$1\" >\"$HOME/mode\"; chmod u+w \"$1\"; echo more >>\"$1\"";
        let (builder, folder) = with_opener(script);
        let lab = builder.start().unwrap();
        let path = write(&lab, "f", "text");
        let said = in_home(&lab, &["qvm-open-in-vm", "--view-only", "vault", "f"]);
        assert_eq!((said.code, read(&path).as_str()), (0, "text"), "{said:?}");
        assert_eq!(read(&home(&lab, "vault").join("mode")), "400\n");
        // A file that only has the mark in its name is no such file.
        let path = write(&lab, "view-only-f", "text");
        let said = in_home(&lab, &["qvm-open-in-vm", "vault", "view-only-f"]);
        assert_eq!((said.code, read(&path).as_str()), (0, "textmore\n"), "{said:?}");
        assert!(said.stderr.contains("sent with a '_' in front") && is_empty(&folder), "{said:?}");
    });
}

#[test]
fn an_emptied_file_stays_and_both_sides_say_so() {
    within_deadline(|| {
        let (builder, _folder) = with_opener(": >\"$1\"");
        let lab = builder.start().unwrap();
        let path = write(&lab, "f", "text");
        let said = in_home(&lab, &["qvm-open-in-vm", "vault", "f"]);
        assert_eq!((said.code, read(&path).as_str()), (0, "text"), "{said:?}");
        assert!(said.stderr.contains("f is empty now"), "{said:?}");
    });
}

#[test]
fn a_failed_opener_is_told_and_what_it_left_is_kept_beside() {
    within_deadline(|| {
        let (builder, folder) = with_opener("case \"$1\" in *.x) echo more >>\"$1\";; esac; exit 3");
        let lab = builder.start().unwrap();
        let path = write(&lab, "f", "text");
        let said = in_home(&lab, &["qvm-open-in-vm", "vault", "f"]);
        assert_eq!((said.code, read(&path).as_str()), (3, "text"), "{said:?}");
        assert!(said.stderr.contains("ended with 3"), "{said:?}");
        let path = write(&lab, "f.x", "text");
        let said = in_home(&lab, &["qvm-open-in-vm", "vault", "f.x"]);
        assert_eq!((said.code, read(&path).as_str()), (3, "text"), "{said:?}");
        assert!(said.stderr.contains("f.x.from-vault"), "{said:?}");
        assert_eq!(read(&home(&lab, "work").join("f.x.from-vault")), "textmore\n");
        assert!(is_empty(&folder));
        fs::remove_file(lab.layout().programs("vault").join("test-open")).unwrap();
        let said = in_home(&lab, &["qvm-open-in-vm", "vault", "f"]);
        assert!(said.code == 127 && said.stderr.contains("nothing here opens it"), "{said:?}");
    });
}

#[test]
fn a_link_stays_one_and_the_file_behind_it_changes() {
    within_deadline(|| {
        let (builder, _folder) = with_opener("mv \"$1\" \"$1.old\"; sed s/a/b/ \"$1.old\" >\"$1\"");
        let lab = builder.start().unwrap();
        let path = write(&lab, "f", "a");
        let link = home(&lab, "work").join("link");
        symlink("f", &link).unwrap();
        let said = in_home(&lab, &["qvm-open-in-vm", "vault", "link"]);
        assert_eq!((said.code, read(&path).as_str()), (0, "b"), "{said:?}");
        assert_eq!(fs::read_link(&link).unwrap(), Path::new("f"));
    });
}

/// The stream of one that dies has no end that could be told from a good one, but its status tells.
#[test]
fn what_a_lost_call_sent_never_replaces_the_original() {
    within_deadline(|| {
        let script = "#!/bin/sh\ncat >/dev/null; echo part; kill -9 $$\n";
        let lab = lab().script("vault", "qubes.OpenInVM", script).start().unwrap();
        let path = write(&lab, "f", "text");
        let said = in_home(&lab, &["qvm-open-in-vm", "vault", "f"]);
        assert_eq!((said.code, read(&path).as_str()), (137, "text"), "{said:?}");
        assert_eq!(read(&home(&lab, "work").join("f.from-vault")), "part\n");
    });
}

#[test]
fn who_sends_without_end_fills_no_disk() {
    within_deadline(|| {
        let lab =
            lab().script("vault", "qubes.OpenInVM", "#!/bin/sh\ncat >/dev/null; exec yes\n").start().unwrap();
        let path = write(&lab, "f", "text");
        let said = in_home(&lab, &["qvm-open-in-vm", "--max-size", "100K", "vault", "f"]);
        assert_eq!((said.code, read(&path).as_str()), (1, "text"), "{said:?}");
        assert!(said.stderr.contains("more than 102400 bytes"), "{said:?}");
        assert_eq!(fs::metadata(home(&lab, "work").join("f.from-vault")).unwrap().len(), 102_400);
    });
}

#[test]
fn a_name_that_leads_elsewhere_leaves_nothing() {
    within_deadline(|| {
        let (builder, folder) = with_opener("touch \"$HOME/opened\"");
        let lab = builder.start().unwrap();
        let mut header = [0; 256];
        header[..3].copy_from_slice(b"a/b");
        let said = call(&lab, "work", "vault", "qubes.OpenInVM", &header);
        assert!(said.code == 1 && said.stderr.contains("filename contains /"), "{said:?}");
        let said = call(&lab, "work", "vault", "qubes.OpenInVM", b"short");
        assert!(said.code == 1 && said.stderr.contains("cut short"), "{said:?}");
        assert!(is_empty(&folder) && !home(&lab, "vault").join("opened").exists());
    });
}

/// The opener still runs when the service is told to end.
#[test]
fn a_service_that_is_told_to_end_takes_its_files_along() {
    within_deadline(|| {
        let (builder, folder) = with_opener("touch \"$HOME/opened\"; exec sleep 1000");
        let lab = builder.start().unwrap();
        write(&lab, "f", "text");
        let mut command = lab.command("work", ["qvm-open-in-vm", "vault", "f"]).unwrap();
        command.current_dir(home(&lab, "work")).stdin(Stdio::null()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        eventually("the opener", || home(&lab, "vault").join("opened").exists());
        let service =
            lab.processes().into_iter().find(|process| process.program == "qubes.OpenInVM").unwrap();
        kill_process(Pid::from_raw(service.pid).unwrap(), Signal::TERM).unwrap();
        assert_eq!(common::wait_within(&mut child, DEADLINE), Some(143));
        assert!(is_empty(&folder));
        assert!(lab.processes().iter().all(|process| process.program != "sleep"));
    });
}

#[test]
fn wrong_words_are_2_and_a_refusal_126() {
    within_deadline(|| {
        let (builder, _folder) = with_opener("true");
        let lab = builder.start().unwrap();
        write(&lab, "f", "text");
        for words in [&["vault", "no-such-file"][..], &["vault", "."], &["vault"], &["--bogus", "vault", "f"]]
        {
            let said = in_home(&lab, &[&["qvm-open-in-vm"], words].concat());
            assert_eq!(
                (said.code, said.stderr.lines().count(), said.text().as_str()),
                (2, 1, ""),
                "{said:?}"
            );
        }
        let said = in_home(&lab, &["qvm-open-in-vm", "nosuch", "f"]);
        assert!(said.code == 126 && said.stderr.contains("Request refused"), "{said:?}");
    });
}

#[test]
fn inside_a_call_that_opens_somebody_is_asked_first() {
    within_deadline(|| {
        let zenity = "#!/bin/sh\n[ \"$1\" = --version ] && exit \"$(cat \"$HOME/works\")\"\n\
                      printf '%s|' \"$@\" >\"$HOME/asked\"; exit \"$(cat \"$HOME/answer\")\"\n";
        let lab = lab().program("work", "zenity", zenity);
        let lab = lab.program("work", "kdialog", "#!/bin/sh\nexit 1\n").start().unwrap();
        let ask = |works: &str, answer: &str| {
            let folder = home(&lab, "work");
            fs::write(folder.join("works"), works).unwrap();
            fs::write(folder.join("answer"), answer).unwrap();
            write(&lab, "<f>", "text");
            let mut command = lab.command("work", ["qvm-open-in-dvm", "<f>"]).unwrap();
            command.current_dir(folder).env("QREXEC_SERVICE_FULL_NAME", "qubes.OpenInVM");
            common::talk(command, b"")
        };
        let said = ask("127", "0");
        assert!(said.code == 1 && said.stderr.contains("no zenity or kdialog"), "{said:?}");
        assert_eq!(ask("0", "1").code, 1);
        assert!(read(&home(&lab, "work").join("asked")).contains("&lt;f&gt;"));
        // Asked for, and refused by the lab's policy.
        assert_eq!(ask("0", "0").code, 126);
    });
}

#[test]
fn addresses_of_three_kinds_are_opened() {
    within_deadline(|| {
        let (builder, _folder) =
            with_opener("echo noise; echo \"$1\" >>\"$HOME/opened\"; case $1 in *fail) exit 3;; esac");
        let lab = builder.start().unwrap();
        for (input, code) in [
            (&b"ftp://x\n"[..], 0),
            (b"https://a", 0),
            (b"HTTP://EXAMPLE\nmore", 0),
            (b"javascript:1\n", 1),
            (b"http://a\x1b\n", 1),
            (b"http://fail\n", 3),
        ] {
            let said = call(&lab, "work", "vault", "qubes.OpenURL", input);
            assert_eq!((said.code, said.text().as_str()), (code, ""), "{said:?}");
            assert_eq!(said.stderr.contains("Invalid URL"), code == 1, "{said:?}");
        }
        let said = in_home(&lab, &["qvm-open-in-vm", "vault", "https://b/?q=%20"]);
        assert_eq!(said.code, 0, "{said:?}");
        let opened = read(&home(&lab, "vault").join("opened"));
        assert_eq!(opened, "ftp://x\nhttps://a\nHTTP://EXAMPLE\nhttp://fail\nhttps://b/?q=%20\n");
    });
}

#[test]
fn an_image_is_written_when_all_of_it_is_there() {
    within_deadline(|| {
        let script = "#!/bin/sh\nread -r line\ncase $line in good) printf '2 1\\n12345678rest';; \
                      short) printf '2 1\\n1234';; large) printf '9000 1\\n';; *) exit 1;; esac\n";
        let lab = lab().script("vault", "qubes.GetImageRGBA", script).start().unwrap();
        let get = |name: &str| in_home(&lab, &["qvm-get-image", "vault", name]);
        let said = get("good");
        assert!(said.code == 0 && said.stdout.ends_with(b"ENDHDR\n12345678"), "{said:?}");
        for (name, why) in [("short", "last pixel"), ("large", "too large"), ("none", "No icon received")] {
            let said = get(name);
            assert!(said.code == 1 && said.stdout.is_empty() && said.stderr.contains(why), "{said:?}");
        }
    });
}
