//! Everything that can be measured.

mod calls;
mod copy;
mod cpu;
mod latency;
mod life;
mod profile;
mod remote;
mod scale;
mod throughput;
mod usb;

use super::scenario::Scenario;

pub(super) use copy::NAME as COPY;
pub(super) use profile::{FILTER as PROFILE_FILTER, NAME as PROFILE};

/// All scenarios, in the order in which they are run.
pub(super) const ALL: &[&dyn Scenario] = &[
    &throughput::Throughput,
    &cpu::Cpu,
    &life::Life,
    &latency::Latency,
    &calls::Calls,
    &scale::Scale,
    &copy::Copy,
    &remote::Remote,
    &usb::Commands,
    &usb::Control,
    &usb::Isochronous,
    &profile::Profile,
];

/// The ones that are run unless others are named.
pub(super) const DEFAULT: [&str; 3] = ["throughput", "latency", "calls"];
