//! Where decisions come from: the policy files, read in this process, or a program that is asked.

mod disk;
mod files;
mod program;
mod request_form;
mod store;
mod watch;

pub use disk::{Disk, read_file};
pub use files::PolicyFiles;
pub(crate) use program::environment;
pub use program::{PolicyProgram, Programs, Readiness};
pub use request_form::Owner;
pub use store::{NoSystem, PolicyStore, SystemFile};
