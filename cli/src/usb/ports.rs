//! The ports of the kernel's virtual controllers.

/// A line of `status`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Port {
    pub(super) is_super: bool,
    pub(super) number: u32,
    pub(super) state: u32,
    pub(super) devid: u32,
    /// The device's folder, once it has one.
    pub(super) name: String,
}

/// Nothing is attached there.
const FREE: u32 = 4;
/// The device has an address.
const USED: u32 = 6;

impl Port {
    pub(super) fn is_free(&self) -> bool {
        self.state == FREE
    }

    /// The folder below `/sys/bus/usb/devices`, if the device has come that far.
    pub(super) fn folder(&self) -> Option<&str> {
        (self.state == USED && !self.name.starts_with("0-")).then_some(&self.name)
    }
}

/// The ports of one controller; what is no port, the header above all, is left out.
pub(super) fn parse(status: &str) -> Vec<Port> {
    status.lines().filter_map(line).collect()
}

fn line(line: &str) -> Option<Port> {
    let mut words = line.split_ascii_whitespace();
    let is_super = match words.next()? {
        "ss" => true,
        "hs" => false,
        _ => return None,
    };
    let (number, state) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
    let _speed = words.next()?;
    let devid = u32::from_str_radix(words.next()?, 16).ok()?;
    let (_socket, name) = (words.next()?, words.next()?.to_owned());
    Some(Port { is_super, number, state, devid, name })
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATUS: &str = "hub port sta spd dev      sockfd local_busid\n\
        hs  0000 004 000 00000000 000000 0-0\n\
        hs  0001 006 003 00010002 000000 4-1\n\
        ss  0015 005 005 00020003 000000 0-0\n";

    #[test]
    fn ports_are_read_and_headers_are_not() {
        let ports = parse(STATUS);
        assert_eq!(ports.len(), 3);
        assert!(ports[0].is_free() && !ports[0].is_super);
        assert_eq!((ports[1].number, ports[1].devid, ports[1].folder()), (1, 0x10002, Some("4-1")));
        assert_eq!((ports[2].is_super, ports[2].number, ports[2].folder()), (true, 15, None));
        assert!(parse("hs 1 2").is_empty());
    }
}
