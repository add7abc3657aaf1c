//! What each word of the command line does.

use engine::say;

use super::args::{Action, LabArgs, UsbAction};
use super::builder::{Builder, Lab};
use super::control::Part;
use super::foreground::Foreground;
use super::usb::Usb;
use super::{DOM0, Error, advice, devices, logs, status, store};

pub(super) fn act(action: Action) -> Result<i32, Error> {
    match action {
        Action::Run { lab, command } => return run(lab, command),
        Action::Up { which, quiet, lab } => return up(which.lab(), quiet, lab),
        Action::Exec { name, vm, command, .. } => {
            return Foreground::new()?.run(&Lab::open(&name)?, &vm, command);
        }
        Action::Logs { name, follow, vm } => logs::show(&Lab::open(&name)?, vm.as_deref(), follow)?,
        Action::Restart { name, daemon, vm } => restart(&name, daemon, &vm)?,
        Action::Usb { action } => return usb(action.unwrap_or(UsbAction::Stick)),
        Action::Status { json } => status::show(json)?,
        Action::Admit { name, relay, from, sshd_option } => {
            Lab::open(&name)?.admit(&relay, &from, &sshd_option)?;
        }
        Action::Join { name, relay, qube, to } => {
            let (local, remote) = qube.split_once('=').unwrap_or((&qube, &qube));
            Lab::open(&name)?.join(&name, &relay, local, remote, (&Lab::open(&to)?, &to))?;
        }
        Action::Down { which } => store::end(&super::Layout::new(&store::folder()?.join(which.lab())))?,
    }
    Ok(0)
}

impl LabArgs {
    /// The lab that is described, after everything was looked at that its user may have got wrong.
    fn builder(self) -> Result<Builder, Error> {
        let mut builder = Lab::builder()
            .ask(self.ask)
            .age(self.age)
            .transport(self.transport)
            .namespace(!self.no_namespace)
            .default_services(!self.no_default_services);
        advice::on_services(&self.service, &self.config)?;
        if let Some(path) = &self.policy {
            builder = builder.policy(&advice::policy(path, &self)?);
        }
        for vm in &self.vm {
            builder = match vm.split_once(':') {
                Some((name, "windows")) => builder.windows_vm(name)?,
                _ => builder.vm(vm),
            };
        }
        for service in self.service {
            builder = builder.service(&service.vm, &service.name, service.path);
        }
        for config in self.config {
            builder = builder.config_file(&config.vm, &config.name, config.path);
        }
        if self.usb_kernel {
            builder = builder.usb(Usb::Kernel);
        } else if !self.usb.is_empty() {
            builder = builder.usb(Usb::Simulated(self.usb));
        }
        Ok(match self.bin_dir {
            Some(folder) => builder.bin_dir(folder),
            None => builder,
        })
    }
}

fn run(args: LabArgs, command: Vec<std::ffi::OsString>) -> Result<i32, Error> {
    let foreground = Foreground::new()?;
    let lab = args.builder()?.start()?;
    let first = lab.plan().vms.first().cloned().unwrap_or_default();
    let code = foreground.run(&lab, &first, command);
    lab.down()?;
    code
}

fn usb(action: UsbAction) -> Result<i32, Error> {
    match action {
        UsbAction::Stick => try_device("stick"),
        UsbAction::Camera => try_device("camera"),
        UsbAction::Keyboard => try_device("keyboard"),
        UsbAction::List { name } => devices::show(&Lab::open(&name)?).map(|()| 0),
        UsbAction::Attach { name, vm, device } => devices::attach(&Lab::open(&name)?, &vm, &device),
        UsbAction::Detach { name, vm, device } => devices::detach(&Lab::open(&name)?, &vm, device.as_ref()),
    }
}

/// A device of VM vault, and its user in VM work.
fn try_device(device: &str) -> Result<i32, Error> {
    const SERVICE: &str = "#!/bin/sh\nexec qrexec-usb-sim \"$1\" --keys 20\n";
    let foreground = Foreground::new()?;
    let lab = Lab::builder().script("vault", "lab.Usb", SERVICE).start()?;
    let host = lab.layout().bin().join(usb_sim::PROGRAM).into_os_string();
    let call = ["qrexec-client-vm", "vault", &format!("lab.Usb+{device}")].map(std::ffi::OsString::from);
    let code = foreground.run(&lab, "work", call.into_iter().chain([host, "host".into()]).collect());
    lab.down()?;
    code
}

fn up(name: &str, quiet: bool, args: LabArgs) -> Result<i32, Error> {
    store::clean()?;
    let lab = args.builder()?.stay(name).start()?;
    if !quiet {
        say::output(format_args!("lab {name}: dom0, {}", lab.plan().vms.join(", ")));
        say::output(format_args!("folder {}", lab.layout().root().display()));
    }
    Ok(0)
}

fn restart(name: &str, daemon: bool, vm: &str) -> Result<(), Error> {
    if vm == DOM0 {
        return Err(Error::new("dom0 has a daemon for each VM: qrexec-lab restart --daemon VM"));
    }
    Lab::open(name)?.restart(vm, if daemon { Part::Daemon } else { Part::Agent })
}
