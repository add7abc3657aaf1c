//! What qubes there are: from a file, or from `qubesd`.

use std::path::PathBuf;
use std::sync::Arc;

use daemon::policy_source::SystemFile;
use policy::{SystemError, SystemInfo};
use wire::names::{NameError, Target};

use crate::qubesd;

/// Where the system information comes from. There is no falling back from one to the other.
#[derive(Debug)]
pub enum SystemSource {
    /// A file, read anew when it changes.
    File(SystemFile),
    /// `qubesd`, asked for every decision: it tells nobody of changes.
    Qubesd,
}

/// Why there is no system information: every call is denied then.
#[derive(Debug, thiserror::Error)]
pub enum NoSystem {
    /// The file does not give it.
    #[error("{0}")]
    File(#[from] daemon::policy_source::NoSystem),
    /// `qubesd` cannot be reached, or refuses.
    #[error("{0}")]
    Qubesd(#[from] qubesd::Error),
    /// No qube has that name.
    #[error("{0}")]
    Name(#[from] NameError),
    /// Asking ended in a panic, which is in the log.
    #[error("asking qubesd failed in an unexpected way")]
    Panicked,
    /// The answer of `qubesd` is no system.
    #[error("{0}")]
    Answer(#[from] SystemError),
}

impl SystemSource {
    /// The file if one is named, else `qubesd`.
    #[must_use]
    pub fn new(file: Option<PathBuf>) -> Self {
        file.map_or(Self::Qubesd, |path| Self::File(SystemFile::new(path)))
    }

    /// The system of this moment; with `qubesd` this may take a while.
    ///
    /// # Errors
    /// Why there is none; every call is denied then.
    pub fn current(&mut self) -> Result<Arc<SystemInfo>, NoSystem> {
        match self {
            Self::File(file) => Ok(file.current()?),
            Self::Qubesd => ask_qubesd().map(Arc::new),
        }
    }
}

/// The system as `qubesd` knows it.
///
/// # Errors
/// It cannot be reached, or its answer is no system.
pub fn ask_qubesd() -> Result<SystemInfo, NoSystem> {
    let dom0 = Target::new("dom0")?;
    let text = qubesd::call(qubesd::Socket::Internal, "internal.GetSystemInfo", &dom0, b"")?;
    Ok(SystemInfo::from_json(&text)?)
}
