//! What a caller is told when a call comes to nothing: the table of `docs/mistakes.md`, line by line.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use lab::{DOM0, Lab};
use rustix::process::{Pid, Signal, kill_process};

use crate::common::{Said, call, called, ended_within, lab, run, talk, within_deadline};

/// The line of the program that says why, and only one.
fn why(said: &Said) -> String {
    let of_ours = |line: &&str| line.starts_with("qrexec-client-vm: ") || line.starts_with("qrexec-client: ");
    let lines: Vec<&str> = said.stderr.lines().filter(of_ours).collect();
    let [line] = lines.as_slice() else { panic!("one line: {said:?}") };
    (*line).to_owned()
}

/// The call fails with this code, and its one line has all of these in it.
fn fails(said: &Said, code: i32, parts: &[&str]) {
    assert_eq!(said.code, code, "{said:?}");
    let line = why(said);
    assert!(parts.iter().all(|part| line.contains(part)), "{parts:?} in {line}");
    // Whoever looks for the refusal itself finds it alone on its line.
    assert_eq!(said.stderr.lines().any(|line| line == "Request refused"), code == 126, "{said:?}");
}

fn put(lab: &Lab, vm: &str, service: &str, text: &str, mode: u32) {
    let path = lab.layout().services(vm).join(service);
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
}

fn configure(lab: &Lab, vm: &str, service: &str, text: &str) {
    fs::write(lab.layout().config(vm).join(service), text).unwrap();
}

#[test]
fn policy_says_no() {
    within_deadline(|| {
        let policy = "test.Ask * work vault ask\ntest.No * work vault deny\n";
        let lab = lab().policy(policy).start().unwrap();
        let asks = |target: &str, service: &str| call(&lab, "work", target, service, b"");
        fails(&asks("vault", "test.No"), 126, &["denied", "daemon-work.log"]);
        fails(&asks("valt", "test.No"), 126, &["denied", "no such qube", "daemon-work.log"]);
        fails(&asks("vault", "test.Other"), 126, &["denied", "no rule", "daemon-work.log"]);
        fails(&asks("vault", "test.Ask"), 126, &["denied", "daemon-work.log"]);
        // A name that no service has is refused here.
        fails(&asks("vault", "+"), 126, &["service name"]);
        let folder = lab.layout().policy();
        fs::write(folder.join("10-bad.policy"), "test.No * work vault alow\n").unwrap();
        fails(&asks("vault", "test.No"), 126, &["denied", "10-bad.policy", "daemon-work.log"]);
    });
}

#[test]
fn the_service_cannot_be_started() {
    within_deadline(|| {
        let lab = lab().policy("* * @anyvm @anyvm allow\n* * @anyvm @adminvm allow\n").start().unwrap();
        let calls = |service: &str| call(&lab, "work", "vault", service, b"");
        fails(
            &calls("test.None"),
            127,
            &["exit code 127", "there is no service test.None", "vault/log/agent.log"],
        );
        put(&lab, "vault", "test.Lost", "#!/no/such/interpreter -x\n", 0o755);
        fails(&calls("test.Lost"), 127, &["its interpreter /no/such/interpreter is missing", "agent.log"]);
        put(&lab, "vault", "test.Typo", "#!/bin/sh\necho hello\n", 0o755);
        configure(&lab, "vault", "test.Typo", "force-user='nobody-of-that-name'\n");
        fails(&calls("test.Typo"), 125, &["nobody-of-that-name", "agent.log"]);
        configure(&lab, "vault", "test.Typo", "rubbish\n");
        fails(&calls("test.Typo"), 125, &["rpc-config/test.Typo", "agent.log"]);
        fs::create_dir(lab.layout().services("vault").join("test.Folder")).unwrap();
        fails(&calls("test.Folder"), 125, &["test.Folder", "agent.log"]);
        let link = |name: &str, to: &str| {
            std::os::unix::fs::symlink(to, lab.layout().services("vault").join(name)).unwrap();
        };
        link("test.Tcp", "/dev/tcp/127.0.0.1/1");
        fails(&calls("test.Tcp"), 125, &["cannot connect", "agent.log"]);
        link("test.Bad", "/dev/tcp/127.0.0.1/99999");
        fails(&calls("test.Bad"), 125, &["test.Bad", "agent.log"]);
        let dead = lab.layout().services("vault").join("test.Dead");
        drop(std::os::unix::net::UnixListener::bind(&dead));
        fails(&calls("test.Dead"), 125, &["cannot connect", "agent.log"]);
        // In dom0.
        fails(&call(&lab, "work", DOM0, "test.None", b""), 127, &["there is no service", "daemon-work.log"]);
        // By dom0.
        let by_dom0 =
            run(&lab, DOM0, &["qrexec-client", "-d", "vault", "DEFAULT:QUBESRPC test.None dom0"], b"");
        fails(&by_dom0, 127, &["there is no service test.None", "agent.log"]);
        // A text that may not be executed is run by a shell, as ever.
        put(&lab, "vault", "test.Text", "echo hello\n", 0o644);
        assert_eq!((calls("test.Text").code, calls("test.Text").stderr), (0, String::new()));
        // What a service says and does itself is nobody else's affair.
        for (service, text) in [
            ("test.Own127", "exit 127\n"),
            ("test.Own125", "echo so; exit 125\n"),
            ("test.Own126", "exit 126\n"),
            ("test.Own255", "exit 255\n"),
        ] {
            put(&lab, "vault", service, &format!("#!/bin/sh\n{text}"), 0o755);
            let said = calls(service);
            assert_eq!(
                (said.code.to_string(), said.stderr.as_str()),
                (service[8..].to_owned(), ""),
                "{service}"
            );
        }
    });
}

#[test]
fn somebody_is_gone() {
    within_deadline(|| {
        // What has come shows that both ends have met.
        let dies = "#!/bin/sh\nread word\nkill -9 $QREXEC_AGENT_PID\nsleep 1000\n";
        let lab = lab().script("vault", "test.Dies", dies).start().unwrap();
        fails(&call(&lab, "work", "vault", "test.Dies", b"now\n"), 255, &["link"]);
        let agent =
            lab.processes().into_iter().find(|p| p.vm == "vault" && p.program == "qrexec-agent").unwrap();
        kill_process(Pid::from_raw(agent.pid).unwrap(), Signal::KILL).unwrap();
        assert!(ended_within(agent.pid, std::time::Duration::from_secs(10)));
        let said = call(&lab, "work", "vault", "test.Any", b"");
        fails(&said, 126, &["daemon", "daemon-work.log"]);
        let nobody = run(&lab, DOM0, &["qrexec-client", "-d", "nobody", "DEFAULT:true"], b"");
        fails(&nobody, 125, &["nobody"]);
    });
}

#[test]
fn the_callers_own_side() {
    within_deadline(|| {
        let lab = lab().script("vault", "test.Any", "#!/bin/sh\ncat\n").start().unwrap();
        let with =
            |program: &str| run(&lab, "work", &["qrexec-client-vm", "vault", "test.Any", program], b"");
        fails(&with("sh"), 127, &["./sh", "PROGRAM is not searched for, say /"]);
        fails(&with("/no/such/program"), 127, &["/no/such/program", "No such file"]);
        fails(&with("/etc/passwd"), 125, &["/etc/passwd", "Permission denied"]);
        fails(&run(&lab, "work", &["qrexec-client-vm", "vault"], b""), 2, &["--help"]);
        let long = "v".repeat(200);
        fails(
            &run(&lab, "work", &["qrexec-client-vm", &long, "test.Any"], b""),
            2,
            &["a qube's name has at most"],
        );
        // Outside of a lab, where no agent runs.
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o700)).unwrap();
        let mut outside = called("qrexec-client-vm");
        outside.env("QREXEC_AGENT_SOCKET", folder.path().join("agent")).env("QREXEC_TRANSPORT", "shm");
        outside.env("QREXEC_SHM_DIR", folder.path()).env("VCHAN_DOMAIN", "1").args(["vault", "test.Any"]);
        fails(&talk(outside, b""), 125, &["no agent runs on this machine", "qrexec-lab exec VM"]);
    });
}
