//! The request for a service, in the three forms that the protocol versions have.

use alloc::vec::Vec;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::error::{Breach, PeerError, TooLong};
use crate::header::{framed, ty};
use crate::names::{IDENT_LEN, Ident, MAX_TARGET, ServiceName, Target, padded, unpadded, with_nul};
use crate::untrusted::Untrusted;
use crate::version::Version;

/// Length of the whole protocol 2 form, in bytes.
pub const TRIGGER2_LEN: usize = 128;

/// Longest service name and longest target in the protocol 2 form, in bytes without NUL.
const MAX_SERVICE2: usize = 63;
const MAX_TARGET2: usize = 31;

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct Raw2 {
    service: [u8; 64],
    target: [u8; 32],
    ident: [u8; IDENT_LEN],
}

/// The service name follows, with its NUL.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct Raw3 {
    target: [u8; 64],
    ident: [u8; IDENT_LEN],
}

/// The rest is the protocol 3 form.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct Raw4 {
    source: [u8; 64],
    rest: Raw3,
}

const _: () = assert!(size_of::<Raw2>() == TRIGGER2_LEN);
const _: () = assert!(size_of::<Raw3>() == 96);
const _: () = assert!(size_of::<Raw4>() == 160);

/// A request for a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trigger {
    /// The qube on whose behalf the caller asks, if it names one (protocol 4). It is a hint for policy and proves
    /// nothing.
    pub source: Option<Target>,
    /// Where the service shall run.
    pub target: Target,
    /// Which service.
    pub service: ServiceName,
    /// The id that the answer will carry.
    pub ident: Ident,
}

/// A request whose message was whole but whose content cannot be granted. Refuse the id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a request that cannot be granted: {reason}")]
pub struct BadTrigger {
    /// The id to refuse, as it came: an agent may have filled it with what its client sent, so it need not be an
    /// [`Ident`].
    pub ident: [u8; IDENT_LEN],
    /// What is wrong.
    pub reason: Breach,
}

impl Trigger {
    /// Reads a trigger body of type `ty`. Names are sanitised as upstream does it.
    ///
    /// The outer error ends the link: the message is too short for its fields. With the inner one the link stays open,
    /// and the request is to be refused; a malformed id is such an error.
    pub fn decode(ty: u32, body: &[u8]) -> Result<Result<Self, BadTrigger>, PeerError> {
        let wrong_length = Breach::BodyLength { ty, len: body.len() };
        match ty {
            ty::TRIGGER_SERVICE => {
                let raw = Raw2::read_from_bytes(body).map_err(|_| wrong_length)?;
                let service = unpadded(&raw.service);
                let fields =
                    Fields { source: &[], target: &raw.target, ident: raw.ident, service: Ok(service) };
                Ok(fields.check())
            }
            ty::TRIGGER_SERVICE3 => {
                let (raw, name) = Raw3::read_from_prefix(body).map_err(|_| wrong_length)?;
                let service = only_nul_at_end(ty, name);
                Ok(Fields { source: &[], target: &raw.target, ident: raw.ident, service }.check())
            }
            ty::TRIGGER_SERVICE4 => {
                let (raw, name) = Raw4::read_from_prefix(body).map_err(|_| wrong_length)?;
                let Raw3 { target, ident } = raw.rest;
                let service = only_nul_at_end(ty, name);
                Ok(Fields { source: &raw.source, target: &target, ident, service }.check())
            }
            _ => Err(Breach::UnexpectedType(ty).into()),
        }
    }

    /// The message with its header, in the form of this version. Fails if a name does not fit that
    /// form; the source is left out where the form has no place for it.
    pub fn encode(&self, version: Version) -> Result<Vec<u8>, TooLong> {
        match version {
            Version::V2 => {
                let raw = Raw2 {
                    service: field(self.service.as_str(), MAX_SERVICE2)?,
                    target: field(self.target.as_str(), MAX_TARGET2)?,
                    ident: self.ident.to_bytes(),
                };
                framed(ty::TRIGGER_SERVICE, raw.as_bytes())
            }
            Version::V3 => framed(ty::TRIGGER_SERVICE3, &self.body(self.raw3()?.as_bytes())),
            Version::V4 => {
                let source = self.source.as_ref().map_or("", Target::as_str);
                let raw = Raw4 { source: field(source, MAX_TARGET)?, rest: self.raw3()? };
                framed(ty::TRIGGER_SERVICE4, &self.body(raw.as_bytes()))
            }
        }
    }

    fn raw3(&self) -> Result<Raw3, TooLong> {
        Ok(Raw3 { target: field(self.target.as_str(), MAX_TARGET)?, ident: self.ident.to_bytes() })
    }

    fn body(&self, fixed: &[u8]) -> Vec<u8> {
        let mut body = fixed.to_vec();
        body.extend(with_nul(self.service.as_str().as_bytes()));
        body
    }
}

/// The parts of a trigger, none of them checked.
struct Fields<'a> {
    source: &'a [u8],
    target: &'a [u8],
    ident: [u8; IDENT_LEN],
    service: Result<&'a [u8], Breach>,
}

impl Fields<'_> {
    fn check(self) -> Result<Trigger, BadTrigger> {
        let bad = |reason| BadTrigger { ident: self.ident, reason };
        let ident = Untrusted::new(self.ident).validate(Ident::from_bytes).map_err(bad)?;
        let service = self.service.map_err(bad)?;
        let sanitize = |name| ServiceName::sanitize(name).map_err(Breach::Service);
        let service = Untrusted::new(service).validate(sanitize).map_err(bad)?;
        let source = Some(unpadded(self.source)).filter(|source| !source.is_empty());
        Ok(Trigger {
            source: source.map(Target::sanitize),
            target: Target::sanitize(unpadded(self.target)),
            service,
            ident,
        })
    }
}

/// A service name as the newer forms carry it: its only NUL is its last byte.
fn only_nul_at_end(ty: u32, name: &[u8]) -> Result<&[u8], Breach> {
    match name.split_last() {
        Some((0, text)) if !text.contains(&0) => Ok(text),
        _ => Err(Breach::Termination(ty)),
    }
}

fn field<const N: usize>(text: &str, max: usize) -> Result<[u8; N], TooLong> {
    padded(text).ok_or(TooLong { len: text.len(), max })
}

#[cfg(test)]
mod tests;
