//! A receiver against streams by hand: what it makes, what it refuses, and what it answers.

mod common;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use common::{Stream, TIMES, listing, ours, receive, receive_by, skipped};
use filecopy::receiver::Settings;
use wire::filecopy::{Code, EntryHeader, Time};

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

fn code(stream: &Stream) -> (u32, String, i32) {
    let dir = folder();
    let told = receive(dir.path(), &[], stream).told();
    if told.0 != 0 {
        assert_eq!(listing(dir.path()), Vec::<String>::new(), "nothing is made");
    }
    told
}

fn refused(code: u32, name: &str) -> (u32, String, i32) {
    (code, name.to_owned(), (code & 0xff) as i32)
}

#[test]
fn only_the_end_is_a_good_copy_of_nothing() {
    assert_eq!(code(&Stream::default().end()), (0, String::new(), 0));
}

#[test]
fn a_tree_gets_its_modes_and_times() {
    let dir = folder();
    let stream = Stream::default()
        .folder("d", 0o555)
        .entry(b"d/f", 0o100_400, b"content")
        .folder("d/e", 0o750)
        .link("d/e/l", b"../f")
        .folder("d/e", 0o750)
        .folder("d", 0o555)
        .end();
    assert_eq!(receive(dir.path(), &[], &stream).told(), (0, "d".to_owned(), 0));
    let stat = fs::metadata(dir.path().join("d/f")).unwrap();
    assert_eq!(stat.mode() & 0o7777, 0o400);
    assert_eq!((stat.mtime(), stat.mtime_nsec()), (1_234_567_890, 123_456_789));
    assert_eq!((stat.atime(), stat.atime_nsec()), (1_000_000_000, 5));
    let stat = fs::metadata(dir.path().join("d")).unwrap();
    assert_eq!((stat.mode() & 0o7777, stat.mtime()), (0o555, 1_234_567_890));
    assert_eq!(fs::read_link(dir.path().join("d/e/l")).unwrap(), Path::new("../f"));
}

#[test]
fn a_folder_with_one_header_stays_private() {
    let dir = folder();
    let stream = Stream::default().folder("d", 0o755).file("d/f", b"x").end();
    assert_eq!(receive(dir.path(), &[], &stream).told().0, 0);
    assert_eq!(fs::metadata(dir.path().join("d")).unwrap().mode() & 0o7777, 0o700);
}

#[test]
fn a_name_needs_no_nul_and_has_nothing_behind_one() {
    assert_eq!(code(&Stream::default().raw(b"f", 0o100_644, 0, b"").end()).0, 0);
    assert_eq!(code(&Stream::default().raw(b"f\0g\0", 0o100_644, 0, b"").end()), refused(84, "f"));
}

#[test]
fn names_that_lead_elsewhere_are_refused_and_make_nothing() {
    for name in ["../x", "/x", "a/../b", "a//b", "./a", "a/", ".", "..", ""] {
        for options in [&[][..], &["--allow-all-names"]] {
            let dir = folder();
            let told = receive(dir.path(), options, &Stream::default().file(name, b"").end()).told();
            assert_eq!(told, refused(84, name));
            assert!(listing(dir.path()).is_empty());
        }
    }
}

#[test]
fn odd_names_that_lead_nowhere_else_are_taken() {
    for name in ["..x", "...", " ", "-x", "a\\b", "~", "a:b", "é", "日本", "Ж", "€", "①", "→"] {
        assert_eq!(code(&Stream::default().file(name, b"").end()).0, 0, "{name}");
    }
}

#[test]
fn characters_outside_the_table_need_allow_all_names() {
    let names: [&[u8]; 9] = [
        b"a\nb",
        b"\x7f",
        b"\xff",
        "e\u{301}".as_bytes(),
        "\u{1f600}".as_bytes(),
        "א".as_bytes(),
        "ก".as_bytes(),
        "a\u{a0}b".as_bytes(),
        "©".as_bytes(),
    ];
    for name in names {
        for mode in [0o100_644, 0o40_755] {
            let stream = Stream::default().entry(name, mode, b"").end();
            let (code, _, status) = code(&stream);
            assert_eq!((code, status), (84, 84), "a folder's code is no negative number either");
            let dir = folder();
            assert_eq!(receive(dir.path(), &["--allow-all-names"], &stream).told().0, 0);
            assert_eq!(listing(dir.path()).len(), 1);
        }
    }
}

#[test]
fn links_inside_what_is_copied_are_made() {
    let dir = folder();
    let stream = Stream::default()
        .folder("d", 0o755)
        .link("d/a", b"f")
        .link("d/b", b"./f")
        .link("d/c", b"x//y/")
        .link("d/nul", b"f\0")
        .folder("d/e", 0o755)
        .link("d/e/a", b"..")
        .link("d/e/b", b"../x")
        .end();
    assert_eq!(receive(dir.path(), &[], &stream).told().0, 0);
    assert_eq!(fs::read_link(dir.path().join("d/nul")).unwrap(), Path::new("f"));
    assert_eq!(fs::read_link(dir.path().join("d/e/b")).unwrap(), Path::new("../x"));
}

#[test]
fn links_that_lead_out_are_refused_by_their_own_name() {
    let links = [
        ("l", "f"),
        ("d/l", "/f"),
        ("d/l", ".."),
        ("d/e/l", "../../x"),
        ("d/e/l", "x/../y"),
        ("d/l", "../d/f"),
    ];
    for (name, target) in links {
        let dir = folder();
        fs::create_dir_all(dir.path().join("d/e")).unwrap();
        let received = receive(dir.path(), &[], &Stream::default().link(name, target.as_bytes()).end());
        assert_eq!(received.told(), refused(67, name), "{name} -> {target}");
        assert!(received.stderr.contains(name), "{}", received.stderr);
        assert!(fs::symlink_metadata(dir.path().join(name)).is_err());
    }
    let dir = folder();
    let stream = Stream::default().link("l", b"/etc/passwd").end();
    assert_eq!(receive(dir.path(), &["--allow-unsafe-symlinks"], &stream).told().0, 0);
}

#[test]
fn a_links_target_has_limits() {
    let link = |len: usize| Stream::default().link("d/l", &vec![b'x'; len]).end();
    assert_eq!(code(&link(0)).0, 2);
    assert_eq!(code(&link(4096)).0, 36);
    assert_eq!(code(&link(16_384)).0, 36);
}

#[test]
fn what_is_no_file_folder_or_link_is_refused() {
    for mode in [0o10_644, 0o20_644, 0o60_644, 0o140_644, 0, 0o170_000] {
        assert_eq!(code(&Stream::default().entry(b"x", mode, b"").end()), refused(22, "x"), "{mode:o}");
    }
}

#[test]
fn set_user_id_and_set_group_id_do_not_arrive() {
    let dir = folder();
    let stream = Stream::default().entry(b"f", 0o106_755, b"").folder("d", 0o7777).folder("d", 0o7777).end();
    assert_eq!(receive(dir.path(), &[], &stream).told().0, 0);
    assert_eq!(fs::metadata(dir.path().join("f")).unwrap().mode() & 0o7777, 0o755);
    assert_eq!(fs::metadata(dir.path().join("d")).unwrap().mode() & 0o7777, 0o1777);
}

#[test]
fn impossible_nanoseconds_are_answered_and_make_nothing() {
    for nanoseconds in [1_000_000_000, 0x3fff_ffff, 0x3fff_fffe, u32::MAX] {
        let modified = Time { seconds: 0, nanoseconds };
        let header = EntryHeader { name_len: 2, mode: 0o100_644, body_len: 0, accessed: TIMES[0], modified };
        let stream = Stream([&header.to_bytes()[..], b"f\0", &[0; 32]].concat());
        assert_eq!(code(&stream), refused(22, "f"));
    }
}

#[test]
fn a_file_that_cannot_fit_is_refused_before_its_content() {
    assert_eq!(code(&Stream::default().raw(b"f\0", 0o100_644, u64::MAX, b"")), refused(122, "f"));
    let dir = folder();
    let received = receive(dir.path(), &[], &Stream::default().raw(b"f\0", 0o100_644, i64::MAX as u64, b""));
    assert_eq!(received.told(), refused(28, "f"));
    assert!(received.stderr.contains("free"), "{}", received.stderr);
}

#[test]
fn long_names_are_not_read_and_long_paths_are_taken() {
    for len in [16_384, u32::MAX] {
        let header = EntryHeader { name_len: len, mode: 0o100_644, ..EntryHeader::END };
        let dir = folder();
        let received = receive(dir.path(), &[], &Stream(header.to_bytes().to_vec()));
        assert_eq!(received.told(), (36, String::new(), 36));
        assert_eq!(received.answer.unwrap().last_name, None, "sixteen bytes");
    }
    let long = "x".repeat(256);
    assert_eq!(code(&Stream::default().file(&long, b"").end()), refused(36, &long));
    let (mut stream, mut path) = (Stream::default(), String::new());
    for _ in 0..150 {
        path.push_str(&"d".repeat(99));
        stream = stream.folder(&path, 0o755);
        path.push('/');
    }
    path.push('f');
    let dir = folder();
    let told = receive(dir.path(), &[], &stream.file(&path, b"deep").end()).told();
    assert_eq!(told, (0, path, 0));
}

#[test]
fn a_folder_has_no_body() {
    let stream = Stream::default().raw(b"d\0", 0o40_755, 5, b"12345").end();
    assert_eq!(code(&stream), refused(22, "d"));
}

#[test]
fn nothing_is_overwritten() {
    let dir = folder();
    let at = |name: &str| dir.path().join(name);
    fs::write(at("f"), "old").unwrap();
    symlink("nowhere", at("l")).unwrap();
    fs::create_dir(at("d")).unwrap();
    let before = listing(dir.path());
    for name in ["f", "l", "d"] {
        let told = receive(dir.path(), &[], &Stream::default().file(name, b"new").end()).told();
        assert_eq!(told, refused(17, name));
    }
    for name in ["f", "l"] {
        let told = receive(dir.path(), &[], &Stream::default().folder(name, 0o755).end()).told();
        assert_eq!(told, refused(20, name));
    }
    assert_eq!(listing(dir.path()), before);
}

#[test]
fn among_many_small_files_the_first_that_cannot_be_made_is_named() {
    let dir = folder();
    let at = |name: usize| dir.path().join(name.to_string());
    let mut stream = Stream::default();
    for name in 0..200 {
        stream = stream.file(&name.to_string(), &common::bytes(name)[name / 2..]);
    }
    for taken in [70, 150] {
        fs::write(at(taken), "old").unwrap();
    }
    assert_eq!(receive(dir.path(), &[], &stream.clone().end()).told(), refused(17, "70"));
    for name in 0..70 {
        assert_eq!(fs::read(at(name)).unwrap(), common::bytes(name)[name / 2..], "{name}");
    }
    for taken in [70, 150] {
        assert_eq!(fs::read(at(taken)).unwrap(), b"old");
    }
    let fresh = folder();
    assert_eq!(receive(fresh.path(), &[], &stream.end()).told().0, 0);
    assert_eq!(fs::read(fresh.path().join("199")).unwrap(), common::bytes(199)[99..]);
}

#[test]
fn no_path_leads_through_a_link() {
    let (dir, outside) = (folder(), folder());
    symlink(outside.path(), dir.path().join("l")).unwrap();
    symlink(".", dir.path().join("here")).unwrap();
    for name in ["l/f", "here/f"] {
        assert_eq!(
            receive(dir.path(), &[], &Stream::default().file(name, b"x").end()).told(),
            refused(20, name)
        );
        let told = receive(dir.path(), &[], &Stream::default().folder(name, 0o755).end()).told();
        assert_eq!(told, refused(20, name));
    }
    assert!(listing(outside.path()).is_empty());
    assert_eq!(receive(dir.path(), &[], &Stream::default().file("none/f", b"").end()).told().0, 2);
}

#[test]
fn a_folder_that_is_there_is_merged_and_gets_its_mode_last() {
    let dir = folder();
    fs::create_dir(dir.path().join("d")).unwrap();
    fs::write(dir.path().join("d/old"), "old").unwrap();
    let stream = Stream::default().folder("d", 0o550).file("d/new", b"new").folder("d", 0o550).end();
    assert_eq!(receive(dir.path(), &[], &stream).told().0, 0);
    assert_eq!(fs::read_dir(dir.path().join("d")).unwrap().count(), 2);
    assert_eq!(fs::metadata(dir.path().join("d")).unwrap().mode() & 0o7777, 0o550);
    fs::set_permissions(dir.path().join("d"), fs::Permissions::from_mode(0o700)).unwrap();
}

#[test]
fn an_early_end_is_told_from_one_inside_an_entry() {
    let file = Stream::default().file("f", b"content").0;
    assert_eq!(code(&Stream::default()), refused(121, ""));
    assert_eq!(code(&Stream(file[..20].to_vec())), refused(121, ""));
    assert_eq!(code(&Stream(file[..33].to_vec())), (31_415_926, String::new(), 118));
    assert_eq!(code(&Stream(file[..37].to_vec())), (31_415_926, "f".to_owned(), 118));
    assert_eq!(
        code(&Stream::default().raw(b"d/l\0", 0o120_777, 9, b"x")),
        (31_415_926, "d/l".to_owned(), 118)
    );
    let dir = folder();
    assert_eq!(receive(dir.path(), &[], &Stream(file)).told(), refused(121, "f"));
    assert_eq!(fs::read(dir.path().join("f")).unwrap(), b"content", "what was complete stays");
}

#[test]
fn a_full_file_system_is_named_with_the_file_that_does_not_fit() {
    let dir = folder();
    let mounted = rustix::mount::mount(
        "none",
        dir.path(),
        "tmpfs",
        rustix::mount::MountFlags::empty(),
        Some(c"size=2m"),
    );
    if mounted.is_err() {
        return skipped("a full file system: mounting needs root");
    }
    let big = common::bytes(3 << 20);
    let stream = Stream::default().file("small", b"fits").file("big", &big).end();
    let received = receive(dir.path(), &[], &stream);
    let there = listing(dir.path());
    rustix::mount::unmount(dir.path(), rustix::mount::UnmountFlags::DETACH).unwrap();
    assert_eq!(received.told(), refused(28, "big"));
    assert!(received.stderr.contains("3.0 MiB"), "{}", received.stderr);
    assert_eq!(there.len(), 1, "earlier files stay, no part of the other: {there:?}");
}

#[test]
fn waiting_for_room_ends_with_the_sender() {
    let dir = folder();
    let stream = Stream::default().raw(b"f\0", 0o100_644, i64::MAX as u64, b"");
    let received = receive(dir.path(), &["-w", "1"], &stream);
    assert_eq!(received.told(), (31_415_926, "f".to_owned(), 118));
    assert!(received.stderr.contains("waiting for room"), "{}", received.stderr);
}

#[test]
fn bad_command_lines_and_sources_get_no_answer() {
    let run = |args: &[&str], source: Option<&str>| {
        let mut command = Command::new(ours("qfile-unpacker"));
        command.args(args).env_remove("QREXEC_REMOTE_DOMAIN");
        source.map(|source| command.env("QREXEC_REMOTE_DOMAIN", source));
        let received = receive_by(command, &Stream::default().end());
        assert!(received.answer.is_none(), "{args:?} {source:?}");
        received.status
    };
    for args in [&["--bogus"][..], &["", "/nonexistent/folder"], &["-w", "x", "", "/tmp"], &["x"]] {
        assert_eq!(run(args, None), 1);
    }
    for source in [None, Some(".."), Some("a/b"), Some("")] {
        assert_eq!(run(&[], source), 1);
    }
}

#[test]
fn dom0s_limits_leave_nothing_of_what_is_too_much() {
    let run = |env: &[(&str, &str)], options: &[&str], stream: Stream| {
        let dir = folder();
        let target = dir.path().join("new");
        let mut command = common::receiver(&ours("qfile-dom0-unpacker"), &[], &target);
        command.args(options).envs(env.iter().copied());
        (receive_by(command, &stream).told(), listing(&target))
    };
    let folders = Stream::default().folder("d", 0o755).folder("d", 0o755).file("f", b"");
    let (told, there) = run(&[("UPDATES_MAX_FILES", "2")], &[], folders);
    assert_eq!((told.0, there.len()), (122, 1), "a folder counts at each header");
    let (told, there) =
        run(&[("UPDATES_MAX_BYTES", "10")], &[], Stream::default().file("f", b"12345678901").end());
    assert_eq!((told, there.len()), (refused(122, "f"), 0));
    let (told, there) = run(&[], &["--only-regular-files"], Stream::default().folder("d", 0o755).end());
    assert_eq!((told, there.len()), (refused(22, "d"), 0));
    let link = Stream::default().folder("d", 0o755).link("d/l", b"./f").end();
    assert_eq!(run(&[], &[], link).0, refused(67, "d/l"), "links are canonical here");
    let (told, there) = run(&[("UPDATES_MAX_BYTES", "0")], &["-v"], Stream::default().file("f", b"x").end());
    assert_eq!((told.0, there.len()), (0, 1));
}

#[test]
fn verbose_names_each_file_and_link() {
    let dir = folder();
    let stream =
        Stream::default().folder("d", 0o755).file("d/f", b"").link("d/l", b"f").folder("d", 0o755).end();
    assert_eq!(receive(dir.path(), &["-v"], &stream).stderr, "d/f\nd/l\n");
    let stream = Stream::default().file("a\n\x1b[31m", b"").end();
    let received = receive(dir.path(), &["-v", "--allow-all-names"], &stream);
    assert_eq!(received.stderr, "\"a\\n\\u{1B}[31m\"\n");
}

#[test]
fn without_unnamed_files_a_partial_one_is_removed() {
    for (body, len, code) in [(&b"part"[..], 9, Code::BROKEN), (b"the whole", 9, Code::GOOD)] {
        let dir = folder();
        let mut stream = Stream::default().raw(b"f\0", 0o100_640, len, body);
        if code == Code::GOOD {
            stream = stream.end();
        }
        let mut input = tempfile::tempfile().unwrap();
        std::io::Write::write_all(&mut input, &stream.0).unwrap();
        std::io::Seek::rewind(&mut input).unwrap();
        let output = tempfile::tempfile().unwrap().into();
        let root = fs::File::open(dir.path()).unwrap().into();
        let settings = Settings { in_place: true, ..Settings::default() };
        assert_eq!(
            filecopy::receiver::receive(
                root,
                &mut filecopy::port::Streams::new(input.into(), output),
                &settings
            ),
            code
        );
        assert_eq!(listing(dir.path()).len(), usize::from(code == Code::GOOD));
        if code == Code::GOOD {
            assert_eq!(fs::metadata(dir.path().join("f")).unwrap().mode() & 0o7777, 0o640);
        }
    }
}
