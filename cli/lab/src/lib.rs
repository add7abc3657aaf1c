//! `qrexec-lab`: a dom0 and any number of VMs on one machine, without root.
//!
//! Each machine of a lab is a folder (services, service configurations, home, logs, sockets) and an environment that
//! points every program into that folder. The programs are the real ones: agents and daemons meet over a transport
//! that needs no hypervisor. Nothing of this isolates the machines from each other; a lab is for trying, testing and
//! measuring.
//!
//! Processes of a lab, from the outside in: the starter; the [`keeper`], which outlives it just long enough to clean
//! up; the way into a PID namespace, where the system has one for us; the [`supervisor`]; then agents, daemons,
//! services and commands. Every one of them ends when the lab does, however it ends.
#![forbid(unsafe_code)]
#![deny(clippy::print_stdout, clippy::print_stderr)] // they end a program whose output nobody takes

mod advice;
mod args;
mod builder;
mod commands;
mod control;
mod defaults;
mod devices;
mod error;
mod filecopy;
mod foreground;
mod help;
mod keeper;
mod links;
mod logs;
mod plan;
mod program;
mod relay;
mod report;
mod start;
mod status;
mod store;
mod supervisor;
mod sweep;
mod terminal;
mod tree;
mod usb;
mod windows;

use cli::programs::{Page, Program};

pub use builder::{Builder, Lab};
pub use control::Part;
pub use error::Error;
pub use plan::{Age, DEFAULT_POLICY, DEFAULT_VMS, DOM0, Layout, MARKER, MARKER_VM, Plan, Transport};
pub use program::main;
pub use sweep::{Process, kill_marked, processes};
pub use usb::{Plug, Usb};
pub use windows::{WINDOWS_DIR, Windows};

/// What this crate adds to an executable.
pub const PROGRAMS: &[Program] = &[
    Program::new(role::PROGRAM, main, Page::new(1, args::command)),
    Program::new(usb_sim::PROGRAM, usb_sim::main, Page::new(1, usb_sim::command)),
];

/// Every program of a lab's machines, and the lab: what an executable must be to start one.
pub const TABLES: [&[Program]; 6] =
    [cli::programs::PROGRAMS, copy::PROGRAMS, remote::PROGRAMS, run::PROGRAMS, open::PROGRAMS, PROGRAMS];

/// The parts that this executable plays when it starts itself; nobody types them.
mod role {
    /// argv\[0\] of every role, by which the executable knows which program it is.
    pub(super) const PROGRAM: &str = "qrexec-lab";
    pub(super) const KEEPER: &str = "__keeper";
    pub(super) const NAMESPACE: &str = "__namespace";
    pub(super) const SUPERVISOR: &str = "__supervisor";
    pub(super) const WINDOWS: &str = "__windows";
}
