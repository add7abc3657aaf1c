//! How much a sender still sends once the receiver has failed, through the data link of a call: no more than one buffer and
//! what the ring holds, however large the copy is.

use std::fs;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use copy::outlet::{Outlet, Stop};
use copy::progress::Progress;
use copy::sender::{End, Links, Sending};
use engine::direct::{DirectClient, DirectService};
use filecopy::receiver::{Settings, receive};
use ring::{Channel, Kind, Sizes, Transport};
use wire::filecopy::{Answered, Code};
use wire::version::Version;

/// A name that a receiver refuses as soon as it has read it.
const REFUSED: &str = "not\u{1}plain";

/// What one read of the receiver may have taken before it knows.
const BUFFER: u64 = 256 << 10;

/// Both ends of a link with rings of this size.
fn channels(folder: &Path, size: usize) -> (Channel, Channel) {
    let transport = |own| Transport::new(Kind::Shm, own, folder);
    let mut listener = transport(1).listen(0, 512, Sizes::both(size)).unwrap();
    let mut connector = transport(0).connect(1, 512).unwrap();
    let mut server = None;
    loop {
        server = server.or_else(|| listener.accept().unwrap());
        if let Some(client) = connector.poll().unwrap() {
            return (server.unwrap(), client);
        }
    }
}

#[test]
fn a_failed_receiver_stops_the_sender_within_a_buffer_and_the_ring() {
    for (size, before) in [(64 << 10, 0_u64), (1 << 20, 0), (64 << 10, 40 << 20), (1 << 20, 40 << 20)] {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        for folder in ["from", "to", "link"] {
            fs::create_dir(at(folder)).unwrap();
        }
        // Many times what may still be sent; holes cost nothing here and are sent as zeros.
        for (name, len) in [("first", before), (REFUSED, 200 << 20)] {
            fs::File::create(at("from").join(name)).unwrap().set_len(len).unwrap();
        }
        let (server, client) = channels(&at("link"), size);
        let root: OwnedFd = fs::File::open(at("to")).unwrap().into();
        let receiver = std::thread::spawn(move || {
            let mut call = DirectService::new(server, Version::OURS, None);
            let code = receive(root, &mut call, &Settings::default());
            call.finish(i32::from(code.exit_status()));
            code
        });
        let mut outlet = Outlet::of_call(DirectClient::new(client, Version::OURS));
        let mut progress = Progress::silent();
        let mut sending = Sending::new(&mut outlet, &mut progress, None, Links::Send, "test");
        assert!(sending.send(&at("from").join("first")).is_ok());
        let ended = sending.send(&at("from").join(REFUSED));
        assert!(matches!(ended, Err(End::Stopped(Stop::Answered))), "{ended:?}");
        let Answered::Whole(answer) = outlet.answer(Duration::from_secs(60), || {}).unwrap() else {
            panic!("no answer")
        };
        assert_eq!(answer.code, Code::NAME);
        // Two headers and names stand before the content that nobody takes.
        let after = outlet.sent().saturating_sub(before);
        let most = BUFFER + size as u64;
        assert!(after <= most, "{after} bytes after the error, at most {most}: ring {size}, {before} before");
        drop(outlet);
        assert_eq!(receiver.join().unwrap(), Code::NAME);
    }
}
