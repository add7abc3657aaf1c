//! Programs without a lab around them.

use std::os::unix::fs::DirBuilderExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

/// A folder in which [`program`] can work.
pub(crate) fn folder() -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    std::fs::DirBuilder::new().mode(0o700).create(root.path().join("shm")).unwrap();
    root
}

/// A program of the domain `own`, with all that it needs in this folder, services included.
pub(crate) fn program(root: &Path, own: &str, args: &[&str]) -> Command {
    let mut command = Command::new(super::EXE);
    command.arg0(args[0]).args(&args[1..]).stdin(Stdio::null());
    command.env("QREXEC_TRANSPORT", "shm").env("QREXEC_SHM_DIR", root.join("shm")).env("VCHAN_DOMAIN", own);
    for name in ["QREXEC_SOCKET_DIR", "QREXEC_LOG_DIR", "QREXEC_SERVICE_PATH"] {
        command.env(name, root);
    }
    for name in ["QREXEC_SYSTEM_INFO", "QUBES_RPC_CONFIG_PATH"] {
        command.env(name, root.join("none"));
    }
    command.env("QREXEC_AGENT_SOCKET", root.join("agent"));
    for name in ["QREXEC_LOG", "RUST_LOG", "JOURNAL_STREAM"] {
        command.env_remove(name);
    }
    command
}
