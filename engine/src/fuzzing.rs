#![forbid(unsafe_code)]
//! Access for the fuzz targets in `tests/fuzz`; only in builds with `--cfg fuzzing`.

use crate::exec::{ConfigError, ServiceConfig, config};

/// Reads the text of a service's configuration. Returns the settings, and how many keys were unknown.
///
/// # Errors
/// The first line that is wrong, or settings that do not go together.
pub fn service_config(text: &[u8]) -> Result<(ServiceConfig, usize), ConfigError> {
    let parsed = config::parse(text)?;
    Ok((parsed.config, parsed.unknown.len()))
}
