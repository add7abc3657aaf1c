//! What a receiver of files can still reach: its folder, as long as it is where it was.

mod common;

use std::fs;
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Command, Stdio};

use common::{LIMIT, Stream, ours, receive_by, skipped};
use engine::confine::{Confinement, Files, May, Needs, Place};

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

/// Confines this thread as a receiver into this folder; whether it can still read another file, and list another folder.
fn confined(folder: &Path) -> (bool, bool) {
    let root = fs::File::open(folder).unwrap();
    let confined = std::thread::spawn(move || {
        let needs = Needs { files: Files::Make, ..Needs::default() };
        let places = [Place { at: root.as_fd(), may: May::Make }];
        Confinement::On.close_around(needs, &places).unwrap();
        (fs::File::open("/etc/passwd").is_ok(), fs::read_dir("/proc/self/fd").is_ok())
    });
    confined.join().unwrap()
}

#[test]
fn a_receiver_can_use_nothing_but_its_folder() {
    // Where the kernel confines, a link that somebody puts into the way does not help either; see also the test of links.
    let (reads, lists) = confined(folder().path());
    if reads {
        return skipped("confinement: this kernel has no Landlock");
    }
    assert!(!lists);
}

#[test]
fn the_program_is_confined_before_it_takes_anything() {
    use std::io::{BufRead, BufReader, Write};
    let dir = folder();
    let mut command = common::receiver(&ours("qfile-unpacker"), &[], dir.path());
    command.arg("-v");
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(&Stream::default().file("f", b"x").raw(b"g\0", 0o100_644, 1, b"").0).unwrap();
    // It has said what it made, and waits for the rest.
    let mut line = String::new();
    BufReader::new(child.stderr.take().unwrap()).read_line(&mut line).unwrap();
    let status = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
    drop(stdin);
    common::wait(&mut child);
    assert_eq!(line, "f\n");
    // What confines it also takes away that it could gain anything by starting a program.
    assert!(status.contains("NoNewPrivs:\t1"), "{status}");
}

/// A folder that is being received is moved out while files come into it, at any moment: from then on nothing is made in
/// it, nor anywhere else outside.
#[test]
fn what_is_moved_out_while_a_sender_races_is_not_touched_any_more() {
    let rounds = if std::env::var_os("QREXEC_TEST_FULL").is_some() { 10_000 } else { 100 };
    let dir = folder();
    if confined(dir.path()).0 {
        return skipped("a folder that is moved out during a copy: this kernel has no Landlock");
    }
    let (inside, outside) = (dir.path().join("in"), dir.path().join("out"));
    fs::create_dir(&outside).unwrap();
    let mut stream = Stream::default().folder("d", 0o755);
    for number in 0..600 {
        stream = stream.file(&format!("d/{number}"), b"x");
    }
    let stream = stream.folder("d", 0o755).end();
    let mut moved = 0;
    for round in 0..rounds {
        fs::create_dir(&inside).unwrap();
        let mut command = Command::new(ours("qfile-unpacker"));
        command.arg("").arg(&inside);
        let place = (inside.join("d"), outside.join("d"));
        let mover = std::thread::spawn(move || {
            // Once it is there, after as many more looks as the round says: the moment is what is tried.
            let until = std::time::Instant::now() + LIMIT;
            while !place.0.exists() && std::time::Instant::now() < until {}
            for _ in 0..round % 500 {
                let _ = place.0.exists();
            }
            let renamed = fs::rename(&place.0, &place.1).is_ok();
            (renamed, fs::read_dir(&place.1).map_or(0, Iterator::count))
        });
        let received = receive_by(command, &stream);
        let (renamed, then) = mover.join().unwrap();
        assert!(renamed, "round {round}: {}", received.stderr);
        // What was under way in the kernel at that moment may still have come: one name of each thread.
        let late = fs::read_dir(outside.join("d")).unwrap().count() - then;
        assert!(late <= 2, "round {round}: {late} after it was moved");
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 1);
        moved += u32::from(then < 600);
        fs::remove_dir_all(outside.join("d")).unwrap();
        fs::remove_dir_all(&inside).unwrap();
    }
    // Most of the moves came in the middle: else nothing was tried.
    assert!(moved > rounds as u32 / 10, "{moved} of {rounds}");
}
