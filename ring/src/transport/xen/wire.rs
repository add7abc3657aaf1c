#![forbid(unsafe_code)]
//! The xenstore protocol: requests to bytes, bytes to replies and events. No I/O.
//!
//! A message is a header of four words (type, request, transaction, length) and at most 4096 bytes. Replies repeat
//! the type of their request or are errors with a name; events of a watch come at any time, before a reply too.
//! Request numbers are not relied upon: Linux's own answer to a watch request carries none.

use std::io;

/// Most bytes behind a header.
pub(super) const MAX_BODY: usize = 4096;
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
    /// One event at once and one for each change.
    Watch(&'a str),
    /// Answered by `T` or `F`.
    IsIntroduced(u32),
}

impl Request<'_> {
    pub(super) fn ty(&self) -> u32 {
        match self {
            Request::Read(_) => 2,
            Request::Watch(_) => 4,
            Request::Write(..) => 11,
            Request::Remove(_) => 13,
            Request::Restrict(..) => 14,
            Request::IsIntroduced(_) => 17,
        }
    }

    fn body(&self) -> String {
        match self {
            Request::Read(path) | Request::Remove(path) => format!("{path}\0"),
            Request::Write(path, value) => format!("{path}\0{value}"),
            Request::Restrict(path, owner, reader) => format!("{path}\0n{owner}\0r{reader}\0"),
            Request::Watch(path) => format!("{path}\0w\0"),
            Request::IsIntroduced(domain) => format!("{domain}\0"),
        }
    }

    /// The message.
    pub(super) fn encode(&self) -> Vec<u8> {
        let body = self.body();
        debug_assert!(body.len() <= MAX_BODY, "paths and values here are short");
        let mut message = Vec::with_capacity(HEADER + body.len());
        for word in [self.ty(), 0, 0, body.len() as u32] {
            message.extend(word.to_ne_bytes());
        }
        message.extend(body.as_bytes());
        message
    }
}

/// What arrives.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Message {
    /// The answer to a request of type `ty`.
    Reply { ty: u32, body: Vec<u8> },
    /// The answer to a request that failed: the name of an `errno`.
    Failed(Vec<u8>),
    /// Something changed below the watched path.
    Changed,
}

/// A message longer than the protocol allows: the stream means nothing any more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct TooLong;

/// Cuts the stream into messages, of which it never holds more than one incomplete one and what was pushed last.
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
            WATCH_EVENT => Message::Changed,
            ERROR => Message::Failed(body.to_vec()),
            ty => Message::Reply { ty, body: body.to_vec() },
        };
        self.bytes.drain(..HEADER + len);
        Ok(Some(message))
    }
}

/// The `errno` that an error message names; one that is not known becomes an error of no kind, its name escaped.
pub(super) fn failure(name: &[u8]) -> io::Error {
    let name = name.strip_suffix(b"\0").unwrap_or(name);
    let number = match name {
        b"EINVAL" => libc::EINVAL,
        b"EACCES" => libc::EACCES,
        b"EEXIST" => libc::EEXIST,
        b"ENOENT" => libc::ENOENT,
        b"ENOMEM" => libc::ENOMEM,
        b"ENOSPC" => libc::ENOSPC,
        b"EIO" => libc::EIO,
        b"ENOSYS" => libc::ENOSYS,
        b"EBUSY" => libc::EBUSY,
        b"EAGAIN" => libc::EAGAIN,
        b"E2BIG" => libc::E2BIG,
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
        assert_eq!(Request::Read("a/b").encode(), {
            let mut bytes = message(2, b"a/b\0");
            bytes[4..8].fill(0);
            bytes
        });
        let bodies = [
            (Request::Write("a", "12"), &b"a\x0012"[..]),
            (Request::Remove("a"), b"a\0"),
            (Request::Restrict("a", 3, 0), b"a\0n3\0r0\0"),
            (Request::Watch("/x"), b"/x\0w\0"),
            (Request::IsIntroduced(9), b"9\0"),
        ];
        for (request, body) in bodies {
            assert_eq!(&request.encode()[16..], body, "{request:?}");
            assert_eq!(request.encode()[12..16], (body.len() as u32).to_ne_bytes());
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
        /// However the bytes arrive, the messages are the same, events before replies too.
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
                WATCH_EVENT => Message::Changed,
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
            let _ = (failure(&bytes), number(&bytes));
        }
    }
}
