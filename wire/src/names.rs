//! Names and numbers that cross the wire, each with a type of its own and validated once.

use alloc::borrow::Cow;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

mod ident;

pub use crate::error::NameError;
pub use ident::{IDENT_LEN, Ident};

/// A Xen domain id. 0 is dom0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DomainId(pub u32);

impl DomainId {
    /// The administrative domain.
    pub const DOM0: Self = Self(0);
}

impl fmt::Display for DomainId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A vchan port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Port(pub u32);

impl Port {
    /// The port of the control link between a daemon and its agent.
    pub const CONTROL: Self = Self(512);
    /// The first port for data links.
    pub const FIRST_DATA: Self = Self(513);
    /// The last data port that the C programs accept.
    pub const LAST_UPSTREAM_DATA: Self = Self(768);

    /// Whether data links may live here.
    pub const fn is_data(self) -> bool {
        self.0 >= Self::FIRST_DATA.0
    }
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Longest domain name or target, in bytes: it must fit the 64-byte field of a trigger with a NUL.
pub const MAX_TARGET: usize = 63;
/// Longest service name with its argument, in bytes, without the NUL that ends it on the wire.
pub const MAX_SERVICE: usize = 64_999;

const fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.')
}

const fn is_service_byte(byte: u8) -> bool {
    is_plain(byte) || byte == b'+'
}

const fn is_target_byte(byte: u8) -> bool {
    is_plain(byte) || matches!(byte, b'@' | b':')
}

/// Copies `bytes` with everything outside `allowed` (a subset of ASCII) turned into `_`.
fn sanitized(bytes: &[u8], allowed: fn(u8) -> bool) -> String {
    bytes.iter().map(|&b| if allowed(b) { char::from(b) } else { '_' }).collect()
}

/// Copies `bytes` if all of them are in `allowed` (a subset of ASCII).
fn checked(bytes: &[u8], allowed: fn(u8) -> bool, max: usize) -> Result<String, NameError> {
    if bytes.is_empty() {
        return Err(NameError::Empty);
    }
    if bytes.len() > max {
        return Err(NameError::TooLong { len: bytes.len(), max });
    }
    match bytes.iter().find(|&&b| !allowed(b)) {
        Some(&bad) => Err(NameError::BadByte(bad)),
        None => Ok(bytes.iter().map(|&b| char::from(b)).collect()),
    }
}

/// The name of a domain: letters, digits, `_`, `-` and `.`, not beginning with one of the last two, so that it cannot
/// be taken for an option or lead out of a folder.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DomainName(String);

impl DomainName {
    /// Accepts a name that is well formed as it stands.
    pub fn new(name: &str) -> Result<Self, NameError> {
        let name = checked(name.as_bytes(), is_plain, MAX_TARGET)?;
        match name.chars().next() {
            Some(first @ ('-' | '.')) => Err(NameError::BadStart(first)),
            _ => Ok(Self(name)),
        }
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The target of a call, as the caller writes it: a domain name or a keyword such as `@default`, `@adminvm` or
/// `@dispvm:NAME`. Also the source that a protocol 4 trigger may name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Target(String);

impl Target {
    /// What an empty target means.
    pub const DEFAULT: &'static str = "@default";

    /// Accepts a target that is well formed as it stands.
    pub fn new(target: &str) -> Result<Self, NameError> {
        checked(target.as_bytes(), is_target_byte, MAX_TARGET).map(Self)
    }

    /// Makes a target of any bytes, as upstream does: cut at [`MAX_TARGET`], everything outside `[A-Za-z0-9_.@:-]`
    /// becomes `_`, and no bytes become `@default`.
    pub fn sanitize(bytes: &[u8]) -> Self {
        match bytes.get(..MAX_TARGET).unwrap_or(bytes) {
            [] => Self(String::from(Self::DEFAULT)),
            bytes => Self(sanitized(bytes, is_target_byte)),
        }
    }

    /// The target as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The keyword without its `@`, if this is one.
    pub fn keyword(&self) -> Option<&str> {
        self.0.strip_prefix('@')
    }

    /// Whether this means dom0, by any of its names.
    pub fn is_dom0(&self) -> bool {
        refers_to_dom0(&self.0)
    }
}

/// Whether a name means dom0: `dom0`, `@adminvm` or the all-zero UUID.
pub fn refers_to_dom0(name: &str) -> bool {
    matches!(name, "dom0" | "@adminvm" | "uuid:00000000-0000-0000-0000-000000000000")
}

impl From<&DomainName> for Target {
    fn from(name: &DomainName) -> Self {
        Self(name.0.clone())
    }
}

/// A service with or without an argument: `qubes.Filecopy`, `qubes.StartApp+firefox`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceName(String);

impl ServiceName {
    /// Accepts a service name that is well formed as it stands.
    pub fn new(name: &str) -> Result<Self, NameError> {
        let name = checked(name.as_bytes(), is_service_byte, MAX_SERVICE)?;
        Self::named(name)
    }

    /// Makes a service name of any bytes, as upstream does: everything outside
    /// `[A-Za-z0-9_.+-]` becomes `_`. Refused are an empty name, one that begins with `+` and one
    /// longer than [`MAX_SERVICE`].
    pub fn sanitize(bytes: &[u8]) -> Result<Self, NameError> {
        match bytes.len() {
            0 => Err(NameError::Empty),
            len if len > MAX_SERVICE => Err(NameError::TooLong { len, max: MAX_SERVICE }),
            _ => Self::named(sanitized(bytes, is_service_byte)),
        }
    }

    fn named(name: String) -> Result<Self, NameError> {
        if name.starts_with('+') { Err(NameError::BadStart('+')) } else { Ok(Self(name)) }
    }

    /// The whole name as it was given, with the argument if there is one.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name without argument.
    pub fn name(&self) -> &str {
        self.0.split_once('+').map_or(&self.0, |(name, _)| name)
    }

    /// What follows the first `+`; `None` without a `+`, empty if nothing follows it.
    pub fn argument(&self) -> Option<&str> {
        self.0.split_once('+').map(|(_, argument)| argument)
    }

    /// The whole name with a `+` added if it has none: the form used between daemons, in policy and
    /// in file names.
    pub fn with_plus(&self) -> Cow<'_, str> {
        if self.0.contains('+') {
            Cow::Borrowed(&self.0)
        } else {
            let mut name = String::with_capacity(self.0.len() + 1);
            name.push_str(&self.0);
            name.push('+');
            Cow::Owned(name)
        }
    }
}

macro_rules! display_as_text {
    ($($name:ty),*) => {$(
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.as_str())
            }
        }
        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                self.as_str()
            }
        }
        impl core::str::FromStr for $name {
            type Err = NameError;
            fn from_str(text: &str) -> Result<Self, NameError> {
                Self::new(text)
            }
        }
    )*};
}
display_as_text!(DomainName, Target, ServiceName);

/// Puts text into a NUL-padded field of `N` bytes; `None` if there is no room for it and one NUL.
pub(crate) fn padded<const N: usize>(text: &str) -> Option<[u8; N]> {
    let mut field = [0; N];
    let room = field.split_last_mut()?.1;
    room.get_mut(..text.len())?.copy_from_slice(text.as_bytes());
    Some(field)
}

/// The bytes of a NUL-padded field up to its first NUL. The last byte counts as a NUL whatever it
/// is, as in the C programs.
pub(crate) fn unpadded(field: &[u8]) -> &[u8] {
    let room = field.split_last().map_or(field, |(_, room)| room);
    room.split(|&b| b == 0).next().unwrap_or_default()
}

/// The bytes of a service name followed by the NUL that ends it on the wire.
pub(crate) fn with_nul(text: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len().saturating_add(1));
    bytes.extend_from_slice(text);
    bytes.push(0);
    bytes
}

#[cfg(test)]
mod tests;
