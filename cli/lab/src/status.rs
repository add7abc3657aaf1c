//! `qrexec-lab status`: which labs run, and what of each.

use engine::say;
use serde_json::{Value, json};

use super::builder::Lab;
use super::control::{Part, PartEnd};
use super::{DOM0, Error, Process, store};

/// Shows all running labs, for people or as JSON.
pub(super) fn show(as_json: bool) -> Result<(), Error> {
    let labs: Vec<Lab> = store::clean()?.iter().filter_map(|layout| Lab::at(layout).ok()).collect();
    if as_json {
        let labs: Vec<Value> = labs.iter().map(described).collect();
        say::output(format_args!("{:#}", Value::Array(labs)));
    } else if labs.is_empty() {
        say::output("no lab is running");
    }
    for lab in labs.iter().filter(|_| !as_json) {
        print(lab);
    }
    for lab in store::Elsewhere::all() {
        say::error(format_args!("qrexec-lab: {lab}"));
    }
    Ok(())
}

fn name(lab: &Lab) -> String {
    lab.layout().root().file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn processes(lab: &Lab) -> Vec<Process> {
    let mut processes = lab.processes();
    processes.sort_by_key(|process| process.pid);
    processes
}

fn machines(lab: &Lab) -> impl Iterator<Item = &str> {
    std::iter::once(DOM0).chain(lab.plan().vms.iter().map(String::as_str))
}

/// The program that has ended, and whose log says why.
fn program(part: Part) -> &'static str {
    match part {
        Part::Agent => "qrexec-agent",
        Part::Daemon => "qrexec-daemon",
        Part::Usb => usb_sim::PROGRAM,
    }
}

fn described(lab: &Lab) -> Value {
    let (processes, ended) = (processes(lab), lab.ended());
    let machines: Vec<Value> = machines(lab)
        .map(|vm| {
            let running: Vec<Value> = (processes.iter().filter(|process| process.vm == vm))
                .map(|process| json!({"pid": process.pid, "program": process.program}))
                .collect();
            let ended: Vec<Value> = (ended.iter().filter(|end| end.machine() == vm))
                .map(|end| json!({"program": program(end.part), "vm": end.vm, "code": end.code}))
                .collect();
            json!({"name": vm, "id": lab.plan().id(vm), "processes": running, "ended": ended})
        })
        .collect();
    json!({"lab": name(lab), "folder": lab.layout().root(), "stays": lab.plan().stay, "machines": machines})
}

fn print(lab: &Lab) {
    let (processes, ended) = (processes(lab), lab.ended());
    say::output(format_args!("lab {} in {}", name(lab), lab.layout().root().display()));
    for vm in machines(lab) {
        say::output(format_args!("  {vm} (id {})", lab.plan().id(vm).unwrap_or_default()));
        for process in processes.iter().filter(|process| process.vm == vm) {
            say::output(format_args!("    {:>7}  {}", process.pid, process.program));
        }
        for PartEnd { part, vm, code } in ended.iter().filter(|end| end.machine() == vm) {
            if *part == Part::Usb {
                // What its devices were attached to has lost them: a new one would know nothing of it.
                say::output(format_args!("      ended  the USB devices of {vm}, with {code}"));
                continue;
            }
            let option = if *part == Part::Daemon { "--daemon " } else { "" };
            let which = if name(lab) == super::args::DEFAULT_LAB {
                String::new()
            } else {
                format!("--name {} ", name(lab))
            };
            say::output(format_args!(
                "      ended  {} of {vm}, with {code}; \"qrexec-lab restart {which}{option}{vm}\" starts it again",
                program(*part)
            ));
        }
    }
}
