//! What qubes there are: from a file, or from `qubesd`.

use std::path::PathBuf;
use std::sync::Arc;

use daemon::policy_source::SystemFile;
use policy::SystemInfo;
use wire::names::Target;

use crate::qubesd;

/// Where the system information comes from. There is no falling back from one to the other.
#[derive(Debug)]
pub enum SystemSource {
    /// A file, read anew when it changes.
    File(SystemFile),
    /// `qubesd`, asked for every decision: it tells nobody of changes.
    Qubesd,
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
    pub fn current(&mut self) -> Result<Arc<SystemInfo>, String> {
        match self {
            Self::File(file) => file.current(),
            Self::Qubesd => ask_qubesd().map(Arc::new),
        }
    }
}

/// The system as `qubesd` knows it.
///
/// # Errors
/// It cannot be reached, or its answer is no system.
pub fn ask_qubesd() -> Result<SystemInfo, String> {
    let dom0 = Target::new("dom0").map_err(|error| error.to_string())?;
    let text = qubesd::call(qubesd::Socket::Internal, "internal.GetSystemInfo", &dom0, b"")
        .map_err(|error| error.to_string())?;
    SystemInfo::from_json(&text).map_err(|error| error.to_string())
}
