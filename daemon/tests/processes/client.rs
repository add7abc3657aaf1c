//! A program on the local socket that is a script.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

use wire::control::{Endpoint, ExecParams, Message};
use wire::header::{HEADER_LEN, Header};
use wire::names::{DomainId, Port};
use wire::version::Version;

use crate::world::PATIENCE;

pub(crate) struct TestClient(pub(crate) UnixStream);

impl TestClient {
    pub(crate) fn connect(path: &Path) -> Self {
        let stream = UnixStream::connect(path).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        Self(stream)
    }

    /// Both say HELLO.
    pub(crate) fn greeted(mut self) -> Self {
        let (ty, body) = self.next().expect("a HELLO");
        assert_eq!(Message::decode(ty, &body), Ok(Message::Hello(3)));
        self.send(&Message::Hello(3));
        self
    }

    pub(crate) fn send(&mut self, message: &Message) {
        self.0.write_all(&message.encode(Version::V3).unwrap()).unwrap();
    }

    pub(crate) fn exec(&mut self, just: bool, domain: u32, cmdline: &str) {
        let cmdline = cmdline.as_bytes().to_vec();
        let params = ExecParams { connect_domain: DomainId(domain), connect_port: Port(0), cmdline };
        self.send(&Message::Exec { just, params });
    }

    /// The next message; `None` at the end.
    pub(crate) fn next(&mut self) -> Option<(u32, Vec<u8>)> {
        let mut header = [0; HEADER_LEN];
        match self.0.read_exact(&mut header) {
            Err(error) if matches!(error.kind(), ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset) => {
                return None;
            }
            other => other.unwrap(),
        }
        let Header { ty, len } = Header::from_bytes(header);
        let mut body = vec![0; len as usize];
        self.0.read_exact(&mut body).unwrap();
        Some((ty, body))
    }

    pub(crate) fn port(&mut self) -> Endpoint {
        let (_, body) = self.next().expect("a port");
        Endpoint::from_bytes(body.try_into().unwrap())
    }

    pub(crate) fn closed(&mut self) {
        assert_eq!(self.next(), None);
    }
}
