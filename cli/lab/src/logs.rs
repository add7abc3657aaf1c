//! `qrexec-lab logs`: what the programs of a lab have written down, and what they write on.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::inotify;

use super::builder::Lab;
use super::{DOM0, Error};

/// As much of a log as is read at a time.
const PIECE: u64 = 1 << 20;

/// Prints the logs that are about `vm`, or all, each line with its file in front; if wanted, until the lab ends.
pub(super) fn show(lab: &Lab, vm: Option<&str>, follow: bool) -> Result<(), Error> {
    if let Some(vm) = vm {
        lab.plan().id(vm).ok_or_else(|| Error::unknown_vm(vm))?;
    }
    let mut logs = Logs { folders: folders(lab, vm), files: BTreeMap::new(), vm: vm.map(str::to_owned) };
    // What is written between the first look and the watch is in the next look.
    let watch = if follow { Some(logs.watch(lab)?) } else { None };
    if !logs.look() {
        return Ok(());
    }
    let Some(watch) = watch else { return Ok(()) };
    let mut buffer = [std::mem::MaybeUninit::uninit(); 8192];
    let mut events = inotify::Reader::new(watch, &mut buffer);
    loop {
        let event = events.next().map_err(|error| Error::io("cannot watch the logs", error))?;
        let gone = event.events().contains(inotify::ReadFlags::IGNORED);
        let heard = !(gone || events.is_buffer_empty()) || logs.look();
        if gone || !heard {
            return Ok(());
        }
    }
}

/// Each folder with logs, and what stands in front of the names of its files.
fn folders(lab: &Lab, vm: Option<&str>) -> Vec<(String, PathBuf)> {
    let machines = std::iter::once(DOM0).chain(lab.plan().vms.iter().map(String::as_str));
    let wanted = machines.filter(|machine| vm.is_none_or(|vm| *machine == vm || *machine == DOM0));
    wanted.map(|machine| (machine.to_owned(), lab.layout().log(machine))).collect()
}

struct Logs {
    folders: Vec<(String, PathBuf)>,
    /// How far each file is printed.
    files: BTreeMap<PathBuf, u64>,
    vm: Option<String>,
}

impl Logs {
    fn watch(&self, lab: &Lab) -> Result<OwnedFd, Error> {
        let flags = inotify::WatchFlags::MODIFY | inotify::WatchFlags::CREATE | inotify::WatchFlags::ONLYDIR;
        let made = inotify::init(inotify::CreateFlags::CLOEXEC).and_then(|watch| {
            for (_, folder) in &self.folders {
                inotify::add_watch(&watch, folder, flags)?;
            }
            if self.vm.is_none() {
                inotify::add_watch(&watch, lab.layout().log_file(), inotify::WatchFlags::MODIFY)?;
            }
            Ok(watch)
        });
        made.map_err(|error| Error::io("cannot watch the logs", error))
    }

    /// Whether a file is about the machine that was named: all of its own, and in dom0 the log of its daemon.
    fn is_wanted(&self, machine: &str, file: &str) -> bool {
        match &self.vm {
            Some(vm) if machine == DOM0 && vm != DOM0 => file == format!("daemon-{vm}.log"),
            _ => file.ends_with(".log"),
        }
    }

    /// Prints what is new in every file. `false`: nobody reads it any more.
    fn look(&mut self) -> bool {
        let mut found = Vec::new();
        for (machine, folder) in &self.folders {
            let entries = fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok);
            for entry in entries {
                let name = entry.file_name().to_string_lossy().into_owned();
                if self.is_wanted(machine, &name) && entry.file_type().is_ok_and(|kind| kind.is_file()) {
                    found.push((format!("{machine}/{name}"), entry.path()));
                }
            }
            if self.vm.is_none() && machine == DOM0 {
                // vm/dom0/log: the lab's own is three folders up.
                if let Some(root) = folder.ancestors().nth(3) {
                    found.push(("lab.log".to_owned(), root.join("lab.log")));
                }
            }
        }
        found.sort();
        for (shown, path) in found {
            let from = self.files.get(&path).copied().unwrap_or_default();
            match print_from(&shown, &path, from, &mut io::stdout().lock()) {
                Ok(until) => drop(self.files.insert(path, until)),
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return false,
                // A file that went away meanwhile, or is not to be read.
                Err(_) => {}
            }
        }
        true
    }
}

/// Prints the whole lines of a file behind `from`; gives where the next ones begin.
fn print_from(shown: &str, path: &Path, mut from: u64, out: &mut dyn Write) -> io::Result<u64> {
    let mut file = File::open(path)?;
    if file.metadata()?.len() < from {
        from = 0;
    }
    file.seek(SeekFrom::Start(from))?;
    loop {
        let mut text = Vec::new();
        let read = (&file).take(PIECE).read_to_end(&mut text)?;
        // A line that is still being written waits; one that fills all there is room for does not.
        let whole = match text.iter().rposition(|byte| *byte == b'\n') {
            Some(end) => end.saturating_add(1),
            None if read as u64 == PIECE => read,
            None => return Ok(from),
        };
        for line in String::from_utf8_lossy(text.get(..whole).unwrap_or_default()).lines() {
            writeln!(out, "{shown}: {line}")?;
        }
        out.flush()?;
        from = from.saturating_add(whole as u64);
        file.seek(SeekFrom::Start(from))?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vm_s_logs_are_its_own_and_its_daemon_s() {
        let logs = |vm: Option<&str>| Logs {
            folders: Vec::new(),
            files: BTreeMap::new(),
            vm: vm.map(str::to_owned),
        };
        let work = logs(Some("work"));
        assert!(work.is_wanted("work", "agent.log") && work.is_wanted(DOM0, "daemon-work.log"));
        assert!(!work.is_wanted(DOM0, "daemon-vault.log") && !work.is_wanted(DOM0, "policy-admin.log"));
        assert!(logs(Some(DOM0)).is_wanted(DOM0, "daemon-vault.log"));
        assert!(logs(None).is_wanted("work", "agent.log") && !logs(None).is_wanted("work", "core"));
    }

    #[test]
    fn only_whole_lines_are_printed_and_a_shorter_file_is_a_new_one() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), "one\ntwo\nthr").unwrap();
        assert_eq!(print_from("x", file.path(), 0, &mut Vec::new()).unwrap(), 8);
        fs::write(file.path(), "one\ntwo\nthree\n").unwrap();
        assert_eq!(print_from("x", file.path(), 8, &mut Vec::new()).unwrap(), 14);
        fs::write(file.path(), "new\n").unwrap();
        assert_eq!(print_from("x", file.path(), 14, &mut Vec::new()).unwrap(), 4);
    }
}
