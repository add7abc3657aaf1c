#![allow(unsafe_code)] // one ioctl(2)
//! Operations on a USB device itself, by its node below `/dev/bus/usb`.

use std::io;
use std::os::fd::AsFd;

use rustix::ioctl::{NoArg, ioctl, opcode};

/// `USBDEVFS_RESET` of the kernel's `usbdevice_fs.h`.
const RESET: rustix::ioctl::Opcode = opcode::none(b'U', 20);

/// Resets the device and has the kernel enumerate it anew; it keeps its place if its descriptors are the same as before.
///
/// # Errors
/// `node` is not open for writing, no node of a USB device, or the device does not come back.
pub fn reset(node: impl AsFd) -> io::Result<()> {
    // SAFETY: the operation is `_IO('U', 20)`, which has no argument.
    let operation = unsafe { NoArg::<RESET>::new() };
    // SAFETY: without an argument the kernel touches no memory of this process; a descriptor that is no USB device's node
    // answers ENOTTY. The descriptor is borrowed for the call.
    Ok(unsafe { ioctl(node, operation) }?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_usb_device_is_refused() {
        let null = std::fs::File::options().write(true).open("/dev/null").unwrap();
        assert_eq!(reset(null).unwrap_err().raw_os_error(), Some(libc::ENOTTY));
    }
}
