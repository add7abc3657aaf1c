//! What a kernel asks of a device before a driver gets it.

use wire::usbip::Direction;

use super::measure::measure;
use super::{Host, Measured, Request, Trouble};

/// What a device is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// Mass storage.
    Disk,
    /// Of no class, with an isochronous endpoint.
    Camera,
    /// A keyboard.
    Keyboard,
    /// Something else.
    Other,
}

/// What a device says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Described {
    /// The device's descriptor.
    pub device: Vec<u8>,
    /// Its only configuration.
    pub configuration: Vec<u8>,
    /// Manufacturer, product, serial number.
    pub strings: [String; 3],
    /// What it is, by its first interface.
    pub class: Class,
}

/// Asks a device for its descriptors and gives it its configuration.
///
/// # Errors
/// It does not answer as a device does.
pub fn describe(host: &mut Host) -> Result<Described, Trouble> {
    if host.line().speed.is_super() {
        // SET_ISOCH_DELAY, and what only such devices have.
        control_out(host, 0x00, 0x31, 40, 0)?;
        control_in(host, [0x80, 6], 0x0f00, 0, 5)?;
    }
    let device = control_in(host, [0x80, 6], 0x0100, 0, 18)?;
    let head = control_in(host, [0x80, 6], 0x0200, 0, 9)?;
    let (Some([_, _, low, high]), 18) = (head.first_chunk(), device.len()) else {
        return Err(Trouble::Wrong("descriptors are cut short"));
    };
    let whole = u16::from_le_bytes([*low, *high]);
    let configuration = control_in(host, [0x80, 6], 0x0200, 0, whole)?;
    control_in(host, [0x80, 6], 0x0300, 0, 255)?;
    let mut strings = [const { String::new() }; 3];
    for (number, string) in (1..).zip(&mut strings) {
        let bytes = control_in(host, [0x80, 6], 0x0300 | number, 0x0409, 255)?;
        let units =
            bytes.get(2..).unwrap_or_default().as_chunks().0.iter().map(|unit| u16::from_le_bytes(*unit));
        *string = char::decode_utf16(units).map(|unit| unit.unwrap_or(char::REPLACEMENT_CHARACTER)).collect();
    }
    control_out(host, 0x00, 9, 1, 0)?;
    let class = class(&configuration);
    Ok(Described { device, configuration, strings, class })
}

/// By the first interface, which is the first thing in a configuration.
fn class(configuration: &[u8]) -> Class {
    match configuration.get(14..17) {
        Some([8, 6, 0x50]) => Class::Disk,
        Some([3, _, 1]) => Class::Keyboard,
        Some([0xff, 0, 0]) => Class::Camera,
        _ => Class::Other,
    }
}

/// Asks for the state of the device so many times: the smallest control transfer.
///
/// # Errors
/// It does not answer.
pub fn control_transfers(host: &mut Host, count: usize) -> Result<Measured, Trouble> {
    measure(count, |_| Ok(control_in(host, [0x80, 0], 0, 0, 2)?.len() as u64))
}

/// A control transfer with data of the device.
pub(super) fn control_in(
    host: &mut Host,
    [kind, request]: [u8; 2],
    value: u16,
    index: u16,
    length: u16,
) -> Result<Vec<u8>, Trouble> {
    let setup = setup([kind, request], value, index, length);
    let transfer = Request { setup, ..Request::from_device(0, length.into()) };
    host.transfer("control transfer", &transfer)?;
    Ok(host.data().to_vec())
}

/// A control transfer without data.
pub(super) fn control_out(
    host: &mut Host,
    kind: u8,
    request: u8,
    value: u16,
    index: u16,
) -> Result<(), Trouble> {
    let setup = setup([kind, request], value, index, 0);
    let transfer = Request { setup, direction: Direction::Out, ..Request::to_device(0, &[]) };
    host.transfer("control transfer", &transfer).map(|_| ())
}

fn setup([kind, request]: [u8; 2], value: u16, index: u16, length: u16) -> [u8; 8] {
    let ([v0, v1], [i0, i1], [l0, l1]) = (value.to_le_bytes(), index.to_le_bytes(), length.to_le_bytes());
    [kind, request, v0, v1, i0, i1, l0, l1]
}
