#![allow(unsafe_code)] // vmsplice, O_DIRECT and io_uring on ring pages: what the kernel can do with them is the question here.
//! Which kinds of transfer work in place on granted and on mapped pages, found out on real Xen by `cargo xtask xen`.
//!
//! Each trial moves a pattern through the ring's own pages by one kind of system call and compares what comes out. The
//! peer only keeps its end. Answers are recorded in `docs/xen.md`.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

use io_uring::{IoUring, opcode, types};
use ring::{Access, Channel, Sizes, Spans, Transport};

/// Bytes a trial moves: what a pipe takes.
const LEN: usize = 65_536;
const LIMIT: Duration = Duration::from_secs(60);

type Outcome<T = ()> = Result<T, Box<dyn std::error::Error>>;

fn main() -> Outcome {
    let args: Vec<String> = std::env::args().collect();
    let [_, verb, peer, port] = &args[..] else {
        return Err("usage: xen_inplace serve CLIENT PORT | join SERVER PORT".into());
    };
    let transport = Transport::from_env()?;
    let (peer, port) = (peer.parse()?, port.parse()?);
    let (mut channel, pages) = match verb.as_str() {
        "serve" => {
            (transport.listen(peer, port, Sizes::both(LEN))?.accept_within(LIMIT)?, "granted (gntalloc)")
        }
        _ => (transport.connect(peer, port)?.connect_within(LIMIT)?, "mapped (gntdev)"),
    };
    let pattern: Vec<u8> = (0..LEN).map(|k| (k * k % 251 * 31 + k) as u8).collect();
    let trials: [(&str, Trial); 6] = [
        ("readv and writev", plain),
        ("vmsplice", vmsplice),
        ("O_DIRECT from the pages", direct_out),
        ("O_DIRECT into the pages", direct_in),
        ("io_uring, plain", uring_plain),
        ("io_uring, registered buffers", uring_registered),
    ];
    for (name, trial) in trials {
        match trial(&mut channel, &pattern) {
            Ok(true) => println!("in place on {pages} pages: {name}: works"),
            Ok(false) => println!("in place on {pages} pages: {name}: WRONG BYTES"),
            Err(error) => println!("in place on {pages} pages: {name}: {error}"),
        }
    }
    // If the server ended first, it would take the pages away from the client's trials: it waits for the client.
    if verb == "serve" {
        while channel.is_open() {
            std::thread::sleep(Duration::from_millis(50));
        }
    }
    Ok(())
}

type Trial = fn(&mut Channel, &[u8]) -> Outcome<bool>;

/// The ring's free memory, all of it. Never committed: the peer sees none of this.
fn spans(channel: &mut Channel) -> Outcome<Spans<'_>> {
    let room = channel.tx().room()?.min(LEN);
    let mut spans = Spans::new();
    channel.tx().spans(0, room, &mut spans);
    if spans.bytes() == LEN { Ok(spans) } else { Err("the ring is too small".into()) }
}

/// What is in the ring, by way of a pipe.
fn contents(channel: &mut Channel) -> Outcome<Vec<u8>> {
    let (mut reader, writer) = io::pipe()?;
    spans(channel)?.drain_to(writer.as_fd(), Access::File)?;
    let mut bytes = vec![0; LEN];
    reader.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// A pipe with the pattern in it.
fn filled_pipe(pattern: &[u8]) -> Outcome<io::PipeReader> {
    let (reader, mut writer) = io::pipe()?;
    writer.write_all(pattern)?;
    Ok(reader)
}

fn plain(channel: &mut Channel, pattern: &[u8]) -> Outcome<bool> {
    channel.tx().put(0, &vec![0; LEN]);
    let reader = filled_pipe(pattern)?;
    spans(channel)?.fill_from(reader.as_fd(), Access::File)?;
    Ok(contents(channel)? == pattern)
}

fn vmsplice(channel: &mut Channel, pattern: &[u8]) -> Outcome<bool> {
    channel.tx().put(0, pattern);
    let (mut reader, writer) = io::pipe()?;
    let spans = spans(channel)?;
    let (list, count) = spans.as_raw();
    // SAFETY: the list names live ring pieces for as long as `spans` borrows them; the pipe is emptied below, before that.
    let moved = unsafe { libc::vmsplice(writer.as_raw_fd(), list, count as usize, 0) };
    let moved = usize::try_from(moved).map_err(|_| io::Error::last_os_error())?;
    let mut bytes = vec![0; moved];
    reader.read_exact(&mut bytes)?;
    Ok(moved > 0 && bytes == pattern[..moved])
}

fn disk(flags: i32) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt as _;
    File::options().read(true).write(true).custom_flags(flags).open("/dev/ram0")
}

fn direct_out(channel: &mut Channel, pattern: &[u8]) -> Outcome<bool> {
    channel.tx().put(0, pattern);
    let moved = spans(channel)?.drain_to(disk(libc::O_DIRECT)?.as_fd(), Access::File)?;
    let mut bytes = vec![0; moved];
    disk(0)?.read_exact(&mut bytes)?;
    Ok(moved == LEN && bytes == pattern)
}

fn direct_in(channel: &mut Channel, pattern: &[u8]) -> Outcome<bool> {
    let mut disk_file = disk(0)?;
    disk_file.write_all(pattern)?;
    disk_file.sync_all()?;
    channel.tx().put(0, &vec![0; LEN]);
    let moved = spans(channel)?.fill_from(disk(libc::O_DIRECT)?.as_fd(), Access::File)?;
    Ok(moved == LEN && contents(channel)? == pattern)
}

fn uring_plain(channel: &mut Channel, pattern: &[u8]) -> Outcome<bool> {
    channel.tx().put(0, &vec![0; LEN]);
    let (mut uring, reader) = (IoUring::new(4)?, filled_pipe(pattern)?);
    let spans_now = spans(channel)?;
    let (list, count) = spans_now.as_raw();
    let entry = opcode::Readv::new(types::Fd(reader.as_raw_fd()), list, count).build();
    complete(&mut uring, &entry)?;
    Ok(contents(channel)? == pattern)
}

fn uring_registered(channel: &mut Channel, pattern: &[u8]) -> Outcome<bool> {
    channel.tx().put(0, &vec![0; LEN]);
    let (mut uring, reader) = (IoUring::new(4)?, filled_pipe(pattern)?);
    let spans_now = spans(channel)?;
    let (list, _) = spans_now.as_raw();
    // SAFETY: nothing was committed, so the ring begins at index zero and all of it is one piece: the list has one element.
    let piece = unsafe { *list };
    // SAFETY: the piece is live ring memory; it is unregistered with the io_uring instance, at the end of this function,
    // while `channel` is still borrowed.
    unsafe { uring.submitter().register_buffers(&[piece]) }?;
    let entry =
        opcode::ReadFixed::new(types::Fd(reader.as_raw_fd()), piece.iov_base.cast(), LEN as u32, 0).build();
    complete(&mut uring, &entry)?;
    drop(uring);
    Ok(contents(channel)? == pattern)
}

/// Submits one entry and waits for its end, so that nothing it names is used afterwards.
fn complete(uring: &mut IoUring, entry: &io_uring::squeue::Entry) -> Outcome {
    // SAFETY: both callers keep what the entry names alive until this function has seen its completion.
    unsafe { uring.submission().push(entry) }?;
    uring.submit_and_wait(1)?;
    let result = uring.completion().next().ok_or("no completion")?.result();
    if result < 0 {
        return Err(io::Error::from_raw_os_error(-result).into());
    }
    if result as usize == LEN { Ok(()) } else { Err(format!("{result} of {LEN} bytes").into()) }
}
