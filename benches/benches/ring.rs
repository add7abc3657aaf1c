//! Micro-benchmarks of the ring: index arithmetic, transfers over a whole ring, and what waking costs.

use std::fs::File;
use std::hint::black_box;
use std::os::fd::AsFd;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use ring::{Access, Channel, Kind, Sizes, Spans, Transport, index};
use rustix::event::{PollFd, PollFlags, poll};

const LIMIT: Duration = Duration::from_secs(10);
const KINDS: [(&str, Kind); 2] = [("shm", Kind::Shm), ("socket", Kind::Socket)];

/// Both ends of a fresh channel: `(server, client)`.
fn meet(kind: Kind, bytes: usize) -> (Channel, Channel) {
    let folder = tempfile::tempdir().unwrap();
    let listener = Transport::new(kind, 1, folder.path()).listen(2, 513, Sizes::both(bytes)).unwrap();
    let connector = Transport::new(kind, 2, folder.path()).connect(1, 513).unwrap();
    std::thread::scope(|threads| {
        let client = threads.spawn(|| connector.connect_within(LIMIT).unwrap());
        (listener.accept_within(LIMIT).unwrap(), client.join().unwrap())
    })
}

fn bench_index(c: &mut Criterion) {
    let mut group = c.benchmark_group("index");
    group.bench_function("pieces", |b| {
        let mut start = 0_u32;
        b.iter(|| {
            start = start.wrapping_add(4099);
            index::pieces(black_box(start), black_box(4096), black_box(1 << 16))
        });
    });
    group.bench_function("check_prod", |b| {
        b.iter(|| index::check_prod(black_box(5), black_box(70), black_box(900), black_box(1 << 16)));
    });
    group.bench_function("check_cons", |b| {
        b.iter(|| index::check_cons(black_box(900), black_box(5), black_box(70), black_box(1 << 16)));
    });
    group.finish();
}

/// Fills the ring from `/dev/zero`; returns the bytes.
fn fill(channel: &mut Channel, zero: &File) -> usize {
    let room = channel.writable().unwrap();
    let mut spans = Spans::new();
    channel.tx().spans(0, room, &mut spans);
    let n = spans.fill_from(zero.as_fd(), Access::File).unwrap();
    channel.commit(n);
    channel.flush().unwrap();
    n
}

/// Drains what is there into `/dev/null`; returns the bytes.
fn drain(channel: &mut Channel, null: &File) -> usize {
    let ready = channel.readable().unwrap();
    let mut spans = Spans::new();
    channel.rx().spans(0, ready, &mut spans);
    let n = spans.drain_to(null.as_fd(), Access::File).unwrap();
    channel.release(n);
    channel.flush().unwrap();
    n
}

/// One thread at both ends, so that scheduling does not blur the cost per byte. `/dev/zero` is filled in
/// by the kernel and `/dev/null` copies nothing: what is measured is our own share and one pass of memory.
fn bench_transfer(c: &mut Criterion) {
    let zero = File::open("/dev/zero").unwrap();
    let null = File::options().write(true).open("/dev/null").unwrap();
    let mut group = c.benchmark_group("transfer");
    for (name, kind) in KINDS {
        for bytes in [64 << 10, 256 << 10, 1 << 20] {
            let (mut server, mut client) = meet(kind, bytes);
            group.throughput(Throughput::Bytes(bytes as u64));
            group.bench_function(BenchmarkId::new(name, format!("{}KiB", bytes >> 10)), |b| {
                b.iter(|| {
                    let (mut sent, mut got) = (0, 0);
                    while got < bytes {
                        if sent < bytes {
                            sent += fill(&mut client, &zero);
                        } else if client.wants_out() {
                            client.flush().unwrap();
                        }
                        got += drain(&mut server, &null);
                    }
                });
            });
        }
        let (mut server, mut client) = meet(kind, 4096);
        group.throughput(Throughput::Elements(1));
        group.bench_function(BenchmarkId::new(name, "message of 28 bytes"), |b| {
            let mut buffer = [0; 28];
            b.iter(|| {
                assert_eq!(client.write(&[7; 28]).unwrap(), 28);
                client.flush().unwrap();
                assert_eq!(server.read(&mut buffer).unwrap(), 28);
                server.flush().unwrap();
            });
        });
    }
    group.finish();
}

fn sleep(channel: &mut Channel) {
    let mut what = PollFlags::IN;
    what.set(PollFlags::OUT, channel.wants_out());
    let fd = channel.as_fd();
    poll(&mut [PollFd::new(&fd, what)], None).unwrap();
    channel.on_ready().unwrap();
}

/// Waits for one byte; false when the peer is gone.
fn hear(channel: &mut Channel) -> bool {
    while channel.read(&mut [0]).unwrap() == 0 {
        if channel.ended().unwrap() {
            return false;
        }
        if !channel.arm(true, false).unwrap() {
            sleep(channel);
        }
    }
    true
}

fn say(channel: &mut Channel) {
    assert_eq!(channel.write(&[1]).unwrap(), 1);
    channel.flush().unwrap();
}

fn bench_notify(c: &mut Criterion) {
    let mut group = c.benchmark_group("notify");
    let (mut server, mut client) = meet(Kind::Shm, 4096);
    group.bench_function("publish, nobody waits", |b| {
        b.iter(|| {
            say(&mut client);
            server.read(&mut [0]).unwrap();
        });
    });
    group.bench_function("publish, ring and answer", |b| {
        b.iter(|| {
            assert!(!server.arm(true, false).unwrap());
            say(&mut client);
            sleep(&mut server);
            server.read(&mut [0]).unwrap();
        });
    });
    for (name, kind) in KINDS {
        let (mut server, mut client) = meet(kind, 4096);
        let echo = std::thread::spawn(move || {
            while hear(&mut server) {
                say(&mut server);
            }
        });
        group.bench_function(BenchmarkId::new("there and back between threads", name), |b| {
            b.iter(|| {
                say(&mut client);
                assert!(hear(&mut client));
            });
        });
        drop(client);
        echo.join().unwrap();
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(20).warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(1));
    targets = bench_index, bench_transfer, bench_notify
}
criterion_main!(benches);
