//! qrexec inside a Windows VM: `qrexec-agent.exe`, the service, and `qrexec-client-vm.exe`, by which programs call.
//!
//! | module | what it holds |
//! |---|---|
//! | [`service_file`] | the one command line of a service file |
//! | [`service_name`] | which names of services may become names of files |
//! | [`words`] | the words of `qrexec-client-vm.exe`, of every age |
//! | [`codes`] | exit codes |
//! | [`hand_over`] | what the agent gives the process of a call |
//! | `sys` | Windows itself: handles, pipes, processes, accounts, services, the vchan library |
//! | `link` | messages on the control link |
//! | `agent` | the event loop |
//! | `callers` | the pipe on which programs ask |
//! | `call` | the process of one call |
//! | `pump` | moving the bytes of one call |
//! | `client` | the client |
//! | `install` | making and removing the service |
//! | `log` | the log |
//!
//! What is not Windows' own is plain functions, compiled and tested everywhere. The decisions are `agent_core`'s, the
//! messages `wire`'s; both are the ones of the agent for Linux.

pub mod codes;
pub mod hand_over;
pub mod service_file;
pub mod service_name;
pub mod words;

#[cfg(windows)]
pub mod agent;
#[cfg(windows)]
mod call;
#[cfg(windows)]
mod callers;
#[cfg(windows)]
pub mod client;
#[cfg(windows)]
mod install;
#[cfg(windows)]
mod link;
#[cfg(windows)]
mod log;
#[cfg(windows)]
mod pump;
#[cfg(windows)]
mod sys;
