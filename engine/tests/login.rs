//! Root's way to run a call. Becoming another user forks, which needs a process with one thread, so
//! this test is a program of its own; without root there is nothing to test.

use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;

use engine::exec::{Account, SearchPath, ServiceConfig, Services, Stderr, Users};
use wire::command::Command;

fn main() {
    if !rustix::process::geteuid().is_root() {
        println!("login: skipped, not root");
        return;
    }
    if cfg!(feature = "pam") && !std::path::Path::new("/etc/pam.d/qrexec").exists() {
        println!("login: skipped, PAM has no configuration for qrexec");
        return;
    }
    let dir = tempfile::tempdir().expect("tempdir");
    for path in [dir.path(), &service(&dir, "test.Who", WHO), &service(&dir, "test.Code", "exit 9\n")] {
        std::fs::set_permissions(path, PermissionsExt::from_mode(0o755)).expect("chmod");
    }
    let services = Services {
        folders: SearchPath::new(dir.path().as_os_str()),
        configs: SearchPath::new("".as_ref()),
        users: Users::Login { direct: None },
        embedded: false,
    };
    a_service_runs_as_the_user_in_a_session(&services);
    exit_codes_come_through(&services);
    a_command_runs_in_the_users_shell(&services);
    println!("login: 3 passed");
}

const WHO: &str = "#!/bin/sh\necho $(id -un) $USER $HOME\n\
    echo \"$QREXEC_SERVICE_FULL_NAME|$QREXEC_SERVICE_ARGUMENT|$QREXEC_REMOTE_DOMAIN|$1|$#\"\n\
    read pid comm state ppid pgrp session rest </proc/self/stat; [ $$ = $session ] && echo leader\n\
    ls /proc/self/fd | wc -l; cat\n";

fn service(dir: &tempfile::TempDir, name: &str, text: &str) -> std::path::PathBuf {
    let path = dir.path().join(name);
    std::fs::write(&path, text).expect("write");
    path
}

/// Output and exit code.
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

fn a_command_runs_in_the_users_shell(services: &Services) {
    let (out, code) = call(services, "root:echo \"$0 $(pwd)\"; exit 3");
    let root = Account::by_name("root").expect("every system has one");
    let shell = root.shell.file_name().expect("a name").to_string_lossy();
    assert_eq!((out, code), (format!("-{shell} {}\n", root.home.display()), 3));
}
