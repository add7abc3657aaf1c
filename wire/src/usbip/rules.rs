//! Which rules an administrator may set for a device's traffic.

use alloc::string::String;

use super::Violation;

/// What a [`Filter`](super::Filter) lets through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    /// Most requests without an answer.
    pub pending: usize,
    /// Most bytes of buffers that these requests have together.
    pub buffers: u64,
    /// Most isochronous packets of these requests together.
    pub packets: usize,
    /// Control requests of the vendor's own kind, which firmware updates often are.
    pub vendor_requests: bool,
    /// SET_CONFIGURATION to another configuration than the first that was set.
    pub other_configurations: bool,
    /// Requests to interfaces for firmware updates (DFU). If they are not allowed, neither are class requests to an
    /// interface that no descriptor has described.
    pub firmware: bool,
    /// The only classes that the device and its interfaces may have.
    pub classes: Option<Classes>,
}

impl Default for Rules {
    /// Everything that a device may do, within limits far above what drivers of Linux were seen to need: 301 requests
    /// in flight, 1 MiB each.
    fn default() -> Self {
        Self {
            pending: 4096,
            buffers: 256 << 20,
            packets: 64 << 10,
            vendor_requests: true,
            other_configurations: true,
            firmware: true,
            classes: None,
        }
    }
}

impl Rules {
    /// Reads rules from words: `usbip`, then any of `no-vendor-requests`, `one-configuration`, `no-firmware` and
    /// `classes=08,0e` with blanks between. `None` if a word is unknown or comes twice.
    pub fn from_words(text: &str) -> Option<Self> {
        let mut words = text.split(' ').filter(|word| !word.is_empty());
        words.next().filter(|first| *first == "usbip")?;
        let mut rules = Self::default();
        for word in words {
            let is_new = match word {
                "no-vendor-requests" => core::mem::replace(&mut rules.vendor_requests, false),
                "one-configuration" => core::mem::replace(&mut rules.other_configurations, false),
                "no-firmware" => core::mem::replace(&mut rules.firmware, false),
                _ => rules.classes.replace(Classes::listed(word.strip_prefix("classes=")?)?).is_none(),
            };
            if !is_new {
                return None;
            }
        }
        Some(rules)
    }

    /// The words for these rules, without the limits.
    pub fn words(&self) -> String {
        let off = [
            (self.vendor_requests, " no-vendor-requests"),
            (self.other_configurations, " one-configuration"),
            (self.firmware, " no-firmware"),
        ];
        let mut text = String::from("usbip");
        text.extend(off.into_iter().filter(|(allowed, _)| !allowed).map(|(_, word)| word));
        let listed = self.classes.iter().flat_map(|set| (0..=u8::MAX).filter(|class| set.contains(*class)));
        for (n, class) in listed.enumerate() {
            text += &alloc::format!("{}{class:02x}", if n == 0 { " classes=" } else { "," });
        }
        text
    }

    /// Whether descriptors are checked.
    pub(super) const fn reads_descriptors(&self) -> bool {
        !self.firmware || self.classes.is_some()
    }

    /// Whether a device or an interface may have this class.
    pub(super) fn allow_class(&self, class: u8) -> Result<(), Violation> {
        match &self.classes {
            Some(classes) if !classes.contains(class) => Err(Violation::Class),
            _ => Ok(()),
        }
    }
}

/// A set of bytes: classes, or numbers of interfaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Classes([u64; 4]);

impl Classes {
    /// None.
    pub const NONE: Self = Self([0; 4]);

    /// Two hexadecimal digits each, with commas between; at least one.
    fn listed(text: &str) -> Option<Self> {
        let mut classes = Self::NONE;
        for word in text.split(',') {
            let is_hex = word.len() == 2 && word.bytes().all(|digit| digit.is_ascii_hexdigit());
            classes.add(u8::from_str_radix(word, 16).ok().filter(|_| is_hex)?);
        }
        Some(classes)
    }

    /// Adds one.
    pub const fn add(&mut self, class: u8) {
        let [a, b, c, d] = &mut self.0;
        let word = match class >> 6 {
            0 => a,
            1 => b,
            2 => c,
            _ => d,
        };
        *word |= 1 << (class & 63);
    }

    /// Whether it is there.
    pub const fn contains(&self, class: u8) -> bool {
        let [a, b, c, d] = self.0;
        let word = match class >> 6 {
            0 => a,
            1 => b,
            2 => c,
            _ => d,
        };
        word & (1 << (class & 63)) != 0
    }
}
