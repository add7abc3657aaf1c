//! Names that come from other machines, checked before anything is made of them.

/// Hubs behind each other, and the device.
const DEPTH: usize = 6;

/// Where a device is plugged in, as the kernel writes it: `BUS-PORT.PORT…`, no zeros in front.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PortId(String);

impl PortId {
    /// The id in exactly the kernel's form.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (bus, ports) = text.split_once('-')?;
        let good = number(bus, 4)
            && ports.split('.').all(|port| number(port, 3))
            && ports.split('.').count() <= DEPTH;
        good.then(|| Self(text.to_owned()))
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }

    /// Its name in qubesdb, which has no dots.
    pub(super) fn key(&self) -> String {
        self.0.replace('.', "_")
    }
}

/// A device as dom0 names it to the VM that is to get it: by its port, or by vendor and product where only one has them.
/// As it was written, since the policy is asked about exactly that.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct DeviceId(String);

impl DeviceId {
    pub(super) fn parse(text: &str) -> Option<Self> {
        let good = PortId::parse(text).is_some() || vendor_product(text).is_some();
        good.then(|| Self(text.to_owned()))
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

/// Digits of a number that is not zero, without zeros in front.
fn number(text: &str, most: usize) -> bool {
    !text.starts_with('0')
        && (1..=most).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// Vendor and product of `0xHHHH.0xHHHH`, in lower case.
pub(super) fn vendor_product(text: &str) -> Option<(String, String)> {
    let half = |half: &str| {
        let digits = half.strip_prefix("0x")?;
        let good = digits.len() == 4 && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
        good.then(|| digits.to_ascii_lowercase())
    };
    let (vendor, product) = text.split_once('.')?;
    Some((half(vendor)?, half(product)?))
}

/// Whether this can be a VM.
pub(super) fn is_vm(name: &str) -> bool {
    let plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte));
    plain && name.len() <= 31 && name.starts_with(|first: char| first.is_ascii_alphabetic())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_kernels_own_form_is_a_port() {
        for good in ["1-1", "2-1.4", "10-14.3.2.1.4.9", "1-1.4.1"] {
            assert_eq!(PortId::parse(good).unwrap().as_str(), good);
        }
        let long = "1-1.1.1.1.1.1.1";
        for bad in [
            "", "1", "-1", "1-", "1-0", "01-1", "1-01", "1-1.", "1-.1", "1-1:1.0", "../1-1", "1-1/..",
            "1-1\n", "usb1", long, "1-1000", "1-٣",
        ] {
            assert_eq!(PortId::parse(bad), None, "{bad:?}");
        }
        assert_eq!(PortId::parse("2-1.4").unwrap().key(), "2-1_4");
    }

    #[test]
    fn vendor_and_product_are_four_digits_each() {
        assert_eq!(vendor_product("0x20A0.0x42dd"), Some(("20a0".into(), "42dd".into())));
        for bad in
            ["20a0.42dd", "0x20a0", "0x20a0.0x42d", "0x20a0.0x42dg", "0x20a0.0x42dd.1", "0x+0a0.0x42dd"]
        {
            assert_eq!(vendor_product(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn a_device_is_named_by_its_port_or_by_vendor_and_product_as_it_was_written() {
        for good in ["2-1.4", "0x20A0.0x42dd"] {
            assert_eq!(DeviceId::parse(good).unwrap().as_str(), good);
        }
        for bad in ["", "0x20a0", "20a0.42dd", "../0x20a0.0x42dd", "2-1:1.0"] {
            assert_eq!(DeviceId::parse(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn a_vm_is_no_path() {
        assert!(is_vm("sys-usb") && is_vm("a.b_c"));
        assert!(!is_vm("") && !is_vm("../x") && !is_vm("a/b") && !is_vm("-a") && !is_vm(&"a".repeat(32)));
    }
}
