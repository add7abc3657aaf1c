//! placeholder replaced in this commit series
pub mod reactor;
pub mod process;
