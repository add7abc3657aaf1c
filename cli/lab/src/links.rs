//! Labs as machines of their own that reach each other by sshd, as two real machines do.
//!
//! `qrexec-lab admit` gives a lab's relay an sshd of the user's own on a free port of the loopback; `qrexec-lab join` does
//! in another lab's relay what `qrexec-remote key`, `admit` and `join` do on two machines. What both add to their labs is
//! what dom0 would be told: a remote qube, and the service that reaches it.

use std::fs::{self, File};
use std::io::Read;
use std::net::{Ipv4Addr, TcpListener};
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, symlink};
use std::path::{Path, PathBuf};

use engine::process::group;
use remote::invite::TRANSPORT;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::control::{Answer, Bytes, Run};
use super::{Error, Lab};

/// How often another free port is tried, if somebody takes the one that was found.
const TRIES: usize = 10;

/// What is known of a lab's sshd, in a file of the lab.
#[derive(Debug, Serialize, Deserialize)]
struct Sshd {
    relay: String,
    port: u16,
}

fn io(what: &Path) -> impl FnOnce(std::io::Error) -> Error {
    let what = format!("cannot write {}", what.display());
    move |error| Error::io(what, error)
}

impl Lab {
    /// Makes `relay` reachable for other labs, and `from` a remote qube of this one, which calls by `relay`. `options` are
    /// lines for sshd, before its own.
    ///
    /// # Errors
    /// sshd does not start; there is no such VM.
    pub fn admit(&self, relay: &str, from: &[String], options: &[String]) -> Result<(), Error> {
        self.plan().id(relay).filter(|id| *id > 0).ok_or_else(|| Error::unknown_vm(relay))?;
        for qube in from {
            self.add_remote(qube, relay)?;
        }
        if self.sshd()?.is_some() {
            return Ok(());
        }
        let folder = self.sshd_folder();
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&folder).map_err(io(&folder))?;
        let key = folder.join("host_key");
        if !key.exists() {
            let path = key.display().to_string();
            self.inside(relay, &["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", &path])?;
        }
        fs::write(folder.join("authorized_keys"), "").map_err(io(&folder))?;
        let port = self.start_sshd(relay, options, None)?;
        let known = Sshd { relay: relay.to_owned(), port };
        let text = serde_json::to_string(&known).map_err(|error| Error::new(error.to_string()))?;
        let path = folder.join("sshd.json");
        fs::write(&path, text).map_err(io(&path))
    }

    /// Makes `qube` of this lab stand for `remote` of another lab, which has admitted somebody. This lab is `name` there.
    ///
    /// # Errors
    /// The other lab has no sshd, or the two relays do not reach each other.
    pub fn join(
        &self,
        name: &str,
        relay: &str,
        qube: &str,
        remote: &str,
        (there, its_name): (&Lab, &str),
    ) -> Result<(), Error> {
        self.plan().id(relay).filter(|id| *id > 0).ok_or_else(|| Error::unknown_vm(relay))?;
        let wanted =
            || Error::new("the other lab lets nobody in yet: qrexec-lab admit --name LAB --relay VM");
        let sshd = there.sshd()?.ok_or_else(wanted)?;
        let invitation =
            there.invite(name, &self.inside(relay, &["qrexec-remote", "key"])?, its_name, &sshd)?;
        let word = invitation.lines().next().unwrap_or_default();
        self.inside(relay, &["qrexec-remote", "join", word, "--qube", &format!("{qube}={remote}")])?;
        let service = self.layout().services(relay).join(TRANSPORT);
        if !service.exists() {
            symlink(self.layout().bin().join(TRANSPORT), &service).map_err(io(&service))?;
        }
        self.add_remote(qube, relay)
    }

    /// Admits another lab's relay by its key.
    fn invite(&self, name: &str, key: &str, own: &str, sshd: &Sshd) -> Result<String, Error> {
        let folder = self.sshd_folder();
        let file = |name: &str| folder.join(name).display().to_string();
        let (port, user) = (sshd.port.to_string(), self.plan().user.clone());
        let (host_key, keys) = (file("host_key.pub"), file("authorized_keys"));
        let mut argv = vec!["qrexec-remote", "admit", name, "--as", own, "--address", "127.0.0.1"];
        argv.extend(["--port", &port, "--user", &user, "--host-key", &host_key, "--authorized-keys", &keys]);
        argv.extend(key.split_ascii_whitespace());
        let invitation = self.inside(&sshd.relay, &argv)?;
        // What sshd starts has nothing of this lab around it.
        let link = self.layout().home(&sshd.relay).join(".config/qrexec-remote").join(name);
        let environment = self.environment(&sshd.relay)?;
        let set = environment.iter().filter_map(|(name, value)| Some((name, value.as_ref()?)));
        let lines: String =
            set.map(|(name, value)| format!("{}={}\n", name.display(), value.display())).collect();
        let path = link.join("environment");
        fs::write(&path, lines).map_err(io(&path))?;
        Ok(invitation)
    }

    /// Starts the sshd again, on the port that other labs know.
    ///
    /// # Errors
    /// It does not start, or there never was one.
    pub fn restart_sshd(&self, options: &[String]) -> Result<(), Error> {
        let known = self.sshd()?.ok_or_else(|| Error::new("this lab has no sshd"))?;
        self.start_sshd(&known.relay, options, Some(known.port)).map(drop)
    }

    /// Starts sshd on this port, or on one that is free, and returns the port.
    fn start_sshd(&self, relay: &str, options: &[String], wanted: Option<u16>) -> Result<u16, Error> {
        let folder = self.sshd_folder();
        let config = folder.join("sshd_config");
        let path = config.display().to_string();
        // sshd starts itself again for each connection, so it must know its own path.
        let sshd = ["/usr/sbin/sshd", "/usr/bin/sshd"].into_iter().find(|path| Path::new(path).exists());
        let sshd = sshd.ok_or_else(|| Error::new("there is no sshd: install openssh-server"))?;
        let mut last = Error::new("no port is free");
        for _ in 0..TRIES {
            let port = wanted.map_or_else(free_port, Ok);
            let port = port.map_err(|error| Error::io("no port is free", error))?;
            fs::write(&config, settings(&folder, &self.layout().home(relay), port, options))
                .map_err(io(&config))?;
            // Returns once it listens.
            match self.inside(relay, &[sshd, "-f", &path, "-E", &folder.join("log").display().to_string()]) {
                Ok(_) => return Ok(port),
                Err(error) => last = error,
            }
        }
        let log = fs::read_to_string(folder.join("log")).unwrap_or_default();
        let reason = log.lines().next_back().unwrap_or_default().trim_end();
        Err(Error::new(format!("sshd does not start: {last} {reason}")))
    }

    fn sshd_folder(&self) -> PathBuf {
        self.layout().root().join("sshd")
    }

    fn sshd(&self) -> Result<Option<Sshd>, Error> {
        let path = self.sshd_folder().join("sshd.json");
        match fs::read(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            text => {
                let text =
                    text.map_err(|error| Error::io(format!("cannot read {}", path.display()), error))?;
                serde_json::from_slice(&text).map(Some).map_err(|error| Error::new(error.to_string()))
            }
        }
    }

    /// Tells the lab's policy of a remote qube.
    fn add_remote(&self, qube: &str, relay: &str) -> Result<(), Error> {
        let path = self.layout().system_info();
        let read = |error| Error::io(format!("cannot read {}", path.display()), error);
        let text = fs::read(&path).map_err(read)?;
        let mut system: Value =
            serde_json::from_slice(&text).map_err(|error| Error::new(error.to_string()))?;
        let domains = system.get_mut("domains").and_then(Value::as_object_mut);
        let domains = domains.ok_or_else(|| Error::new("the lab's list of qubes has been damaged"))?;
        if domains.get(qube).is_some_and(|known| known.get("type") != Some(&json!("RemoteVM"))) {
            return Err(Error::new(format!("{qube} is a VM of this lab")));
        }
        domains.insert(
            qube.to_owned(),
            json!({
                "name": qube, "type": "RemoteVM", "tags": [format!("relayvm-{relay}")],
                "template_for_dispvms": false, "default_dispvm": null, "power_state": "Running", "icon": "",
                "internal": false, "guivm": null, "label": "red", "relayvm": relay,
                "transport_rpc": TRANSPORT, "uuid": null,
            }),
        );
        let new = path.with_extension("new");
        fs::write(&new, system.to_string()).and_then(|()| fs::rename(&new, &path)).map_err(io(&path))
    }

    /// Runs a command among the lab's own processes and returns what it writes; what it leaves running ends with the lab.
    fn inside(&self, vm: &str, argv: &[&str]) -> Result<String, Error> {
        let trouble = |error: std::io::Error| Error::io("cannot run a command in the lab", error);
        let (mut output, end) = std::io::pipe().map_err(trouble)?;
        let (mut errors, error_end) = std::io::pipe().map_err(trouble)?;
        let null = File::open("/dev/null").map_err(trouble)?;
        let run = Run {
            vm: vm.to_owned(),
            argv: argv.iter().map(|word| Bytes::from(std::ffi::OsString::from(word))).collect(),
            env: std::env::vars_os().map(|(name, value)| (name.into(), value.into())).collect(),
            cwd: None,
            group: group().map_or(0, |group| group.as_raw_nonzero().get()),
            terminal: false,
        };
        let mut client = self.begin(run, [null.as_fd(), end.as_fd(), error_end.as_fd()])?;
        drop((end, error_end));
        let reader = std::thread::spawn(move || {
            let mut text = String::new();
            errors.read_to_string(&mut text).map(|_| text)
        });
        let mut text = String::new();
        let read = output.read_to_string(&mut text);
        let said = reader.join().unwrap_or_else(|_| Ok(String::new())).map_err(trouble)?;
        read.map_err(trouble)?;
        match client.answer()? {
            Answer::Exited(0) => Ok(text),
            Answer::Exited(code) => {
                let name = argv.first().copied().unwrap_or_default();
                let last = said.lines().next_back().unwrap_or_default();
                Err(Error::new(format!("{name} ended with {code}: {last}")))
            }
            Answer::Failed { why, .. } => Err(Error::new(why)),
            Answer::Ready | Answer::Ended(_) => Err(Error::new("the lab answers nonsense")),
        }
    }
}

/// A port of the loopback that nobody has at this moment.
fn free_port() -> std::io::Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

/// An sshd that its user runs: only that user can log in, by the keys of links. Their shell is at home in the machine of
/// the lab: start-up files in the user's own home are no part of it.
fn settings(folder: &Path, home: &Path, port: u16, options: &[String]) -> String {
    let file = |name: &str| folder.join(name).display().to_string();
    let own: String = options.iter().map(|option| format!("{option}\n")).collect();
    // Of two lines about the same thing the first one counts.
    format!(
        "{own}SetEnv HOME={}\nListenAddress 127.0.0.1\nPort {port}\nHostKey {}\nPidFile {}\nAuthorizedKeysFile {}\nUsePAM no\n\
         StrictModes no\nPasswordAuthentication no\nKbdInteractiveAuthentication no\nMaxSessions 1000\n\
         ClientAliveInterval 15\n",
        home.display(),
        file("host_key"),
        file("pid"),
        file("authorized_keys"),
    )
}
