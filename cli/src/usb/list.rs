//! Which devices a machine has, and which of other machines' devices it uses: what sysfs and the state files say.

use std::path::Path;

use super::import::Imported;
use super::names::{PortId, vendor_product};
use super::tree::{DEVICES, RUN, Tree};

/// A device of a machine that another may have: no hub, and not itself imported.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// Where it is plugged in.
    pub port: String,
    /// `vvvv:pppp`.
    pub id: String,
    /// In Mbit/s, as the kernel writes it.
    pub speed: String,
    /// Whether its driver says that somebody has it.
    pub is_used: bool,
}

impl Device {
    /// Whether these words of `qubes.USBAttach` mean it.
    #[must_use]
    pub fn is_named(&self, words: &str) -> bool {
        let by_id = vendor_product(words).map(|(vendor, product)| format!("{vendor}:{product}"));
        by_id.map_or_else(|| self.port == words, |id| id == self.id)
    }
}

/// A device that a machine has got from another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Taken {
    /// Whose it is.
    pub export: String,
    /// How it was named when it was attached.
    pub device: String,
}

/// Whether something can be plugged in there.
#[must_use]
pub fn is_port(text: &str) -> bool {
    PortId::parse(text).is_some()
}

/// The devices of the system below `root`, by their ports.
#[must_use]
pub fn devices(root: &Path) -> Vec<Device> {
    let tree = Tree::at(root);
    let mut found: Vec<_> = tree.names(DEVICES).iter().filter_map(|name| device(&tree, name)).collect();
    found.sort_by(|one, other| one.port.cmp(&other.port));
    found
}

fn device(tree: &Tree, name: &str) -> Option<Device> {
    let port = PortId::parse(name)?;
    let folder = tree.folder(&format!("{DEVICES}/{name}")).ok()?;
    let path = folder.real_path().ok()?;
    let is_imported =
        path.components().any(|part| part.as_os_str().to_string_lossy().starts_with("vhci_hcd"));
    if is_imported || folder.read("bDeviceClass").ok()? == "09" {
        return None;
    }
    Some(Device {
        port: port.as_str().to_owned(),
        id: format!("{}:{}", folder.read("idVendor").ok()?, folder.read("idProduct").ok()?),
        speed: folder.read("speed").unwrap_or_default(),
        is_used: folder.read("usbip_status").is_ok_and(|status| status == super::export::USED),
    })
}

/// What the machine whose system is below `root` has of others; of what is gone nothing.
#[must_use]
pub fn taken(root: &Path) -> Vec<Taken> {
    let tree = Tree::at(root);
    let is_there = |name: &String| {
        Imported::read(&tree.path(RUN).join(name)).is_some_and(|imported| imported.is_there(&tree))
    };
    let names = tree.names(RUN).into_iter().filter(is_there);
    let mut taken: Vec<_> = names.filter_map(|name| from_state_file(&name)).collect();
    taken.sort_by(|one, other| (&one.export, &one.device).cmp(&(&other.export, &other.device)));
    taken
}

/// `usb-import-VM-DEVICE.state`, where both VM and DEVICE may have dashes.
fn from_state_file(name: &str) -> Option<Taken> {
    let words = name.strip_prefix("usb-import-")?.strip_suffix(".state")?;
    let taken = |export: &str, device: &str| Taken { export: export.to_owned(), device: device.to_owned() };
    let (before, last) = words.rsplit_once('-')?;
    if vendor_product(last).is_some() {
        return Some(taken(before, last));
    }
    let (export, bus) = before.rsplit_once('-')?;
    let port = PortId::parse(&format!("{bus}-{last}"))?;
    Some(taken(export, port.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_file_says_whose_device_it_is_about() {
        let read = |name: &str| from_state_file(name).map(|taken| (taken.export, taken.device));
        let pair = |export: &str, device: &str| Some((export.to_owned(), device.to_owned()));
        assert_eq!(read("usb-import-sys-usb-2-1.4.state"), pair("sys-usb", "2-1.4"));
        assert_eq!(read("usb-import-vault-0x1209.0x0001.state"), pair("vault", "0x1209.0x0001"));
        for bad in
            ["usb-import.lock", "usb-import-2-1.state", "usb-import-vault-2-x.state", "usb-export-2-1.pid"]
        {
            assert_eq!(read(bad), None, "{bad}");
        }
    }
}
