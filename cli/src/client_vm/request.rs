//! Asking the agent.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

use engine::pump::Outcome;
use wire::control::{EXEC_LEN, Endpoint};
use wire::top::{LastWord, Moved};
use wire::trigger::Trigger;
use wire::version::Version;

use crate::failure::Failure;
use crate::status;
use crate::why::Called;

/// A call that was allowed. The agent considers it ended when this is dropped.
#[derive(Debug)]
pub(super) struct Allowed {
    /// Where to wait for the service.
    pub(super) endpoint: Endpoint,
    /// Says something when that one will not come.
    pub(super) agent: UnixStream,
}

impl Allowed {
    /// Tells the agent how it was, for those who want to know.
    pub(super) fn tell_end(mut self, status: &Result<i32, Failure>, outcome: &Outcome) {
        let exit = status.as_ref().map_or_else(|failure| failure.status, |status| *status);
        let moved = Moved { to_service: outcome.bytes_out, to_caller: outcome.bytes_in };
        // An agent that is gone need not know.
        let _ = self.agent.write(&LastWord { exit, moved }.to_bytes());
    }
}

/// A call that the agent was asked for.
#[derive(Debug)]
pub(super) struct Asked<'a> {
    agent: UnixStream,
    called: &'a Called,
    /// Why the question did not go through; the answer may still be a refusal.
    sent: io::Result<()>,
}

/// Asks the agent behind `socket` for a service.
pub(super) fn ask<'a>(socket: &Path, request: &Trigger, called: &'a Called) -> Result<Asked<'a>, Failure> {
    let agent = engine::unix::connect(socket).map_err(|error| {
        let nobody = "no agent runs on this machine; in a lab: qrexec-lab exec VM …";
        let hint = match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => format!(" ({nobody})"),
            _ => String::new(),
        };
        Failure::trouble(format!("cannot reach the agent at {}: {error}{hint}", socket.display()))
    })?;
    let message = request.encode(Version::OURS).map_err(|error| Failure::usage(error.to_string()))?;
    let mut agent = UnixStream::from(agent);
    let sent = agent.write_all(&message);
    Ok(Asked { agent, sent, called })
}

impl Asked<'_> {
    /// Waits for the agent's answer, for as long as policy needs.
    pub(super) fn answer(mut self) -> Result<Allowed, Failure> {
        match self.sent.and_then(|()| receive(&mut self.agent)) {
            Ok(answer) => {
                let endpoint = checked(Endpoint::from_bytes(answer))?;
                Ok(Allowed { endpoint, agent: self.agent })
            }
            Err(error) if is_refusal(&error) => {
                Err(Failure { status: status::REFUSED, message: self.called.refused() })
            }
            Err(error) => Err(Failure::during("asking the agent")(error)),
        }
    }
}

/// The answer to a call that is allowed. `ConnectionAborted` if it was cut short.
fn receive(agent: &mut UnixStream) -> io::Result<[u8; EXEC_LEN]> {
    let mut answer = [0; EXEC_LEN];
    let mut rest = answer.as_mut_slice();
    while !rest.is_empty() {
        let room = rest.len();
        match agent.read(rest) {
            Ok(0) if room == EXEC_LEN => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(0) => return Err(io::ErrorKind::ConnectionAborted.into()),
            Ok(count) => rest = rest.get_mut(count..).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(answer)
}

/// An agent refuses by hanging up, even while it is still being asked.
fn is_refusal(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
    matches!(error.kind(), UnexpectedEof | BrokenPipe | ConnectionReset)
}

fn checked(endpoint: Endpoint) -> Result<Endpoint, Failure> {
    if endpoint.port.is_data() {
        Ok(endpoint)
    } else {
        Err(Failure::trouble(format!(
            "the agent answered with port {}, which is none for data",
            endpoint.port
        )))
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::OwnedFd;
    use std::path::PathBuf;
    use std::thread;

    use super::*;
    use wire::frame::LocalTriggerDecoder;
    use wire::names::{DomainId, Ident, Port, ServiceName, Target};

    fn request() -> Trigger {
        Trigger {
            source: None,
            target: Target::sanitize(b"work"),
            service: ServiceName::new("test+x").unwrap(),
            ident: Ident::new(Ident::SOCKET).unwrap(),
        }
    }

    fn called() -> Called {
        Called::now(&request().target, &request().service)
    }

    /// An agent that reads one request and answers with these bytes.
    fn agent(folder: &Path, answer: &'static [u8]) -> (PathBuf, thread::JoinHandle<()>) {
        let path = folder.join("agent");
        let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let agent = thread::spawn(move || {
            let (mut client, _) = listener.accept().unwrap();
            let mut decoder = LocalTriggerDecoder::new();
            let asked = loop {
                let mut bytes = [0; 64];
                let count = client.read(&mut bytes).unwrap();
                if let Some(asked) = decoder.feed(&bytes[..count]).unwrap() {
                    break asked.unwrap();
                }
            };
            assert_eq!(asked, request());
            for byte in answer {
                client.write_all(&[*byte]).unwrap();
            }
            drop(OwnedFd::from(client));
        });
        (path, agent)
    }

    fn answered(answer: &'static [u8]) -> Result<Endpoint, i32> {
        let folder = tempfile::tempdir().unwrap();
        let (path, agent) = agent(folder.path(), answer);
        let called = called();
        let result = ask(&path, &request(), &called).and_then(Asked::answer);
        agent.join().unwrap();
        result.map(|allowed| allowed.endpoint).map_err(|failure| failure.status)
    }

    #[test]
    fn answers() {
        let endpoint = Endpoint { domain: DomainId(7), port: Port(513) };
        assert_eq!(answered(b"\x07\0\0\0\x01\x02\0\0"), Ok(endpoint));
        assert_eq!(answered(b""), Err(status::REFUSED));
        assert_eq!(answered(b"\x07\0\0"), Err(status::TROUBLE));
        assert_eq!(answered(b"\x07\0\0\0\0\x02\0\0"), Err(status::TROUBLE));
    }

    #[test]
    fn without_an_agent_there_is_trouble() {
        let folder = tempfile::tempdir().unwrap();
        let called = called();
        let failure = ask(&folder.path().join("none"), &request(), &called).unwrap_err();
        assert!(failure.message.contains("no agent runs"), "{}", failure.message);
        assert_eq!(failure.status, status::TROUBLE);
    }
}
