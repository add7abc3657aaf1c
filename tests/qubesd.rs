//! What is asked of `qubesd`, in its own protocol: qubes killed, started, and made for one call.

use std::io::{Read, Write};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::common::{self, Said, call, lab, leftovers, run, within_deadline};
use lab::{DOM0, Lab};

/// How long the last processes may take to go.
const GONE: Duration = Duration::from_secs(10);

const ECHO: &str = "#!/bin/sh\necho \"$QREXEC_REMOTE_DOMAIN\"\n";

/// A `qubesd` that answers `METHOD+ARGUMENT SOURCE name|keyword DESTINATION\0PAYLOAD`, sent up to the half-close, and
/// keeps a record of what it heard.
pub(crate) struct Qubesd {
    folder: tempfile::TempDir,
    heard: Arc<Mutex<Vec<String>>>,
}

impl Qubesd {
    /// `answer` gets the method and the destination.
    pub(crate) fn start(answer: impl Fn(&str, &str) -> Vec<u8> + Send + 'static) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(folder.path().join("qubesd.sock")).unwrap();
        let heard = Arc::new(Mutex::new(Vec::new()));
        let record = heard.clone();
        // Ends with the test program.
        std::thread::spawn(move || {
            for mut client in listener.incoming().flatten() {
                let mut request = Vec::new();
                client.read_to_end(&mut request).unwrap();
                let request = String::from_utf8(request).unwrap();
                let words = request.trim_end_matches('\0').replace('\0', " ");
                let mut parts = words.split(' ');
                let (method, destination) = (parts.next().unwrap(), parts.nth(2).unwrap());
                record.lock().unwrap().push(request.replace('\0', "|"));
                client.write_all(&answer(method, destination)).unwrap();
            }
        });
        Self { folder, heard }
    }

    pub(crate) fn folder(&self) -> PathBuf {
        self.folder.path().to_owned()
    }

    /// What was asked since the last time.
    pub(crate) fn heard(&self) -> Vec<String> {
        std::mem::take(&mut *self.heard.lock().unwrap())
    }
}

fn done(_: &str, _: &str) -> Vec<u8> {
    b"0\0".to_vec()
}

fn client(lab: &Lab, args: &[&str]) -> Said {
    run(lab, DOM0, &[&["qrexec-client"], args].concat(), b"")
}

pub(crate) fn lab_with(qubesd: &Path) -> Lab {
    lab().env("QREXEC_QUBESD_DIR", qubesd.to_str().unwrap()).start().unwrap()
}

#[test]
fn a_qube_is_killed_after_its_command_however_that_ends() {
    within_deadline(|| {
        let qubesd = Qubesd::start(done);
        let lab = lab_with(&qubesd.folder());
        assert_eq!(client(&lab, &["-d", "work", "-k", "DEFAULT:exit 3"]).code, 3);
        assert_eq!(qubesd.heard(), ["admin.vm.Kill+ dom0 name work|"]);
        assert_eq!(client(&lab, &["-k", "-d", "work", "DEFAULT:QUBESRPC test.Missing dom0"]).code, 127);
        assert_eq!(qubesd.heard(), ["admin.vm.Kill+ dom0 name work|"]);
        assert_eq!(client(&lab, &["-k", "-d", "nobody", "DEFAULT:true"]).code, 125);
        assert_eq!(qubesd.heard(), ["admin.vm.Kill+ dom0 name nobody|"]);
        assert_eq!(client(&lab, &["-d", "work", "DEFAULT:exit 3"]).code, 3);
        assert_eq!(qubesd.heard(), [""; 0]);
        assert_eq!(leftovers(&lab, GONE), []);
    });
}

#[test]
fn a_kill_that_fails_is_told_and_changes_no_exit_code() {
    within_deadline(|| {
        let refusal = |_: &str, _: &str| b"2\0QubesVMNotFoundError\0\0No such domain: %r\0work\0".to_vec();
        let qubesd = Qubesd::start(refusal);
        let lab = lab_with(&qubesd.folder());
        let said = client(&lab, &["-d", "work", "-k", "DEFAULT:exit 3"]);
        assert_eq!((said.code, said.stderr.lines().count()), (3, 1), "{said:?}");
        assert!(said.stderr.contains("cannot kill work") && said.stderr.contains("QubesVMNotFoundError"));
        drop(lab);
        let lab = lab_with(Path::new("/nonexistent"));
        let said = client(&lab, &["-d", "work", "-k", "DEFAULT:exit 3"]);
        assert_eq!(said.code, 3, "{said:?}");
        assert!(said.stderr.contains("cannot kill work"), "{said:?}");
    });
}

/// Lets `vault` be found as `name` too, as if that had just been started.
fn appear(sockets: &Path, name: &str) {
    let _ = std::os::unix::fs::symlink("qrexec.vault", sockets.join(format!("qrexec.{name}")));
}

#[test]
fn qubes_are_started_and_disposables_made_and_removed() {
    within_deadline(|| {
        let sockets: Arc<Mutex<PathBuf>> = Arc::default();
        let theirs = sockets.clone();
        let qubesd = Qubesd::start(move |method, destination| {
            let (method, _) = method.split_once('+').unwrap();
            match (method, destination) {
                ("admin.vm.Start", name) => appear(&theirs.lock().unwrap(), name),
                ("admin.vm.CreateDisposable", "tmpl") => return b"0\0disp7".to_vec(),
                _ => {}
            }
            b"0\0".to_vec()
        });
        let lab = lab()
            .policy("* * work @dispvm:tmpl allow\n* * work sleeper allow\n")
            .script("vault", "test.Echo", ECHO)
            .env("QREXEC_QUBESD_DIR", qubesd.folder().to_str().unwrap())
            .start()
            .unwrap();
        *sockets.lock().unwrap() = lab.layout().sockets();
        common::add_qubes(&lab, &["tmpl", "sleeper"]);
        let echo = |target| {
            let said = call(&lab, "work", target, "test.Echo", b"");
            assert_eq!((said.code, said.text().as_str()), (0, "work\n"), "{said:?}");
            assert_eq!(leftovers(&lab, GONE), []);
        };
        echo("sleeper");
        assert_eq!(qubesd.heard(), ["admin.vm.Start+ dom0 name sleeper|"]);
        echo("sleeper");
        assert_eq!(qubesd.heard(), [""; 0]);
        echo("@dispvm:tmpl");
        let life = [
            "admin.vm.CreateDisposable+ dom0 name tmpl|",
            "admin.vm.Start+ dom0 name disp7|",
            "admin.vm.Kill+ dom0 name disp7|",
        ];
        assert_eq!(qubesd.heard(), life);
    });
}
