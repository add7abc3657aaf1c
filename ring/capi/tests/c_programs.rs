//! C programs on `libvchan.so`, against each other and against the ring's own Rust side, on each transport.

#[path = "../../tests/common/mod.rs"]
mod common;
#[allow(dead_code, reason = "the ring's own tests use the rest")]
#[path = "../../tests/hostile/raw.rs"]
mod raw;

use std::io::{BufRead, BufReader};
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

use common::{Bed, CLIENT, LOST, SERVER, close, receive, receive_to_end, send, sleep};
use ring::layout::offset;
use ring::{Channel, Kind, Orders, Sizes};

/// Folder of the library under test: cargo puts it beside the test programs.
fn library_folder() -> PathBuf {
    std::env::current_exe().unwrap().parent().unwrap().to_owned()
}

/// The C program, compiled once against the header and the library.
fn talk() -> &'static Path {
    static PROGRAM: OnceLock<(tempfile::TempDir, PathBuf)> = OnceLock::new();
    let (_, path) = PROGRAM.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("talk");
        // Written out, because the user who runs the tests may not be able to read the checkout.
        let source = folder.path().join("talk.c");
        std::fs::write(&source, include_str!("talk.c")).unwrap();
        std::fs::write(folder.path().join("libvchan.h"), include_str!("../include/libvchan.h")).unwrap();
        let library = library_folder();
        let mut rpath = std::ffi::OsString::from("-Wl,-rpath,");
        rpath.push(&library);
        let mut cc = Command::new("cc");
        cc.args(["-std=c11", "-D_GNU_SOURCE", "-O1", "-Wall", "-Wextra", "-Werror", "-I"]);
        cc.arg(folder.path()).arg(&source).arg("-o").arg(&path);
        let status = cc.arg("-L").arg(&library).arg(rpath).arg("-lvchan").status().expect("cc runs");
        assert!(status.success(), "the C program does not compile");
        (folder, path)
    });
    path
}

/// A C program in `role` as `own`, toward `other`. Killed if the test fails before it ends.
struct Talk(Child);

impl Talk {
    fn start(bed: &Bed, own: u32, other: u32, role: &str, port: u32, number: usize) -> Talk {
        let mut command = Command::new(talk());
        command.args([role, &other.to_string(), &port.to_string(), &number.to_string()]);
        let (name, transport) = match bed.kind() {
            Kind::Shm => ("QREXEC_SHM_DIR", "shm"),
            _ => ("VCHAN_SOCKET_DIR", "socket"),
        };
        command.env("QREXEC_TRANSPORT", transport).env("VCHAN_DOMAIN", own.to_string()).env(name, bed.dir());
        Talk(command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap())
    }

    fn client(bed: &Bed, role: &str, port: u32, number: usize) -> Talk {
        Talk::start(bed, CLIENT, SERVER, role, port, number)
    }

    fn server(bed: &Bed, role: &str, port: u32, number: usize) -> Talk {
        Talk::start(bed, SERVER, CLIENT, role, port, number)
    }

    /// Waits for the program to say `line`.
    fn says(&mut self, line: &str) {
        assert_eq!(self.line(), line);
    }

    /// The one line that it says.
    fn line(&mut self) -> String {
        let mut said = String::new();
        BufReader::new(self.0.stdout.take().unwrap()).read_line(&mut said).unwrap();
        said.trim_end().to_owned()
    }

    /// Tells a program that is elsewhere to come back.
    fn comes_back(&mut self) {
        drop(self.0.stdin.take());
    }

    /// The program gives up by itself when it hangs, so this ends.
    fn succeeds(mut self) {
        let status = self.0.wait().unwrap();
        assert!(status.success(), "{status}");
    }
}

impl Drop for Talk {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn on_each(body: impl Fn(&Bed)) {
    for kind in [Kind::Shm, Kind::Socket] {
        let bed = Bed::new(kind);
        private(&bed);
        body(&bed);
    }
}

/// Nobody else may enter a folder that is named by the environment.
fn private(bed: &Bed) {
    std::fs::set_permissions(bed.dir(), PermissionsExt::from_mode(0o700)).unwrap();
}

fn accept(bed: &Bed, port: u32, bytes: usize) -> Channel {
    bed.listen(port, Sizes::both(bytes)).accept_within(LOST).unwrap()
}

/// Sends back what comes until the peer has closed.
fn echo(channel: &mut Channel) {
    let mut buffer = [0; 5000];
    while !channel.ended().unwrap() {
        let n = channel.read(&mut buffer).unwrap();
        if n > 0 {
            send(channel, &buffer[..n]);
        } else if !channel.arm(true, false).unwrap() {
            sleep(channel);
        }
    }
}

#[test]
fn c_talks_to_c() {
    on_each(|bed| {
        for (port, ring) in [(600, 1024), (601, 4096), (602, 65_536)] {
            let server = Talk::server(bed, "serve-echo", port, ring);
            let client = Talk::client(bed, "pour", port, 1_500_000);
            client.succeeds();
            server.succeeds();
        }
    });
}

#[test]
fn the_client_may_come_first() {
    on_each(|bed| {
        let client = Talk::client(bed, "pour", 600, 10_000);
        let blocking = Talk::client(bed, "blocks", 601, 0);
        // The outcome must not depend on it: the pause only makes it likely that they came first.
        std::thread::sleep(std::time::Duration::from_millis(50));
        let servers = [600, 601].map(|port| Talk::server(bed, "serve-echo", port, 4096));
        client.succeeds();
        blocking.succeeds();
        servers.into_iter().for_each(Talk::succeeds);
    });
}

#[test]
fn a_c_client_talks_to_rust() {
    on_each(|bed| {
        for (port, role, number) in [(600, "pour", 1_500_000), (601, "blocks", 0)] {
            let client = Talk::client(bed, role, port, number);
            echo(&mut accept(bed, port, 4096));
            client.succeeds();
        }
    });
}

#[test]
fn a_c_server_talks_to_rust() {
    on_each(|bed| {
        let server = Talk::server(bed, "serve-pour", 600, 1_500_000);
        echo(&mut bed.connect(600).connect_within(LOST).unwrap());
        server.succeeds();
    });
}

#[test]
fn a_server_speaks_before_its_client_comes_and_leaves_when_it_likes() {
    on_each(|bed| {
        let server = Talk::server(bed, "serve-early", 600, 0);
        let mut channel = bed.connect(600).connect_within(LOST).unwrap();
        let mut hello = [0; 5];
        receive(&mut channel, &mut hello);
        assert_eq!(&hello, b"hello");
        send(&mut channel, &hello);
        assert_eq!(receive_to_end(&mut channel), b"last words");
        server.succeeds();
    });
}

/// What `writes_all` and `fills_and_leaves` in `talk.c` write.
fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i * 7 + i / 251) as u8).collect()
}

#[test]
fn a_blocking_write_returns_when_all_is_written() {
    on_each(|bed| {
        let client = Talk::client(bed, "writes-all", 600, 400_000);
        let server = Talk::server(bed, "serve-writes-all", 601, 400_000);
        for mut channel in [accept(bed, 600, 4096), bed.connect(601).connect_within(LOST).unwrap()] {
            assert!(receive_to_end(&mut channel) == pattern(400_000));
        }
        client.succeeds();
        server.succeeds();
    });
}

#[test]
fn what_was_written_before_the_client_came_moves_as_soon_as_it_comes() {
    on_each(|bed| {
        // On shared memory the bytes stay in the ring until they are read, on a socket they have left.
        let mut server = Talk::server(bed, "serve-elsewhere", 600, 4096);
        server.says("written");
        let mut channel = bed.connect(600).connect_within(LOST).unwrap();
        let mut hello = [0; 5];
        receive(&mut channel, &mut hello);
        assert_eq!(&hello, b"hello");
        server.comes_back();
        server.succeeds();
    });
}

#[test]
fn what_a_program_has_written_moves_while_it_is_elsewhere() {
    on_each(|bed| {
        let mut client = Talk::client(bed, "fills-and-leaves", 600, 0);
        let mut channel = accept(bed, 600, 4096);
        let sent = client.line().parse().unwrap();
        let mut got = vec![0; sent];
        receive(&mut channel, &mut got);
        assert!(got == pattern(sent));
        client.comes_back();
        client.succeeds();
    });
}

#[test]
fn no_signal_of_ours_ends_a_program() {
    on_each(|bed| Talk::client(bed, "survives", 600, 0).succeeds());
}

#[test]
fn a_c_server_with_unequal_rings_is_joined() {
    on_each(|bed| {
        for (port, right) in [(600, 1024), (601, 4096), (602, 65_536)] {
            let server = Talk::server(bed, "serve-unequal", port, right);
            let mut channel = bed.connect(port).connect_within(LOST).unwrap();
            let bytes = pattern(50_000);
            for piece in bytes.chunks(1000) {
                let mut back = vec![0; piece.len()];
                send(&mut channel, piece);
                receive(&mut channel, &mut back);
                assert_eq!(back, piece);
            }
            if bed.kind() == Kind::Shm {
                assert_eq!((channel.tx().size(), channel.rx().size()), (2048.min(right), right.max(2048)));
            }
            close(channel);
            server.succeeds();
        }
    });
}

#[test]
fn half_a_message_wakes_and_does_not_keep_awake() {
    on_each(|bed| {
        let client = Talk::client(bed, "halves", 600, 0);
        let mut channel = accept(bed, 600, 4096);
        for i in 0..50u8 {
            send(&mut channel, &[i; 4]);
            std::thread::yield_now();
            send(&mut channel, &[i; 4]);
            let mut back = [0; 8];
            receive(&mut channel, &mut back);
            assert_eq!(back, [i; 8]);
        }
        client.succeeds();
    });
}

#[test]
fn data_that_comes_while_a_call_blocks_is_not_slept_over() {
    on_each(|bed| {
        let client = Talk::client(bed, "swallowed", 600, 0);
        let mut channel = accept(bed, 600, 1024);
        send(&mut channel, b"a");
        let mut bulk = [0; 8192];
        receive(&mut channel, &mut bulk);
        receive(&mut channel, &mut bulk[..1]);
        assert_eq!(bulk[0], b'z');
        close(channel);
        client.succeeds();
    });
}

#[test]
fn last_words_are_heard_and_then_everything_fails() {
    on_each(|bed| {
        let client = Talk::client(bed, "last-words", 600, 0);
        let mut channel = accept(bed, 600, 4096);
        send(&mut channel, b"last words");
        close(channel);
        client.succeeds();
    });
}

#[test]
fn without_blocking_nothing_waits() {
    on_each(|bed| {
        let mut client = Talk::client(bed, "nonblocking", 600, 0);
        let mut channel = accept(bed, 600, 4096);
        client.says("full");
        let bytes = receive_to_end(&mut channel);
        assert!(!bytes.is_empty());
        client.succeeds();
    });
}

/// A server that speaks the meeting protocol by hand: the client's end of this is a C program.
fn hostile_server(bed: &Bed, port: u32, start: impl FnOnce() -> Talk) -> (raw::Raw, Talk) {
    let path = bed.socket(port).unwrap();
    let listener = UnixListener::bind(&path).unwrap();
    let client = start();
    let (socket, _) = listener.accept().unwrap();
    let orders = Orders::choose(Sizes::both(4096)).unwrap();
    let memfd = raw::memfd(orders.region_bytes() as u64, raw::SEALS);
    let server = raw::Raw { socket, memfd, orders, client: false };
    server.poke(offset::CLI_LIVE, &[2, 1, 1, 0]);
    let offer = raw::offer(b"qrxs", 1, orders.left.get(), orders.right.get());
    assert!(raw::send_with(&server.socket, &offer, &[server.memfd.as_fd()]));
    (server, client)
}

#[test]
fn a_lying_peer_ends_its_vchan_and_nothing_else() {
    let bed = Bed::new(Kind::Shm);
    private(&bed);
    let lies = [(offset::RIGHT_PROD, 4097), (offset::RIGHT_PROD, u32::MAX), (offset::LEFT_CONS, 1)];
    for (port, (at, lie)) in (600..).zip(lies) {
        let (server, mut client) = hostile_server(&bed, port, || Talk::client(&bed, "lied-to", port, 0));
        client.says("connected");
        server.poke(at, &lie.to_le_bytes());
        server.ring();
        client.succeeds();
    }
}

#[test]
fn an_unacceptable_offer_fails_the_connection() {
    let bed = Bed::new(Kind::Shm);
    private(&bed);
    let path = bed.socket(600).unwrap();
    let listener = UnixListener::bind(&path).unwrap();
    let mut client = Talk::client(&bed, "lied-to", 600, 0);
    let (socket, _) = listener.accept().unwrap();
    assert!(raw::send_with(&socket, &raw::offer(b"evil", 1, 12, 12), &[]));
    // It says so and ends: it is neither killed by a signal nor left hanging.
    assert_eq!(client.0.wait().unwrap().code(), Some(1));
}

#[test]
fn impossible_arguments_are_refused() {
    on_each(|bed| Talk::client(bed, "abuse", 600, 0).succeeds());
}
