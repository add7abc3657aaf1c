//! Sender and receiver against each other: ours, and ours with upstream's where `QREXEC_COPY_PEER_DIR` names a folder with
//! `qfile-agent` and `qfile-unpacker`.

mod common;

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use common::{Joint, bytes, join, listing, ours, receiver, sender, skipped, tree, upstreams, wait_within};

/// Senders with receivers: ours and upstream's.
fn mixtures() -> Vec<(PathBuf, PathBuf)> {
    let mut pairs = vec![(ours("qfile-agent"), ours("qfile-unpacker"))];
    match (upstreams("qfile-agent"), upstreams("qfile-unpacker")) {
        (Some(agent), Some(unpacker)) => {
            let privileged = fs::metadata(&unpacker).unwrap().mode() & 0o4000 != 0;
            if rustix::process::geteuid().is_root() || privileged {
                pairs.push((ours("qfile-agent"), unpacker));
            } else {
                skipped("our sender with upstream's receiver: that needs root");
            }
            pairs.push((agent, ours("qfile-unpacker")));
        }
        _ => skipped("mixtures with upstream's programs: no peer"),
    }
    pairs
}

/// Copies `args` from one folder into another.
fn copied(
    programs: &(PathBuf, PathBuf),
    args: &[&str],
    from: &Path,
    to: &Path,
    joint: Joint,
) -> ((i32, String), (i32, String)) {
    join(sender(&programs.0, args, from), receiver(&programs.1, &[], to), joint).outcome()
}

/// A listing; its times without what upstream's receivers before R4.2 did not have.
fn to_micros(folder: &Path, pair: &(PathBuf, PathBuf)) -> Vec<String> {
    let whole = pair.1 == ours("qfile-unpacker");
    let shorter = |line: String| {
        let words = line.split(' ').map(|word| match word.split_once('.') {
            Some((seconds, nanos)) if !whole && seconds.parse::<u64>().is_ok() => {
                let micros = nanos.parse::<u32>().map_or(0, |nanos| nanos / 1000);
                format!("{seconds}.{micros}")
            }
            _ => word.to_owned(),
        });
        words.collect::<Vec<_>>().join(" ")
    };
    listing(folder).into_iter().map(shorter).collect()
}

#[test]
fn a_tree_arrives_equal_by_every_mixture() {
    for pair in mixtures() {
        for joint in [Joint::Pipes, Joint::Sockets] {
            let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
            tree(from.path());
            let outcome = copied(&pair, &["t"], from.path(), to.path(), joint);
            assert_eq!((outcome.0.0, outcome.1.0), (0, 0), "{pair:?} {outcome:?}");
            assert_eq!(to_micros(from.path(), &pair), to_micros(to.path(), &pair), "{pair:?} {joint:?}");
        }
    }
}

#[test]
fn one_socket_for_both_directions_is_enough() {
    let pair = (ours("qfile-agent"), ours("qfile-unpacker"));
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    tree(from.path());
    fs::write(from.path().join("t/big"), bytes(5 << 20)).unwrap();
    let outcome = copied(&pair, &["t"], from.path(), to.path(), Joint::Socket);
    assert_eq!((outcome.0.0, outcome.1.0), (0, 0), "{outcome:?}");
    assert_eq!(listing(from.path()), listing(to.path()));
}

#[test]
fn an_existing_file_is_named_by_every_mixture() {
    for pair in mixtures() {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::write(from.path().join("f"), "new").unwrap();
        fs::write(to.path().join("f"), "old").unwrap();
        let ((sent, said), (received, _)) = copied(&pair, &["f"], from.path(), to.path(), Joint::Pipes);
        assert_eq!((sent, received), (1, 17), "{pair:?}: {said}");
        assert!(said.contains('f'), "{said}");
        assert_eq!(fs::read(to.path().join("f")).unwrap(), b"old");
    }
}

#[test]
fn a_refused_name_of_a_folder_is_understood_with_either_sign() {
    for pair in mixtures() {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::create_dir(from.path().join("\u{1f600}")).unwrap();
        let ((sent, said), _) = copied(&pair, &["\u{1f600}"], from.path(), to.path(), Joint::Pipes);
        if sent == 0 && pair.1 != ours("qfile-unpacker") {
            // Before R4.2 receivers took any name.
            assert!(to.path().join("\u{1f600}").exists(), "{pair:?}");
            continue;
        }
        assert_eq!(sent, 1);
        if pair.0 == ours("qfile-agent") {
            assert!(said.contains("refuses its name") && said.contains("1F600"), "{pair:?}: {said}");
        }
    }
}

#[test]
fn every_length_around_the_buffers_arrives() {
    for pair in mixtures() {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let top = from.path().join("t");
        fs::create_dir(&top).unwrap();
        for len in [0, 1, 4095, 4096, 4097, 65_535, 262_144 - 36, 262_144, 262_145, 1_000_000] {
            fs::write(top.join(len.to_string()), bytes(len)).unwrap();
        }
        let outcome = copied(&pair, &["t"], from.path(), to.path(), Joint::Pipes);
        assert_eq!((outcome.0.0, outcome.1.0), (0, 0), "{pair:?} {outcome:?}");
        assert_eq!(to_micros(from.path(), &pair), to_micros(to.path(), &pair));
    }
}

#[test]
fn holes_stay_holes() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let image = fs::File::create(from.path().join("image")).unwrap();
    image.set_len(64 << 20).unwrap();
    rustix::io::pwrite(&image, b"data", 10 << 20).unwrap();
    rustix::io::pwrite(&image, &bytes(100_000), (40 << 20) + 7).unwrap();
    let pair = (ours("qfile-agent"), ours("qfile-unpacker"));
    let outcome = copied(&pair, &["image"], from.path(), to.path(), Joint::Sockets);
    assert_eq!((outcome.0.0, outcome.1.0), (0, 0), "{outcome:?}");
    assert_eq!(listing(from.path()), listing(to.path()));
    let blocks = fs::metadata(to.path().join("image")).unwrap().blocks();
    assert!(blocks * 512 < 1 << 20, "{blocks} blocks");
}

#[test]
fn depth_and_length_of_paths_have_no_limit_but_the_wires() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    deep(from.path(), "d", 1500);
    deep(from.path(), &"l".repeat(100), 60);
    for args in [&["d"][..], &[&"l".repeat(100)]] {
        let mut agent = Command::new("sh");
        let script = format!("ulimit -n 64; exec {} \"$@\"", ours("qfile-agent").display());
        agent.args(["-c", &script, "sh"]).args(args).current_dir(from.path());
        let pair = join(agent, receiver(&ours("qfile-unpacker"), &[], to.path()), Joint::Pipes);
        let outcome = pair.outcome();
        assert_eq!((outcome.0.0, outcome.1.0), (0, 0), "{outcome:?}");
    }
    assert_eq!(depth(to.path(), "d"), 1500);
    assert_eq!(depth(to.path(), &"l".repeat(100)), 60, "more than 4,095 bytes");
    // A test framework's removal may not reach as deep.
    for dir in [from.path(), to.path()] {
        assert!(Command::new("rm").arg("-rf").arg(dir.join("d")).status().unwrap().success());
    }
}

/// Makes a chain of folders of one name.
fn deep(at: &Path, name: &str, levels: usize) {
    use rustix::fs::{CWD, Mode, OFlags, mkdirat, openat};
    let flags = OFlags::DIRECTORY | OFlags::RDONLY;
    let mut folder = openat(CWD, at, flags, Mode::empty()).unwrap();
    for _ in 0..levels {
        mkdirat(&folder, name, Mode::RWXU).unwrap();
        folder = openat(&folder, name, flags, Mode::empty()).unwrap();
    }
}

fn depth(at: &Path, name: &str) -> usize {
    use rustix::fs::{CWD, Mode, OFlags, openat};
    let flags = OFlags::DIRECTORY | OFlags::RDONLY;
    let mut folder = openat(CWD, at, flags, Mode::empty()).unwrap();
    let mut levels = 0;
    while let Ok(next) = openat(&folder, name, flags, Mode::empty()) {
        (folder, levels) = (next, levels + 1);
    }
    levels
}

#[test]
fn many_files_take_no_memory() {
    let full = std::env::var_os("QREXEC_TEST_FULL").is_some();
    let count = if full { 1_000_000 } else { 20_000 };
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let top = from.path().join("t");
    fs::create_dir(&top).unwrap();
    for number in 0..count {
        fs::File::create(top.join(number.to_string())).unwrap();
    }
    // The kernel tells the most that a child ever had when it is waited for; ask while they still run.
    let mut pair = join(
        sender(&ours("qfile-agent"), &["t"], from.path()),
        receiver(&ours("qfile-unpacker"), &[], to.path()),
        Joint::Sockets,
    );
    let mut most = [0, 0];
    loop {
        for (most, child) in most.iter_mut().zip([&pair.sender, &pair.receiver]) {
            *most = peak(child.id()).unwrap_or(0).max(*most);
        }
        if wait_within_quietly(&mut pair.sender) {
            break;
        }
    }
    let outcome = pair.outcome();
    assert_eq!((outcome.0.0, outcome.1.0), (0, 0), "{outcome:?}");
    assert_eq!(fs::read_dir(to.path().join("t")).unwrap().count(), count);
    println!("peak memory of sender and receiver: {most:?} KiB for {count} files");
    assert!(most.iter().all(|kib| *kib > 0 && *kib <= 16 << 10), "{most:?} KiB");
}

/// Whether a child has ended, asked a little later.
fn wait_within_quietly(child: &mut std::process::Child) -> bool {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    use rustix::process::{Pid, PidfdFlags, pidfd_open};
    let handle = pidfd_open(Pid::from_raw(child.id() as i32).unwrap(), PidfdFlags::empty()).unwrap();
    let limit = Timespec { tv_sec: 0, tv_nsec: 5_000_000 };
    poll(&mut [PollFd::new(&handle, PollFlags::IN)], Some(&limit)).unwrap() > 0
}

fn peak(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

#[test]
fn a_killed_sender_leaves_no_part_of_a_file() {
    let to = tempfile::tempdir().unwrap();
    let mut command = receiver(&ours("qfile-unpacker"), &[], to.path());
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let stream =
        common::Stream::default().file("first", b"x").raw(b"big\0", 0o100_644, 1 << 20, &bytes(500_000));
    stdin.write_all(&stream.0).unwrap();
    drop(stdin);
    assert_eq!(wait_within(&mut child, Duration::from_secs(1)), Some(118));
    assert_eq!(listing(to.path()).len(), 1, "only what was complete");
}

#[test]
fn a_killed_receiver_ends_the_sender_with_a_reason() {
    let from = tempfile::tempdir().unwrap();
    fs::write(from.path().join("big"), bytes(1 << 20)).unwrap();
    let mut killed = Command::new("sh");
    killed.args(["-c", "head -c 1000 >/dev/null; kill -9 $$"]);
    let pair = join(sender(&ours("qfile-agent"), &["big"], from.path()), killed, Joint::Sockets);
    let ((sent, said), _) = pair.outcome();
    assert!(sent == 1 && said.contains("without an answer"), "{said}");
}

#[test]
fn two_receivers_in_one_folder_make_two_whole_trees() {
    let to = tempfile::tempdir().unwrap();
    let copies: Vec<_> = ["a", "b"]
        .map(|name| {
            let from = tempfile::tempdir().unwrap();
            fs::create_dir(from.path().join(name)).unwrap();
            for number in 0..200 {
                fs::write(from.path().join(name).join(number.to_string()), bytes(5000)).unwrap();
            }
            let agent = sender(&ours("qfile-agent"), &[name], from.path());
            (from, join(agent, receiver(&ours("qfile-unpacker"), &[], to.path()), Joint::Pipes))
        })
        .into_iter()
        .collect();
    for (from, pair) in copies {
        let outcome = pair.outcome();
        assert_eq!((outcome.0.0, outcome.1.0), (0, 0), "{outcome:?}");
        drop(from);
    }
    assert_eq!(listing(to.path()).len(), 402);
}

#[test]
fn a_folder_in_which_somebody_stands_stays_theirs() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    tree(from.path());
    let mut shell = Command::new("sh");
    shell.args(["-c", "read line; pwd -P; ls"]).current_dir(to.path());
    let mut shell =
        shell.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let pair = (ours("qfile-agent"), ours("qfile-unpacker"));
    assert_eq!(copied(&pair, &["t"], from.path(), to.path(), Joint::Pipes).0.0, 0);
    shell.stdin.take().unwrap().write_all(b"\n").unwrap();
    let (status, stdout, stderr) = common::outcome(shell);
    let path = fs::canonicalize(to.path()).unwrap();
    assert_eq!(status, 0, "{stderr}");
    assert_eq!(String::from_utf8(stdout).unwrap(), format!("{}\nt\n", path.display()));
}

#[test]
fn folders_that_move_while_files_come_take_nothing_outside() {
    // Somebody moves a folder of the copy out and puts a link in its place, again and again.
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (inside, outside) = (to.path().join("in"), to.path().join("out"));
    for folder in [&inside, &outside] {
        fs::create_dir(folder).unwrap();
    }
    let top = from.path().join("t");
    fs::create_dir_all(top.join("d")).unwrap();
    for number in 0..2000 {
        fs::write(top.join("d").join(number.to_string()), "x").unwrap();
    }
    let rounds = if std::env::var_os("QREXEC_TEST_FULL").is_some() { 50 } else { 3 };
    for round in 0..rounds {
        let mut pair = join(
            sender(&ours("qfile-agent"), &["t"], from.path()),
            receiver(&ours("qfile-unpacker"), &[], &inside),
            Joint::Pipes,
        );
        let there = inside.join("t/d");
        while !there.exists() && !wait_within_quietly(&mut pair.receiver) {}
        if fs::rename(&there, inside.join("moved")).is_ok() {
            let _ = symlink(&outside, &there);
        }
        let (_, (_, _)) = pair.outcome();
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 0, "round {round}");
        fs::remove_dir_all(&inside).unwrap();
        fs::create_dir(&inside).unwrap();
    }
}

#[test]
fn an_archive_arrives_as_files_with_private_folders() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    tree(from.path());
    let tar =
        Command::new("tar").args(["--format=pax", "-cf", "a.tar", "t"]).current_dir(from.path()).status();
    if !tar.is_ok_and(|status| status.success()) {
        return skipped("tar2qfile: there is no tar");
    }
    let agent = sender(&ours("tar2qfile"), &["a.tar", "t/b"], from.path());
    let outcome = join(agent, receiver(&ours("qfile-unpacker"), &[], to.path()), Joint::Pipes).outcome();
    assert_eq!((outcome.0.0, outcome.1.0), (0, 0), "{outcome:?}");
    let body = |at: &Path| fs::read(at.join("t/b/hundred thousand")).unwrap();
    assert_eq!(body(from.path()), body(to.path()));
    let stat = fs::metadata(to.path().join("t/b/hundred thousand")).unwrap();
    assert_eq!((stat.mtime(), stat.mtime_nsec()), (1_234_567_890, 0));
    assert_eq!(fs::metadata(to.path().join("t/b")).unwrap().mode() & 0o7777, 0o700);
    assert!(!to.path().join("t/empty").exists(), "not behind that prefix");
}

/// A writer whose records are larger than a pipe still has to write when the archive has ended.
#[test]
fn a_writer_of_large_records_can_write_them_whole() {
    let from = tempfile::tempdir().unwrap();
    fs::write(from.path().join("f"), "content").unwrap();
    let mut tar = Command::new("tar");
    tar.args(["-b", "2048", "-cf", "-", "f"]).current_dir(from.path()).stdout(Stdio::piped());
    let Ok(mut tar) = tar.spawn() else { return skipped("large records: there is no tar") };
    let mut agent = sender(&ours("tar2qfile"), &["-"], from.path());
    agent.stdin(tar.stdout.take().unwrap()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let (status, sent, said) = common::outcome(agent.spawn().unwrap());
    assert_eq!(common::wait(&mut tar), 0, "the writer");
    // With `-` there is nobody to read the answer from.
    assert_eq!((status, sent.len()), (1, 32 + 2 + 7 + 32), "{said}");
}

/// GNU tar writes holes in four forms; the content is the same in all, and so is the name.
#[test]
fn sparse_members_arrive_with_their_zeros() {
    let from = tempfile::tempdir().unwrap();
    let image = from.path().join("d/image");
    fs::create_dir(from.path().join("d")).unwrap();
    let file = File::create(&image).unwrap();
    for (offset, text) in [(0, "first"), (400_000, "middle"), (900_000, "last")] {
        file.write_all_at(text.as_bytes(), offset).unwrap();
    }
    file.set_len(1_000_000).unwrap();
    let forms: [&[&str]; 5] = [
        &["--format=gnu", "-S"],
        &["--format=posix", "-S", "--sparse-version=0.0"],
        &["--format=posix", "-S", "--sparse-version=0.1"],
        &["--format=posix", "-S", "--sparse-version=1.0"],
        // Here the header has times where others have a prefix of the name.
        &["--format=gnu", "--listed-incremental=snapshot", "--mtime=@-43200"],
    ];
    for form in forms {
        let to = tempfile::tempdir().unwrap();
        let tar =
            Command::new("tar").args(form).args(["-cf", "a.tar", "d"]).current_dir(from.path()).status();
        if !tar.is_ok_and(|status| status.success()) {
            return skipped("tar2qfile: there is no GNU tar");
        }
        let agent = sender(&ours("tar2qfile"), &["a.tar"], from.path());
        let outcome = join(agent, receiver(&ours("qfile-unpacker"), &[], to.path()), Joint::Pipes).outcome();
        assert_eq!((outcome.0.0, outcome.1.0), (0, 0), "{form:?}: {outcome:?}");
        let arrived = fs::read(to.path().join("d/image")).unwrap();
        assert!(arrived == fs::read(&image).unwrap(), "{form:?}: {} bytes", arrived.len());
    }
}

#[test]
fn whoever_is_killed_at_any_moment_leaves_only_whole_files() {
    let from = tempfile::tempdir().unwrap();
    let top = from.path().join("t");
    fs::create_dir(&top).unwrap();
    for number in 0..300 {
        fs::write(top.join(number.to_string()), bytes(20_000)).unwrap();
    }
    let whole = common::sum(&bytes(20_000));
    let rounds = if std::env::var_os("QREXEC_TEST_FULL").is_some() { 200 } else { 10 };
    let mut moment: u32 = 1;
    for round in 0..rounds {
        moment = moment.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let files = (moment >> 24) as usize;
        let to = tempfile::tempdir().unwrap();
        let mut pair = join(
            sender(&ours("qfile-agent"), &["t"], from.path()),
            receiver(&ours("qfile-unpacker"), &[], to.path()),
            Joint::Sockets,
        );
        let there = || fs::read_dir(to.path().join("t")).map_or(0, Iterator::count);
        while there() < files && !wait_within_quietly(&mut pair.receiver) {}
        let (victim, survivor) = if round % 2 == 0 {
            (&mut pair.sender, &mut pair.receiver)
        } else {
            (&mut pair.receiver, &mut pair.sender)
        };
        victim.kill().unwrap();
        let status = wait_within(survivor, Duration::from_secs(5)).expect("the other ends too");
        let complete = there() == 300;
        assert!(status != 0 || complete, "round {round}: {status}");
        drop(pair.outcome());
        for entry in fs::read_dir(to.path().join("t")).into_iter().flatten() {
            let body = fs::read(entry.unwrap().path()).unwrap();
            assert_eq!(common::sum(&body), whole, "round {round}");
        }
    }
}
