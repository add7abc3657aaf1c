//! Upstream's scripts that stay as they are, as services of our agent and as callers through our programs.
//!
//! `QREXEC_SCRIPTS_DIR` names the folder with them (`qubes-rpc` of their sources). Only paths that a lab has elsewhere are
//! changed. Without it there is nothing to try, and the tests say so.

use std::fs;
use std::path::PathBuf;
use std::process::Stdio;

use crate::common::{self, DEADLINE, Said, call, lab, readable_within, run, skipped, within_deadline};
use lab::{Builder, Lab};

/// The text of one of the scripts.
fn script(name: &str) -> Option<String> {
    let Some(folder) = std::env::var_os("QREXEC_SCRIPTS_DIR").map(PathBuf::from) else {
        skipped(&format!("upstream's {name}: QREXEC_SCRIPTS_DIR names no folder"));
        return None;
    };
    match fs::read_to_string(folder.join(name)) {
        Ok(text) => Some(text),
        Err(error) => {
            skipped(&format!("upstream's {name}: {error}"));
            None
        }
    }
}

/// A lab in which `vault` has the script as its service.
fn with_script(name: &str, paths: &[(&str, &str)]) -> Option<Builder> {
    let mut text = script(name)?;
    for (path, other) in paths {
        assert!(text.contains(path), "{name} does not name {path}");
        text = text.replace(path, other);
    }
    Some(lab().script("vault", name, &text))
}

fn ask(lab: &Lab, service: &str, input: &[u8]) -> Said {
    call(lab, "work", "vault", service, input)
}

#[test]
fn their_shell_runs_our_commands() {
    within_deadline(|| {
        let Some(builder) = with_script("qubes.VMShell", &[]) else { return };
        let lab = builder.start().unwrap();
        for vm in ["dom0", "work"] {
            let said =
                run(&lab, vm, &["qvm-run", "-p", "vault", "read x; echo \"$x\"; exit 3 #"], b"in\necho X\n");
            assert_eq!((said.code, said.text().as_str()), (3, "in\n"), "{said:?}");
        }
    });
}

#[test]
fn their_vmexec_runs_ours() {
    within_deadline(|| {
        let Some(builder) = with_script("qubes.VMExec", &[("/usr/bin/qubes-vmexec", "qubes-vmexec")]) else {
            return;
        };
        let lab = builder.start().unwrap();
        let said = run(&lab, "work", &["qvm-run", "-p", "vault", "--", "printf", "%s|", "a  b", "-"], b"");
        assert_eq!(said.text(), "a  b|-|", "{said:?}");
        assert_eq!(ask(&lab, "qubes.VMExec+illegal-single", b"").code, 1);
    });
}

#[test]
fn their_caller_reaches_our_shell() {
    within_deadline(|| {
        let (Some(caller), Some(helper)) = (script("qvm-run-vm"), script("qrun-in-vm")) else { return };
        let lab = lab().program("work", "qrun-in-vm", &helper).start().unwrap();
        let folder = lab.layout().programs("work");
        let path = lab.layout().root().join("theirs");
        let caller = caller.replace("/usr/lib/qubes/qrexec-client-vm", "qrexec-client-vm");
        let caller = caller.replace("/usr/lib/qubes/qrun-in-vm", folder.join("qrun-in-vm").to_str().unwrap());
        fs::write(&path, caller).unwrap();
        let said = run(&lab, "work", &["sh", path.to_str().unwrap(), "vault", "echo", "a  b"], b"");
        assert_eq!((said.code, said.text().as_str()), (0, "a b\n"), "{said:?}");
    });
}

#[test]
fn their_date_is_read_by_our_clock_and_ours_by_theirs() {
    within_deadline(|| {
        let (Some(theirs), Some(setter)) = (with_script("qubes.GetDate", &[]), script("qubes.SetDateTime"))
        else {
            return;
        };
        let lab = theirs.script("vault", "qubes.SetDateTime", &setter).start().unwrap();
        for argument in ["", "+nanoseconds", "+xyz"] {
            let date = ask(&lab, &format!("qubes.GetDate{argument}"), b"").stdout;
            assert_eq!(date.len(), if argument.is_empty() { 26 } else { 36 });
            assert_eq!(run(&lab, "work", &["qubes-sync-clock"], &date).code, 0);
        }
        let own = run(&lab, "work", &["qubes.GetDate"], b"").stdout;
        // As somebody else it could not even set another time.
        let said = ask(&lab, "qubes.SetDateTime", &own);
        assert_eq!((said.code, said.stderr.as_str()), (0, ""), "{said:?}");
    });
}

#[test]
fn their_backup_takes_data_into_a_folder_or_a_command() {
    within_deadline(|| {
        let Some(builder) = with_script("qubes.Backup", &[]) else { return };
        let lab = builder.start().unwrap();
        let folder = lab.layout().home("vault").join("backups");
        fs::create_dir(&folder).unwrap();
        let said = ask(&lab, "qubes.Backup", format!("{}\nthe data", folder.display()).as_bytes());
        assert_eq!(said.code, 0, "{said:?}");
        let file = fs::read_dir(&folder).unwrap().next().unwrap().unwrap();
        assert!(file.file_name().to_str().unwrap().starts_with("qubes-backup-"));
        assert_eq!(fs::read(file.path()).unwrap(), b"the data");
        let copy = folder.join("copy");
        let said = ask(&lab, "qubes.Backup", format!("tee {}\nmore", copy.display()).as_bytes());
        assert!(
            said.code == 0 && said.text().ends_with("more") && fs::read(copy).unwrap() == b"more",
            "{said:?}"
        );
        assert_eq!(ask(&lab, "qubes.Backup", b"nosuchcmd a\n").code, 1);
    });
}

#[test]
fn their_backup_locations_live_as_long_as_the_call() {
    within_deadline(|| {
        let tar2qfile = [("/usr/lib/qubes/tar2qfile", "tar2qfile")];
        let (Some(builder), Some(register)) =
            (with_script("qubes.RestoreById", &tar2qfile), script("qubes.RegisterBackupLocation"))
        else {
            return;
        };
        let folder = tempfile::tempdir().unwrap();
        let builder = builder.env("XDG_RUNTIME_DIR", folder.path().to_str().unwrap());
        let lab = builder.script("vault", "qubes.RegisterBackupLocation", &register).start().unwrap();
        let home = lab.layout().home("vault");
        fs::write(home.join("f"), "content").unwrap();
        let archive = home.join("a.tar");
        let made = common::talk(
            {
                let mut tar = std::process::Command::new("tar");
                tar.arg("-C").arg(&home).arg("-cf").arg(&archive).arg("f");
                tar
            },
            b"",
        );
        assert_eq!(made.code, 0, "{made:?}");
        let mut command =
            lab.command("work", ["qrexec-client-vm", "vault", "qubes.RegisterBackupLocation"]).unwrap();
        let mut registered = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let line = format!("{}\n", archive.display());
        std::io::Write::write_all(registered.stdin.as_mut().unwrap(), line.as_bytes()).unwrap();
        let mut id = String::new();
        std::io::Read::read_to_string(registered.stdout.as_mut().unwrap(), &mut id).unwrap();
        let service = format!("qubes.RestoreById+{}", id.trim());
        let receive = "echo f; exec qfile-unpacker -- '' \"$HOME\"";
        let call = ["qrexec-client-vm", "vault", &service, "/bin/sh", "-c", receive];
        let said = run(&lab, "work", &call, b"");
        assert_eq!(said.code, 0, "{said:?}");
        assert_eq!(fs::read(lab.layout().home("work").join("f")).unwrap(), b"content");
        drop(registered.stdin.take());
        assert_eq!(common::wait_within(&mut registered, DEADLINE), Some(0));
        let said = ask(&lab, &service, b"f\n");
        assert!(said.code == 1 && said.stderr.contains("Invalid location ID"), "{said:?}");
        let said = ask(&lab, "qubes.RestoreById", b"f\n");
        assert!(said.code == 1 && said.stderr.contains("Missing backup location ID argument"), "{said:?}");
    });
}

#[test]
fn their_scripts_after_an_installation_run_in_order() {
    within_deadline(|| {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().to_str().unwrap().to_owned();
        let Some(builder) = with_script("qubes.PostInstall", &[("/etc/qubes/post-install.d", &place)]) else {
            return;
        };
        for (name, mode, code) in
            [("10.sh", 0o755, 3), ("20.sh", 0o755, 0), ("30.sh", 0o644, 0), ("40", 0o755, 0)]
        {
            let path = folder.path().join(name);
            fs::write(&path, format!("#!/bin/sh\necho {name}; exit {code}\n")).unwrap();
            fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
        }
        let lab = builder.start().unwrap();
        let said = ask(&lab, "qubes.PostInstall", b"");
        assert_eq!((said.code, said.text().as_str()), (0, "10.sh\n20.sh\n"), "{said:?}");
    });
}

#[test]
fn their_opener_of_addresses_gets_ours() {
    within_deadline(|| {
        let Some(builder) = with_script("qubes.OpenURL", &[]) else { return };
        let lab = builder
            .program("vault", "qubes-open", "#!/bin/sh\necho \"$1\" >\"$HOME/opened\"\n")
            .start()
            .unwrap();
        assert_eq!(run(&lab, "work", &["qvm-open-in-vm", "vault", "https://a"], b"").code, 0);
        assert_eq!(fs::read_to_string(lab.layout().home("vault").join("opened")).unwrap(), "https://a\n");
        assert_eq!(run(&lab, "work", &["qvm-open-in-vm", "vault", "javascript://a"], b"").code, 1);
    });
}

#[test]
fn their_image_server_is_read() {
    within_deadline(|| {
        let Some(builder) = with_script("qubes.GetImageRGBA", &[]) else { return };
        let there = std::process::Command::new("gm").arg("version").stdout(Stdio::null()).status();
        if !there.is_ok_and(|status| status.success()) {
            return skipped("upstream's qubes.GetImageRGBA: no GraphicsMagick");
        }
        let lab = builder.start().unwrap();
        let image = lab.layout().home("vault").join("i.ppm");
        fs::write(&image, b"P6\n2 1\n255\nabcdef").unwrap();
        let mut command = lab.command("work", ["qvm-get-image", "vault", image.to_str().unwrap()]).unwrap();
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        assert!(readable_within(child.stdout.as_ref().unwrap(), DEADLINE));
        let mut bytes = Vec::new();
        std::io::Read::read_to_end(child.stdout.as_mut().unwrap(), &mut bytes).unwrap();
        assert_eq!(common::wait_within(&mut child, DEADLINE), Some(0));
        assert!(bytes.ends_with(b"abc\xffdef\xff"), "{bytes:?}");
    });
}
