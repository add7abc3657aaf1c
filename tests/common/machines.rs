//! Two labs, each a machine, and a real sshd between them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use lab::Lab;
use rustix::process::{Pid, Signal, kill_process};

use super::{Said, lab, run, skipped, talk};

const POLICY_HERE: &str = "test.Redirected * work far2 allow target=far\n\
     test.Redirected * work @default allow target=far\n\
     * * work far allow\n* * mail far allow\n* * @anyvm @anyvm deny\n";
const POLICY_THERE: &str =
    "test.Unlisted * @anyvm @anyvm deny\n* * here-work far allow\n* * @anyvm @anyvm deny\n";
/// Whether an sshd can be run here. Root's wants a folder that the system makes when it starts.
pub(crate) fn has_sshd() -> bool {
    let root = rustix::process::geteuid().is_root();
    let there = Path::new("/usr/sbin/sshd").exists() && Path::new("/usr/bin/ssh").exists();
    there && (!root || Path::new("/run/sshd").is_dir())
}

/// Two machines: `there` has `far`, which `here` calls by its relay.
pub(crate) struct Machines {
    pub(crate) here: Lab,
    pub(crate) there: Lab,
}

impl Machines {
    /// With these scripts as services of `far`, and these lines for the sshd.
    pub(crate) fn start(services: &[(&str, &str)], options: &[&str]) -> Option<Self> {
        if !has_sshd() {
            skipped("calls to another machine: no sshd");
            return None;
        }
        let mut there = lab().vm("relay").vm("far").policy(POLICY_THERE);
        for (name, script) in services {
            there = there.script("far", name, script);
        }
        let there = there.start().unwrap();
        let here = lab().vm("work").vm("mail").vm("relay").policy(POLICY_HERE).start().unwrap();
        let options: Vec<String> = options.iter().map(|line| (*line).to_owned()).collect();
        there.admit("relay", &["here-work".to_owned()], &options).unwrap();
        here.join("here", "relay", "far", "far", (&there, "there")).unwrap();
        Some(Self { here, there })
    }

    pub(crate) fn call(&self, service: &str, input: &[u8]) -> Said {
        run(&self.here, "work", &["qrexec-client-vm", "far", service], input)
    }

    /// A call that goes on, with its streams.
    pub(crate) fn begin(&self, service: &str) -> std::process::Child {
        let mut command = self.here.command("work", ["qrexec-client-vm", "far", service]).unwrap();
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    /// So many calls at once, and their exit codes.
    pub(crate) fn crowd(&self, count: usize, service: &str) -> Vec<Said> {
        std::thread::scope(|scope| {
            let calls: Vec<_> = (0..count).map(|_| scope.spawn(|| self.call(service, b""))).collect();
            calls.into_iter().map(|call| call.join().unwrap()).collect()
        })
    }

    /// The near side's folder for the link.
    pub(crate) fn link(&self) -> PathBuf {
        self.here.layout().home("relay").join(".config/qrexec-remote/there")
    }

    /// A command of ssh over the link's connection, with the link's key.
    pub(crate) fn ssh(&self, words: &[&str]) -> Said {
        let mut command = self.here.command("relay", ["ssh"]).unwrap();
        command.args(["-F", "config"]).args(words).current_dir(self.link());
        // The frame that ends stdin: a session that ends without it is a caller that is gone.
        talk(command, &[0x90, 1, 0, 0, 0, 0, 0, 0])
    }

    pub(crate) fn sshd_log(&self) -> String {
        fs::read_to_string(self.there.layout().root().join("sshd/log")).unwrap_or_default()
    }

    /// The sshd that listens. Its file has the number that it has in its own lab.
    pub(crate) fn sshd(&self) -> i32 {
        let config = self.there.layout().root().join("sshd/sshd_config").display().to_string();
        let found = processes().into_iter().filter(|pid| {
            let line = command_line(*pid);
            line.starts_with("sshd: ") && line.contains(&config)
        });
        let found: Vec<i32> = found.collect();
        assert_eq!(found.len(), 1, "{found:?}");
        found[0]
    }

    /// The `ssh` processes that have the link's connection.
    pub(crate) fn masters(&self) -> Vec<i32> {
        let link = self.link();
        processes()
            .into_iter()
            .filter(|pid| fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|at| at == link))
            .collect()
    }

    /// Calls that the far relay makes at this moment.
    pub(crate) fn far_calls(&self) -> usize {
        self.there.processes().iter().filter(|process| process.program == "qrexec-client-vm").count()
    }

    /// The processes that keep sessions of the link ready.
    pub(crate) fn pools(&self) -> Vec<i32> {
        let link = self.link();
        let folder = link.parent().unwrap().display().to_string();
        let is = |pid: &i32| command_line(*pid) == format!("qrexec-remote --dir {folder} pool there ");
        processes().into_iter().filter(is).collect()
    }

    /// The processes at the near relay that carry calls.
    pub(crate) fn near_relays(&self) -> Vec<i32> {
        let all = self.here.processes().into_iter();
        all.filter(|process| process.program == "qubesair.SSHProxy").map(|process| process.pid).collect()
    }

    /// The far commands of the link, with a call or without one.
    pub(crate) fn far_commands(&self) -> Vec<i32> {
        let mark = self.there.layout().root().display().to_string();
        let is = |pid: &i32| {
            let line = command_line(*pid);
            line.starts_with(&mark) && line.contains("qrexec-remote --dir") && line.contains(" far here")
        };
        processes().into_iter().filter(is).collect()
    }
}

fn command_line(pid: i32) -> String {
    let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&line).replace('\0', " ")
}

fn processes() -> Vec<i32> {
    let names =
        fs::read_dir("/proc").unwrap().filter_map(|entry| entry.unwrap().file_name().into_string().ok());
    names.filter_map(|name| name.parse().ok()).collect()
}

/// Processes below this one.
pub(crate) fn descendants(of: i32) -> Vec<i32> {
    let parent = |pid: i32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        stat.rsplit_once(')')?.1.split_ascii_whitespace().nth(1)?.parse::<i32>().ok()
    };
    let children: Vec<i32> = processes().into_iter().filter(|pid| parent(*pid) == Some(of)).collect();
    children.iter().flat_map(|child| std::iter::once(*child).chain(descendants(*child))).collect()
}

pub(crate) fn kill(pid: i32, signal: Signal) {
    let _ = kill_process(Pid::from_raw(pid).unwrap(), signal);
}
