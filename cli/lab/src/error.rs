//! What goes wrong in a lab, as a sentence for the person who started it.

use std::io;

/// A lab that could not be built, started or reached.
#[derive(Debug, thiserror::Error)]
#[error("{what}{}", .cause.as_ref().map(|cause| format!(": {cause}")).unwrap_or_default())]
pub struct Error {
    what: String,
    #[source]
    cause: Option<io::Error>,
}

impl Error {
    /// An error of its own.
    pub fn new(what: impl Into<String>) -> Self {
        Self { what: what.into(), cause: None }
    }

    /// An error of the operating system while doing `what`.
    pub fn io(what: impl Into<String>, cause: impl Into<io::Error>) -> Self {
        Self { what: what.into(), cause: Some(cause.into()) }
    }

    /// A machine that the lab does not have.
    pub fn unknown_vm(name: &str) -> Self {
        Self::new(format!("there is no machine {name:?} in this lab"))
    }
}
