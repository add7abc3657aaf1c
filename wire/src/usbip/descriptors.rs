//! The device's own description: its class and those of its interfaces, as far as rules need them.
//!
//! Only answers to GET_DESCRIPTOR for a device or a configuration are read, from the copy that is sent on. A device
//! that lies about its classes gets the drivers of these classes and no others, except drivers that are chosen by
//! vendor and product.

use super::rules::{Classes, Rules};
use super::{Field, Violation};

/// The type of a standard request to a whole device whose data come in.
const FROM_DEVICE: u8 = 0x80;
const GET_DESCRIPTOR: u8 = 6;
/// The type bits of a control request, those of a class, and the bits that name its recipient.
const REQUEST_TYPE: u8 = 0x60;
const CLASS: u8 = 0x20;
const RECIPIENT: u8 = 0x1f;
const INTERFACE: u8 = 1;

/// Types of descriptors.
const DEVICE: u8 = 1;
const CONFIGURATION: u8 = 2;
const INTERFACE_DESCRIPTOR: u8 = 4;
const OTHER_SPEED: u8 = 7;

/// Values in place of a device's own class: "see the interfaces", and several functions.
const PER_INTERFACE: [u8; 2] = [0, 0xef];
/// Class and subclass of an interface for firmware.
const FIRMWARE: (u8, u8) = (0xfe, 1);

/// Longest answer: the length in a setup packet has 16 bits.
pub(super) const MAX_DESCRIPTORS: u32 = 0xffff;

/// Whether a request asks for descriptors that contain a class.
pub(super) fn are_asked_for(setup: [u8; 8]) -> bool {
    let [kind, request, _, descriptor, ..] = setup;
    (kind, request) == (FROM_DEVICE, GET_DESCRIPTOR)
        && matches!(descriptor, DEVICE | CONFIGURATION | OTHER_SPEED)
}

/// Which interfaces the device has described.
#[derive(Debug, Default)]
pub(super) struct Interfaces {
    known: Classes,
    firmware: Classes,
}

impl Interfaces {
    /// Checks an answer, which may be cut: a request may ask for fewer bytes than the device has.
    pub(super) fn see(&mut self, rules: &Rules, mut bytes: &[u8]) -> Result<(), Violation> {
        while let [length, kind, ..] = *bytes {
            // The kernel ignores what follows such a descriptor too.
            if length < 2 {
                return Ok(());
            }
            match (kind, bytes) {
                (DEVICE, [_, _, _, _, class, ..]) if !PER_INTERFACE.contains(class) => {
                    rules.allow_class(*class)?;
                }
                (INTERFACE_DESCRIPTOR, [_, _, number, _, _, class, rest @ ..]) => {
                    rules.allow_class(*class)?;
                    self.shown(*number, *class, rest.first().copied());
                }
                _ => {}
            }
            bytes = bytes.get(usize::from(length)..).unwrap_or_default();
        }
        Ok(())
    }

    /// Notes an interface. One whose subclass was cut off stays unknown.
    const fn shown(&mut self, number: u8, class: u8, subclass: Option<u8>) {
        let Some(subclass) = subclass else { return };
        self.known.add(number);
        if class == FIRMWARE.0 && subclass == FIRMWARE.1 {
            self.firmware.add(number);
        }
    }

    /// Whether a control request is allowed by rules without firmware.
    pub(super) fn allow(&self, [kind, _, _, _, number, ..]: [u8; 8]) -> Result<(), Violation> {
        let is_class = kind & REQUEST_TYPE == CLASS && kind & RECIPIENT == INTERFACE;
        if is_class && (self.firmware.contains(number) || !self.known.contains(number)) {
            return Err(Violation::Firmware);
        }
        Ok(())
    }
}

/// An answer that contains a class is no longer than a setup packet can ask for.
pub(super) const fn bound(length: u32) -> Result<(), Violation> {
    if length > MAX_DESCRIPTORS { Err(Violation::Field(Field::BufferLength)) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use super::super::tests::{answer, control, filter, header, pass, returned, submit};
    use super::super::{Direction, Rules, Side, Submit, Violation};

    const DEVICE: [u8; 18] = [18, 1, 0, 2, 0, 0, 0, 64, 9, 0x12, 0x34, 0x12, 0, 1, 1, 2, 3, 1];

    /// A configuration with interfaces of these classes and subclasses, each followed by an endpoint.
    fn configuration(interfaces: &[(u8, u8)]) -> Vec<u8> {
        let mut all = Vec::from([9, 2, 0, 0, interfaces.len() as u8, 1, 0, 0x80, 50]);
        for (number, (class, subclass)) in (0..).zip(interfaces) {
            all.extend([9, 4, number, 0, 1, *class, *subclass, 0x50, 0]);
            all.extend([7, 5, 0x81, 2, 0, 2, 0]);
        }
        all[2] = all.len() as u8;
        all
    }

    /// Asks for a descriptor of this type and gives this answer.
    fn ask(filter: &mut super::super::Filter, kind: u8, bytes: &[u8]) -> Result<Vec<u8>, Violation> {
        let setup = [0x80, 6, 0, kind, 0, 0, 0xff, 0];
        let asked = Submit { endpoint: 0, setup, ..submit(90, Direction::In, 255) };
        pass(filter, Side::Import, &header(asked)).unwrap();
        let mut said = returned(answer(90, bytes.len() as u32));
        said.extend(bytes);
        // Byte by byte, so that bytes which were passed on too early would be seen.
        let mut out = Vec::new();
        for byte in said {
            out.extend(pass(filter, Side::Export, &[byte])?);
        }
        Ok(out)
    }

    fn rules(words: &str) -> Rules {
        Rules::from_words(words).unwrap()
    }

    #[test]
    fn only_listed_classes_pass() {
        let (storage, keyboard) = (configuration(&[(8, 6)]), configuration(&[(8, 6), (3, 1)]));
        let only_storage = rules("usbip classes=08");
        let mut said = returned(answer(90, storage.len() as u32));
        said.extend(&storage);
        assert_eq!(ask(&mut filter(only_storage), 2, &storage), Ok(said));
        assert_eq!(ask(&mut filter(only_storage), 2, &keyboard), Err(Violation::Class));
        assert_eq!(ask(&mut filter(only_storage), 7, &keyboard), Err(Violation::Class));
        assert!(ask(&mut filter(rules("usbip classes=08,03")), 2, &keyboard).is_ok());
        assert!(ask(&mut filter(rules("usbip")), 2, &keyboard).is_ok());
        // The device's own class counts if it has one.
        for (class, allowed) in [(0, true), (0xef, true), (8, true), (0xe0, false), (9, false)] {
            let mut device = DEVICE;
            device[4] = class;
            assert_eq!(ask(&mut filter(only_storage), 1, &device).is_ok(), allowed, "{class}");
        }
        // A string descriptor is not checked, whatever its bytes look like.
        assert!(ask(&mut filter(only_storage), 3, &keyboard).is_ok());
    }

    #[test]
    fn nothing_of_a_refused_answer_passes_and_a_cut_one_is_read_as_far_as_it_goes() {
        let keyboard = configuration(&[(3, 1)]);
        let mut held = filter(rules("usbip classes=08"));
        let setup = [0x80, 6, 0, 2, 0, 0, 0xff, 0];
        let asked = Submit { endpoint: 0, setup, ..submit(1, Direction::In, 255) };
        pass(&mut held, Side::Import, &header(asked)).unwrap();
        let mut said = returned(answer(1, keyboard.len() as u32));
        said.extend(&keyboard);
        let mut out = Vec::new();
        assert_eq!(held.strain(Side::Export, &said, &mut out), Err(Violation::Class));
        assert_eq!(out, []);
        for cut in [0, 1, 9, 14] {
            let mut filter = filter(rules("usbip classes=08"));
            assert!(ask(&mut filter, 2, &keyboard[..cut]).is_ok(), "{cut}");
        }
        assert_eq!(ask(&mut filter(rules("usbip classes=08")), 2, &keyboard[..15]), Err(Violation::Class));
    }

    #[test]
    fn a_number_is_in_use_until_its_answer_went_on() {
        let mut filter = filter(rules("usbip classes=08"));
        let setup = [0x80, 6, 0, 1, 0, 0, 18, 0];
        let asked = header(Submit { endpoint: 0, setup, ..submit(1, Direction::In, 18) });
        let mut said = returned(answer(1, 18));
        said.extend(DEVICE);
        let (first, rest) = said.split_at(50);
        pass(&mut filter, Side::Import, &asked).unwrap();
        assert_eq!(pass(&mut filter, Side::Export, first), Ok(Vec::new()));
        assert_eq!(filter.pending(), 1);
        assert_eq!(pass(&mut filter, Side::Export, rest), Ok(said.clone()));
        assert_eq!(filter.pending(), 0);
        pass(&mut filter, Side::Import, &asked).unwrap();
        assert_eq!(pass(&mut filter, Side::Export, first), Ok(Vec::new()));
        assert_eq!(pass(&mut filter, Side::Import, &asked), Err(Violation::Reused));
    }

    #[test]
    fn firmware_is_written_to_no_interface_that_is_for_it_or_is_not_known() {
        let request = |number| control(5, [0x21, 1, 0, 0, number, 0, 0, 0]);
        let told = |words, interfaces: &[(u8, u8)], number| {
            let mut filter = filter(rules(words));
            ask(&mut filter, 2, &configuration(interfaces)).unwrap();
            pass(&mut filter, Side::Import, &request(number)).map(|_| ())
        };
        let (storage, both) = ([(8, 6)], [(8, 6), (0xfe, 1)]);
        assert_eq!(told("usbip no-firmware", &storage, 0), Ok(()));
        assert_eq!(told("usbip no-firmware", &both, 0), Ok(()));
        assert_eq!(told("usbip no-firmware", &both, 1), Err(Violation::Firmware));
        assert_eq!(told("usbip no-firmware", &storage, 1), Err(Violation::Firmware), "not known");
        assert_eq!(told("usbip", &both, 1), Ok(()));
        // Requests to the device itself are allowed at any time.
        let mut early = filter(rules("usbip no-firmware"));
        assert!(pass(&mut early, Side::Import, &control(5, [0xa0, 0, 0, 0, 0, 0, 0, 0])).is_ok());
    }

    #[test]
    fn an_answer_with_descriptors_is_bounded() {
        let setup = [0x80, 6, 0, 2, 0, 0, 0xff, 0xff];
        let asked = |length| header(Submit { endpoint: 0, setup, ..submit(1, Direction::In, length) });
        let mut filter = filter(rules("usbip no-firmware"));
        assert!(pass(&mut filter, Side::Import, &asked(0x1_0000)).is_err());
    }

    #[test]
    fn rules_are_words() {
        let all = rules("usbip no-vendor-requests one-configuration no-firmware classes=08,FE");
        assert!(!all.vendor_requests && !all.other_configurations && !all.firmware);
        let classes = all.classes.unwrap();
        let listed: Vec<u8> = (0..=255).filter(|class| classes.contains(*class)).collect();
        assert_eq!(listed, [8, 0xfe]);
        for wrong in [
            "",
            "no-firmware",
            "usbip fast",
            "usbip no-firmware no-firmware",
            "usbip classes=",
            "usbip classes=8",
            "usbip classes=+8",
            "usbip classes=08,",
            "usbip classes=08 classes=03",
            "usbip\tno-firmware",
        ] {
            assert_eq!(Rules::from_words(wrong), None, "{wrong}");
        }
        assert_eq!(all.words(), "usbip no-vendor-requests one-configuration no-firmware classes=08,fe");
        assert_eq!((rules(" usbip "), Rules::default().words().as_str()), (Rules::default(), "usbip"));
    }
}
