//! Two ends of a channel, as a plain reader and writer: a line goes one way and comes back in capitals.
#![forbid(unsafe_code)]

use std::io::{BufRead, BufReader, Read, Write};
use std::thread;
use std::time::Duration;

use ring::{Blocking, Kind, Sizes, Transport};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = tempfile::tempdir()?;
    let limit = Duration::from_secs(10);
    // Domain 1 serves domain 2 on port 5, with rings of at least 8 KiB each way.
    let listener = Transport::new(Kind::Shm, 1, folder.path()).listen(2, 5, Sizes::both(8192))?;
    let connector = Transport::new(Kind::Shm, 2, folder.path()).connect(1, 5)?;
    let client = thread::spawn(move || -> Result<String, std::io::Error> {
        let mut channel = Blocking::new(connector.connect_within(limit).map_err(std::io::Error::other)?);
        channel.write_all(b"hello\n")?;
        channel.flush()?;
        let mut answer = String::new();
        channel.read_to_string(&mut answer)?;
        Ok(answer)
    });
    let mut server = BufReader::new(Blocking::new(listener.accept_within(limit)?));
    let mut line = String::new();
    server.read_line(&mut line)?;
    server.get_mut().write_all(line.to_uppercase().as_bytes())?;
    server.get_mut().flush()?;
    drop(server);
    let answer = client.join().map_err(|_| "the client has panicked")??;
    assert_eq!(answer, "HELLO\n");
    print!("{answer}");
    Ok(())
}
