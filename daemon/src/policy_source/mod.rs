//! Where decisions come from: the policy files, read in this process, or a program that is asked.

mod disk;
mod files;
mod program;
mod store;
mod watch;
mod ways;

pub use disk::{Disk, read_file};
pub use files::PolicyFiles;
pub(crate) use program::environment;
pub use program::{PolicyProgram, Programs, Readiness};
pub use store::{PolicyStore, SystemFile};
pub use ways::Owner;
