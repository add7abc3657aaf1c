//! Two labs, each a machine, with a link between their relays: where calls to another machine are measured.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::time::Duration;

use serde_json::{Value, json};

use super::process::{Running, silent};
use super::report::{Reports, Span};
use super::roles::{Load, Role};
use super::settings::Settings;
use super::{PROGRAM, line};
use cli::failure::Failure;
use lab::Lab;

/// The round trip of the slow line.
pub(super) const ROUND_TRIP: Duration = Duration::from_millis(50);

const TRUE_SERVICE: &str = "bench.True";
const TRUE: &str = "/bin/true";
/// Transport of the other machine's qube under its second name.
const SCRIPT_SERVICE: &str = "bench.SSH";
const ALLOW: &str = "* * @anyvm @anyvm allow\n";

/// The same as upstream's documentation has it, only that there is a connection already: `ssh` for each call.
const SCRIPT: &str = "#!/bin/sh\ncd ~/.config/qrexec-remote/there && exec ssh -F config -S m0 there \
    qrexec-client-vm --source-qube=\"$QREXEC_REMOTE_DOMAIN\" -- far \"${1#*+}\"\n";

/// How a call gets to a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum By {
    /// To another qube of the same machine.
    Local,
    /// To the other machine.
    Remote,
    /// To the other machine, by a script that starts `ssh` for each call, over the same connection.
    Script,
}

/// Two machines.
pub(super) struct Machines {
    here: Lab,
    there: Lab,
    /// How the link's `ssh` reaches the other machine: as it was written, and by the slow line.
    config: [String; 2],
    slow: Mutex<bool>,
}

impl Machines {
    pub(super) fn start(settings: &Settings) -> Result<Self, Failure> {
        let during = || Failure::during("two labs");
        let exe = std::env::current_exe().map_err(Failure::during("finding this executable"))?;
        let lab = |vms: [&str; 3], server: &str| {
            let mut builder = Lab::builder().policy(ALLOW);
            for vm in vms.into_iter().filter(|vm| !vm.is_empty()) {
                builder = builder.vm(vm);
            }
            for (name, value) in &settings.environment {
                builder = builder.env(name, value);
            }
            builder.service(server, PROGRAM, &exe).service(server, TRUE_SERVICE, TRUE)
        };
        let there = lab(["relay", "far", ""], "far").start().map_err(during())?;
        let here = lab(["work", "relay", "vault"], "vault").script("relay", SCRIPT_SERVICE, SCRIPT);
        let here = here.start().map_err(during())?;
        there.admit("relay", &["here-work".to_owned()], &[]).map_err(during())?;
        for qube in ["far", "far2"] {
            here.join("here", "relay", qube, "far", (&there, "there")).map_err(during())?;
        }
        by_script(&here, "far2").map_err(Failure::during("two labs"))?;
        let config = fs::read_to_string(config_file(&here)).map_err(Failure::during("two labs"))?;
        let port = config.lines().find_map(|line| line.strip_prefix("Port ")?.parse().ok());
        let port = port.ok_or_else(|| Failure::trouble("the link has no port"))?;
        let slow = line::start(port, ROUND_TRIP)?;
        let by_line = config.replace(&format!("Port {port}\n"), &format!("Port {slow}\n"));
        Ok(Self { here, there, config: [config, by_line], slow: Mutex::new(false) })
    }

    /// A call of `service`.
    pub(super) fn call(&self, by: By, service: &str) -> Result<Command, Failure> {
        let target = match by {
            By::Local => "vault",
            By::Remote => "far",
            By::Script => "far2",
        };
        let argv = ["qrexec-client-vm", target, service];
        self.here.command("work", argv).map_err(Failure::during("a call"))
    }

    /// A call of a program that ends at once.
    pub(super) fn call_true(&self, by: By) -> Result<Command, Failure> {
        self.call(by, TRUE_SERVICE)
    }

    /// Moves a load to the service of one call; from the first byte written to the last one that came.
    pub(super) fn send(&self, by: By, load: Load) -> Result<Span, Failure> {
        let mut command = self.call(by, &format!("{PROGRAM}+{}", Role::Sink(load).words().join("+")))?;
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut call = Running::start(&mut command, "qrexec-client-vm")?;
        let child = call.child();
        let (Some(mut stdin), Some(errors)) = (child.stdin.take(), child.stderr.take()) else {
            return Err(Failure::trouble("a process without streams"));
        };
        let mut reports = Reports::new(errors);
        reports.ready()?;
        let start = engine::step::now();
        load.write_to(&mut stdin).map_err(Failure::during("writing to a call"))?;
        let Span { end, bytes, .. } = reports.sink()?;
        drop(stdin);
        reports.rest();
        call.finish()?;
        if bytes != load.bytes {
            return Err(Failure::trouble(format!("{bytes} of {} bytes arrived", load.bytes)));
        }
        Ok(Span { start, end, bytes })
    }

    /// Puts the slow line between the machines, or takes it away. The next call makes a new connection.
    pub(super) fn be_slow(&self, wanted: bool) -> Result<(), Failure> {
        let mut slow = self.slow.lock().map_err(|_| Failure::trouble("a case panicked"))?;
        if *slow != wanted {
            let [quick, by_line] = &self.config;
            fs::write(config_file(&self.here), if wanted { by_line } else { quick })
                .map_err(Failure::during("the link"))?;
            self.close()?;
            *slow = wanted;
        }
        Ok(())
    }

    /// Ends the connection between the machines.
    pub(super) fn close(&self) -> Result<(), Failure> {
        let during = || Failure::during("ending the connection");
        let mut command = self.here.command("relay", ["qrexec-remote", "close", "there"]).map_err(during())?;
        Running::start(silent(&mut command), "qrexec-remote close")?.finish()
    }

    /// What the other machine's sshd has to say, at the end of a message.
    pub(super) fn words(&self) -> String {
        let log = fs::read_to_string(self.there.layout().root().join("sshd/log")).unwrap_or_default();
        log.lines().rev().take(3).map(|line| format!("\n{line}")).collect()
    }
}

fn config_file(here: &Lab) -> PathBuf {
    here.layout().home("relay").join(".config/qrexec-remote/there/config")
}

/// Lets `ssh` carry the calls for this remote qube.
fn by_script(here: &Lab, qube: &str) -> std::io::Result<()> {
    let path = here.layout().system_info();
    let mut system: Value = serde_json::from_slice(&fs::read(&path)?)?;
    if let Some(domain) = system.pointer_mut(&format!("/domains/{qube}/transport_rpc")) {
        *domain = json!(SCRIPT_SERVICE);
    }
    let new = path.with_extension("bench");
    fs::write(&new, system.to_string())?;
    fs::rename(new, path)
}
