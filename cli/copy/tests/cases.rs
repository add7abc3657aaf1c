//! The acceptance cases by their numbers (docs/conformance.md has the list), as far as the same bytes can be given to
//! upstream's program as well: what ours makes of them, and where `QREXEC_COPY_PEER_DIR` names a folder with upstream's
//! programs, that those do the same or differ as `docs/filecopy.md` says.

mod common;

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use common::{Stream, listing, ours, outcome, receive_by, receiver, sender, skipped, sum, upstreams};
use wire::filecopy::{Answer, Code, EntryHeader, Time};

/// What a receiver makes of a stream: its code and its exit status. `None`: it gives no answer.
type Told = (Option<u32>, i32);

struct Case {
    number: u32,
    what: String,
    stream: Stream,
    options: &'static [&'static str],
    before: fn(&Path),
    ours: u32,
    /// What upstream's makes of it, where that is something else.
    theirs: Option<Told>,
    /// What the last one of R4.2 makes of it, where that is something else again.
    r4_2: Option<Told>,
    /// Whether both leave the same files.
    equal: bool,
}

fn case(number: u32, what: impl Into<String>, stream: Stream) -> Case {
    let (what, before) = (what.into(), |_: &Path| ());
    Case { number, what, stream, options: &[], before, ours: 0, theirs: None, r4_2: None, equal: true }
}

impl Case {
    fn refused(mut self, code: u32) -> Self {
        self.ours = code;
        self
    }

    fn with(mut self, options: &'static [&'static str]) -> Self {
        self.options = options;
        self
    }

    fn after(mut self, before: fn(&Path)) -> Self {
        self.before = before;
        self
    }

    fn but_theirs(mut self, code: Option<u32>, status: i32) -> Self {
        self.theirs = Some((code, status));
        self.equal = false;
        self
    }

    fn in_r4_2(mut self, code: u32) -> Self {
        self.r4_2 = Some((Some(code), (code & 0xff) as i32));
        self
    }

    fn with_other_files(mut self) -> Self {
        self.equal = false;
        self
    }

    /// What `program` makes of it, and which files it leaves.
    fn run(&self, program: &Path) -> (Told, Vec<String>) {
        let dir = tempfile::tempdir().unwrap();
        (self.before)(dir.path());
        let mut command = Command::new(program);
        command.args(self.options).arg("--").arg("").arg(dir.path());
        let received = receive_by(command, &self.stream);
        let mut left = if self.equal { listing(dir.path()) } else { Vec::new() };
        // A folder without its second header has the time at which it was made.
        for line in &mut left {
            if let Some(at) = line.find(" 40700 ") {
                line.truncate(at);
            }
        }
        ((received.answer.map(|answer| answer.code.0), received.status), left)
    }
}

fn file(name: &str) -> Stream {
    Stream::default().file(name, b"x").end()
}

fn bytes_of(header: &EntryHeader, name: &[u8]) -> Stream {
    Stream([&header.to_bytes()[..], name, &[0; 32]].concat())
}

/// Cases of names.
fn names() -> Vec<Case> {
    let mut cases = vec![
        case(4, "a name without NUL", Stream::default().raw(b"f", 0o100_644, 0, b"").end()),
        case(4, "bytes behind a NUL", Stream::default().raw(b"f\0g\0", 0o100_644, 0, b"").end())
            .refused(84)
            .but_theirs(Some(0), 0),
        case(9, "a folder's name", Stream::default().folder("\u{1f600}", 0o755).end())
            .refused(84)
            .but_theirs(Some(84_u32.wrapping_neg()), 172),
        case(18, "a component of 256", file(&"x".repeat(256))).refused(36),
    ];
    for name in ["../x", "/x", "a/../b", "a//b", "./a", "a/", ".", "..", ""] {
        cases.push(case(5, name, file(name)).refused(84));
    }
    for name in ["..x", "...", " ", "-x", "a\\b", "~", "a:b"] {
        cases.push(case(6, name, file(name)));
    }
    for name in ["a\nb", "\x7f", "e\u{301}", "\u{1f600}", "א", "ก", "a\u{a0}b", "©"] {
        cases.push(case(7, name, file(name)).refused(84));
        cases.push(case(7, name, file(name)).with(&["--allow-all-names"]));
    }
    for name in ["é", "日本", "Ж", "€", "①", "→"] {
        cases.push(case(8, name, file(name)));
    }
    for len in [16_384, u32::MAX] {
        let header = EntryHeader { name_len: len, mode: 0o100_644, ..EntryHeader::END };
        cases.push(case(17, len.to_string(), bytes_of(&header, b"")).refused(36));
    }
    let (mut stream, mut path) = (Stream::default(), String::new());
    for _ in 0..150 {
        path.push_str(&"d".repeat(99));
        stream = stream.folder(&path, 0o755);
        path.push('/');
    }
    path.push('f');
    // Too long for a look by its path.
    let deep = case(18, "150 levels", stream.file(&path, b"deep").end());
    cases.push(deep.in_r4_2(36).with_other_files());
    cases
}

/// Cases of links.
fn links() -> Vec<Case> {
    let below = |name: &str, target: &[u8]| {
        let stream = Stream::default().folder("d", 0o755).folder("d/e", 0o755).link(name, target);
        stream.folder("d/e", 0o755).folder("d", 0o755).end()
    };
    let mut cases = Vec::new();
    for (name, target) in [("d/l", "f"), ("d/l", "./f"), ("d/l", "x//y/"), ("d/e/l", ".."), ("d/e/l", "../x")]
    {
        cases.push(case(10, format!("{name} -> {target}"), below(name, target.as_bytes())));
    }
    for (name, target) in
        [("l", "f"), ("d/l", "/f"), ("d/l", ".."), ("d/e/l", "../../x"), ("d/e/l", "x/../y")]
    {
        cases.push(case(11, format!("{name} -> {target}"), below(name, target.as_bytes())).refused(67));
    }
    cases.push(case(12, "a NUL at the end", below("d/l", b"f\0")));
    cases.push(case(12, "empty", below("d/l", b"")).refused(2));
    for len in [4096, 16_384] {
        cases.push(case(12, len.to_string(), below("d/l", &vec![b'x'; len])).refused(36));
    }
    cases
}

/// Cases of headers and of where a stream ends.
fn headers_and_ends() -> Vec<Case> {
    let whole = Stream::default().folder("d", 0o555).file("d/f", b"content").folder("d/e", 0o750);
    let whole = whole.link("d/e/l", b"../f").folder("d/e", 0o750).folder("d", 0o555).end();
    let begun = Stream::default().file("f", b"content").0;
    let cut = |len: usize| Stream(begun[..len].to_vec());
    let late = EntryHeader {
        name_len: 2,
        mode: 0o100_644,
        body_len: 0,
        accessed: common::TIMES[0],
        modified: Time { seconds: 0, nanoseconds: 1_000_000_000 },
    };
    let set_id = Stream::default().entry(b"f", 0o106_755, b"").folder("d", 0o7777).folder("d", 0o7777).end();
    let mut cases = vec![
        case(1, "a tree", whole),
        case(2, "nothing", Stream::default().end()),
        case(3, "one header", Stream::default().folder("d", 0o755).file("d/f", b"x").end()),
        case(14, "set-user-id", set_id).with_other_files(),
        case(15, "nanoseconds", bytes_of(&late, b"f\0")).refused(22).but_theirs(None, 1),
        case(16, "2^64-1", Stream::default().raw(b"f\0", 0o100_644, u64::MAX, b"")).refused(122),
        case(16, "2^63-1", Stream::default().raw(b"f\0", 0o100_644, i64::MAX as u64, b""))
            .refused(28)
            .but_theirs(Some(31_415_926), 118),
        case(24, "an empty stream", Stream::default()).refused(121),
        case(24, "half a header", cut(20)).refused(121),
        case(24, "behind an entry", Stream(begun.clone())).refused(121),
        case(25, "in a name", cut(33)).refused(31_415_926),
        case(25, "in a file", cut(37)).refused(31_415_926),
        case(25, "in a target", Stream::default().raw(b"d/l\0", 0o120_777, 9, b"x")).refused(31_415_926),
    ];
    for mode in [0o10_644, 0o20_644, 0o60_644, 0o140_644, 0, 0o170_000] {
        let stream = Stream::default().entry(b"x", mode, b"").end();
        cases.push(case(13, format!("{mode:o}"), stream).refused(22));
    }
    cases
}

/// Cases of what is there already.
fn conflicts() -> Vec<Case> {
    let before = |at: &Path| {
        fs::write(at.join("f"), "old").unwrap();
        symlink("nowhere", at.join("l")).unwrap();
        symlink(".", at.join("here")).unwrap();
        fs::create_dir(at.join("d")).unwrap();
        fs::write(at.join("d/old"), "old").unwrap();
        for name in ["f", "d/old"] {
            let times = fs::FileTimes::new().set_modified(std::time::UNIX_EPOCH);
            fs::File::open(at.join(name)).unwrap().set_times(times).unwrap();
        }
    };
    let folder = |name: &str| Stream::default().folder(name, 0o755).folder(name, 0o755).end();
    let merged = Stream::default().folder("d", 0o755).file("d/new", b"x").folder("d", 0o755).end();
    let mut cases = vec![case(22, "merged", merged)];
    for name in ["f", "l", "d"] {
        cases.push(case(20, name, file(name)).refused(17));
    }
    // There R4.2's follows links, and takes a file for the folder; it does so below the folder of the copy only.
    for (name, r4_2) in [("f", 0), ("l", 2), ("here/x", 20)] {
        cases.push(case(21, name, folder(name)).refused(20).in_r4_2(r4_2));
    }
    cases.push(case(21, "here/x", file("here/x")).refused(20));
    // A folder's own time is that of the test where nothing came into it.
    let cases = cases.into_iter().map(|case| case.after(before).with_other_files());
    cases.collect()
}

/// Upstream's receiver, where there is one that has the rules of names and links of today.
fn todays_receiver() -> Option<PathBuf> {
    if upstreams("qubes-fs-tree-check").is_none() {
        skipped("the cases against upstream's receiver: no peer of June 2024 or later");
        return None;
    }
    if !rustix::process::geteuid().is_root() {
        skipped("the cases against upstream's receiver: that needs root");
        return None;
    }
    upstreams("qfile-unpacker")
}

#[test]
fn receivers_do_the_same_but_where_the_differences_say() {
    let peer = todays_receiver();
    let mut wrong = Vec::new();
    for case in [names(), links(), headers_and_ends(), conflicts()].into_iter().flatten() {
        let name = format!("case {}, {:.40}", case.number, case.what.escape_debug());
        let (told, left) = case.run(&ours("qfile-unpacker"));
        let expected = (Some(case.ours), (case.ours & 0xff) as i32);
        if told != expected {
            wrong.push(format!("{name}: ours: {told:?}, expected {expected:?}"));
        }
        let Some(peer) = &peer else { continue };
        let (theirs, theirs_left) = case.run(peer);
        let expected = case.theirs.unwrap_or(expected);
        if theirs != expected && Some(theirs) != case.r4_2 {
            wrong.push(format!("{name}: upstream's: {theirs:?}, expected {expected:?}"));
        }
        if case.equal && left != theirs_left {
            wrong.push(format!("{name}: ours left {left:?}, upstream's {theirs_left:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Gives the answer to a sender of one file, once all has come; its exit status.
fn answered(program: &Path, answer: impl FnOnce(u32) -> Vec<u8>) -> (i32, String) {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("f"), "content").unwrap();
    let mut command = sender(program, &["f"], dir.path());
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut sent = vec![0; 32 + 2 + 7 + 32];
    child.stdout.as_mut().unwrap().read_exact(&mut sent).unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(&answer(sum(&sent))).unwrap();
    drop(stdin);
    let (status, _, said) = outcome(child);
    (status, said)
}

/// An answer with a name of which so many bytes are announced.
fn told(code: u32, checksum: u32, announced: usize, name: &[u8]) -> Vec<u8> {
    let mut answer = Answer { code: Code(code), checksum, last_name: None }.to_bytes();
    answer.extend(u32::try_from(announced).unwrap().to_le_bytes());
    answer.extend(name);
    answer
}

type Answers = Vec<(u32, String, Box<dyn Fn(u32) -> Vec<u8>>, i32)>;

#[test]
fn senders_judge_an_answer_alike() {
    let mut answers: Answers = vec![
        (35, "another sum".into(), Box::new(|sum| told(0, !sum, 1, b"f")), 1),
        (38, "sixteen bytes".into(), Box::new(|sum| told(0, sum, 0, b"")[..16].to_vec()), 0),
        (39, "eight bytes".into(), Box::new(|sum| told(0, sum, 0, b"")[..8].to_vec()), 1),
        (39, "nothing".into(), Box::new(|_| Vec::new()), 1),
        (39, "a short name".into(), Box::new(|sum| told(17, sum, 100, b"ab")), 1),
        (39, "a long name".into(), Box::new(|sum| told(17, sum, 20_000, &[b'x'; 20_000])), 1),
        (40, "a hostile name".into(), Box::new(|sum| told(17, sum, 9, b"\x1b\"%s\xff$(x")), 1),
        (42, "text".into(), Box::new(|_| b"nvm\nand so on and on".to_vec()), 1),
    ];
    for code in [17, 22, 28, 67, 84, 121, 122, 9999, 31_415_926, 84_u32.wrapping_neg()] {
        answers.push((41, code.to_string(), Box::new(move |sum| told(code, sum, 1, b"f")), 1));
    }
    let peer = upstreams("qfile-agent");
    if peer.is_none() {
        skipped("answers for upstream's sender: no peer");
    }
    for (number, what, answer, expected) in &answers {
        for program in [Some(ours("qfile-agent")), peer.clone()].into_iter().flatten() {
            let (status, said) = answered(&program, answer);
            assert_eq!(status, *expected, "case {number}, {what}: {}: {said}", program.display());
            assert!(!said.contains('\x1b'), "case {number}, {what}: {}", program.display());
        }
    }
}

/// Limits and links of dom0's receiver.
#[test]
fn dom0s_receivers_have_the_same_limits() {
    let peer = upstreams("qfile-dom0-unpacker").filter(|_| rustix::process::geteuid().is_root());
    if peer.is_none() {
        skipped("dom0's limits of upstream's receiver: no peer, or no root");
    }
    let folders = Stream::default().folder("d", 0o755).folder("d", 0o755).file("f", b"").end();
    let link = Stream::default().folder("d", 0o755).link("d/l", b"./f").end();
    let long = Stream::default().file("f", b"12345678901").end();
    type Limit<'a> = (u32, &'a str, &'a str, &'a [&'a str], &'a Stream, [u32; 2]);
    let cases: [Limit<'_>; 4] = [
        (53, "UPDATES_MAX_FILES", "2", &[], &folders, [122, 122]),
        (53, "UPDATES_MAX_BYTES", "10", &[], &long, [122, 122]),
        (54, "UPDATES_MAX_FILES", "0", &["--only-regular-files"], &folders, [22, 22]),
        (54, "UPDATES_MAX_FILES", "0", &[], &link, [67, 84]),
    ];
    for (number, variable, value, options, stream, codes) in cases {
        for (program, code) in [Some(ours("qfile-dom0-unpacker")), peer.clone()].into_iter().zip(codes) {
            let Some(program) = program else { continue };
            let dir = tempfile::tempdir().unwrap();
            let mut command = receiver(&program, &[], &dir.path().join("new"));
            command.args(options).env(variable, value);
            let received = receive_by(command, stream);
            let told = received.answer.map(|answer| answer.code.0);
            assert_eq!(told, Some(code), "case {number}: {}: {}", program.display(), received.stderr);
            assert_eq!(received.status, (code & 0xff) as i32);
        }
    }
}
