//! Access for the fuzz targets in `tests/fuzz`; in builds with `--cfg fuzzing` only.

use crate::fork_server::request::Decoder;

/// Decodes a request that arrives in these pieces. Returns the request, encoded again.
///
/// # Errors
/// Why it is no request.
pub fn fork_request<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> Result<Option<Vec<u8>>, String> {
    let mut decoder = Decoder::default();
    let mut said = None;
    for piece in pieces {
        said = decoder.feed(piece).map_err(|error| error.to_string())?;
    }
    Ok(said.map(|request| request.encode()))
}
