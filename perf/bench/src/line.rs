//! A slow line on this machine: what comes in at a port goes on to another one after a while, and back.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use cli::failure::Failure;

/// What one read takes at most.
const PIECE: usize = 64 << 10;
/// Pieces that are on their way in one direction: far more than the time of a line holds.
const UNDER_WAY: usize = 1024;

/// Bytes with the time at which they are at the other end.
type Piece = (Instant, Vec<u8>);

/// Listens on a free port of the loopback until the program ends; each byte takes half of `round_trip` to `port`, and as
/// long back. The port to connect to.
pub(super) fn start(port: u16, round_trip: Duration) -> Result<u16, Failure> {
    let during = || Failure::during("a slow line");
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(during())?;
    let own = listener.local_addr().map_err(during())?.port();
    let delay = round_trip / 2;
    thread::spawn(move || {
        for near in listener.incoming().flatten() {
            let Ok(far) = TcpStream::connect((Ipv4Addr::LOCALHOST, port)) else { continue };
            // A small packet is not to wait for the answer to the one before: that would be another round trip.
            let _ = near.set_nodelay(true).and_then(|()| far.set_nodelay(true));
            let (Ok(near_too), Ok(far_too)) = (near.try_clone(), far.try_clone()) else { continue };
            carry(near, far, delay);
            carry(far_too, near_too, delay);
        }
    });
    Ok(own)
}

/// Carries one direction, beside us.
fn carry(from: TcpStream, to: TcpStream, delay: Duration) {
    let (sender, receiver) = sync_channel(UNDER_WAY);
    thread::spawn(move || take_in(from, &sender, delay));
    thread::spawn(move || give_out(to, &receiver));
}

fn take_in(mut from: TcpStream, sender: &SyncSender<Piece>, delay: Duration) {
    loop {
        let mut piece = vec![0; PIECE];
        let len = from.read(&mut piece).unwrap_or(0);
        piece.truncate(len);
        // An empty piece is the end.
        if sender.send((Instant::now() + delay, piece)).is_err() || len == 0 {
            return;
        }
    }
}

fn give_out(mut to: TcpStream, receiver: &Receiver<Piece>) {
    while let Ok((at, piece)) = receiver.recv() {
        thread::sleep(at.saturating_duration_since(Instant::now())); // the line's time is what is measured
        if piece.is_empty() || to.write_all(&piece).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_byte_takes_a_round_trip() {
        let echo = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = echo.local_addr().unwrap().port();
        thread::spawn(move || {
            let (mut stream, _) = echo.accept().unwrap();
            let mut byte = [0];
            while stream.read(&mut byte).unwrap() == 1 {
                stream.write_all(&byte).unwrap();
            }
        });
        let port = start(port, Duration::from_millis(40)).unwrap();
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
        let start = Instant::now();
        stream.write_all(b"x").unwrap();
        stream.read_exact(&mut [0]).unwrap();
        assert!(start.elapsed() >= Duration::from_millis(40));
    }
}
