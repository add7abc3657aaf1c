//! The descriptors of the devices.

use wire::usbip::Speed;

/// Bus 1, device 2.
pub const DEVID: u32 = 0x0001_0002;

/// Kinds of descriptors.
pub(crate) const DEVICE: u8 = 1;
pub(crate) const CONFIGURATION: u8 = 2;
pub(crate) const STRING: u8 = 3;
pub(crate) const QUALIFIER: u8 = 6;
pub(crate) const BOS: u8 = 15;
pub(crate) const REPORT: u8 = 0x22;

/// A number that belongs to a pool for tests.
const VENDOR: u16 = 0x1209;

/// Kinds of endpoints.
const ISOCHRONOUS: u8 = 1;
const BULK: u8 = 2;
const INTERRUPT: u8 = 3;

/// Everything that a device says of itself.
#[derive(Debug)]
pub(crate) struct Description {
    pub(crate) device: Vec<u8>,
    pub(crate) configuration: Vec<u8>,
    pub(crate) bos: Vec<u8>,
    pub(crate) qualifier: Option<Vec<u8>>,
    pub(crate) report: &'static [u8],
    pub(crate) strings: [&'static str; 3],
}

/// One endpoint.
struct Endpoint {
    address: u8,
    kind: u8,
    /// Bytes of a packet, and how many more of them an interval has (high speed and faster).
    packet: u16,
    more: u8,
    interval: u8,
}

/// One setting of the only interface.
struct Setting<'a> {
    number: u8,
    class: [u8; 3],
    /// Descriptors of the class.
    extra: &'a [u8],
    endpoints: &'a [Endpoint],
}

impl Description {
    /// A mass-storage stick: bulk-only transport of SCSI commands, in at endpoint 1, out at endpoint 2.
    pub(crate) fn stick(speed: Speed) -> Self {
        let packet = if speed.is_super() {
            1024
        } else if speed == Speed::High {
            512
        } else {
            64
        };
        let endpoint = |address| Endpoint { address, kind: BULK, packet, more: 0, interval: 0 };
        let endpoints = [endpoint(0x81), endpoint(0x02)];
        let setting = Setting { number: 0, class: [8, 6, 0x50], extra: &[], endpoints: &endpoints };
        Self::of(speed, 0x0001, "Simulated stick", &[setting], &[])
    }

    /// A device of no class with an isochronous endpoint 1, in, in its second setting.
    pub(crate) fn camera(speed: Speed) -> Self {
        let (packet, more) = if speed > Speed::Full { (1024, 2) } else { (1023, 0) };
        let endpoints = [Endpoint { address: 0x81, kind: ISOCHRONOUS, packet, more, interval: 1 }];
        let setting = |number, endpoints| Setting { number, class: [0xff, 0, 0], extra: &[], endpoints };
        Self::of(speed, 0x0002, "Simulated camera", &[setting(0, &[]), setting(1, &endpoints)], &[])
    }

    /// A keyboard with an interrupt endpoint 1, in.
    pub(crate) fn keyboard(speed: Speed) -> Self {
        // 16 ms, in frames or as the power of two of microframes.
        let interval = if speed > Speed::Full { 8 } else { 16 };
        let endpoints = [Endpoint { address: 0x81, kind: INTERRUPT, packet: 8, more: 0, interval }];
        let [low, high] = u16::try_from(KEYBOARD_REPORT.len()).unwrap_or(u16::MAX).to_le_bytes();
        let hid = [9, 0x21, 0x11, 0x01, 0, 1, REPORT, low, high];
        let setting = Setting { number: 0, class: [3, 1, 1], extra: &hid, endpoints: &endpoints };
        Self::of(speed, 0x0003, "Simulated keyboard", &[setting], KEYBOARD_REPORT)
    }

    fn of(
        speed: Speed,
        product: u16,
        name: &'static str,
        settings: &[Setting<'_>],
        report: &'static [u8],
    ) -> Self {
        let (version, packet): (u16, u8) = match speed {
            Speed::Super | Speed::SuperPlus | Speed::SuperPlusBy2 => (0x0310, 9),
            Speed::Low => (0x0200, 8),
            _ => (0x0200, 64),
        };
        let [v0, v1] = version.to_le_bytes();
        let mut device = vec![18, DEVICE, v0, v1, 0, 0, 0, packet];
        device.extend(VENDOR.to_le_bytes());
        device.extend(product.to_le_bytes());
        device.extend([0, 1, 1, 2, 3, 1]);
        let qualifier = (speed == Speed::High).then(|| vec![10, QUALIFIER, v0, v1, 0, 0, 0, packet, 1, 0]);
        let strings = ["qrexec", name, "SIM0001"];
        Self {
            device,
            configuration: configuration(speed, settings),
            bos: bos(speed),
            qualifier,
            report,
            strings,
        }
    }
}

fn configuration(speed: Speed, settings: &[Setting<'_>]) -> Vec<u8> {
    let mut body = Vec::new();
    for setting in settings {
        let [class, subclass, protocol] = setting.class;
        let endpoints = u8::try_from(setting.endpoints.len()).unwrap_or(u8::MAX);
        body.extend([9, 4, 0, setting.number, endpoints, class, subclass, protocol, 0]);
        body.extend(setting.extra);
        for endpoint in setting.endpoints {
            let packet = if speed.is_super() {
                endpoint.packet
            } else {
                endpoint.packet | u16::from(endpoint.more) << 11
            };
            let [low, high] = packet.to_le_bytes();
            body.extend([7, 5, endpoint.address, endpoint.kind, low, high, endpoint.interval]);
            if speed.is_super() {
                // How many packets a burst has: 1, or what the periodic endpoint has in an interval.
                let interval =
                    if endpoint.kind == BULK { 0 } else { endpoint.packet * (u16::from(endpoint.more) + 1) };
                let [low, high] = interval.to_le_bytes();
                body.extend([6, 0x30, endpoint.more, 0, low, high]);
            }
        }
    }
    let [low, high] = u16::try_from(body.len() + 9).unwrap_or(u16::MAX).to_le_bytes();
    let mut whole = vec![9, CONFIGURATION, low, high, 1, 1, 0, 0x80, 50];
    whole.extend(body);
    whole
}

/// What devices of USB 3 must say, and those of USB 2 may leave out.
fn bos(speed: Speed) -> Vec<u8> {
    if !speed.is_super() {
        return Vec::new();
    }
    let extension = [7, 16, 2, 0, 0, 0, 0];
    let super_speed = [10, 16, 3, 0, 0b1110, 0, 2, 0, 0, 0];
    let length = u8::try_from(5 + extension.len() + super_speed.len()).unwrap_or(u8::MAX);
    [&[5, BOS, length, 0, 2][..], &extension, &super_speed].concat()
}

/// A boot keyboard: eight bits of modifiers, a byte of nothing, five lights, six keys.
const KEYBOARD_REPORT: &[u8] = &[
    0x05, 0x01, 0x09, 0x06, 0xa1, 0x01, 0x05, 0x07, 0x19, 0xe0, 0x29, 0xe7, 0x15, 0x00, 0x25, 0x01, 0x75,
    0x01, 0x95, 0x08, 0x81, 0x02, 0x95, 0x01, 0x75, 0x08, 0x81, 0x01, 0x95, 0x05, 0x75, 0x01, 0x05, 0x08,
    0x19, 0x01, 0x29, 0x05, 0x91, 0x02, 0x95, 0x01, 0x75, 0x03, 0x91, 0x01, 0x95, 0x06, 0x75, 0x08, 0x15,
    0x00, 0x25, 0x65, 0x05, 0x07, 0x19, 0x00, 0x29, 0x65, 0x81, 0x00, 0xc0,
];
