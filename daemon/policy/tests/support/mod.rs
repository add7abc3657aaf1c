//! What the tests share: a small system, and folders in memory.
#![allow(dead_code)] // no test needs all of it

use std::collections::BTreeMap;

use policy::{Decision, Domain, Files, Policy, PolicyError, Request, Source, SourceError, SystemInfo};

const ZERO: &str = "00000000-0000-0000-0000-000000000000";

/// dom0, work (tag `job`, default disposables of `dvm`), home, vault (halted), hidden (internal),
/// dvm and dvm-red (templates for disposables), relay and far (a remote qube behind relay).
pub(crate) fn system() -> SystemInfo {
    let running =
        |name: &str, kind: &str| Domain { power_state: "Running".to_owned(), ..Domain::new(name, kind) };
    let mut domains = vec![
        Domain { uuid: Some(ZERO.to_owned()), ..running("dom0", "AdminVM") },
        Domain {
            tags: vec!["job".to_owned()],
            default_dispvm: Some("dvm".to_owned()),
            ..running("work", "AppVM")
        },
        Domain { default_dispvm: Some("dvm".to_owned()), ..running("home", "AppVM") },
        Domain::new("vault", "AppVM"),
        Domain { internal: true, ..Domain::new("hidden", "AppVM") },
        Domain { template_for_dispvms: true, ..Domain::new("dvm", "AppVM") },
        Domain {
            template_for_dispvms: true,
            tags: vec!["red".to_owned()],
            ..Domain::new("dvm-red", "AppVM")
        },
        running("relay", "AppVM"),
        Domain {
            relayvm: Some("relay".to_owned()),
            transport_rpc: Some("air.Ssh".to_owned()),
            ..running("far", "RemoteVM")
        },
    ];
    for domain in &mut domains {
        if domain.uuid.is_none() {
            domain.uuid = Some(format!("id-{}", domain.name));
        }
    }
    SystemInfo::new(domains).expect("a good system")
}

/// The names of [`system`], without dom0.
pub(crate) const QUBES: &[&str] = &["work", "home", "vault", "hidden", "dvm", "dvm-red", "relay", "far"];

pub(crate) fn policy(text: &str) -> Policy {
    compile(text).unwrap_or_else(|error| panic!("{error}\n{text}"))
}

pub(crate) fn compile(text: &str) -> Result<Policy, PolicyError> {
    Policy::compile(&Files::new().policy("10-test.policy", text))
}

pub(crate) fn decide(text: &str, source: &str, target: &str) -> Decision {
    policy(text).decide(&system(), &Request::new(source, target, "demo.Add+1"))
}

/// The decision in a few words.
pub(crate) fn brief(decision: &Decision) -> String {
    match decision {
        Decision::Allow(allow) => format!("allow {}", allow.target),
        Decision::Ask(ask) => {
            let default = ask.default_target.as_ref().map(|name| format!(" ({name})")).unwrap_or_default();
            format!("ask {}{default}", ask.choices.join(" "))
        }
        Decision::Deny(_) => "deny".to_owned(),
    }
}

/// Folders with files, as a file system would have them; paths are absolute.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tree {
    pub(crate) folders: Vec<String>,
    pub(crate) files: BTreeMap<String, Vec<u8>>,
}

impl Tree {
    pub(crate) fn new(folders: &[&str]) -> Self {
        Self { folders: folders.iter().map(|&folder| folder.to_owned()).collect(), ..Self::default() }
    }

    pub(crate) fn file(mut self, path: &str, text: impl Into<Vec<u8>>) -> Self {
        self.files.insert(path.to_owned(), text.into());
        self
    }

    pub(crate) fn compile(&self) -> Result<Policy, PolicyError> {
        Policy::compile(self)
    }

    fn absolute(base: &str, path: &str) -> String {
        if path.starts_with('/') { path.to_owned() } else { format!("{base}/{path}") }
    }
}

impl Source for Tree {
    fn folders(&self) -> Vec<String> {
        self.folders.clone()
    }

    fn old_folder(&self) -> String {
        "/old".to_owned()
    }

    fn list(&self, folder: &str) -> Result<Vec<String>, SourceError> {
        let names: Vec<String> = self
            .files
            .keys()
            .filter_map(|path| path.strip_prefix(folder)?.strip_prefix('/'))
            .filter(|name| !name.contains('/'))
            .map(str::to_owned)
            .collect();
        if names.is_empty() { Err(SourceError("no such folder".to_owned())) } else { Ok(names) }
    }

    fn resolve_file(&self, base: &str, path: &str) -> Result<String, SourceError> {
        let path = Self::absolute(base, path);
        if self.files.contains_key(&path) { Ok(path) } else { Err(SourceError(format!("no file {path}"))) }
    }

    fn resolve_folder(&self, base: &str, path: &str) -> Result<String, SourceError> {
        let path = Self::absolute(base, path);
        self.list(&path).map(|_| path)
    }

    fn read(&self, path: &str, _most: usize) -> Result<Vec<u8>, SourceError> {
        self.files.get(path).cloned().ok_or_else(|| SourceError("no such file".to_owned()))
    }
}
