//! The programs from end to end: in labs, against hostile peers, mixed with other implementations.
//!
//! All tests are one program, so that a file that nobody lists cannot stay unnoticed: `cargo xtask check` wants each
//! file of this folder to be a module here. `cargo test -p qrexec-tests --test all call::` runs those of one file.

mod common;

// Calls: what moves, what ends them, what a caller finds unchanged.
mod bulk;
mod call;
mod client;
mod client_connect;
mod client_vm;
mod client_vm_ends;
mod confine;
mod filecopy;
mod filecopy_deaths;
mod filecopy_gui;
mod open;
mod qvm_run;
mod qvm_run_qubesd;
mod services;
mod splice;
mod terminal;

// USB devices that are carried over calls.
mod usb;
mod usb_filter;
mod usb_programs;
mod usb_violations;

// Who may call whom.
mod policy_daemon;
mod policy_lab;
mod policy_load;
mod policy_qubesd;
mod policy_tools;
mod qubesd;

// Qubes of another machine.
mod remote;
mod remote_deaths;

// Many at a time, and some of them killed.
mod chaos;
mod promises;
mod scale;
mod soak;
mod storm;

// Peers that mean harm, or that take what others need.
mod fair_policy;
mod fair_target;
mod hostile;

// What a program is a part of.
mod installation;

// Programs, and a wire, of other ages.
mod r2;
mod r2_peers;
mod r2_policy;

// Windows, as far as wine is.
mod windows;

// What is written down, shown, and told.
mod journal;
mod logging;
mod told;
mod top;

// The lab, and the program that measures.
mod bench;
mod lab;
mod lab_commands;
mod lab_watch;
mod readme;

// Other implementations of the same programs.
mod interop;
mod scripts;
