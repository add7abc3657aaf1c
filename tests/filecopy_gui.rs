//! What file managers run, with programs in the place of the desktop's dialogs that write down what they are told.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::common::{Said, lab, talk, within_deadline};
use crate::filecopy::{arrived, config, home, write};
use lab::Lab;

const POLICY: &str = "qubes.Filecopy * work @default allow target=vault\n";

/// A folder with programs of the desktop; each writes its arguments, a line each time, into `NAME.args`.
struct Desktop(PathBuf);

impl Desktop {
    fn new(lab: &Lab) -> Self {
        let folder = lab.layout().home("work").join("desktop");
        fs::create_dir(&folder).unwrap();
        Self(folder)
    }

    /// A program that goes on with these commands.
    fn has(&self, name: &str, rest: &str) -> &Self {
        let path = self.0.join(name);
        let log = self.0.join(format!("{name}.args"));
        fs::write(
            &path,
            format!("#!/bin/sh\nprintf '%s|' \"$@\" >>{0}\necho >>{0}\n{rest}\n", log.display()),
        )
        .unwrap();
        fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
        self
    }

    fn told(&self, name: &str) -> String {
        fs::read_to_string(self.0.join(format!("{name}.args"))).unwrap_or_default()
    }

    fn run(&self, lab: &Lab, program: &str, files: &[&str]) -> Said {
        let mut command = lab.command("work", [&[program], files].concat()).unwrap();
        let path = command.get_envs().find(|(name, _)| *name == "PATH").and_then(|(_, path)| path);
        let path = path.map_or_else(|| std::env::var_os("PATH").unwrap(), std::ffi::OsStr::to_owned);
        let mut all = self.0.clone().into_os_string();
        all.push(":");
        all.push(path);
        command.env("PATH", all).current_dir(lab.layout().home("work"));
        talk(command, b"")
    }
}

/// Reads what it is told until its end.
fn reads_on(folder: &Path) -> String {
    format!("case $1 in --progress) exec cat >>{};; esac", folder.join("bar").display())
}

#[test]
fn a_copy_and_a_move_by_a_file_manager() {
    within_deadline(|| {
        let lab = lab().policy(POLICY).start().unwrap();
        let work = home(&lab, "work");
        write(&work.join("d/f"), "content");
        write(&work.join("g"), "more");
        let desktop = Desktop::new(&lab);
        desktop.has("zenity", &reads_on(&desktop.0));
        let said = desktop.run(&lab, "qvm-copy-to-vm.gnome", &["d"]);
        assert_eq!((said.code, said.stderr.as_str()), (0, ""), "{said:?}");
        assert_eq!(fs::read_to_string(arrived(&lab).join("d/f")).unwrap(), "content");
        assert!(work.join("d/f").exists());
        let said = desktop.run(&lab, "qvm-move-to-vm.gnome", &["g"]);
        assert_eq!(said.code, 0, "{said:?}");
        assert!(!work.join("g").exists() && arrived(&lab).join("g").exists());
        // Without a program for dialogs it copies all the same.
        write(&work.join("h"), "more");
        fs::remove_file(desktop.0.join("zenity")).unwrap();
        assert_eq!(desktop.run(&lab, "qvm-copy-to-vm.kde", &["h"]).code, 0);
        assert!(arrived(&lab).join("h").exists());
        lab.down().unwrap();
    });
}

#[test]
fn every_failure_is_shown_and_nothing_of_it_can_steer_a_dialog() {
    within_deadline(|| {
        let lab = lab().policy(POLICY).start().unwrap();
        let work = home(&lab, "work");
        write(&work.join("<b>g"), "more");
        write(&arrived(&lab).join("<b>g"), "old");
        let desktop = Desktop::new(&lab);
        desktop.has("zenity", &reads_on(&desktop.0));
        let said = desktop.run(&lab, "qvm-move-to-vm.gnome", &["<b>g"]);
        assert_eq!(said.code, 17, "{said:?}");
        let told = desktop.told("zenity");
        assert!(told.contains("--error|--no-markup|--text=Moving files to the other qube failed:"), "{told}");
        assert!(told.contains("something of that name is already there"), "{told}");
        assert!(work.join("<b>g").exists(), "nothing was confirmed");
        // What the check before the call says, too, and what is wrong with the command line.
        for (files, expected) in [(&["missing"][..], "\"missing\""), (&[][..], "usage: qvm-copy")] {
            fs::remove_file(desktop.0.join("zenity.args")).unwrap();
            assert_eq!(desktop.run(&lab, "qvm-copy-to-vm.gnome", files).code, 1);
            let told = desktop.told("zenity");
            assert!(!told.contains("--progress") && told.contains(expected), "{told}");
        }
        desktop.has("kdialog", "case $1 in --progressbar) echo place /of;; esac").has("qdbus", "");
        assert_eq!(desktop.run(&lab, "qvm-copy-to-vm.kde", &["<b>g"]).code, 17);
        let told = desktop.told("kdialog");
        assert!(told.contains("--progressbar|Copying files...|100|\n--sorry|"), "{told}");
        assert!(told.contains("\u{2039}b\u{203a}g") && !told.contains("<b>"), "{told}");
        let told = desktop.told("qdbus");
        assert!(
            told.starts_with("place|/of|showCancelButton|true|\n") && told.contains("place|/of|close|\n"),
            "{told}"
        );
        lab.down().unwrap();
    });
}

#[test]
fn who_ends_the_dialog_ends_the_copy_and_loses_nothing() {
    within_deadline(|| {
        let lab = lab().policy(POLICY).script("vault", "qubes.Filecopy", "#!/bin/sh\nexec sleep 1000\n");
        let lab = lab.start().unwrap();
        // A receiver that never answers.
        let _ = fs::remove_file(config(&lab));
        let work = home(&lab, "work");
        write(&work.join("g"), "more");
        let desktop = Desktop::new(&lab);
        desktop.has("zenity", "exit 1");
        let said = desktop.run(&lab, "qvm-move-to-vm.gnome", &["g"]);
        assert_eq!(said.code, 32, "{said:?}");
        assert!(work.join("g").exists());
        // The one dialog that was ended, and none about that.
        assert_eq!(desktop.told("zenity"), "--progress|--percentage=0|--text=Moving files...|\n");
        lab.down().unwrap();
    });
}
