//! What the agent sends a fork server about a call.

use wire::control::{Endpoint, MAX_LOCAL_BODY};
use wire::header::ty;
use wire::names::{DomainId, Port};

/// Bytes before the command.
const HEAD: usize = 16;

/// A call that is handed over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Request {
    /// The service gets no streams.
    pub(crate) just: bool,
    /// Where the data link is.
    pub(crate) endpoint: Endpoint,
    /// The command line without `user:` and without its NUL.
    pub(crate) command: Vec<u8>,
}

/// Why the bytes are no request.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum BadRequest {
    #[error("message type {0:#x} does not start anything")]
    Type(u32),
    #[error("a command of {0} bytes: at least 1 and at most {MAX_LOCAL_BODY} are possible")]
    Length(u32),
    #[error("the command's first NUL is not its last byte")]
    Nul,
    #[error("it says more than its request")]
    More,
}

impl Request {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let ty = if self.just { ty::JUST_EXEC } else { ty::EXEC_CMDLINE };
        // A command comes from a control message, whose length has a much lower limit.
        let length = u32::try_from(self.command.len().saturating_add(1)).unwrap_or(u32::MAX);
        let mut bytes = Vec::with_capacity(self.command.len().saturating_add(HEAD + 1));
        for word in [ty, self.endpoint.domain.0, self.endpoint.port.0, length] {
            bytes.extend_from_slice(&word.to_ne_bytes());
        }
        bytes.extend_from_slice(&self.command);
        bytes.push(0);
        bytes
    }
}

/// Collects a request that arrives in pieces. Holds no more than the largest possible one.
#[derive(Debug, Default)]
pub(crate) struct Decoder(Vec<u8>);

impl Decoder {
    /// Takes the next bytes. Returns the request once it is complete.
    pub(crate) fn feed(&mut self, bytes: &[u8]) -> Result<Option<Request>, BadRequest> {
        let room = (HEAD + MAX_LOCAL_BODY).saturating_sub(self.0.len());
        if bytes.len() > room {
            return Err(BadRequest::More);
        }
        self.0.extend_from_slice(bytes);
        let Some((head, command)) = self.0.split_first_chunk::<HEAD>() else { return Ok(None) };
        let [ty, domain, port, length] = words(head);
        let just = match ty {
            ty::EXEC_CMDLINE => false,
            ty::JUST_EXEC => true,
            other => return Err(BadRequest::Type(other)),
        };
        let wanted = usize::try_from(length).ok().filter(|n| (1..=MAX_LOCAL_BODY).contains(n));
        let wanted = wanted.ok_or(BadRequest::Length(length))?;
        match command.len() {
            len if len < wanted => Ok(None),
            len if len > wanted => Err(BadRequest::More),
            _ => {
                let (last, text) = command.split_last().ok_or(BadRequest::Nul)?;
                if *last != 0 || text.contains(&0) {
                    return Err(BadRequest::Nul);
                }
                let endpoint = Endpoint { domain: DomainId(domain), port: Port(port) };
                Ok(Some(Request { just, endpoint, command: text.to_vec() }))
            }
        }
    }
}

fn words(head: &[u8; HEAD]) -> [u32; 4] {
    let mut words = [0; 4];
    for (word, bytes) in words.iter_mut().zip(head.as_chunks::<4>().0) {
        *word = u32::from_ne_bytes(*bytes);
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> Request {
        let endpoint = Endpoint { domain: DomainId(7), port: Port(514) };
        Request { just: false, endpoint, command: b"true".to_vec() }
    }

    #[test]
    fn a_request_has_upstreams_form() {
        let words: Vec<u8> = [0x200_u32, 7, 514, 5].iter().flat_map(|word| word.to_ne_bytes()).collect();
        assert_eq!(request().encode(), [words.as_slice(), b"true\0"].concat());
        assert_eq!(Request { just: true, ..request() }.encode()[..4], 0x201_u32.to_ne_bytes());
    }

    #[test]
    fn it_may_come_in_any_pieces() {
        let bytes = request().encode();
        for cut in 0..bytes.len() {
            let mut decoder = Decoder::default();
            assert_eq!(decoder.feed(&bytes[..cut]), Ok(None), "{cut}");
            assert_eq!(decoder.feed(&bytes[cut..]), Ok(Some(request())), "{cut}");
        }
    }

    #[test]
    fn rubbish_is_told_early() {
        let feed = |words: [u32; 4], text: &[u8]| {
            let head: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
            Decoder::default().feed(&[head.as_slice(), text].concat())
        };
        assert_eq!(feed([0x190, 7, 514, 5], b""), Err(BadRequest::Type(0x190)));
        assert_eq!(feed([0x200, 7, 514, 0], b""), Err(BadRequest::Length(0)));
        assert_eq!(feed([0x200, 7, 514, u32::MAX], b""), Err(BadRequest::Length(u32::MAX)));
        assert_eq!(feed([0x200, 7, 514, 5], b"true!"), Err(BadRequest::Nul));
        assert_eq!(feed([0x200, 7, 514, 5], b"tr\0e\0"), Err(BadRequest::Nul));
        assert_eq!(feed([0x200, 7, 514, 5], b"true\0x"), Err(BadRequest::More));
        assert_eq!(Decoder::default().feed(&[0; 70_000]), Err(BadRequest::More));
    }
}
