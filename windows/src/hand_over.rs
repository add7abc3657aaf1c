//! What the agent sends the process of a call on its standard input, because it would not fit a command line.

use wire::control::{EXEC_LEN, Endpoint, ExecParams, MAX_LOCAL_BODY};

/// Longest hand-over, in bytes.
pub const MAX_LEN: usize = MAX_LOCAL_BODY + 1;

/// Encodes the call.
#[must_use]
pub fn encode(just: bool, params: &ExecParams) -> Vec<u8> {
    let mut bytes = vec![u8::from(just)];
    bytes.extend(params.endpoint().to_bytes());
    bytes.extend(&params.cmdline);
    bytes
}

/// Decodes a call, after which the pipe has ended; `None` if the bytes are no call.
#[must_use]
pub fn decode(bytes: &[u8]) -> Option<(bool, ExecParams)> {
    let (just, rest) = bytes.split_first()?;
    let (endpoint, cmdline) = rest.split_first_chunk::<EXEC_LEN>()?;
    let Endpoint { domain, port } = Endpoint::from_bytes(*endpoint);
    let fits = *just <= 1 && bytes.len() <= MAX_LEN;
    let params = ExecParams { connect_domain: domain, connect_port: port, cmdline: cmdline.to_vec() };
    fits.then_some((*just == 1, params))
}

#[cfg(test)]
mod tests {
    use super::*;
    use wire::names::{DomainId, Port};

    #[test]
    fn there_and_back() {
        let params = ExecParams {
            connect_domain: DomainId(7),
            connect_port: Port(513),
            cmdline: b"user:QUBESRPC test.A+ work".to_vec(),
        };
        for just in [false, true] {
            assert_eq!(decode(&encode(just, &params)), Some((just, params.clone())));
        }
        assert_eq!(decode(&encode(true, &params)[..8]), None);
        assert_eq!(decode(b"\x02aaaabbbbcmd"), None);
        assert_eq!(decode(b""), None);
    }
}
