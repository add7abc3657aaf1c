//! `qrexec-client-vm.exe`: asks for a service of another qube.

fn main() {
    std::process::exit(windows_vm::client::run());
}
