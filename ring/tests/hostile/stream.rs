//! Hostile on the socket transport: floods, half-closes and resets.

use std::io::Write as _;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;

use ring::{Channel, Kind};

use crate::common::*;
use crate::{DEADLINE, SMALL};

/// The socket transport with a plain socket as the peer: `(ours, theirs)`, ours as the server.
fn stream_peer(bed: &Bed) -> (Channel, UnixStream) {
    let listener = bed.listen(1, SMALL);
    let theirs = UnixStream::connect(bed.socket(1).unwrap()).unwrap();
    (listener.accept_within(LOST).unwrap(), theirs)
}

#[test]
fn a_stream_that_floods_fills_its_ring_and_waits() {
    within(DEADLINE, || {
        let bed = Bed::new(Kind::Socket);
        let (mut ours, mut theirs) = stream_peer(&bed);
        theirs.set_nonblocking(true).unwrap();
        let mut total = 0;
        for _ in 0..100 {
            while let Ok(n) = theirs.write(&[1; 10_000]) {
                total += n;
            }
            ours.on_ready().unwrap();
            assert!(ours.readable().unwrap() <= ours.rx().size());
        }
        assert!(!ours.wants_in(), "a full ring does not poll for more");
        assert!(total < 4 << 20, "{total} bytes were taken from a peer nobody reads");
        drop(theirs);
        assert_eq!(receive_to_end(&mut ours).len(), total);
    });
}

#[test]
fn a_stream_that_half_closes_has_closed() {
    within(DEADLINE, || {
        let bed = Bed::new(Kind::Socket);
        for how in [Shutdown::Write, Shutdown::Read, Shutdown::Both] {
            let (mut ours, mut theirs) = stream_peer(&bed);
            theirs.write_all(&[3; 9000]).unwrap();
            theirs.shutdown(how).unwrap();
            assert!(how == Shutdown::Write || writes_fail(&mut ours));
            assert_eq!(receive_to_end(&mut ours).len(), 9000, "{how:?}");
            assert!(!ours.is_open() && writes_fail(&mut ours) && ours.drained());
        }
    });
}

/// If bytes are unread at the close, the kernel resets the stream; what the peer had written still counts.
#[test]
fn a_stream_that_resets_has_closed() {
    within(DEADLINE, || {
        let bed = Bed::new(Kind::Socket);
        let (mut ours, mut theirs) = stream_peer(&bed);
        ours.write(b"never read").unwrap();
        ours.flush().unwrap();
        theirs.write_all(&[3; 9000]).unwrap();
        drop(theirs);
        assert_eq!(receive_to_end(&mut ours).len(), 9000);
        assert!(!ours.is_open() && writes_fail(&mut ours));
    });
}

#[test]
fn a_stream_that_never_reads_stops_the_writer_only() {
    within(DEADLINE, || {
        let bed = Bed::new(Kind::Socket);
        let (mut ours, mut theirs) = stream_peer(&bed);
        let mut total = 0;
        loop {
            let n = ours.write(&[5; 3000]).unwrap();
            ours.flush().unwrap();
            total += n;
            if n == 0 {
                break;
            }
        }
        assert!(total < 4 << 20 && ours.wants_out() && !ours.drained());
        theirs.write_all(b"still talking").unwrap();
        receive(&mut ours, &mut [0; 13]);
        drop(theirs);
        wait_closed(&mut ours);
        assert!(ours.drained(), "nobody is left to drain to");
    });
}
