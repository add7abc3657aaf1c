//! Forking needs a process with one thread, which a test harness does not have: this test is a
//! program of its own.

use std::ffi::CString;
use std::io::Read;
use std::os::fd::{AsFd, AsRawFd};

use rustix::process::Signal;
use sys::process::{Program, Signals, exit_on_panic, fork_keeping, fork_pump, spawn, trim_stack};

fn main() {
    exit_codes_and_signals_come_back();
    a_panic_stays_in_the_child();
    the_child_has_only_what_was_kept();
    the_child_starts_with_default_signals();
    a_program_runs_in_its_own_session();
    a_missing_program_is_an_error();
    a_stack_is_given_back_below_the_caller();
    println!("process: 7 passed");
}

fn exit_codes_and_signals_come_back() {
    let mut child = fork_pump(|| 7).expect("fork");
    assert_eq!(child.wait().expect("wait"), 7);
    assert_eq!(child.try_wait().expect("again"), Some(7));

    let mut child = fork_pump(|| {
        loop {
            rustix::event::pause();
        }
    })
    .expect("fork");
    assert_eq!(child.try_wait().expect("try_wait"), None);
    child.signal(Signal::KILL).expect("kill");
    readable(&child);
    assert_eq!(child.try_wait().expect("try_wait"), Some(128 + 9));
}

fn a_panic_stays_in_the_child() {
    // The parent's own status for a panic is not that of its child.
    exit_on_panic(101);
    let mut child = fork_pump(|| panic!("on purpose, in the child")).expect("fork");
    assert_eq!(child.wait().expect("wait"), 125);
}

fn the_child_has_only_what_was_kept() {
    let (_reader, writer) = rustix::pipe::pipe().expect("pipe");
    let (kept, _other) = rustix::pipe::pipe().expect("pipe");
    let open = |fd: i32| std::fs::symlink_metadata(format!("/proc/self/fd/{fd}")).is_ok();
    let (kept_number, writer_number) = (kept.as_raw_fd(), writer.as_raw_fd());
    let mut child =
        fork_keeping(&[kept.as_fd()], || i32::from(!open(kept_number)) | i32::from(open(writer_number)) << 1)
            .expect("fork");
    assert_eq!(child.wait().expect("wait"), 0);
}

fn the_child_starts_with_default_signals() {
    let _signals = Signals::block(&[Signal::TERM]).expect("signalfd");
    let mut child = fork_pump(|| {
        rustix::process::kill_process(rustix::process::getpid(), Signal::TERM).expect("kill");
        0
    })
    .expect("fork");
    assert_eq!(child.wait().expect("wait"), 128 + 15);
}

fn a_program_runs_in_its_own_session() {
    let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).expect("pipe");
    let null = std::fs::File::options().read(true).write(true).open("/dev/null").expect("null");
    let script = "echo $VALUE; read pid comm state ppid pgrp session rest </proc/self/stat; [ $pid = $session ] || echo no; \
                  ls /proc/self/fd | wc -l; exit 3";
    let mut child = spawn(&Program {
        file: c"/bin/sh",
        args: &[c"sh".into(), c"-c".into(), CString::new(script).expect("no NUL")],
        env: &[c"VALUE=kept".into(), c"PATH=/usr/bin:/bin".into()],
        streams: [null.as_fd(), writer.as_fd(), null.as_fd()],
    })
    .expect("spawn");
    drop(writer);
    let mut said = String::new();
    std::fs::File::from(reader).read_to_string(&mut said).expect("read");
    assert_eq!(child.wait().expect("wait"), 3);
    // `ls` itself has the folder open: three streams and that one.
    let lines: Vec<&str> = said.split_whitespace().collect();
    assert_eq!(lines, ["kept", "4"]);
}

fn a_missing_program_is_an_error() {
    let null = std::fs::File::options().read(true).write(true).open("/dev/null").expect("null");
    let error = spawn(&Program {
        file: c"/nonexistent/program",
        args: &[c"program".into()],
        env: &[],
        streams: [null.as_fd(); 3],
    })
    .expect_err("no such file");
    assert_eq!(error.kind(), std::io::ErrorKind::NotFound);
}

fn readable(fd: &impl AsFd) {
    let mut fds = [rustix::event::PollFd::new(fd, rustix::event::PollFlags::IN)];
    rustix::event::poll(&mut fds, None).expect("poll");
}

/// In the first thread of a process, which is where calls run.
fn a_stack_is_given_back_below_the_caller() {
    #[inline(never)]
    fn touch(levels: u32) -> u64 {
        let filled = std::hint::black_box([levels as u8; 8 << 10]);
        let below = if levels == 0 { 0 } else { touch(levels - 1) };
        below + u64::from(filled[17])
    }
    let stack = || {
        let maps = std::fs::read_to_string("/proc/self/smaps").expect("smaps");
        let (_, stack) = maps.split_once("[stack]").expect("a stack");
        let rss = stack.lines().find_map(|line| line.strip_prefix("Rss:")).expect("its size");
        rss.trim().trim_end_matches(" kB").parse::<u64>().expect("a number")
    };
    let kept = std::hint::black_box([7_u8; 16 << 10]);
    assert_eq!(touch(9), 45);
    let before = stack();
    trim_stack();
    let after = stack();
    assert!(before >= 80 && after + 60 <= before, "{before} KiB, then {after} KiB");
    assert!(kept.iter().all(|byte| *byte == 7));
    assert_eq!(touch(9), 45);
}
