//! placeholder replaced in this commit series
pub mod exec;
pub mod link;
pub mod namespace;
pub mod process;
pub mod reactor;
