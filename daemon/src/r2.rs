//! The daemon of protocol 1: all calls from and to one VM of R1 or R2, on one link.
//!
//! | module | one job |
//! |---|---|
//! | `client` | one program of dom0 on the local socket |
//! | `policy` | the policy program, one for each request of the VM |
//! | `serve` | the loop |

mod client;
mod multiplexed;
mod policy;
mod token;

use std::path::{Path, PathBuf};

pub use multiplexed::{Setup, run};

/// The file beside a daemon's socket by which clients know that it speaks protocol 1: it says nothing first.
#[must_use]
pub fn marker(folder: &Path, qube: &str) -> PathBuf {
    folder.join(format!("qrexec.{qube}.protocol-1"))
}
