//! One program's connection to the agent: one request, then one answer, then the end.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags};
use wire::PeerError;
use wire::control::Endpoint;
use wire::frame::LocalTriggerDecoder;
use wire::names::{DomainId, Port};
use wire::top::LastWord;
use wire::trigger::{BadTrigger, Trigger};

/// How long a client may take to send its request.
const REQUEST_LIMIT: Duration = Duration::from_secs(10);

/// A connected program.
#[derive(Debug)]
pub(crate) struct ClientConnection {
    socket: OwnedFd,
    user: u32,
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    /// The request is not complete, and must be by this time.
    Asking(LocalTriggerDecoder, Instant),
    /// The request was complete. Only a last word may follow, of which these bytes have come.
    Asked(Vec<u8>),
}

/// The result of reading from a client.
#[derive(Debug)]
pub(crate) enum Heard {
    /// Nothing complete yet.
    Nothing,
    /// Its request.
    Request(Result<Trigger, BadTrigger>),
    /// It closed the connection.
    Gone,
    /// The connection is to be closed.
    Wrong(Misbehaviour),
}

/// Why a client's connection is closed.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Misbehaviour {
    /// Reading from it failed.
    #[error("{0}")]
    Receive(Errno),
    /// It sent more than a request and a last word.
    #[error("it says more than its request")]
    More,
    /// Its request broke the protocol.
    #[error("{0}")]
    Request(PeerError),
}

impl ClientConnection {
    /// A connection of this user that was just accepted.
    pub(crate) fn new(socket: OwnedFd, user: u32, now: Instant) -> Self {
        Self { socket, user, stage: Stage::Asking(LocalTriggerDecoder::new(), now + REQUEST_LIMIT) }
    }

    /// The user of the program.
    pub(crate) fn user(&self) -> u32 {
        self.user
    }

    /// Until when the client must have sent its request; `None` once it has.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        match self.stage {
            Stage::Asking(_, deadline) => Some(deadline),
            Stage::Asked(_) => None,
        }
    }

    /// Reads what is there.
    pub(crate) fn hear(&mut self) -> Heard {
        let mut buffer = [0_u8; 4096];
        loop {
            let bytes = match rustix::net::recv(&self.socket, &mut buffer, RecvFlags::DONTWAIT) {
                Ok((0, _)) | Err(Errno::CONNRESET) => return Heard::Gone,
                Ok((count, _)) => buffer.get(..count).unwrap_or_default(),
                Err(Errno::AGAIN) => return Heard::Nothing,
                Err(Errno::INTR) => continue,
                Err(error) => return Heard::Wrong(Misbehaviour::Receive(error)),
            };
            let decoder = match &mut self.stage {
                Stage::Asking(decoder, _) => decoder,
                Stage::Asked(last) if last.len().saturating_add(bytes.len()) <= LastWord::LEN => {
                    last.extend_from_slice(bytes);
                    continue;
                }
                Stage::Asked(_) => return Heard::Wrong(Misbehaviour::More),
            };
            match decoder.feed(bytes) {
                Ok(None) => {}
                Ok(Some(request)) => {
                    self.stage = Stage::Asked(Vec::new());
                    return Heard::Request(request);
                }
                Err(error) => return Heard::Wrong(Misbehaviour::Request(error)),
            }
        }
    }

    /// How its call went, if it said so before it closed the connection. It may claim anything.
    pub(crate) fn last_word(&self) -> Option<LastWord> {
        match &self.stage {
            Stage::Asked(last) => LastWord::from_bytes(last),
            Stage::Asking(..) => None,
        }
    }

    /// Tells the client that its service will not come, if it still waits for it: by a second answer with an
    /// impossible endpoint. Upstream's client does not read a second answer.
    pub(crate) fn withdraw(&self) {
        self.answer(Endpoint { domain: DomainId(0), port: Port(0) });
    }

    /// Tells the client where its service will be. A client that does not read loses its answer; its end is noticed
    /// later.
    pub(crate) fn answer(&self, endpoint: Endpoint) {
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        let sent = rustix::io::retry_on_intr(|| rustix::net::send(&self.socket, &endpoint.to_bytes(), flags));
        if let Err(error) = sent {
            tracing::info!("a client did not take its answer: {error}");
        }
    }
}

impl AsFd for ClientConnection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;
    use wire::names::{Ident, ServiceName, Target};
    use wire::version::Version;

    fn pair() -> (ClientConnection, UnixStream) {
        let (ours, theirs) = UnixStream::pair().expect("pair");
        (ClientConnection::new(ours.into(), 1000, Instant::now()), theirs)
    }

    fn request() -> Trigger {
        Trigger {
            source: None,
            target: Target::new("work").expect("name"),
            service: ServiceName::new("test.Add").expect("name"),
            ident: Ident::new("SOCKET").expect("ident"),
        }
    }

    #[test]
    fn a_request_of_any_age_in_any_pieces() {
        for version in [Version::V2, Version::V3, Version::V4] {
            let mut bytes = request().encode(version).expect("fits");
            if version == Version::V2 {
                // Programs of that version send no header.
                bytes.drain(..wire::header::HEADER_LEN);
            }
            let (mut client, mut program) = pair();
            let (first, second) = bytes.split_at(5);
            program.write_all(first).expect("write");
            assert!(matches!(client.hear(), Heard::Nothing));
            assert!(client.deadline().is_some());
            program.write_all(second).expect("write");
            let heard = client.hear();
            assert!(matches!(&heard, Heard::Request(Ok(asked)) if *asked == request()), "{heard:?}");
            assert!(client.deadline().is_none());
            assert!(matches!(client.hear(), Heard::Nothing));

            client.answer(Endpoint { domain: DomainId(7), port: Port(514) });
            let mut answer = [0; 8];
            program.read_exact(&mut answer).expect("read");
            assert_eq!(answer, [7, 0, 0, 0, 2, 2, 0, 0]);
            drop(program);
            assert!(matches!(client.hear(), Heard::Gone));
        }
    }

    #[test]
    fn a_client_that_says_something_else_is_wrong() {
        let (mut client, mut program) = pair();
        program.write_all(&wire::handshake::hello(Version::V4)).expect("write");
        assert!(matches!(client.hear(), Heard::Wrong(Misbehaviour::Request(_))));

        let (mut client, mut program) = pair();
        program.write_all(&request().encode(Version::V4).expect("fits")).expect("write");
        assert!(matches!(client.hear(), Heard::Request(Ok(_))));
        program.write_all(&[0; LastWord::LEN + 1]).expect("write");
        assert!(matches!(client.hear(), Heard::Wrong(Misbehaviour::More)));
    }

    #[test]
    fn a_client_may_say_at_its_end_how_it_was() {
        let (mut client, mut program) = pair();
        program.write_all(&request().encode(Version::V4).expect("fits")).expect("write");
        assert!(matches!(client.hear(), Heard::Request(Ok(_))));
        let last = LastWord { exit: 3, moved: wire::top::Moved { to_service: 1, to_caller: 2 } };
        let bytes = last.to_bytes();
        let (first, second) = bytes.split_at(7);
        program.write_all(first).expect("write");
        assert!(matches!(client.hear(), Heard::Nothing) && client.last_word().is_none());
        program.write_all(second).expect("write");
        drop(program);
        assert!(matches!(client.hear(), Heard::Gone));
        assert_eq!(client.last_word(), Some(last));
    }

    #[test]
    fn a_request_may_take_ten_seconds_in_all() {
        let now = Instant::now();
        let (ours, mut program) = UnixStream::pair().expect("pair");
        let mut client = ClientConnection::new(ours.into(), 0, now);
        assert_eq!(client.deadline(), Some(now + Duration::from_secs(10)));
        // A part of the request gives the client no more time.
        program.write_all(&request().encode(Version::V4).expect("fits")[..9]).expect("write");
        assert!(matches!(client.hear(), Heard::Nothing));
        assert_eq!(client.deadline(), Some(now + Duration::from_secs(10)));
    }

    #[test]
    fn an_answer_to_nobody_is_no_trouble() {
        let (mut client, program) = pair();
        drop(program);
        client.answer(Endpoint { domain: DomainId(7), port: Port(514) });
        assert!(matches!(client.hear(), Heard::Gone));
    }
}
