//! Messages of the control link between a daemon and its agent, and of the daemon's local socket.

use alloc::vec::Vec;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned, little_endian::U32};

use crate::error::{Breach, PeerError, TooLong};
use crate::handshake::hello_of;
pub use crate::handshake::{PEER_INFO_LEN, PeerInfo};
pub use crate::header::MAX_LOCAL_BODY;
use crate::header::{HEADER_LEN, framed, ty};
use crate::names::{DomainId, IDENT_LEN, Ident, Port, with_nul};
use crate::trigger::{BadTrigger, Trigger};
use crate::version::Version;

/// Longest body toward a program of upstream on a control link, in bytes: its rings hold 4096 bytes
/// each way and it reads a body in one piece.
pub const MAX_CONTROL_BODY: usize = 4096;
/// Longest command line in an exec message under [`MAX_LOCAL_BODY`], without its NUL, in bytes.
pub const MAX_CMDLINE: usize = MAX_LOCAL_BODY - EXEC_LEN - 1;

/// Length of the fixed part of exec parameters, in bytes. It is also the whole of what an agent hands
/// to `qrexec-client-vm` when a call is allowed.
pub const EXEC_LEN: usize = 8;

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawEndpoint {
    domain: U32,
    port: U32,
}

const _: () = assert!(size_of::<RawEndpoint>() == EXEC_LEN);

/// One end of a data link: which domain, which port. On the wire the fixed part of exec parameters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Endpoint {
    /// The domain at the other end.
    pub domain: DomainId,
    /// The port of the data link.
    pub port: Port,
}

impl Endpoint {
    /// The endpoint as it goes over the wire.
    pub fn to_bytes(self) -> [u8; EXEC_LEN] {
        zerocopy::transmute!(RawEndpoint { domain: self.domain.0.into(), port: self.port.0.into() })
    }

    /// The endpoint in these bytes. Any eight bytes are one; the receiver decides whether domain and port make sense.
    pub fn from_bytes(bytes: [u8; EXEC_LEN]) -> Self {
        let raw: RawEndpoint = zerocopy::transmute!(bytes);
        Self { domain: DomainId(raw.domain.get()), port: Port(raw.port.get()) }
    }
}

/// The body of `EXEC_CMDLINE` and `JUST_EXEC`: what to run and where its data link is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExecParams {
    /// The domain at the other end of the data link; 0 in a request of a local client that has none.
    pub connect_domain: DomainId,
    /// The port of the data link; 0 in a request of a local client, the daemon chooses one.
    pub connect_port: Port,
    /// The command line without its NUL, see [`crate::command`]. Empty in a daemon's answer to a local
    /// client, which then carries not even the NUL.
    pub cmdline: Vec<u8>,
}

impl ExecParams {
    /// Domain and port together.
    pub const fn endpoint(&self) -> Endpoint {
        Endpoint { domain: self.connect_domain, port: self.connect_port }
    }

    /// Reads the body of an exec message of type `ty`. The command line ends at its NUL; more NULs may
    /// follow, anything else may not.
    pub fn decode(ty: u32, body: &[u8]) -> Result<Self, PeerError> {
        let (endpoint, text) = split_endpoint(ty, body)?;
        let cmdline = if text.is_empty() { &[] } else { text_of(ty, text)? };
        Ok(Self { connect_domain: endpoint.domain, connect_port: endpoint.port, cmdline: cmdline.to_vec() })
    }

    /// The body as it goes over the wire.
    pub fn encode(&self) -> Vec<u8> {
        let mut body = self.endpoint().to_bytes().to_vec();
        if !self.cmdline.is_empty() {
            body.extend(with_nul(&self.cmdline));
        }
        body
    }
}

/// The body of `SERVICE_CONNECT`: a call was allowed, and this is where its service will be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServiceParams {
    /// The domain and port of the data link.
    pub endpoint: Endpoint,
    /// The id under which the call was asked for.
    pub ident: Ident,
}

impl ServiceParams {
    /// Reads the body. The id may be padded to 32 bytes or end after its NUL.
    pub fn decode(body: &[u8]) -> Result<Self, PeerError> {
        let (endpoint, text) = split_endpoint(ty::SERVICE_CONNECT, body)?;
        let text = text_of(ty::SERVICE_CONNECT, text)?;
        let text = core::str::from_utf8(text).map_err(|_| Breach::Ident)?;
        Ok(Self { endpoint, ident: Ident::new(text)? })
    }

    /// The body as it goes over the wire, with the id padded to 32 bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut body = self.endpoint.to_bytes().to_vec();
        body.extend(self.ident.to_bytes());
        body
    }
}

/// Everything that is said on control links and on the daemon's local socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// The first message of each side: the version it speaks.
    Hello(u32),
    /// Run this; `just` means without data, with stdio on `/dev/null`.
    Exec {
        /// `JUST_EXEC` rather than `EXEC_CMDLINE`.
        just: bool,
        /// What to run, and where its data link is.
        params: ExecParams,
    },
    /// A call was allowed.
    ServiceConnect(ServiceParams),
    /// A call was refused.
    Refused(Ident),
    /// A request for a service.
    Trigger(Trigger),
    /// A request for a service that cannot be granted. The message itself was whole, so the call is refused and the
    /// link stays open.
    BadTrigger(BadTrigger),
    /// A data link has ended and its port is free again.
    ConnectionTerminated(Endpoint),
}

impl Message {
    /// Reads the message of type `ty` with this body.
    ///
    /// It says nothing about direction and version: a link that must not carry some type checks that
    /// itself, see [`check_trigger_version`].
    pub fn decode(ty: u32, body: &[u8]) -> Result<Self, PeerError> {
        match ty {
            ty::HELLO => Ok(Self::Hello(PeerInfo::decode(body)?.version)),
            ty::EXEC_CMDLINE | ty::JUST_EXEC => {
                Ok(Self::Exec { just: ty == ty::JUST_EXEC, params: ExecParams::decode(ty, body)? })
            }
            ty::SERVICE_CONNECT => Ok(Self::ServiceConnect(ServiceParams::decode(body)?)),
            ty::SERVICE_REFUSED => {
                let bytes: [u8; IDENT_LEN] =
                    body.try_into().map_err(|_| Breach::BodyLength { ty, len: body.len() })?;
                Ok(Self::Refused(Ident::from_bytes(bytes)?))
            }
            ty::TRIGGER_SERVICE | ty::TRIGGER_SERVICE3 | ty::TRIGGER_SERVICE4 => {
                Ok(match Trigger::decode(ty, body)? {
                    Ok(trigger) => Self::Trigger(trigger),
                    Err(bad) => Self::BadTrigger(bad),
                })
            }
            ty::CONNECTION_TERMINATED => match split_endpoint(ty, body)? {
                (endpoint, []) => Ok(Self::ConnectionTerminated(endpoint)),
                _ => Err(Breach::BodyLength { ty, len: body.len() }.into()),
            },
            ty::DATA_STDIN | ty::DATA_STDOUT | ty::DATA_STDERR | ty::DATA_EXIT_CODE => {
                Err(Breach::UnexpectedType(ty).into())
            }
            _ => Err(Breach::UnknownType(ty).into()),
        }
    }

    /// The message with its header, for a link of this version. Fails if the body is longer than
    /// [`MAX_LOCAL_BODY`] or a text does not fit the version's form.
    pub fn encode(&self, version: Version) -> Result<Vec<u8>, TooLong> {
        self.encode_within(version, MAX_LOCAL_BODY)
    }

    /// As [`Message::encode`], with another limit for the body, such as [`MAX_CONTROL_BODY`].
    pub fn encode_within(&self, version: Version, max_body: usize) -> Result<Vec<u8>, TooLong> {
        let bytes = match self {
            Self::Hello(version) => hello_of(*version).to_vec(),
            Self::Exec { just: false, params } => framed(ty::EXEC_CMDLINE, &params.encode())?,
            Self::Exec { just: true, params } => framed(ty::JUST_EXEC, &params.encode())?,
            Self::ServiceConnect(params) => framed(ty::SERVICE_CONNECT, &params.encode())?,
            Self::Refused(ident) => framed(ty::SERVICE_REFUSED, &ident.to_bytes())?,
            Self::BadTrigger(bad) => framed(ty::SERVICE_REFUSED, &bad.ident)?,
            Self::Trigger(trigger) => trigger.encode(version)?,
            Self::ConnectionTerminated(endpoint) => framed(ty::CONNECTION_TERMINATED, &endpoint.to_bytes())?,
        };
        let len = bytes.len().saturating_sub(HEADER_LEN);
        if len > max_body { Err(TooLong { len, max: max_body }) } else { Ok(bytes) }
    }
}

/// Whether a trigger of type `ty` may be used on a control link of this version: the protocol 2 form
/// only there, the others only from their version on.
pub fn check_trigger_version(ty: u32, version: Version) -> Result<(), PeerError> {
    let fits = match ty {
        ty::TRIGGER_SERVICE => version == Version::V2,
        ty::TRIGGER_SERVICE3 => version >= Version::V3,
        ty::TRIGGER_SERVICE4 => version >= Version::V4,
        _ => true,
    };
    if fits { Ok(()) } else { Err(Breach::UnexpectedType(ty).into()) }
}

fn split_endpoint(ty: u32, body: &[u8]) -> Result<(Endpoint, &[u8]), PeerError> {
    match body.split_first_chunk::<EXEC_LEN>() {
        Some((bytes, rest)) => Ok((Endpoint::from_bytes(*bytes), rest)),
        None => Err(Breach::BodyLength { ty, len: body.len() }.into()),
    }
}

/// The text before the NUL that must end it; only more NULs may follow.
fn text_of(ty: u32, field: &[u8]) -> Result<&[u8], PeerError> {
    let end = field.iter().position(|&b| b == 0).ok_or(Breach::Termination(ty))?;
    let (text, padding) = field.split_at_checked(end).ok_or(Breach::Termination(ty))?;
    if padding.iter().all(|&b| b == 0) { Ok(text) } else { Err(Breach::Termination(ty).into()) }
}

#[cfg(test)]
mod tests;
