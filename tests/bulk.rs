//! Much data: every byte right, in both directions at once, at every ring size, for readers of every kind.

use std::io::{PipeReader, PipeWriter, pipe};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::common::{self, Pattern, code, full, lab, within_deadline};
use lab::Lab;
use rustix::pipe::{SpliceFlags, splice};

/// What `--buffer-size` is given: the smallest, upstream's own, the largest.
const SIZES: [&str; 3] = ["4096", "64K", "1M"];

const MIB: u64 = 1 << 20;

const CAT: &str = "#!/bin/sh\nexec cat\n";

fn amount() -> u64 {
    if full() { 1024 * MIB } else { 24 * MIB }
}

/// `qrexec-client-vm --buffer-size SIZE vault SERVICE` in `work`, with pipes to and from it.
fn start(lab: &Lab, size: &str, service: &str) -> (Child, PipeWriter, PipeReader) {
    let size = format!("--buffer-size={size}");
    let mut command = lab.command("work", ["qrexec-client-vm", &size, "vault", service]).unwrap();
    let (stdin, input) = pipe().unwrap();
    let (output, stdout) = pipe().unwrap();
    let child = command.stdin(stdin).stdout(stdout).spawn().unwrap();
    (child, input, output)
}

/// Sends `length` bytes of a pattern on a thread of its own.
fn feed(mut input: PipeWriter, seed: u64, length: u64) -> std::thread::JoinHandle<()> {
    std::thread::spawn(move || Pattern::new(seed).write_to(&mut input, length).unwrap())
}

/// Sends a pattern through a service that returns it, and reads what comes back `step` bytes at a time.
fn round_trip(lab: &Lab, size: &str, length: u64, step: usize) {
    let (mut child, input, mut output) = start(lab, size, "test.Cat");
    let feeder = feed(input, 7, length);
    let checked = Pattern::new(7).check(&mut output, step);
    assert_eq!(checked, Ok(length), "buffer size {size}");
    feeder.join().unwrap();
    assert_eq!(code(child.wait().unwrap()), 0);
}

#[test]
fn a_pattern_returns_unchanged_at_every_ring_size() {
    within_deadline(|| {
        let lab = lab().script("vault", "test.Cat", CAT).start().unwrap();
        for size in SIZES {
            round_trip(&lab, size, amount(), 64 << 10);
        }
    });
}

#[test]
fn a_slow_reader_gets_everything() {
    within_deadline(|| {
        let lab = lab().script("vault", "test.Cat", CAT).start().unwrap();
        for size in SIZES {
            round_trip(&lab, size, 4 * MIB, 100);
        }
    });
}

fn sha256(file: &Path) -> String {
    let output = Command::new("sha256sum").stdin(std::fs::File::open(file).unwrap()).output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

/// A part of a real file tree, packed: the project's own build output.
fn packed_tree(folder: &Path) -> PathBuf {
    let tree = Path::new(common::EXE).parent().unwrap();
    let tree = if tree.is_dir() { tree } else { Path::new("/usr/lib") };
    let file = folder.join("tree.tar");
    let script = format!("tar -cf - -C \"$1\" . 2>/dev/null | head -c {} > \"$2\"", amount());
    let packed = Command::new("sh").args(["-c", &script, "sh"]).arg(tree).arg(&file).status().unwrap();
    assert!(packed.success() && file.metadata().unwrap().len() > MIB, "nothing to send");
    file
}

/// The service sends its tree while it receives the caller's. Both ends compare.
#[test]
fn a_file_tree_passes_in_both_directions_at_once() {
    within_deadline(|| {
        let folder = tempfile::tempdir().unwrap();
        let tree = packed_tree(folder.path());
        let expected = sha256(&tree);
        let received = folder.path().join("received");
        let swap = format!("#!/bin/sh\ncat {} &\nsha256sum > {}\nwait\n", tree.display(), received.display());
        let lab = lab().script("vault", "test.Swap", &swap).start().unwrap();
        for size in SIZES {
            let size = format!("--buffer-size={size}");
            let mut call = lab.command("work", ["qrexec-client-vm", &size, "vault", "test.Swap"]).unwrap();
            let source = std::fs::File::open(&tree).unwrap();
            let mut call = call.stdin(source).stdout(Stdio::piped()).spawn().unwrap();
            let sum = Command::new("sha256sum").stdin(call.stdout.take().unwrap()).output().unwrap();
            assert_eq!(code(call.wait().unwrap()), 0);
            assert_eq!(String::from_utf8(sum.stdout).unwrap(), expected, "from the service, {size}");
            assert_eq!(std::fs::read_to_string(&received).unwrap(), expected, "to the service, {size}");
        }
    });
}

/// Moves pages from pipe to pipe without looking at them, and keeps many of them underway.
fn splice_on(from: &PipeReader, to: &PipeWriter) {
    while splice(from, None, to, None, 1 << 20, SpliceFlags::MOVE).unwrap() > 0 {}
}

/// A page that was spliced on is still in use when the first pipe looks empty. What is read from it late must still be
/// what was sent.
#[test]
fn a_reader_that_splices_on_gets_every_byte_right() {
    within_deadline(|| {
        let lab = lab().script("vault", "test.Cat", CAT).start().unwrap();
        for size in SIZES {
            let (mut child, input, output) = start(&lab, size, "test.Cat");
            let feeder = feed(input, 11, amount());
            let (mut late, between) = pipe().unwrap();
            let _ = rustix::pipe::fcntl_setpipe_size(&late, 1 << 20);
            let splicer = std::thread::spawn(move || splice_on(&output, &between));
            assert_eq!(Pattern::new(11).check(&mut late, 4096), Ok(amount()), "buffer size {size}");
            feeder.join().unwrap();
            splicer.join().unwrap();
            assert_eq!(code(child.wait().unwrap()), 0);
        }
    });
}

#[test]
fn pv_in_the_pipeline_changes_nothing() {
    let there = Command::new("pv").arg("--version").stdout(Stdio::null()).status();
    if there.is_err() {
        eprintln!("no pv here");
        return;
    }
    within_deadline(|| {
        let service = "#!/bin/sh\nexec pv -q\n";
        let lab = lab().script("vault", "test.Pv", service).start().unwrap();
        for size in SIZES {
            let (mut child, input, output) = start(&lab, size, "test.Pv");
            let feeder = feed(input, 13, amount());
            let mut pv = Command::new("pv").arg("-q").stdin(output).stdout(Stdio::piped()).spawn().unwrap();
            let checked = Pattern::new(13).check(pv.stdout.as_mut().unwrap(), 64 << 10);
            assert_eq!(checked, Ok(amount()), "buffer size {size}");
            feeder.join().unwrap();
            assert_eq!(code(child.wait().unwrap()), 0);
            pv.wait().unwrap();
        }
    });
}

/// A service that stops reading ends the call's direction, not the call; a caller whose reader leaves ends the call.
#[test]
fn a_reader_that_leaves_early_ends_what_is_its_own() {
    within_deadline(|| {
        let script = "#!/bin/sh\nhead -c 10 >/dev/null\nexec 0<&-\nhead -c 3000000 /dev/zero\nexit 4\n";
        let lab =
            lab().script("vault", "test.Early", script).script("vault", "test.Cat", CAT).start().unwrap();

        // The service stops reading: the caller's data is discarded, its exit code arrives.
        let (mut child, mut input, mut output) = start(&lab, "64K", "test.Early");
        let feeder = std::thread::spawn(move || drop(Pattern::new(1).write_to(&mut input, 8 * MIB)));
        let got = std::io::copy(&mut output, &mut std::io::sink()).unwrap();
        assert_eq!((got, code(child.wait().unwrap())), (3_000_000, 4));
        feeder.join().unwrap();

        // The caller's only reader leaves: what comes for it ends the call, as SIGPIPE ends a program.
        let (mut child, mut input, output) = start(&lab, "64K", "test.Cat");
        drop(output);
        let feeder = std::thread::spawn(move || drop(Pattern::new(1).write_to(&mut input, 8 * MIB)));
        assert_eq!(code(child.wait().unwrap()), 141);
        feeder.join().unwrap();
    });
}

/// One direction that nobody reads must not stop the other.
#[test]
fn directions_do_not_wait_for_each_other() {
    within_deadline(|| {
        // Sends much before it reads anything.
        let script = "#!/bin/sh\nhead -c 20000000 /dev/zero\nexec wc -c\n";
        let lab = lab().script("vault", "test.Late", script).start().unwrap();
        let (mut child, input, mut output) = start(&lab, "4096", "test.Late");
        let feeder = feed(input, 5, 2 * MIB);
        let mut answer = Vec::new();
        std::io::Read::read_to_end(&mut output, &mut answer).unwrap();
        assert!(answer.ends_with(b"2097152\n"), "{:?}", String::from_utf8_lossy(&answer[20_000_000..]));
        feeder.join().unwrap();
        assert_eq!(code(child.wait().unwrap()), 0);
    });
}
