//! `qrexec-lab usb`: USB devices of a lab listed, attached and detached as dom0 does it.

use std::io::Write;
use std::path::PathBuf;
use std::process::Stdio;

use cli::usb::list::{self, Device, Taken};
use engine::say;

use super::builder::Lab;
use super::usb::{Named, Usb};
use super::{DOM0, Error};

/// What stands for a machine's system.
fn root(lab: &Lab, vm: &str) -> Result<PathBuf, Error> {
    match &lab.plan().usb {
        Some(Usb::Simulated(_)) => Ok(lab.layout().machine(vm)),
        Some(Usb::Kernel) => Ok("/".into()),
        None => Err(Error::new(
            "this lab has no USB: start it with --usb VM:PORT=KIND, or as root with --usb-kernel",
        )),
    }
}

/// Of which machine each device is that a machine uses: where all have one kernel, that cannot be told.
fn uses(lab: &Lab) -> Result<Vec<(Option<String>, Taken)>, Error> {
    let mut uses = Vec::new();
    for vm in &lab.plan().vms {
        let is_simulated = lab.plan().usb.as_ref().is_some_and(Usb::is_simulated);
        let user = is_simulated.then(|| vm.clone());
        uses.extend(list::taken(&root(lab, vm)?).into_iter().map(|taken| (user.clone(), taken)));
        if user.is_none() {
            break;
        }
    }
    Ok(uses)
}

/// One line for each device: whose and where, which, how fast, and who has it.
pub(super) fn show(lab: &Lab) -> Result<(), Error> {
    let uses = uses(lab)?;
    for vm in &lab.plan().vms {
        for device in list::devices(&root(lab, vm)?) {
            say::output(line(vm, &device, &uses));
        }
    }
    Ok(())
}

fn line(vm: &str, device: &Device, uses: &[(Option<String>, Taken)]) -> String {
    let is_it = |taken: &Taken| taken.export == vm && device.is_named(&taken.device);
    let user = match uses.iter().find(|(_, taken)| is_it(taken)) {
        Some((Some(user), _)) => user,
        Some((None, _)) => "attached",
        None if device.is_used => "attached",
        None => "-",
    };
    format!("{:<20}  {}  {:>5} Mbit/s  {user}", format!("{vm}:{}", device.port), device.id, device.speed)
}

/// Gives a device to a machine; returns when it has it.
pub(super) fn attach(lab: &Lab, vm: &str, device: &Named) -> Result<i32, Error> {
    root(lab, vm)?;
    request(lab, vm, "qubes.USBAttach", &format!("{} {}\n", device.vm, device.device))
}

/// Takes a device back from a machine, or all that it has.
pub(super) fn detach(lab: &Lab, vm: &str, device: Option<&Named>) -> Result<i32, Error> {
    let uses = uses(lab)?;
    let has = |user: &Option<String>| user.as_deref().is_none_or(|user| user == vm);
    let mut wanted: Vec<Taken> =
        uses.into_iter().filter(|(user, _)| has(user)).map(|(_, taken)| taken).collect();
    if let Some(Named { vm: export, device: name }) = device {
        wanted.retain(|taken| {
            let is_it = |device: &Device| device.is_named(name) && device.is_named(&taken.device);
            let devices = || root(lab, export).map(|root| list::devices(&root)).unwrap_or_default();
            taken.export == *export && (taken.device == *name || devices().iter().any(is_it))
        });
        if wanted.is_empty() {
            return Err(Error::new(format!("{vm} has no device {export}:{name}")));
        }
    }
    for Taken { export, device } in wanted {
        let code = request(lab, vm, "qubes.USBDetach", &format!("{export} {device}\n"))?;
        if code != 0 {
            return Ok(code);
        }
    }
    Ok(0)
}

/// Calls a service of a machine as dom0 does.
fn request(lab: &Lab, vm: &str, service: &str, line: &str) -> Result<i32, Error> {
    let call = format!("DEFAULT:QUBESRPC {service} {DOM0}");
    let trouble = |error| Error::io(format!("cannot call {service} of {vm}"), error);
    let mut command = lab.command(DOM0, ["qrexec-client", "-d", vm, &call])?;
    let mut child = command.stdin(Stdio::piped()).spawn().map_err(trouble)?;
    if let Some(mut stdin) = child.stdin.take() {
        // Who has ended already says why by its code.
        let _ = stdin.write_all(line.as_bytes());
    }
    Ok(child.wait().map_err(trouble)?.code().unwrap_or(255))
}
