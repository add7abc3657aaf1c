#![forbid(unsafe_code)]
//! Doors for the targets in `tests/fuzz`; in builds with `--cfg fuzzing` only.

use crate::exec::{ConfigError, ServiceConfig, config};

/// Reads the text of a service's configuration: the settings, and how many unknown keys were passed over.
///
/// # Errors
/// The first line that is wrong, or settings that do not go together.
pub fn service_config(text: &[u8]) -> Result<(ServiceConfig, usize), ConfigError> {
    let parsed = config::parse(text)?;
    Ok((parsed.config, parsed.unknown.len()))
}
