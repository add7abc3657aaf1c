//! `qrexec-agent.exe`: the service of a Windows VM.

fn main() {
    std::process::exit(windows_vm::agent::main());
}
