//! How root runs a call. Becoming another user forks, which needs a process with one thread, so this test is a program
//! of its own; without root there is nothing to test. With the feature `pam` the program starts itself again in a
//! place where `/etc/pam.d` has the configuration that is installed, and the files that it includes record what
//! happens: once with Debian's `common-session`, once with `system-auth` and `postlogin`.

use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;

use engine::Installation;
use engine::exec::{Account, SearchPath, ServiceConfig, Services, Stderr, Users};
use wire::command::Command;

fn main() {
    if !rustix::process::geteuid().is_root() {
        println!("login: skipped, not root");
        return;
    }
    if cfg!(feature = "pam") && std::env::var_os(PRIVATE).is_none() {
        return FILES.iter().for_each(|(installed, includes)| with_private_pam(installed, includes));
    }
    let dir = tempfile::tempdir().expect("tempdir");
    for path in [
        dir.path(),
        &service(&dir, "test.Who", WHO),
        &service(&dir, "test.Code", "exit 9\n"),
        &service(&dir, "test.Pam", PAM),
        &service(&dir, "test.Elf", "\x7fELF\necho ran\n"),
        &service(&dir, "test.Names", "#!/bin/sh\ncat /dev/stdin >/dev/stdout && echo e >/dev/stderr\n"),
    ] {
        std::fs::set_permissions(path, PermissionsExt::from_mode(0o755)).expect("chmod");
    }
    let services = Services {
        folders: SearchPath::new(dir.path().as_os_str()),
        configs: SearchPath::new("".as_ref()),
        users: Users::Login { direct: None },
        installation: Installation::System,
    };
    a_service_runs_as_the_user_in_a_session(&services);
    exit_codes_come_through(&services);
    a_command_runs_in_the_users_shell(&services);
    what_a_login_shell_would_misread_is_refused(&services);
    println!("login: 4 passed");
    if cfg!(feature = "pam") {
        pam_has_a_session_around_the_call(&services);
        println!("login: 5 passed");
    }
}

/// Set where `/etc/pam.d` is the test's own. The value: the files that PAM's service includes.
const PRIVATE: &str = "QREXEC_TEST_PAM";

/// The two versions of the file for PAM's service, of which one is installed, with the files that each includes.
const FILES: [(&str, &str); 2] =
    [("qrexec", "common-session"), ("qrexec.system-auth", "system-auth postlogin")];

/// A private folder of PAM's configuration. `pam_exec` records what happens to sessions, `pam_env` gives them a
/// variable.
const PRIVATE_PAM: &str = "
mount -t tmpfs none /etc/pam.d && cp \"$1\" /etc/pam.d/qrexec || exit 77
for name in $QREXEC_TEST_PAM; do
    echo \"session required pam_exec.so quiet /etc/pam.d/record $name\" >/etc/pam.d/$name
    echo 'session required pam_env.so conffile=/etc/pam.d/variables' >>/etc/pam.d/$name
done
echo 'QREXEC_TEST_OF_PAM DEFAULT=dropped' >/etc/pam.d/variables
echo 'TEST_OF_PAM DEFAULT=kept' >>/etc/pam.d/variables
printf '#!/bin/sh\\necho $1 $PAM_TYPE $PAM_USER $PAM_SERVICE >>/etc/pam.d/log\\n' >/etc/pam.d/record
chmod 755 /etc/pam.d/record
exec \"$2\"
";

fn with_private_pam(installed: &str, includes: &str) {
    println!("login: with {installed}");
    let installed = format!("{}/../dist/pam.d/{installed}", env!("CARGO_MANIFEST_DIR"));
    let status = std::process::Command::new("unshare")
        .args(["--mount", "sh", "-c", PRIVATE_PAM, "sh", &installed])
        .arg(std::env::current_exe().expect("our own file"))
        .env(PRIVATE, includes)
        .status();
    match status.map(|status| status.code()) {
        Ok(Some(0)) => {}
        Ok(Some(1 | 77)) | Err(_) => println!("login: skipped, no mount namespace for PAM's configuration"),
        other => panic!("{other:?}"),
    }
}

fn pam_has_a_session_around_the_call(services: &Services) {
    const LOG: &str = "/etc/pam.d/log";
    std::fs::remove_file(LOG).expect("the sessions of the calls before");
    let (out, code) = call(services, "nobody:QUBESRPC test.Pam work");
    let includes = std::env::var(PRIVATE).expect("the files that are included");
    let record = |what: &str| -> String {
        includes.split(' ').map(|file| format!("{file} {what}_session nobody qrexec\n")).collect()
    };
    assert_eq!((out, code), (format!("kept\n{}", record("open")), 3));
    let log = std::fs::read_to_string(LOG).expect("a record");
    assert_eq!(log, record("open") + &record("close"));
}

const WHO: &str = "#!/bin/sh\necho $(id -un) $USER $HOME\n\
    echo \"$QREXEC_SERVICE_FULL_NAME|$QREXEC_SERVICE_ARGUMENT|$QREXEC_REMOTE_DOMAIN|$1|$#\"\n\
    read pid comm state ppid pgrp session rest </proc/self/stat; [ $$ = $session ] && echo leader\n\
    ls /proc/self/fd | wc -l; cat\n";

const PAM: &str = "#!/bin/sh\necho $TEST_OF_PAM; cat /etc/pam.d/log; exit 3\n";

fn service(dir: &tempfile::TempDir, name: &str, text: &str) -> std::path::PathBuf {
    let path = dir.path().join(name);
    std::fs::write(&path, text).expect("write");
    path
}

/// Returns output and exit code.
fn call(services: &Services, cmdline: &str) -> (String, i32) {
    let command = Command::parse(cmdline.as_bytes()).expect(cmdline);
    let prepared = services.prepare(&command.kind, &ServiceConfig::default()).expect("there");
    let mut started = services.start(&prepared, command.user.as_deref(), Stderr::Ours).expect("starts");
    std::fs::File::from(started.stdin).write_all(b"in\n").expect("write");
    let mut out = String::new();
    std::fs::File::from(started.stdout).read_to_string(&mut out).expect("read");
    (out, started.child.as_mut().expect("a process").wait().expect("wait"))
}

fn a_service_runs_as_the_user_in_a_session(services: &Services) {
    let home = Account::by_name("nobody").expect("every system has one").home;
    let (out, code) = call(services, "nobody:QUBESRPC test.Who+a+b work");
    let expected = format!("nobody nobody {}\ntest.Who+a+b|a+b|work|a+b|1\nleader\n4\nin\n", home.display());
    assert_eq!((out, code), (expected, 0));
}

fn exit_codes_come_through(services: &Services) {
    assert_eq!(call(services, "nobody:QUBESRPC test.Code work").1, 9);
}

/// A program for another machine is refused, and the error message of this program does not reach the caller. A real
/// program gets streams that its user can open.
fn what_a_login_shell_would_misread_is_refused(services: &Services) {
    let start = |line: &[u8], config: &ServiceConfig| {
        let command = Command::parse(line).expect("a call");
        let prepared = services.prepare(&command.kind, config).expect("there");
        let started = services.start(&prepared, command.user.as_deref(), Stderr::Piped).expect("starts");
        std::fs::File::from(started.stdin).write_all(b"in").expect("write");
        let (mut out, mut err) = (String::new(), String::new());
        std::fs::File::from(started.stdout).read_to_string(&mut out).expect("read");
        std::fs::File::from(started.stderr.expect("piped")).read_to_string(&mut err).expect("read");
        (out, err, started.child.expect("a process").wait().expect("wait"))
    };
    let said = start(b"nobody:QUBESRPC test.Elf work", &ServiceConfig::default());
    assert_eq!(said, (String::new(), String::new(), 125));
    let pipes = ServiceConfig { pipes: true, ..ServiceConfig::default() };
    let said = start(b"nobody:QUBESRPC test.Names work", &pipes);
    assert_eq!(said, ("in".to_owned(), "e\n".to_owned(), 0));
}

fn a_command_runs_in_the_users_shell(services: &Services) {
    let (out, code) = call(services, "root:echo \"$0 $(pwd)\"; exit 3");
    let root = Account::by_name("root").expect("every system has one");
    let shell = root.shell.file_name().expect("a name").to_string_lossy();
    assert_eq!((out, code), (format!("-{shell} {}\n", root.home.display()), 3));
}
