//! The line that describes the device.

use alloc::format;
use alloc::string::String;

/// Longest line, its newline included.
pub const LINE_MAX: usize = 64;

/// How fast a device is, as sysfs writes it in Mbit/s.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Speed {
    /// 1.5
    Low,
    /// 12
    Full,
    /// 480
    High,
    /// 53.3-480
    Wireless,
    /// 5000
    Super,
    /// 10000
    SuperPlus,
    /// 20000
    SuperPlusBy2,
}

impl Speed {
    /// All of them.
    pub const ALL: [Self; 7] =
        [Self::Low, Self::Full, Self::High, Self::Wireless, Self::Super, Self::SuperPlus, Self::SuperPlusBy2];

    /// The text in sysfs and on the line.
    pub const fn text(self) -> &'static str {
        match self {
            Self::Low => "1.5",
            Self::Full => "12",
            Self::High => "480",
            Self::Wireless => "53.3-480",
            Self::Super => "5000",
            Self::SuperPlus => "10000",
            Self::SuperPlusBy2 => "20000",
        }
    }

    /// The speed with this text.
    pub fn from_text(text: &[u8]) -> Option<Self> {
        Self::ALL.into_iter().find(|speed| speed.text().as_bytes() == text)
    }

    /// The kernel's number for `vhci_hcd`'s attribute `attach`. Speeds above 5 Gbit/s have one of their own since
    /// Linux 6.12 only.
    pub const fn number(self, has_super_plus: bool) -> u8 {
        match self {
            Self::Low => 1,
            Self::Full => 2,
            Self::High => 3,
            Self::Wireless => 4,
            Self::Super => 5,
            Self::SuperPlus | Self::SuperPlusBy2 => 5 + has_super_plus as u8,
        }
    }

    /// Whether the device belongs on the SuperSpeed hub of `vhci_hcd`.
    pub const fn is_super(self) -> bool {
        matches!(self, Self::Super | Self::SuperPlus | Self::SuperPlusBy2)
    }
}

/// What the export sends before its kernel's messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AttachLine {
    /// Number of the bus in the upper half, of the device in the lower.
    pub devid: u32,
    /// How fast it is.
    pub speed: Speed,
}

impl AttachLine {
    /// Reads the line without its newline. A third word is left for later versions: upstream's import ignores it, and
    /// so does this; a [`Filter`](super::Filter) refuses it.
    pub fn parse(line: &[u8]) -> Option<Self> {
        let mut words = line.split(|byte| *byte == b' ');
        let (devid, speed) = (words.next()?, words.next()?);
        Some(Self { devid: number(devid)?, speed: Speed::from_text(speed)? })
    }

    /// The line with its newline.
    pub fn text(self) -> String {
        format!("{} {}\n", self.devid, self.speed.text())
    }
}

/// Decimal digits only, no sign, nothing too large.
fn number(text: &[u8]) -> Option<u32> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    core::str::from_utf8(text).ok()?.parse().ok()
}
