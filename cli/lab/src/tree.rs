//! Makes the folders and files of a lab from its [`Plan`].

use std::fs;
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, symlink};
use std::path::Path;

use super::plan::{Age, DOM0, Layout, Plan, Source};
use super::windows::{SHELL, WindowsRooms};
use super::{Error, defaults};
use cli::policy_tools::people::{ASK, NEW, NOTIFY};

/// Mode of every folder: a lab belongs to one user.
const PRIVATE: u32 = 0o700;

/// Builds everything below `plan.root`, which must exist and be private.
///
/// Runs in the keeper, which has one thread: a script written there cannot be "text file busy" because another thread
/// forked at the wrong moment.
pub(super) fn build(plan: &Plan) -> Result<(), Error> {
    let layout = plan.layout();
    make_folders(plan, &layout)?;
    link_programs(plan, &layout.bin())?;
    match plan.age {
        Age::R2 => old_policy(plan, &layout)?,
        Age::Now | Age::R2Api => write(&layout.policy().join("30-lab.policy"), &plan.policy, 0o600)?,
    }
    write(&layout.system_info(), &plan.system_info().to_string(), 0o600)?;
    let services: &[&str] = if plan.ask { &[ASK, NEW, NOTIFY] } else { &[] };
    for service in services {
        link(&layout.policy_agent(), &layout.services(DOM0).join(service))?;
    }
    for vm in &plan.vms {
        match plan.windows(vm) {
            Some(windows) => {
                let (services, bin) = (layout.services(vm), layout.programs(vm));
                WindowsRooms::new(layout.machine(vm)).build(windows, &services, &bin)?;
                windows_shell(plan, &layout, vm)?;
            }
            None => defaults(plan, &layout, vm)?,
        }
    }
    for entry in &plan.entries {
        let path = layout.root().join(&entry.path);
        if let Some(parent) = path.parent() {
            private_folder(parent)?;
        }
        match &entry.source {
            Source::Link(target) => link(target, &path)?,
            Source::Script(text) => write(&path, text, 0o700)?,
        }
    }
    Ok(())
}

/// The services that a VM has by itself. Whoever names one of them, or its configuration, gets only what was named.
fn defaults(plan: &Plan, layout: &Layout, vm: &str) -> Result<(), Error> {
    let machine = layout.machine(vm);
    let named = |name: &str| {
        let is_it = |entry: &Path| {
            entry.starts_with(Path::new("vm").join(vm)) && entry.file_name().is_some_and(|file| file == name)
        };
        plan.entries.iter().any(|entry| is_it(&entry.path))
    };
    for (folder, name, what) in defaults::files(plan).filter(|(_, name, _)| !named(name)) {
        let path = machine.join(folder).join(name);
        match what {
            Source::Link(target) => link(&target, &path)?,
            Source::Script(text) if folder == "rpc" => write(&path, &text, 0o700)?,
            Source::Script(text) => write(&path, &text, 0o600)?,
        }
    }
    Ok(())
}

/// A Windows VM's shell, unless something else is to have its name.
fn windows_shell(plan: &Plan, layout: &Layout, vm: &str) -> Result<(), Error> {
    let (name, text) = SHELL;
    let path = layout.services(vm).join(name);
    let named = plan.entries.iter().any(|entry| layout.root().join(&entry.path) == path);
    if plan.bare || named { Ok(()) } else { write(&path, text, 0o600) }
}

fn make_folders(plan: &Plan, layout: &Layout) -> Result<(), Error> {
    for folder in [layout.bin(), layout.shm(), layout.vchan(), layout.sockets(), layout.policy()] {
        private_folder(&folder)?;
    }
    for vm in plan.vms.iter().map(String::as_str).chain([DOM0]) {
        for folder in
            [layout.services(vm), layout.config(vm), layout.home(vm), layout.programs(vm), layout.log(vm)]
        {
            private_folder(&folder)?;
        }
        if plan.age != Age::Now {
            private_folder(&layout.old_api(vm))?;
        }
    }
    Ok(())
}

/// A file for each service that a VM has, unless the policy asks: then a file that is missing is asked for.
fn old_policy(plan: &Plan, layout: &Layout) -> Result<(), Error> {
    let services = plan.entries.iter().filter_map(|entry| {
        let parts: Vec<_> = entry.path.iter().collect();
        match parts.as_slice() {
            [_, vm, folder, name] if *folder == "rpc" && *vm != DOM0 => Some((*name).to_owned()),
            _ => None,
        }
    });
    let given = |name: &std::ffi::OsStr| {
        let path = layout.policy().join(name);
        plan.entries.iter().any(|entry| layout.root().join(&entry.path) == path)
    };
    let names: std::collections::BTreeSet<_> = services.filter(|name| !plan.ask && !given(name)).collect();
    names.iter().try_for_each(|name| write(&layout.policy().join(name), "anyvm anyvm allow\n", 0o600))
}

/// One link per program: to a build in `bin_dir` where it has one, else to our own executable, which plays every role.
fn link_programs(plan: &Plan, bin: &Path) -> Result<(), Error> {
    for program in crate::TABLES.iter().flat_map(|table| table.iter()).map(|program| program.name) {
        let other = plan.bin_dir.as_ref().map(|folder| folder.join(program)).filter(|path| path.exists());
        link(other.as_deref().unwrap_or(&plan.exe), &bin.join(program))?;
    }
    Ok(())
}

fn private_folder(path: &Path) -> Result<(), Error> {
    let made = fs::DirBuilder::new().recursive(true).mode(PRIVATE).create(path);
    made.map_err(|error| Error::io(format!("cannot create {}", path.display()), error))
}

fn link(target: &Path, path: &Path) -> Result<(), Error> {
    symlink(target, path).map_err(|error| Error::io(format!("cannot link {}", path.display()), error))
}

fn write(path: &Path, text: &str, mode: u32) -> Result<(), Error> {
    let file = fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(path);
    file.and_then(|mut file| file.write_all(text.as_bytes()))
        .map_err(|error| Error::io(format!("cannot write {}", path.display()), error))
}

#[cfg(test)]
mod tests {
    use super::super::plan::{Age, Entry, Transport};
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn builds_every_room() {
        let root = tempfile::tempdir().unwrap();
        let other = root.path().join("other");
        fs::create_dir(&other).unwrap();
        fs::write(other.join("qrexec-agent"), "").unwrap();
        let plan = Plan {
            root: root.path().into(),
            token: "t".into(),
            vms: vec!["work".into()],
            transport: Transport::Shm,
            age: Age::Now,
            user: "user".into(),
            ask: false,
            policy: "* * * * deny\n".into(),
            exe: "/exe".into(),
            bin_dir: Some(other.clone()),
            entries: vec![Entry {
                path: "vm/work/rpc/test.Hi".into(),
                source: Source::Script("#!/bin/sh\n".into()),
            }],
            env: Vec::new(),
            namespace: true,
            stay: false,
            bare: false,
            windows: None,
            usb: None,
        };
        build(&plan).unwrap();
        let layout = plan.layout();
        assert_eq!(fs::read_link(layout.bin().join("qrexec-agent")).unwrap(), other.join("qrexec-agent"));
        assert_eq!(fs::read_link(layout.bin().join("qrexec-client-vm")).unwrap(), Path::new("/exe"));
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&layout.services("work").join("test.Hi")), 0o700);
        assert_eq!(mode(&layout.shm()), 0o700);
        assert_eq!(fs::read_to_string(layout.policy().join("30-lab.policy")).unwrap(), plan.policy);
        assert_eq!(mode(&layout.services("work").join("qubes.Filecopy")), 0o700);
        assert!(build(&plan).is_err(), "a folder is built once");
    }
}
