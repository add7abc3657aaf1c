//! qrexec inside a Windows VM: `qrexec-agent.exe`, the service, and `qrexec-client-vm.exe`, by which programs call.
//!
//! | module | what it holds |
//! |---|---|
//! | [`service_file`] | the command line in a service's file |
//! | [`service_name`] | which names of services may become names of files |
//! | [`words`] | the arguments of `qrexec-client-vm.exe`, in the forms of every release |
//! | [`codes`] | exit codes |
//! | [`hand_over`] | what the agent sends the process of a call |
//! | `sys` | Windows' functions: handles, pipes, processes, accounts, services, the vchan library |
//! | `link` | messages on the control link |
//! | `agent` | the event loop |
//! | `callers` | the pipe on which programs ask |
//! | `places` | how many of them at once |
//! | `call` | the process of one call |
//! | `pump` | moving the bytes of one call |
//! | `client` | the client |
//! | `install` | making and removing the service |
//! | `log` | the log |
//!
//! Everything that does not use Windows is plain functions, compiled and tested on every system. The decisions are in
//! `agent_core` and the messages in `wire`, both shared with the agent for Linux.

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
#[cfg(any(windows, test))]
mod places;
#[cfg(windows)]
mod pump;
#[cfg(windows)]
mod sys;
