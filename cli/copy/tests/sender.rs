//! A sender against answers by hand: what it sends, when it stops, and what it says.

mod common;

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::{Child, Stdio};

use common::{bytes, ours, outcome, sender, skipped, sum};
use rustix::fs::{CWD, FileType, Mode, mknodat};
use wire::filecopy::{Answer, Code, Event, Limits, Receiver};

fn start(args: &[&str], cwd: &Path) -> Child {
    let mut command = sender(&ours("qfile-agent"), args, cwd);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// Runs a sender, reads all it sends, and answers with what `answer` makes of that.
fn answered(args: &[&str], cwd: &Path, answer: impl FnOnce(&[u8]) -> Vec<u8>) -> (i32, Vec<u8>, String) {
    let mut child = start(args, cwd);
    let mut stdout = child.stdout.take().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let mut sent = Vec::new();
    let mut buffer = vec![0; 1 << 16];
    // It keeps its stdout open until it has the answer: the end is where the stream says so.
    while !has_ended(&sent) {
        match stdout.read(&mut buffer).unwrap() {
            0 => break,
            len => sent.extend(&buffer[..len]),
        }
    }
    let _ = stdin.write_all(&answer(&sent));
    drop((stdin, stdout));
    let (status, _, stderr) = outcome(child);
    (status, sent, stderr)
}

fn events(sent: &[u8]) -> Vec<(String, Event)> {
    let mut receiver = Receiver::new(Limits { names: wire::filecopy::NameRules::All, ..Limits::default() });
    let (mut rest, mut events) = (sent, Vec::new());
    loop {
        let taken = receiver.handle_input(rest);
        rest = &rest[taken..];
        let Some(event) = receiver.poll_event() else { return events };
        if !matches!(event, Event::Content(_)) {
            events.push((String::from_utf8_lossy(receiver.name()).into_owned(), event));
        }
    }
}

fn has_ended(sent: &[u8]) -> bool {
    matches!(events(sent).last(), Some((_, Event::End | Event::Refused(_))))
}

fn names(sent: &[u8]) -> Vec<String> {
    let named = |(name, event)| match event {
        Event::File { .. } | Event::Folder { .. } | Event::Link(_) => Some(name),
        _ => None,
    };
    events(sent).into_iter().filter_map(named).collect()
}

fn good(sent: &[u8]) -> Vec<u8> {
    Answer { code: Code::GOOD, checksum: sum(sent), last_name: Some(b"f".to_vec()) }.to_bytes()
}

fn folder() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("f"), "content").unwrap();
    dir
}

/// The text for an answer to one file.
fn says(answer: impl FnOnce(&[u8]) -> Vec<u8>) -> (i32, String) {
    let (status, _, stderr) = answered(&["f"], folder().path(), answer);
    (status, stderr)
}

#[test]
fn names_begin_at_the_arguments_own_and_no_argument_is_only_the_end() {
    let dir = folder();
    fs::create_dir_all(dir.path().join("a/b/c")).unwrap();
    for (argument, first) in [("a/b/c", "c"), ("a/", "a"), ("a//", "a"), ("./f", "f")] {
        let (status, sent, stderr) = answered(&["--", argument], dir.path(), good);
        assert_eq!((status, stderr.as_str()), (0, ""));
        assert_eq!(names(&sent)[0], first);
    }
    let (status, sent, _) = answered(&[], dir.path(), good);
    assert_eq!((status, sent), (0, vec![0; 32]));
    assert_eq!(answered(&[""], dir.path(), good).0, 1);
}

#[test]
fn a_folder_comes_before_and_after_what_it_holds() {
    let dir = folder();
    common::tree(dir.path());
    let (status, sent, _) = answered(&["t"], dir.path(), good);
    assert_eq!(status, 0);
    let names = names(&sent);
    for folder in ["t", "t/b", "t/b/c", "t/read-only"] {
        let at: Vec<_> =
            names.iter().enumerate().filter(|(_, name)| *name == folder).map(|(at, _)| at).collect();
        assert_eq!(at.len(), 2, "{folder}: {names:?}");
        let inside = format!("{folder}/");
        assert!(
            names.iter().enumerate().all(|(i, name)| !name.starts_with(&inside) || (at[0] < i && i < at[1]))
        );
    }
}

#[test]
fn a_good_code_with_another_sum_is_a_failure() {
    let (status, stderr) = says(|_| Answer { checksum: 1, ..Answer::default() }.to_bytes());
    assert_eq!(status, 1);
    assert!(stderr.contains("checksum"), "{stderr}");
}

#[test]
fn sixteen_bytes_are_an_answer_and_it_is_silent() {
    let sixteen = |sent: &[u8]| Answer { checksum: sum(sent), ..Answer::default() }.to_bytes();
    assert_eq!(says(sixteen), (0, String::new()));
}

#[test]
fn what_is_no_whole_answer_is_a_failure_in_plain_words() {
    let (status, stderr) = says(|_| vec![0; 8]);
    assert!(status == 1 && stderr.contains("middle of its answer"), "{stderr}");
    let (status, stderr) = says(|_| Vec::new());
    assert!(status == 1 && stderr.contains("without an answer"), "{stderr}");
    let long = |claimed: u32, name: &[u8]| {
        let mut answer = Answer { code: Code::EXISTS, ..Answer::default() }.to_bytes();
        answer.extend(claimed.to_le_bytes());
        answer.extend(name);
        answer
    };
    let (status, stderr) = says(|_| long(100, b"ab"));
    assert!(status == 1 && stderr.contains("\"ab\""), "{stderr}");
    let (status, stderr) = says(|_| long(20_000, &[b'x'; 20_000]));
    assert!(status == 1 && stderr.len() < 1000, "{stderr}");
}

#[test]
fn names_of_the_other_side_are_escaped() {
    let name = b"a\x1b[31m\"$(id)%s\xff\xe2\x80\xae".to_vec();
    let (status, stderr) =
        says(|_| Answer { code: Code::EXISTS, checksum: 0, last_name: Some(name) }.to_bytes());
    assert_eq!(status, 1);
    assert!(stderr.contains(r#""a\u{1B}[31m\"$(id)%s\377\u{202E}""#), "{stderr}");
    assert!(!stderr.contains('\x1b'));
}

#[test]
fn each_code_has_one_sentence() {
    for code in [17, 22, 28, 67, 84, 121, 122, 9999, 31_415_926, 4_294_967_212] {
        let answer = Answer { code: Code(code), checksum: 0, last_name: Some(b"name".to_vec()) };
        let (status, stderr) = says(|_| answer.to_bytes());
        assert_eq!((status, stderr.lines().count()), (1, 1), "{stderr}");
        assert!(stderr.contains("name"), "{stderr}");
    }
}

#[test]
fn text_in_place_of_an_answer_is_shown() {
    let (status, stderr) = says(|sent| [&b"nvm\n"[..], &good(sent)].concat());
    assert_eq!(status, 1);
    assert!(stderr.contains("nvm") && stderr.contains("login script"), "{stderr}");
}

/// A sender that is answered after its first bytes; how much it has sent besides.
fn stops_after(answer: Vec<u8>) -> (usize, i32, String) {
    let dir = folder();
    fs::write(dir.path().join("big"), bytes(50 << 20)).unwrap();
    let mut child = start(&["big", "f"], dir.path());
    let (mut stdin, mut stdout) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    let mut first = vec![0; 1 << 20];
    stdout.read_exact(&mut first).unwrap();
    stdin.write_all(&answer).unwrap();
    drop(stdin);
    let mut rest = Vec::new();
    stdout.read_to_end(&mut rest).unwrap();
    let (status, _, stderr) = outcome(child);
    (rest.len(), status, stderr)
}

#[test]
fn an_early_error_stops_the_sender_within_a_buffer() {
    let answer = Answer { code: Code::FULL, checksum: 0, last_name: Some(b"big".to_vec()) };
    let (more, status, stderr) = stops_after(answer.to_bytes());
    assert!(more <= 1 << 20, "{more} bytes more");
    assert!(status == 1 && stderr.contains("disk is full"), "{stderr}");
}

#[test]
fn a_good_answer_before_the_end_is_a_failure_at_once() {
    let (more, status, stderr) = stops_after(Answer::default().to_bytes());
    assert!(more <= 1 << 20, "{more} bytes more");
    assert!(status == 1 && stderr.contains("before everything was sent"), "{stderr}");
}

#[test]
fn a_receiver_that_does_not_read_is_waited_for_and_named() {
    let dir = folder();
    fs::write(dir.path().join("big"), bytes(2 << 20)).unwrap();
    let mut child = start(&["big"], dir.path());
    let mut stderr = child.stderr.take().unwrap();
    let mut said = vec![0; 1000];
    let len = stderr.read(&mut said).unwrap();
    let said = String::from_utf8_lossy(&said[..len]).into_owned();
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(said.contains("takes nothing"), "{said}");
}

#[test]
fn special_files_are_left_out_with_a_line() {
    let dir = folder();
    mknodat(CWD, dir.path().join("fifo"), FileType::Fifo, Mode::RUSR, 0).unwrap();
    let (status, sent, stderr) = answered(&["fifo", "f"], dir.path(), good);
    assert_eq!((status, names(&sent)), (0, vec!["f".to_owned()]));
    assert!(stderr.contains("\"fifo\" was left out"), "{stderr}");
}

#[test]
fn links_are_sent_left_out_or_followed() {
    let dir = folder();
    fs::create_dir(dir.path().join("d")).unwrap();
    fs::write(dir.path().join("d/g"), "abc").unwrap();
    symlink("g", dir.path().join("d/l")).unwrap();
    let of_l = |options: &[&str]| {
        let (status, sent, _) = answered(&[options, &["d"]].concat(), dir.path(), good);
        assert_eq!(status, 0);
        events(&sent).into_iter().find(|(name, _)| name == "d/l").map(|(_, event)| event)
    };
    assert_eq!(of_l(&[]), Some(Event::Link(b"g".to_vec())));
    assert_eq!(of_l(&["--ignore-symlinks"]), None);
    assert!(matches!(of_l(&["--dereference"]), Some(Event::File { len: 3, .. })));
}

#[test]
fn everything_is_looked_for_before_anything_is_sent() {
    let dir = folder();
    let (status, sent, stderr) = answered(&["f", "missing", "other"], dir.path(), good);
    assert_eq!((status, sent.len()), (1, 0));
    assert!(stderr.contains("\"missing\"") && stderr.contains("\"other\""), "{stderr}");
}

#[test]
fn an_unreadable_file_ends_the_copy_there() {
    if rustix::process::geteuid().is_root() {
        return skipped("an unreadable file: root reads everything");
    }
    let dir = folder();
    fs::write(dir.path().join("secret"), "").unwrap();
    fs::set_permissions(dir.path().join("secret"), fs::Permissions::from_mode(0o000)).unwrap();
    let (status, sent, stderr) = answered(&["f", "secret"], dir.path(), good);
    assert_eq!((status, names(&sent)), (1, vec!["f".to_owned()]));
    assert!(stderr.contains("\"secret\": permission denied"), "{stderr}");
}

#[test]
fn a_file_that_has_less_than_it_says_fails_in_the_middle() {
    let sizes = [("/sys/kernel/mm/transparent_hugepage/enabled", 4096)];
    let Some((path, _)) =
        sizes.iter().find(|(path, size)| fs::metadata(path).is_ok_and(|stat| stat.len() == *size))
    else {
        return skipped("a file that is shorter than it says: no /sys");
    };
    let (status, sent, stderr) = answered(&[path], Path::new("/"), good);
    assert!(status == 1 && !has_ended(&sent));
    assert!(stderr.contains("shorter"), "{stderr}");
}

#[test]
fn a_file_that_grows_is_sent_as_it_was_with_a_warning() {
    let dir = folder();
    // Large enough that the sender waits for its reader while the file grows.
    let first = bytes(8 << 20);
    fs::write(dir.path().join("log"), &first).unwrap();
    let mut child = start(&["log"], dir.path());
    let (mut stdin, mut stdout) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    let mut sent = vec![0; 100];
    stdout.read_exact(&mut sent).unwrap();
    let mut log = fs::File::options().append(true).open(dir.path().join("log")).unwrap();
    log.write_all(b"more").unwrap();
    let mut rest = vec![0; 32 + 4 + first.len() + 32 - 100];
    stdout.read_exact(&mut rest).unwrap();
    sent.extend(rest);
    assert!(has_ended(&sent));
    stdin.write_all(&good(&sent)).unwrap();
    drop(stdin);
    let (status, _, stderr) = outcome(child);
    assert!(status == 0 && stderr.contains("has grown"), "{status} {stderr}");
}

#[test]
fn a_file_that_says_it_is_empty_is_looked_into() {
    let Some(path) =
        ["/proc/version"].into_iter().find(|path| fs::read(path).is_ok_and(|text| !text.is_empty()))
    else {
        return skipped("a file that says it is empty: no /proc");
    };
    let (status, sent, stderr) = answered(&[path], Path::new("/"), good);
    assert!(status == 0 && has_ended(&sent));
    assert!(stderr.contains("has grown"), "{stderr}");
}

#[test]
fn progress_counts_content_in_upstreams_words() {
    let dir = folder();
    let mut command = sender(&ours("qfile-agent"), &["f"], dir.path());
    command.env("PROGRESS_TYPE", "console").env("FILECOPY_TOTAL_BYTES", "1025");
    let target = tempfile::tempdir().unwrap();
    let receiver = common::receiver(&ours("qfile-unpacker"), &[], target.path());
    let ((status, said), _) = common::join(command, receiver, common::Joint::Pipes).outcome();
    assert_eq!((status, said.as_str()), (0, "sent 1/2 KB\n"));
}

#[test]
fn dom0s_sender_takes_every_word_for_a_file() {
    let dir = folder();
    let target = tempfile::tempdir().unwrap();
    let run = |args: &[&str]| {
        let command = sender(&ours("qfile-dom0-agent"), args, dir.path());
        let receiver = common::receiver(&ours("qfile-unpacker"), &[], target.path());
        common::join(command, receiver, common::Joint::Pipes).outcome().0
    };
    assert_eq!(run(&["f"]).0, 0);
    let (status, said) = run(&["--", "f"]);
    assert!(status == 1 && said.contains("\"--\""), "{said}");
}

#[test]
fn the_tree_check_lists_all_that_cannot_be_sent() {
    let dir = folder();
    let at = |name: &str| dir.path().join(name);
    fs::create_dir(at("d")).unwrap();
    symlink("/etc", at("d/out")).unwrap();
    symlink("../../x", at("d/up")).unwrap();
    symlink("g", at("d/fine")).unwrap();
    fs::write(at("d/g"), "12345").unwrap();
    let check = |args: &[&str]| {
        let mut command = sender(&ours("qubes-fs-tree-check"), args, dir.path());
        let said = command.output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (common::code(said.status), text(said.stdout), text(said.stderr))
    };
    let all = ["--allow-symlinks", "--allow-dir", "--machine", "--"];
    let (status, _, stderr) = check(&[&all[..], &["d", "missing", ".", "..", "/", "d/..", ""]].concat());
    assert_eq!(status, 1);
    for name in ["\"d/out\"", "\"d/up\"", "\"missing\"", "\".\"", "\"..\"", "\"/\"", "\"d/..\"", "empty"] {
        assert!(stderr.contains(name), "{name}: {stderr}");
    }
    assert!(!stderr.contains("fine"));
    let (status, stdout, _) = check(&[&["--ignore-symlinks"], &all[..], &["d", "f", "f"]].concat());
    assert_eq!((status, stdout.trim()), (0, "19"), "repeated arguments count each time");
    fs::remove_file(at("d/out")).unwrap();
    fs::remove_file(at("d/up")).unwrap();
    assert_eq!(check(&[&all[..], &["d"]].concat()).1.trim(), "6", "a link counts its target");
    assert_eq!(check(&["--", "d"]).0, 1, "folders have to be allowed");
    fs::write(at("d/\u{1f600}"), "").unwrap();
    assert_eq!(check(&[&all[..], &["d"]].concat()).0, 2);
    assert_eq!(check(&[&["--allow-all-names"], &all[..], &["d"]].concat()).0, 0);
    assert_eq!(check(&["--bogus", "--", "d"]).0, 1);
}
