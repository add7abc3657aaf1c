//! Where decisions come from: the policy files, read in this process, or a program that is asked.

mod disk;
mod files;
mod program;

pub use disk::Disk;
pub use files::PolicyFiles;
pub use program::{Programs, Readiness};
