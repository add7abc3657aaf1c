//! Ring pages lent to a pipe: every byte right for readers that copy, and why nobody gets them who did not ask.

use std::io::{PipeReader, PipeWriter, Read, Write, pipe};
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::common::{Pattern, code, eventually, lab, within_deadline};
use lab::Lab;
use rustix::pipe::{SpliceFlags, splice};

const MIB: u64 = 1 << 20;
const CAT: &str = "#!/bin/sh\nexec cat\n";

/// `test.Cat` gets its stdin by pages, the caller its stdout.
fn lending_lab() -> Lab {
    lab().script("vault", "test.Cat", CAT).config("vault", "test.Cat", "splice=true\n").start().unwrap()
}

fn start(lab: &Lab, service: &str, stderr: Stdio) -> (Child, PipeWriter, PipeReader) {
    let mut command = lab.command("work", ["qrexec-client-vm", "--splice", "vault", service]).unwrap();
    let (stdin, input) = pipe().unwrap();
    let (output, stdout) = pipe().unwrap();
    let child = command.stdin(stdin).stdout(stdout).stderr(stderr).spawn().unwrap();
    (child, input, output)
}

fn feed(mut input: PipeWriter, seed: u64, length: u64) -> std::thread::JoinHandle<()> {
    std::thread::spawn(move || Pattern::new(seed).write_to(&mut input, length).unwrap())
}

#[test]
fn readers_that_copy_get_every_byte_right() {
    within_deadline(|| {
        let lab = lending_lab();
        for (length, step) in [(48 * MIB, 64 << 10), (4 * MIB, 100), (1, 1), (0, 1)] {
            let (mut child, input, mut output) = start(&lab, "test.Cat", Stdio::inherit());
            let feeder = feed(input, 3, length);
            assert_eq!(Pattern::new(3).check(&mut output, step), Ok(length), "read {step} at a time");
            feeder.join().unwrap();
            assert_eq!(code(child.wait().unwrap()), 0);
        }
    });
}

/// What is lent when stdout ends stays lent until it is read, however much comes for stderr meanwhile. It is little:
/// a pipe has places for pages, and each small message takes one or two.
#[test]
fn the_end_of_stdout_does_not_end_a_loan() {
    within_deadline(|| {
        let script = "#!/bin/sh\nhead -c 20000 /dev/zero | tr '\\0' a\nexec 1>&-\nhead -c 8000000 /dev/zero | tr '\\0' b >&2\n";
        let lab = lab().script("vault", "test.Flood", script).start().unwrap();
        let (mut child, input, mut output) = start(&lab, "test.Flood", Stdio::piped());
        drop(input);
        let mut stderr = child.stderr.take().unwrap();
        // The flood stands still once the ring is full but for what is lent: half of it comes without a reader.
        let mut flood = vec![0; 500_000];
        stderr.read_exact(&mut flood).unwrap();
        let rest = std::thread::spawn(move || std::io::copy(&mut stderr, &mut std::io::sink()).unwrap());
        let mut got = Vec::new();
        output.read_to_end(&mut got).unwrap();
        assert!(got.len() == 20_000 && got.iter().all(|byte| *byte == b'a'), "{} bytes", got.len());
        assert_eq!(rest.join().unwrap(), 7_500_000);
        assert_eq!(code(child.wait().unwrap()), 0);
    });
}

/// A reader that leaves with bytes unread gives back what was lent to it, and the call ends.
#[test]
fn a_reader_that_leaves_ends_its_loans() {
    within_deadline(|| {
        let script = "#!/bin/sh\nhead -c 50000000 /dev/zero\n";
        let lab = lab().script("vault", "test.Big", script).start().unwrap();
        let (mut child, input, mut output) = start(&lab, "test.Big", Stdio::inherit());
        drop(input);
        output.read_exact(&mut [0; 10]).unwrap();
        drop(output);
        assert_eq!(code(child.wait().unwrap()), 141);
    });
}

/// Error output that fills the ring behind a loan waits for the reader of stdout, and goes on when that has read.
#[test]
fn error_output_behind_a_loan_goes_on_once_that_is_read() {
    within_deadline(|| {
        let script = "#!/bin/sh\necho x\nhead -c 2000000 /dev/zero >&2\necho y\n";
        let lab = lab().script("vault", "test.Mixed", script).start().unwrap();
        let (mut child, input, mut output) = start(&lab, "test.Mixed", Stdio::piped());
        drop(input);
        let mut stderr = child.stderr.take().unwrap();
        // More than half of the ring has come behind what was lent, so the peer waits or soon will.
        let mut some = vec![0; 600_000];
        stderr.read_exact(&mut some).unwrap();
        let rest = std::thread::spawn(move || std::io::copy(&mut stderr, &mut std::io::sink()).unwrap());
        let mut got = String::new();
        output.read_to_string(&mut got).unwrap();
        assert_eq!((got.as_str(), rest.join().unwrap()), ("x\ny\n", 1_400_000));
        assert_eq!(code(child.wait().unwrap()), 0);
    });
}

/// A pipe that counts what it has taken.
struct Counted {
    input: PipeWriter,
    fed: Arc<AtomicU64>,
}

impl Write for Counted {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let written = self.input.write(bytes)?;
        self.fed.fetch_add(written as u64, Ordering::Relaxed);
        Ok(written)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.input.flush()
    }
}

/// The reason why lending is asked for and never given: a reader that passes pages on looks as if it had taken
/// them, and the next lap of the ring changes what it has passed on.
#[test]
fn a_reader_that_splices_on_sees_pages_change() {
    within_deadline(|| {
        let lab = lending_lab();
        let (mut child, input, output) = start(&lab, "test.Cat", Stdio::inherit());
        let fed = Arc::new(AtomicU64::new(0));
        let mut counted = Counted { input, fed: fed.clone() };
        let feeder = std::thread::spawn(move || Pattern::new(11).write_to(&mut counted, 48 * MIB).unwrap());
        let (mut late, between) = pipe().unwrap();
        rustix::pipe::fcntl_setpipe_size(&late, 1 << 20).unwrap();
        let splicer = std::thread::spawn(move || {
            while splice(&output, None, &between, None, 1 << 20, SpliceFlags::MOVE).unwrap() > 0 {}
        });
        // Nobody reads what was passed on until every ring and pipe on the way is full: then the ring has come round.
        let (mut seen, mut since) = (0, Instant::now());
        eventually("a way that is full", || {
            let now = fed.load(Ordering::Relaxed);
            if now != seen {
                (seen, since) = (now, Instant::now());
            }
            seen > MIB && since.elapsed() > Duration::from_millis(500)
        });
        let checked = Pattern::new(11).check(&mut late, 4096);
        assert!(checked.is_err(), "if this holds for good, lending can be the default");
        // What is left goes nowhere in particular; the call still ends.
        std::io::copy(&mut late, &mut std::io::sink()).unwrap();
        feeder.join().unwrap();
        splicer.join().unwrap();
        assert_eq!(code(child.wait().unwrap()), 0);
    });
}

/// A file takes copies; nobody has to know.
#[test]
fn what_cannot_be_lent_is_copied() {
    within_deadline(|| {
        let lab = lending_lab();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out");
        let mut command = lab.command("work", ["qrexec-client-vm", "--splice", "vault", "test.Cat"]).unwrap();
        let (stdin, input) = pipe().unwrap();
        let mut child = command.stdin(stdin).stdout(std::fs::File::create(&path).unwrap()).spawn().unwrap();
        feed(input, 5, 3 * MIB).join().unwrap();
        assert_eq!(code(child.wait().unwrap()), 0);
        assert_eq!(Pattern::new(5).check(&mut std::fs::File::open(&path).unwrap(), 4096), Ok(3 * MIB));
    });
}
