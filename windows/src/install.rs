//! Installing and removing the service, and the installation's entries in the registry.

use std::io;
use std::path::PathBuf;

use crate::sys::{registry, service};

/// The folder of this program.
pub(crate) fn folder() -> io::Result<PathBuf> {
    let own = std::env::current_exe()?;
    Ok(own.parent().unwrap_or(&own).to_owned())
}

/// The folder above that of the programs.
fn root() -> io::Result<PathBuf> {
    let folder = folder()?;
    Ok(folder.parent().unwrap_or(&folder).to_owned())
}

/// Where the service writes its log.
pub(crate) fn log_folder() -> io::Result<PathBuf> {
    Ok(root()?.join("log"))
}

/// Installs the service, and records in the registry where it is.
pub(crate) fn install() -> io::Result<()> {
    let root = root()?.display().to_string();
    service::create(&std::env::current_exe()?)?;
    registry::set(registry::OURS, "InstallDir", &root)?;
    registry::set(registry::OURS, "LogDir", &log_folder()?.display().to_string())?;
    registry::set(registry::ENVIRONMENT, "QUBES_TOOLS", &root)
}

/// Removes the service and its entries in the registry.
pub(crate) fn uninstall() -> io::Result<()> {
    service::delete()?;
    registry::remove(registry::OURS, "InstallDir")?;
    registry::remove(registry::OURS, "LogDir")?;
    registry::remove(registry::ENVIRONMENT, "QUBES_TOOLS")
}

/// Reports the result. Returns the exit status.
pub(crate) fn say(result: io::Result<()>) -> i32 {
    match result {
        Ok(()) => 0,
        Err(error) => {
            eprintln!("qrexec-agent: {error}");
            error.raw_os_error().unwrap_or(1)
        }
    }
}
