#!/bin/bash
# PyPI usbip 0.7.0 and crate usbip 0.9.0: the two ready-made simulated devices that speak USB/IP.
#
# One would think: an answer's devid, direction and endpoint are 0, as the kernel's documentation of
# the protocol demands and as Linux's own usbip-host sends; a filter may insist on it.
#
# What happens: both public device libraries turn the request's header round and change the command
# only: RET_SUBMIT and RET_UNLINK come back with devid, direction and endpoint of the request. Linux
# imports such a device without complaint, since it never looks at these fields.
#
# For this project: a validating relay (`filter=usbip`) that refuses a RET with non-zero fields
# refuses every device made with these libraries, the camera of our own tests among them. Refusing
# would gain nothing: the kernel behind the relay does not read the fields. The relay writes zeros
# there in the copy that it sends on, and counts nothing.
#
# Source: the kernel's usbip_protocol.rst, table of usbip_header_basic.
set -u
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
cd "$work" || exit 1
python3 -m venv env && env/bin/pip install -q --disable-pip-version-check usbip==0.7.0 || exit 1
mkdir -p device/src
cat >device/Cargo.toml <<'EOF'
[package]
name = "device"
version = "0.0.0"
edition = "2021"
[dependencies]
usbip = "=0.9.0"
tokio = { version = "1", features = ["rt", "sync", "net", "io-util", "macros"] }
[profile.dev]
debug = 0
EOF
# Serves a keyboard on descriptor 0, a socket.
cat >device/src/main.rs <<'EOF'
use std::os::fd::FromRawFd;
use std::sync::{Arc, Mutex};
use usbip::{hid::UsbHidKeyboardHandler, ClassCode, UsbDevice, UsbEndpoint, UsbInterfaceHandler, UsbIpServer};

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let keys: Box<dyn UsbInterfaceHandler + Send> = Box::new(UsbHidKeyboardHandler::new_keyboard());
    let input = UsbEndpoint { address: 0x81, attributes: 3, max_packet_size: 8, interval: 10 };
    let device = UsbDevice::new(2).with_interface(ClassCode::HID as u8, 0, 0, None, vec![input], Arc::new(Mutex::new(keys)));
    let stream = unsafe { std::os::unix::net::UnixStream::from_raw_fd(0) };
    stream.set_nonblocking(true).unwrap();
    let mut stream = tokio::net::UnixStream::from_std(stream).unwrap();
    usbip::handler(&mut stream, Arc::new(UsbIpServer::new_simulated(vec![device]))).await.unwrap();
}
EOF
(cd device && CARGO_TARGET_DIR=$work/target cargo build -q) || exit 1
cat >ask.py <<'EOF'
import socket, struct, subprocess, sys, threading
import usbip
from usbip import protocol


def exactly(link, count):
    data = b""
    while len(data) < count:
        data += link.recv(count - len(data)) or sys.exit("the device is gone")
    return data


def ask(link, bus):
    """Imports the device, reads its descriptor, cancels a request that is answered already."""
    link.sendall(struct.pack(">HHI", 0x0111, 0x8003, 0) + bus.ljust(32, b"\0"))
    exactly(link, 8 + 312)
    setup = bytes([0x80, 6, 0, 1, 0, 0, 18, 0])
    link.sendall(struct.pack(">6I4i", 1, 7, 0x10002, 1, 0, 0x200, 18, 0, 0, 0) + setup)
    submit = struct.unpack(">5I", exactly(link, 48)[:20])
    exactly(link, 18)
    link.sendall(struct.pack(">6I", 2, 8, 0x10002, 0, 0, 7) + bytes(24))
    unlink = struct.unpack(">5I", exactly(link, 48)[:20])
    link.close()
    return submit, unlink


ours, theirs = socket.socketpair()
device = usbip.USBDevice(0x1209, 0x0001)
device.busid = "1-1"
threading.Thread(target=protocol.serve_connection, args=(theirs, [device]), daemon=True).start()
seen = [("PyPI usbip 0.7.0", ask(ours, b"1-1"))]
ours, theirs = socket.socketpair()
child = subprocess.Popen(["target/debug/device"], stdin=theirs)
theirs.close()
seen.append(("crate usbip 0.9.0", ask(ours, b"0-0-0")))
child.wait(10)
bad = 0
for name, (submit, unlink) in seen:
    print(f"{name}: RET_SUBMIT command {submit[0]} seqnum {submit[1]} devid {submit[2]:#x} direction {submit[3]}; "
          f"RET_UNLINK command {unlink[0]} seqnum {unlink[1]} devid {unlink[2]:#x}")
    bad += submit != (3, 7, 0x10002, 1, 0) or unlink[:3] != (4, 8, 0x10002)
sys.exit(bad != 0)
EOF
echo "guess: devid 0 and direction 0 in every answer"
env/bin/python ask.py

# seen (2026-11-30):
#   guess: devid 0 and direction 0 in every answer
#   PyPI usbip 0.7.0: RET_SUBMIT command 3 seqnum 7 devid 0x10002 direction 1; RET_UNLINK command 4 seqnum 8 devid 0x10002
#   crate usbip 0.9.0: RET_SUBMIT command 3 seqnum 7 devid 0x10002 direction 1; RET_UNLINK command 4 seqnum 8 devid 0x10002
