#![forbid(unsafe_code)]
//! The xenstore protocol: requests to bytes, bytes to replies and events. No I/O.
//!
//! A message is a header of four words (type, request, transaction, length) and at most 4096 bytes. Replies repeat
//! the type of their request or are errors with a name; events of a watch come at any time, before a reply too.
//! Request numbers are not relied upon: Linux's own answer to a watch request carries none.

use std::io;

/// Most bytes behind a header of what arrives.
pub(super) const MAX_BODY: usize = 4096;
/// Most bytes behind a header of what we send: Linux's `/dev/xen/xenbus` counts the header too.
const MAX_REQUEST: usize = MAX_BODY - HEADER;
/// Most bytes of a value: xenstored takes 2,015, fewer where a key has several readers.
const MAX_VALUE: usize = 1999;
/// `type: u32, req_id: u32, tx_id: u32, len: u32`, in the machine's byte order.
const HEADER: usize = 16;
const WATCH_EVENT: u32 = 15;
const ERROR: u32 = 16;

/// What can be asked. Paths that do not begin with `/` are below the domain's own folder.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Request<'a> {
    Read(&'a str),
    Write(&'a str, &'a str),
    /// Removes a key and all below it.
    Remove(&'a str),
    /// The owner, and one domain that may read; nobody else.
    Restrict(&'a str, u32, u32),
    /// The owner; every other domain may read.
    Open(&'a str, u32),
    /// Who may do what: the owner first, its letter says what domains may that are not named.
    Permissions(&'a str),
    /// One event at once and one for each change, with this token.
    Watch(&'a str, u32),
    /// Takes that watch back.
    Unwatch(&'a str, u32),
}

impl Request<'_> {
    pub(super) fn ty(&self) -> u32 {
        match self {
            Request::Read(_) => 2,
            Request::Permissions(_) => 3,
            Request::Watch(..) => 4,
            Request::Unwatch(..) => 5,
            Request::Write(..) => 11,
            Request::Remove(_) => 13,
            Request::Restrict(..) | Request::Open(..) => 14,
        }
    }

    fn body(&self) -> String {
        match self {
            Request::Read(path) | Request::Remove(path) | Request::Permissions(path) => format!("{path}\0"),
            Request::Write(path, value) => format!("{path}\0{value}"),
            Request::Restrict(path, owner, reader) => format!("{path}\0n{owner}\0r{reader}\0"),
            Request::Open(path, owner) => format!("{path}\0r{owner}\0"),
            Request::Watch(path, token) | Request::Unwatch(path, token) => format!("{path}\0{token}\0"),
        }
    }

    /// The message. One that some xenstore or Linux would cut or refuse is an error here, whichever runs.
    pub(super) fn encode(&self) -> io::Result<Vec<u8>> {
        let body = self.body();
        let value = if let Request::Write(_, value) = self { value.len() } else { 0 };
        if body.len() > MAX_REQUEST || value > MAX_VALUE {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "a request that is too long for xenstore",
            ));
        }
        let mut message = Vec::with_capacity(HEADER + body.len());
        for word in [self.ty(), 0, 0, body.len() as u32] {
            message.extend(word.to_ne_bytes());
        }
        message.extend(body.as_bytes());
        Ok(message)
    }
}

/// What arrives.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Message {
    /// The answer to a request of type `ty`.
    Reply { ty: u32, body: Vec<u8> },
    /// The answer to a request that failed: the name of an `errno`.
    Failed(Vec<u8>),
    /// Something changed below the path that was watched with this token; 0 where the token is none of ours.
    Changed(u32),
}

/// A message longer than the protocol allows: the rest of the stream cannot be understood.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct TooLong;

/// Cuts the stream into messages. It holds at most one incomplete message and what was pushed last.
#[derive(Default)]
pub(super) struct Decoder {
    bytes: Vec<u8>,
}

impl Decoder {
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend(bytes);
    }

    /// Bytes that wait for the rest of their message.
    #[cfg(fuzzing)]
    pub(super) fn held(&self) -> usize {
        self.bytes.len()
    }

    /// The next complete message.
    pub(super) fn next(&mut self) -> Result<Option<Message>, TooLong> {
        let Some((header, rest)) = self.bytes.split_first_chunk::<HEADER>() else { return Ok(None) };
        let [t0, t1, t2, t3, _, _, _, _, _, _, _, _, l0, l1, l2, l3] = *header;
        let (ty, len) = (u32::from_ne_bytes([t0, t1, t2, t3]), u32::from_ne_bytes([l0, l1, l2, l3]));
        let len = usize::try_from(len).ok().filter(|len| *len <= MAX_BODY).ok_or(TooLong)?;
        let Some(body) = rest.get(..len) else { return Ok(None) };
        let message = match ty {
            WATCH_EVENT => Message::Changed(token(body)),
            ERROR => Message::Failed(body.to_vec()),
            ty => Message::Reply { ty, body: body.to_vec() },
        };
        self.bytes.drain(..HEADER + len);
        Ok(Some(message))
    }
}

/// The token of an event, which comes after the path.
fn token(event: &[u8]) -> u32 {
    event.split(|byte| *byte == 0).nth(1).and_then(number).unwrap_or(0)
}

/// A quota of xenstore is reached. The daemon and the kernel have several names for that.
pub(super) fn full() -> io::Error {
    io::Error::new(io::ErrorKind::QuotaExceeded, "what xenstore gives this domain is used up (a quota)")
}

/// The `errno` that an error message names. An unknown name becomes an error without an `errno`, with the name
/// escaped.
pub(super) fn failure(name: &[u8]) -> io::Error {
    let name = name.strip_suffix(b"\0").unwrap_or(name);
    let number = match name {
        b"EINVAL" => libc::EINVAL,
        b"EACCES" => libc::EACCES,
        b"EEXIST" => libc::EEXIST,
        b"ENOENT" => libc::ENOENT,
        b"ENOMEM" => libc::ENOMEM,
        // A quota; the name depends on the daemon and on the quota. (Nothing that is sent here is too long in another
        // way.)
        b"ENOSPC" | b"E2BIG" | b"EQUOTA" => return full(),
        b"EIO" => libc::EIO,
        b"ENOSYS" => libc::ENOSYS,
        b"EBUSY" => libc::EBUSY,
        b"EAGAIN" => libc::EAGAIN,
        b"EPERM" => libc::EPERM,
        _ => return io::Error::other(format!("xenstore says {}", name[..name.len().min(32)].escape_ascii())),
    };
    io::Error::from_raw_os_error(number)
}

/// A positive decimal number, as ports and references are written; anything else, zero too, is none.
pub(super) fn number(value: &[u8]) -> Option<u32> {
    std::str::from_utf8(value).ok()?.parse().ok().filter(|n| *n > 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn message(ty: u32, body: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for word in [ty, 77, 0, body.len() as u32] {
            bytes.extend(word.to_ne_bytes());
        }
        bytes.extend(body);
        bytes
    }

    #[test]
    fn requests_are_as_xenstore_wants_them() {
        assert_eq!(Request::Read("a/b").encode().unwrap(), {
            let mut bytes = message(2, b"a/b\0");
            bytes[4..8].fill(0);
            bytes
        });
        let bodies = [
            (Request::Write("a", "12"), &b"a\x0012"[..]),
            (Request::Remove("a"), b"a\0"),
            (Request::Restrict("a", 3, 0), b"a\0n3\0r0\0"),
            (Request::Open("a", 3), b"a\0r3\0"),
            (Request::Permissions("a"), b"a\0"),
            (Request::Watch("/x", 7), b"/x\x007\0"),
            (Request::Unwatch("/x", 7), b"/x\x007\0"),
        ];
        for (request, body) in bodies {
            let message = request.encode().unwrap();
            assert_eq!(&message[16..], body, "{request:?}");
            assert_eq!(message[12..16], (body.len() as u32).to_ne_bytes());
        }
    }

    #[test]
    fn what_some_xenstore_would_refuse_is_not_sent() {
        let (path, value) = ("p".repeat(4079), "v".repeat(2000));
        assert!(
            Request::Read(&path).encode().is_ok() && Request::Read(&format!("{path}p")).encode().is_err()
        );
        assert!(Request::Write("a", &value[1..]).encode().is_ok());
        assert!(Request::Write("a", &value).encode().is_err());
    }

    #[test]
    fn a_quota_is_one_error_whatever_it_is_called() {
        for name in [&b"ENOSPC\0"[..], b"E2BIG\0", b"EQUOTA\0"] {
            assert_eq!(failure(name).to_string(), full().to_string());
            assert_eq!(failure(name).kind(), io::ErrorKind::QuotaExceeded);
        }
    }

    #[test]
    fn an_event_says_which_watch_it_is_of() {
        for (event, wanted) in
            [(&b"/a\x0017\0"[..], 17), (b"/a\0w\0", 0), (b"/a", 0), (b"", 0), (b"\0\0\0", 0)]
        {
            assert_eq!(token(event), wanted, "{event:?}");
        }
    }

    #[test]
    fn too_long_a_message_is_refused_before_it_arrives() {
        let mut decoder = Decoder::default();
        let mut header = message(2, b"");
        header[12..16].copy_from_slice(&4097u32.to_ne_bytes());
        decoder.push(&header);
        assert_eq!(decoder.next(), Err(TooLong));
    }

    #[test]
    fn errors_have_numbers_and_strange_ones_are_escaped() {
        assert_eq!(failure(b"ENOENT\0").raw_os_error(), Some(libc::ENOENT));
        assert_eq!(failure(b"EACCES").raw_os_error(), Some(libc::EACCES));
        assert_eq!(failure(b"\x1b[2J\0").to_string(), "xenstore says \\x1b[2J");
    }

    #[test]
    fn numbers_are_positive_and_nothing_else() {
        assert_eq!(number(b"17"), Some(17));
        for bad in [&b"0"[..], b"", b"-1", b"17x", b"4294967296", b"\xff"] {
            assert_eq!(number(bad), None, "{bad:?}");
        }
    }

    proptest! {
        /// However the bytes arrive, the messages are the same, also when events come before replies.
        #[test]
        fn pieces_do_not_matter(
            messages in proptest::collection::vec((0u32..20, proptest::collection::vec(any::<u8>(), 0..80)), 0..8),
            cut in 1usize..40,
        ) {
            let stream: Vec<u8> = messages.iter().flat_map(|(ty, body)| message(*ty, body)).collect();
            let mut decoder = Decoder::default();
            let mut got = Vec::new();
            for piece in stream.chunks(cut) {
                decoder.push(piece);
                while let Some(message) = decoder.next().unwrap() {
                    got.push(message);
                }
            }
            let wanted: Vec<Message> = messages.into_iter().map(|(ty, body)| match ty {
                WATCH_EVENT => Message::Changed(token(&body)),
                ERROR => Message::Failed(body),
                ty => Message::Reply { ty, body },
            }).collect();
            prop_assert_eq!(got, wanted);
            prop_assert!(decoder.bytes.is_empty());
        }

        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut decoder = Decoder::default();
            decoder.push(&bytes);
            while let Ok(Some(_)) = decoder.next() {}
            let _ = (failure(&bytes), number(&bytes), token(&bytes));
        }
    }
}
