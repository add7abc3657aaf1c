//! What two sides of a data link say first: their versions, then bytes, then an exit code.
#![forbid(unsafe_code)]

use wire::handshake::Handshake;
use wire::header::{HEADER_LEN, ty};
use wire::{Header, Version};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut ours = Handshake::new(Version::OURS);
    let theirs = Handshake::new(Version::LEAST);
    // The handshake accepts the bytes in any pieces: here in two.
    let hello = theirs.hello();
    let (first, rest) = hello.split_at(5);
    assert_eq!(ours.feed(first)?, None);
    let agreed = ours.feed(rest)?;
    assert_eq!(agreed, Some(Version::LEAST));
    println!("version {}", Version::LEAST.number());

    // Eight bytes before every message: what it is, and how long.
    let header = Header::new(ty::DATA_STDIN, 6).to_bytes();
    let read = Header::from_bytes(header);
    assert_eq!((header.len(), read.ty, read.len), (HEADER_LEN, ty::DATA_STDIN, 6));

    // A peer that does not begin with a version has broken the protocol, and the error says so.
    let mut other = Handshake::new(Version::OURS);
    println!("{}", other.feed(&header).unwrap_err());
    Ok(())
}
