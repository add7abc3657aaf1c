//! Where a lab's machines have USB devices from: simulated ones, or those of this machine's kernel.

use std::ffi::OsString;
use std::path::Path;

use cli::usb::list::is_port;
use serde::{Deserialize, Serialize};

use super::Error;

/// The services of every machine of such a lab.
pub(super) const SERVICES: [&str; 3] = ["qubes.USB", "qubes.USBAttach", "qubes.USBDetach"];

/// Where a lab's machines have their USB from.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Usb {
    /// The one kernel of this machine, for all of them. Root only.
    Kernel,
    /// A stand-in for each machine, with these devices.
    Simulated(Vec<Plug>),
}

/// A simulated device that is plugged in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plug {
    /// The machine that has it.
    pub vm: String,
    /// Where it is plugged in, as `1-1`.
    pub port: String,
    /// stick, camera or keyboard.
    pub kind: String,
}

/// An argument that names no device.
#[derive(Debug, thiserror::Error)]
pub(super) enum NoDevice {
    #[error("VM:PORT=KIND is wanted, where KIND is stick, camera or keyboard")]
    Plug,
    #[error("VM:PORT is wanted, as in vault:1-1")]
    Device,
}

/// `VM:PORT=KIND`.
pub(super) fn plug(text: &str) -> Result<Plug, NoDevice> {
    let parts = || {
        let (vm, rest) = text.split_once(':')?;
        let (port, kind) = rest.split_once('=')?;
        // As the stand-in will see it.
        usb_sim::kernel::Plugged::new(port, kind)?;
        Some(Plug { vm: vm.into(), port: port.into(), kind: kind.into() })
    };
    parts().ok_or(NoDevice::Plug)
}

/// A device of a machine, on the command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Named {
    pub(super) vm: String,
    pub(super) device: String,
}

/// `VM:PORT`, or `VM:0xVVVV.0xPPPP`.
pub(super) fn named(text: &str) -> Result<Named, NoDevice> {
    let (vm, device) = text.split_once(':').ok_or(NoDevice::Device)?;
    Ok(Named { vm: vm.into(), device: device.into() })
}

impl Usb {
    /// Checks that each device belongs to one of these machines, and that no port is taken twice.
    pub(super) fn check(&self, vms: &[String]) -> Result<(), Error> {
        let Self::Simulated(plugs) = self else { return Ok(()) };
        for (index, plug) in plugs.iter().enumerate() {
            if !vms.contains(&plug.vm) {
                return Err(Error::unknown_vm(&plug.vm));
            }
            if !is_port(&plug.port) {
                return Err(Error::new(format!(
                    "{:?} is no port: ports are written as 1-1 or 2-1.4",
                    plug.port
                )));
            }
            let is_same = |other: &Plug| other.vm == plug.vm && other.port == plug.port;
            if plugs.iter().take(index).any(is_same) {
                return Err(Error::new(format!("{}:{} is given twice", plug.vm, plug.port)));
            }
        }
        Ok(())
    }

    pub(super) const fn is_simulated(&self) -> bool {
        matches!(self, Self::Simulated(_))
    }

    /// The arguments of the stand-in for the kernel of `vm`, whose folder is `machine`.
    pub(super) fn stand_in(&self, machine: &Path, vm: &str) -> Vec<OsString> {
        let mut args = vec!["kernel".into(), "--root".into(), machine.into()];
        if let Self::Simulated(plugs) = self {
            for plug in plugs.iter().filter(|plug| plug.vm == vm) {
                args.extend(["--plug".into(), format!("{}={}", plug.port, plug.kind).into()]);
            }
        }
        args
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_named_with_their_machine() {
        let wanted = Plug { vm: "vault".into(), port: "1-1".into(), kind: "stick".into() };
        assert_eq!(plug("vault:1-1=stick").unwrap(), wanted);
        assert!(
            ["vault", "vault:1-1", "1-1=stick", "vault:1-1=toaster"].iter().all(|bad| plug(bad).is_err())
        );
        assert_eq!(named("vault:1-1").unwrap(), Named { vm: "vault".into(), device: "1-1".into() });
        assert!(named("1-1").is_err());
    }

    #[test]
    fn each_device_has_a_machine_and_a_port_of_its_own() {
        let vms = ["work".to_owned(), "vault".to_owned()];
        let check = |plugs: &[&str]| {
            Usb::Simulated(plugs.iter().map(|text| plug(text).unwrap()).collect()).check(&vms).is_ok()
        };
        assert!(check(&["vault:1-1=stick", "work:1-1=camera", "vault:1-1.2=keyboard"]));
        for bad in
            [&["nobody:1-1=stick"][..], &["vault:../x=stick"], &["vault:1-1=stick", "vault:1-1=camera"]]
        {
            assert!(!check(bad), "{bad:?}");
        }
    }
}
