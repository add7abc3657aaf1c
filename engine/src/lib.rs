//! placeholder replaced in this commit series
pub mod link;
pub mod process;
pub mod reactor;
