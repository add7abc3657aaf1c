//! Commands in qubes, and small services around them.
//!
//! | module | one job |
//! |---|---|
//! | [`vmexec`] | a command's words in the argument of a service, and the service that runs them |
//! | [`qvm_run`] | `qvm-run` and `qvm-run-vm` |
//! | [`connect_tcp`] | `qvm-connect-tcp` |
//! | [`time`] | services that tell and set the time |
//! | [`log`] | lines of another qube for the log |
//! | [`notify`] | words of a qube for `qubesd` |
//! | [`place`] | where a program is: dom0, a qube, a lab; which qubes there are |
//! | [`children`] | the processes of calls: started, waited for, told to end |
#![forbid(unsafe_code)]
#![deny(clippy::print_stdout, clippy::print_stderr)] // they end a program whose output nobody takes

use cli::programs::{Page, Program};

pub mod children;
pub mod connect_tcp;
pub mod log;
pub mod notify;
pub mod place;
pub mod qvm_run;
pub mod time;
pub mod vmexec;

/// All programs, sorted by name. Services go by their own names, so that a link is all that installs them.
pub const PROGRAMS: &[Program] = &[
    Program::bare("qubes-sync-clock", time::sync_clock),
    Program::bare("qubes-vmexec", vmexec::main),
    Program::bare("qubes.FeaturesRequest", notify::main),
    Program::bare("qubes.GetDate", time::get_date),
    Program::bare("qubes.GetRandomizedTime", time::randomized),
    Program::bare("qubes.Log", log::main),
    Program::bare("qubes.NotifyTools", notify::main),
    Program::bare("qubes.NotifyUpdates", notify::main),
    Program::bare("qubes.SetDateTime", time::set_date_time),
    Program::bare("qubes.VMExec", vmexec::main),
    Program::bare("qubes.VMExecGUI", vmexec::main),
    Program::bare("qubes.VMRootExec", vmexec::main),
    Program::new("qvm-connect-tcp", connect_tcp::main, Page::new(1, connect_tcp::command)),
    Program::new("qvm-run", qvm_run::main, Page::new(1, qvm_run::command)),
    Program::new("qvm-run-vm", qvm_run::vm::main, Page::new(1, qvm_run::vm::command)),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_sorted_and_pages_named_as_their_program() {
        cli::programs::check(PROGRAMS);
    }
}
