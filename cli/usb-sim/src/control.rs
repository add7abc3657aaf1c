//! Endpoint 0: what every device answers.

use wire::usbip::{Direction, Submit};

use crate::answers::{Answers, errno};
use crate::description::{BOS, CONFIGURATION, DEVICE, Description, QUALIFIER, REPORT, STRING};
use crate::function::{Function, Setup};

/// Bits of a request's kind.
const IN: u8 = 0x80;
const TYPE: u8 = 0x60;

/// To whom and which way a standard request goes, and its number.
const GET_DEVICE_STATUS: (u8, u8) = (0x80, 0);
const GET_INTERFACE_STATUS: (u8, u8) = (0x81, 0);
const GET_ENDPOINT_STATUS: (u8, u8) = (0x82, 0);
const CLEAR_DEVICE_FEATURE: (u8, u8) = (0x00, 1);
const CLEAR_INTERFACE_FEATURE: (u8, u8) = (0x01, 1);
const CLEAR_ENDPOINT_FEATURE: (u8, u8) = (0x02, 1);
const SET_DEVICE_FEATURE: (u8, u8) = (0x00, 3);
const SET_INTERFACE_FEATURE: (u8, u8) = (0x01, 3);
const GET_DESCRIPTOR: (u8, u8) = (0x80, 6);
const GET_INTERFACE_DESCRIPTOR: (u8, u8) = (0x81, 6);
const GET_CONFIGURATION: (u8, u8) = (0x80, 8);
const SET_CONFIGURATION: (u8, u8) = (0x00, 9);
const GET_INTERFACE: (u8, u8) = (0x81, 10);
const SET_INTERFACE: (u8, u8) = (0x01, 11);
const SET_SEL: (u8, u8) = (0x00, 0x30);
const SET_ISOCH_DELAY: (u8, u8) = (0x00, 0x31);

/// The languages of the strings: one, English.
const LANGUAGES: [u8; 4] = [4, STRING, 0x09, 0x04];

/// The state that every device has.
#[derive(Debug)]
pub(crate) struct Control {
    description: Description,
    configuration: u8,
    setting: u8,
}

impl Control {
    pub(crate) const fn new(description: Description) -> Self {
        Self { description, configuration: 0, setting: 0 }
    }

    /// Answers a control transfer.
    pub(crate) fn submit(
        &mut self,
        submit: &Submit,
        data: &[u8],
        function: &mut dyn Function,
        answers: &mut Answers,
    ) {
        let setup = Setup::from(submit.setup);
        let reply = match setup.kind & TYPE {
            0 => self.standard(setup, function, answers),
            _ => function.control(setup, data),
        };
        // The setup packet says which way its data go; a request that says otherwise is none.
        let goes_in = setup.kind & IN != 0 && setup.length > 0;
        match reply {
            Some(mut reply) if goes_in && submit.direction == Direction::In => {
                reply.truncate((submit.length as usize).min(usize::from(setup.length)));
                let _: Result<(), ()> = answers.data(submit.seqnum, |into| {
                    into.append(&mut reply);
                    Ok(())
                });
            }
            Some(_) if !goes_in => answers.taken(submit.seqnum, data.len()),
            _ => answers.failed(submit.seqnum, errno::STALL),
        }
    }

    fn standard(
        &mut self,
        setup: Setup,
        function: &mut dyn Function,
        answers: &mut Answers,
    ) -> Option<Vec<u8>> {
        let [low, high] = setup.value.to_le_bytes();
        let [index, _] = setup.index.to_le_bytes();
        match (setup.kind, setup.request) {
            GET_DEVICE_STATUS | GET_INTERFACE_STATUS | GET_ENDPOINT_STATUS => Some(vec![0, 0]),
            GET_DESCRIPTOR => self.descriptor(high, low),
            GET_INTERFACE_DESCRIPTOR if high == REPORT && !self.description.report.is_empty() => {
                Some(self.description.report.to_vec())
            }
            GET_CONFIGURATION => Some(vec![self.configuration]),
            SET_CONFIGURATION if low < 2 => {
                (self.configuration, self.setting) = (low, 0);
                function.settle();
                Some(Vec::new())
            }
            GET_INTERFACE => Some(vec![self.setting]),
            SET_INTERFACE if low < 2 => {
                self.setting = low;
                function.settle();
                Some(Vec::new())
            }
            CLEAR_ENDPOINT_FEATURE => {
                function.clear_halt(index, answers);
                Some(Vec::new())
            }
            CLEAR_DEVICE_FEATURE
            | CLEAR_INTERFACE_FEATURE
            | SET_DEVICE_FEATURE
            | SET_INTERFACE_FEATURE
            | SET_SEL
            | SET_ISOCH_DELAY => Some(Vec::new()),
            _ => None,
        }
    }

    fn descriptor(&self, kind: u8, number: u8) -> Option<Vec<u8>> {
        let description = &self.description;
        match kind {
            DEVICE => Some(description.device.clone()),
            CONFIGURATION if number == 0 => Some(description.configuration.clone()),
            BOS if !description.bos.is_empty() => Some(description.bos.clone()),
            QUALIFIER => description.qualifier.clone(),
            STRING if number == 0 => Some(LANGUAGES.to_vec()),
            STRING => {
                let text = description.strings.get(usize::from(number).checked_sub(1)?)?;
                let units: Vec<u8> = text.encode_utf16().flat_map(u16::to_le_bytes).collect();
                let length = u8::try_from(units.len() + 2).ok()?;
                Some([&[length, STRING][..], &units].concat())
            }
            _ => None,
        }
    }
}
