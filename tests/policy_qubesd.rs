//! Policy on a system that only `qubesd` knows: a double of it speaks the real protocol, well or badly. Whatever it
//! does wrong, the call is denied, and one line says why.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use crate::common::{EXE, Said, eventually, talk, within_deadline};
use serde_json::{Value, json};

/// What the double does with a question.
#[derive(Clone, Debug)]
enum Manner {
    /// Answers these bytes.
    Says(Vec<u8>),
    /// Says nothing, and keeps the connection.
    Silent,
    /// Says a byte now and then, and never ends.
    Trickles,
    /// Never stops to talk.
    Endless,
}

/// `qubesd`, as far as policy talks to it.
struct Double {
    folder: tempfile::TempDir,
    manner: Arc<Mutex<Manner>>,
    heard: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl Double {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let double = Self { folder, manner: Arc::new(Mutex::new(good())), heard: Arc::default() };
        let listener = UnixListener::bind(double.folder.path().join("qubesd.internal.sock")).unwrap();
        let (manner, heard) = (Arc::clone(&double.manner), Arc::clone(&double.heard));
        // Both end with the test program.
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (manner, heard) = (manner.lock().unwrap().clone(), Arc::clone(&heard));
                std::thread::spawn(move || answer(stream.unwrap(), manner, &heard));
            }
        });
        double
    }

    fn behave(&self, manner: Manner) {
        *self.manner.lock().unwrap() = manner;
    }
}

fn answer(mut stream: UnixStream, manner: Manner, heard: &Mutex<Vec<Vec<u8>>>) {
    let mut request = Vec::new();
    stream.read_to_end(&mut request).unwrap();
    heard.lock().unwrap().push(request);
    // A caller that has heard enough closes the connection, which ends every manner.
    match manner {
        Manner::Says(bytes) => drop(stream.write_all(&bytes)),
        Manner::Silent => while wait_for_hangup(&stream).is_err() {},
        Manner::Trickles => while stream.write_all(b" ").is_ok() && wait_for_hangup(&stream).is_err() {},
        Manner::Endless => while stream.write_all(&[b'0'; 65_536]).is_ok() {},
    }
}

/// Waits a moment for the other end to close; an error if it does not.
fn wait_for_hangup(stream: &UnixStream) -> std::io::Result<()> {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let mut fds = [PollFd::new(stream, PollFlags::HUP)];
    let limit = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
    match poll(&mut fds, Some(&limit))? {
        0 => Err(std::io::ErrorKind::TimedOut.into()),
        _ => Ok(()),
    }
}

fn system() -> Value {
    let qube = |kind: &str| {
        json!({"type": kind, "tags": [], "template_for_dispvms": false, "power_state": "Running", "default_dispvm": null,
               "icon": "app-red", "guivm": null, "uuid": "0c6e5f1e-0000-4000-8000-000000000001", "internal": false})
    };
    json!({"domains": {"dom0": qube("AdminVM"), "work": qube("AppVM"), "vault": qube("AppVM")}})
}

fn good() -> Manner {
    Manner::Says([b"0\0", system().to_string().as_bytes()].concat())
}

/// What it may do wrong, and a word of the line that says so.
fn wrong() -> Vec<(&'static str, Manner, &'static str)> {
    let says = |bytes: &[u8]| Manner::Says(bytes.to_vec());
    let whole = [b"0\0", system().to_string().as_bytes()].concat();
    let nameless = json!({"domains": {"@work": system()["domains"]["work"]}}).to_string();
    vec![
        ("nothing", says(b""), "no sense"),
        ("a cut head", says(b"0"), "no sense"),
        ("a cut text", says(&whole[..whole.len() / 2]), "not usable"),
        ("bytes after it", says(&[&whole[..], b"x"].concat()), "not usable"),
        ("an exception", says(b"2\0QubesDaemonAccessError\0\0no \x1b[2Jway\n\0"), "refused"),
        ("an unknown head", says(b"9\0{}"), "no sense"),
        ("no JSON", says(b"0\0\xff\xfe garbage"), "not usable"),
        ("no domains", says(b"0\0{\"domains\": []}"), "not usable"),
        ("a name that none is", says(&[b"0\0", nameless.as_bytes()].concat()), "no name"),
        ("silence", Manner::Silent, "within 1 s"),
        ("a trickle", Manner::Trickles, "within 1 s"),
        ("too much", Manner::Endless, "longer than"),
    ]
}

/// A dom0 with a policy that allows everything, and nothing but the double to know the qubes.
struct Dom0 {
    root: tempfile::TempDir,
    double: Double,
}

impl Dom0 {
    fn new() -> Self {
        let dom0 = Self { root: tempfile::tempdir().unwrap(), double: Double::start() };
        fs::create_dir(dom0.path("policy.d")).unwrap();
        fs::write(dom0.path("policy.d/30-user.policy"), "* * @anyvm @anyvm allow\n").unwrap();
        dom0
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(EXE);
        command
            .arg0(program)
            .env("QREXEC_POLICY_DIR", self.path("policy.d"))
            .env("QREXEC_QUBESD_DIR", self.double.folder.path())
            .env("QREXEC_QUBESD_SECONDS", "1")
            .env_remove("QREXEC_SYSTEM_INFO")
            .env("QREXEC_LOG", "warn");
        command
    }

    fn exec(&self) -> Said {
        let mut command = self.command("qrexec-policy-exec");
        command.args(["--", "work", "vault", "demo.Add+1"]);
        talk(command, b"")
    }
}

fn is_one_line_with(text: &str, word: &str) -> bool {
    text.lines().count() == 1 && text.contains(word) && !text.contains('\x1b')
}

#[test]
fn the_program_asks_qubesd_and_denies_what_it_does_not_know() {
    within_deadline(|| {
        let dom0 = Dom0::new();
        let said = dom0.exec();
        assert!(said.code == 0 && said.text().contains("target=vault\n"), "{said:?}");
        assert_eq!(
            *dom0.double.heard.lock().unwrap(),
            [b"internal.GetSystemInfo+ dom0 name dom0\0".to_vec()]
        );
        for (what, manner, word) in wrong() {
            dom0.double.behave(manner);
            let said = dom0.exec();
            assert_eq!((said.code, said.text().as_str()), (1, "result=deny\n"), "{what}: {said:?}");
            assert!(is_one_line_with(&said.stderr, word), "{what}: {}", said.stderr);
        }
        fs::remove_file(dom0.double.folder.path().join("qubesd.internal.sock")).unwrap();
        let said = dom0.exec();
        assert!(said.code == 1 && is_one_line_with(&said.stderr, "talking to qubesd"), "{said:?}");
    });
}

struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn ask(socket: &Path) -> String {
    let mut stream = UnixStream::connect(socket).unwrap();
    stream.write_all(b"source=work\nintended_target=vault\nservice_and_arg=demo.Add+1\n\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

/// The daemon asks for every decision, and one that waits for `qubesd` holds nobody else up.
#[test]
fn the_daemon_asks_qubesd_and_denies_what_it_does_not_know() {
    within_deadline(|| {
        let dom0 = Dom0::new();
        let (socket, log) = (dom0.path("sock"), dom0.path("log"));
        let mut command = dom0.command("qrexec-policy-daemon");
        command.arg("--socket").arg(&socket).stdin(Stdio::null()).stderr(fs::File::create(&log).unwrap());
        let _daemon = Running(command.spawn().unwrap());
        eventually("the policy daemon", || UnixStream::connect(&socket).is_ok());
        assert!(ask(&socket).contains("target=vault\n"));
        for (what, manner, word) in wrong() {
            let before = fs::read_to_string(&log).unwrap();
            dom0.double.behave(manner);
            assert_eq!(ask(&socket), "result=deny", "{what}");
            let after = fs::read_to_string(&log).unwrap();
            assert!(is_one_line_with(&after[before.len()..], word), "{what}: {}", &after[before.len()..]);
        }
        dom0.double.behave(Manner::Silent);
        std::thread::scope(|scope| {
            let asked = dom0.double.heard.lock().unwrap().len();
            let slow = scope.spawn(|| ask(&socket));
            while dom0.double.heard.lock().unwrap().len() == asked {
                std::thread::yield_now();
            }
            dom0.double.behave(good());
            assert!(ask(&socket).contains("target=vault\n"));
            assert_eq!(slow.join().unwrap(), "result=deny");
        });
    });
}
