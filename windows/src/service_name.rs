//! Which names of services may become names of files.
//!
//! Windows accepts many spellings for one file: upper and lower case, dots at the end, a device's name with any
//! suffix. Policy knows one spelling. So some names are refused before they become part of a path, and the file must
//! have exactly the name that was asked for.

use wire::names::ServiceName;

/// Why a service's file is not looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadFileName {
    /// Windows drops dots at the end, and would find a file with another name.
    #[error("the service's name ends with a dot")]
    Dot,
    /// The name of a device, which it is in every folder.
    #[error("the service's name is that of a device")]
    Device,
}

/// Names that are devices in every folder, with a suffix too. `COM` and `LPT` are followed by a digit.
const DEVICES: [&str; 6] = ["CON", "PRN", "AUX", "NUL", "CONIN", "CONOUT"];
const NUMBERED: [&str; 2] = ["COM", "LPT"];

/// The name of a service's file, without argument.
///
/// # Errors
/// Windows would not open a file with this name.
pub fn file_name(service: &ServiceName) -> Result<&str, BadFileName> {
    let name = service.name();
    if name.ends_with('.') {
        return Err(BadFileName::Dot);
    }
    let stem = name.split('.').next().unwrap_or_default().to_ascii_uppercase();
    let numbered = NUMBERED.iter().any(|device| {
        stem.strip_prefix(device).is_some_and(|digit| matches!(digit.as_bytes(), [b'0'..=b'9']))
    });
    if DEVICES.contains(&stem.as_str()) || numbered { Err(BadFileName::Device) } else { Ok(name) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(name: &str) -> Result<String, BadFileName> {
        file_name(&ServiceName::new(name).unwrap()).map(str::to_owned)
    }

    #[test]
    fn names_of_files() {
        assert_eq!(of("qubes.VMShell").as_deref(), Ok("qubes.VMShell"));
        assert_eq!(of("qubes.StartApp+a.b").as_deref(), Ok("qubes.StartApp"));
        assert_eq!(of("COM").as_deref(), Ok("COM"));
        assert_eq!(of("community.x").as_deref(), Ok("community.x"));
        assert_eq!(of("console").as_deref(), Ok("console"));
    }

    #[test]
    fn names_that_are_something_else() {
        for name in ["..", ".", "test.", "test..", "...+x"] {
            assert_eq!(of(name), Err(BadFileName::Dot), "{name}");
        }
        for name in ["NUL", "nul.txt", "con", "Com1", "LPT9.service", "aux+arg", "conin"] {
            assert_eq!(of(name), Err(BadFileName::Device), "{name}");
        }
    }

    #[test]
    fn separators_never_come_so_far() {
        for name in ["a\\b", "a/b", "c:x", "a b", "a\0b", "~1\\x"] {
            assert!(ServiceName::new(name).is_err(), "{name:?}");
        }
    }
}
