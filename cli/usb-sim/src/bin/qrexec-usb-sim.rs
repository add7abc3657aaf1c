//! `qrexec-usb-sim`; see `--help`.
#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    cli::multicall::single("qrexec-usb-sim", usb_sim::main, usb_sim::command)
}
