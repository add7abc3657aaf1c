//! VMs of a lab that are Windows, as far as wine is.
//!
//! Such a VM's agent and clients are the programs for Windows, with a stand-in for `libvchan.dll` beside them. The stand-in
//! reaches the lab's other machines by a stream on the loopback: to the relay here, which is a process of the VM like its
//! agent, and speaks the socket transport for it. Each VM has a registry, pipes and a service manager of its own; the rest
//! of wine is shared.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, symlink};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::Error;

/// The variable that names the folder which `cargo xtask windows` has filled.
pub const WINDOWS_DIR: &str = "QREXEC_WINDOWS_DIR";
/// The variable that names wine's program.
const WINE: &str = "QREXEC_WINE";
/// Where Debian has it, and where others have it.
const WINES: [&str; 3] = ["/usr/lib/wine/wine64", "/usr/bin/wine64", "/usr/bin/wine"];
/// The file by which the stand-in finds the relay, beside the programs.
const RELAY: &str = "libvchan.relay";

/// The Windows VMs of a lab.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Windows {
    /// Their names.
    pub vms: Vec<String>,
    /// Programs, stand-in, and a fresh installation of wine.
    pub folder: PathBuf,
    /// wine itself.
    pub wine: PathBuf,
}

impl Windows {
    /// What this machine has for them.
    ///
    /// # Errors
    /// No wine, or no programs.
    pub fn of_this_machine() -> Result<Self, Error> {
        let folder = std::env::var_os(WINDOWS_DIR).map(PathBuf::from).ok_or_else(|| {
            Error::new(format!("a Windows VM wants {WINDOWS_DIR}: cargo xtask windows makes such a folder"))
        })?;
        let folder = fs::canonicalize(&folder)
            .map_err(|error| Error::io(format!("cannot use {}", folder.display()), error))?;
        let wine = match std::env::var_os(WINE) {
            Some(told) => Some(PathBuf::from(told)),
            None => WINES.iter().map(PathBuf::from).find(|path| path.exists()),
        };
        let wine = wine.ok_or_else(|| Error::new("a Windows VM wants wine: install wine64"))?;
        Ok(Self { vms: Vec::new(), folder, wine })
    }
}

/// The folders of one such VM.
pub(super) struct WindowsRooms {
    machine: PathBuf,
}

impl WindowsRooms {
    /// The rooms below the machine's folder.
    pub(super) fn new(machine: PathBuf) -> Self {
        Self { machine }
    }

    /// wine's folder: registry and drives.
    pub(super) fn prefix(&self) -> PathBuf {
        self.machine.join("prefix")
    }

    /// Where the relay says where it is.
    pub(super) fn relay(&self) -> PathBuf {
        self.tools().join("bin").join(RELAY)
    }

    /// The installation of qrexec.
    pub(super) fn tools(&self) -> PathBuf {
        self.machine.join("tools")
    }

    /// What makes a process part of the VM, beside what all VMs have.
    pub(super) fn environment(&self) -> [(&'static str, String); 3] {
        [
            ("WINEPREFIX", self.prefix().display().to_string()),
            ("WINEDEBUG", "-all".to_owned()),
            ("WINEDLLOVERRIDES", "mscoree,mshtml=".to_owned()),
        ]
    }

    /// Makes the VM's folders; those of every VM are there.
    pub(super) fn build(&self, windows: &Windows, services: &Path, bin: &Path) -> Result<(), Error> {
        let made = || -> io::Result<()> {
            let (prefix, fresh) = (self.prefix(), windows.folder.join("prefix"));
            for folder in ["prefix", "prefix/dosdevices", "prefix/drive_c", "prefix/drive_c/users", "tools"] {
                private_folder(&self.machine.join(folder))?;
            }
            // The registry is the VM's own; the programs of Windows are everybody's.
            for file in ["system.reg", "user.reg", "userdef.reg", ".update-timestamp"] {
                fs::copy(fresh.join(file), prefix.join(file))?;
            }
            for entry in fs::read_dir(fresh.join("drive_c"))? {
                let entry = entry?;
                if entry.file_name() != "users" {
                    symlink(entry.path(), prefix.join("drive_c").join(entry.file_name()))?;
                }
            }
            symlink("../drive_c", prefix.join("dosdevices/c:"))?;
            symlink("/", prefix.join("dosdevices/z:"))?;
            let tools = self.tools();
            private_folder(&tools.join("bin"))?;
            private_folder(&tools.join("qubes-rpc-services"))?;
            symlink(services, tools.join("qubes-rpc"))?;
            for file in ["qrexec-agent.exe", "qrexec-client-vm.exe", "libvchan.dll"] {
                symlink(windows.folder.join("bin").join(file), tools.join("bin").join(file))?;
            }
            let wine = windows.wine.display();
            for (name, program) in [("qrexec-client-vm", "qrexec-client-vm.exe"), ("wine", "")] {
                let program = match program {
                    "" => String::new(),
                    program => format!(" '{}'", tools.join("bin").join(program).display()),
                };
                let text = format!("#!/bin/sh\nexec '{wine}'{program} \"$@\"\n");
                let mut file =
                    File::options().write(true).create_new(true).mode(0o700).open(bin.join(name))?;
                file.write_all(text.as_bytes())?;
            }
            Ok(())
        };
        made().map_err(|error| Error::io("cannot make a Windows VM", error))
    }
}

fn private_folder(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// The service that a Windows VM has by itself.
pub(super) const SHELL: (&str, &str) = ("qubes.VMShell", "c:\\windows\\system32\\cmd.exe\r\n");
