//! What the decision needs to know about the system of this moment.

use std::collections::HashMap;

use crate::token::is_dom0;

/// Why a system information is not usable.
#[derive(Debug, thiserror::Error)]
pub enum SystemError {
    /// No qube can have this name.
    #[error("{0:?} is no name of a qube")]
    BadName(String),
    /// Not the JSON that it should be.
    #[error("the system information is not usable: {0}")]
    Json(#[from] serde_json::Error),
}

/// One qube.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Domain {
    /// Its name, e.g. `work`.
    pub name: String,
    /// `AppVM`, `TemplateVM`, `StandaloneVM`, `DispVM`, `AdminVM`, `RemoteVM`, ….
    pub kind: String,
    /// Its tags.
    pub tags: Vec<String>,
    /// Whether disposables may be made of it.
    pub template_for_dispvms: bool,
    /// The template of the disposables that it asks for without naming one.
    pub default_dispvm: Option<String>,
    /// `Running`, `Halted`, `Paused`, …; anything but `Running` is not running.
    pub power_state: String,
    /// For the question to the user.
    pub icon: String,
    /// For drawings, e.g. `0xcc0000`.
    pub label: String,
    /// Without the prefix `uuid:`. Systems before R4.3 give none.
    pub uuid: Option<String>,
    /// Never offered to the user as a choice.
    pub internal: bool,
    /// The qube that shows its windows and asks its questions.
    pub guivm: Option<String>,
    /// For a `RemoteVM`: the qube that carries calls to it and from it.
    pub relayvm: Option<String>,
    /// For a `RemoteVM`: the service of the relay that carries calls.
    pub transport_rpc: Option<String>,
}

impl Domain {
    /// A halted qube of this name and type, with nothing else set.
    pub fn new(name: impl Into<String>, kind: impl Into<String>) -> Self {
        Self { name: name.into(), kind: kind.into(), power_state: "Halted".to_owned(), ..Self::default() }
    }

    /// Whether it runs now.
    pub fn is_running(&self) -> bool {
        self.power_state == "Running"
    }

    /// Whether it stands for a qube of another machine.
    pub fn is_remote(&self) -> bool {
        self.kind == "RemoteVM"
    }

    /// Whether it has this tag.
    pub fn has_tag(&self, tag: &str) -> bool {
        self.tags.iter().any(|own| own == tag)
    }
}

/// All qubes, found by name and by `uuid:UUID`.
#[derive(Clone, Debug, Default)]
pub struct SystemInfo {
    domains: Vec<Domain>,
    by_key: HashMap<String, usize>,
    by_tag: HashMap<String, Vec<usize>>,
    by_kind: HashMap<String, Vec<usize>>,
}

impl SystemInfo {
    /// A system of these qubes. A later qube of the same name replaces the earlier one.
    ///
    /// # Errors
    ///
    /// A name that is empty, or begins with `@`, or is `*`, or looks like a UUID reference: no
    /// qube can be called that, and policy words would get a second meaning.
    pub fn new(domains: impl IntoIterator<Item = Domain>) -> Result<Self, SystemError> {
        let mut system = Self::default();
        for domain in domains {
            let name = &domain.name;
            if name.is_empty() || name.starts_with('@') || name.starts_with("uuid:") || name == "*" {
                return Err(SystemError::BadName(name.clone()));
            }
            match system.by_key.get(name).and_then(|&index| system.domains.get_mut(index)) {
                Some(old) => *old = domain,
                None => {
                    system.by_key.insert(domain.name.clone(), system.domains.len());
                    system.domains.push(domain);
                }
            }
        }
        for (index, domain) in system.domains.iter().enumerate() {
            system.by_kind.entry(domain.kind.clone()).or_default().push(index);
            for tag in &domain.tags {
                system.by_tag.entry(tag.clone()).or_default().push(index);
            }
            if let Some(uuid) = &domain.uuid {
                system.by_key.insert(format!("uuid:{uuid}"), index);
            }
        }
        Ok(system)
    }

    /// The qube with this name, or with this UUID when the key is `uuid:UUID`.
    pub fn get(&self, key: &str) -> Option<&Domain> {
        self.position(key).and_then(|index| self.domains.get(index))
    }

    /// The qube in which the user is asked and told about calls of this one: dom0 for itself, the relay's for a
    /// remote qube, else its `guivm`.
    pub fn asked_in(&self, source: &str) -> Option<&str> {
        if is_dom0(source) {
            return Some("dom0");
        }
        let domain = self.get(source)?;
        if !domain.is_remote() {
            return domain.guivm.as_deref();
        }
        match domain.relayvm.as_deref()? {
            relay if is_dom0(relay) => Some("dom0"),
            relay => self.get(relay)?.guivm.as_deref(),
        }
    }

    /// Whether calls of this relay in the name of this qube are believed.
    pub fn speaks_for(&self, relay: &str, remote: &str) -> bool {
        self.get(remote).is_some_and(|domain| domain.is_remote() && domain.relayvm.as_deref() == Some(relay))
    }

    /// Where in [`domains`](Self::domains) the qube with this name or `uuid:UUID` is.
    pub(crate) fn position(&self, key: &str) -> Option<usize> {
        self.by_key.get(key).copied()
    }

    /// Where the qubes with this tag are.
    pub(crate) fn tagged(&self, tag: &str) -> &[usize] {
        self.by_tag.get(tag).map(Vec::as_slice).unwrap_or_default()
    }

    /// Where the qubes of this type are.
    pub(crate) fn of_kind(&self, kind: &str) -> &[usize] {
        self.by_kind.get(kind).map(Vec::as_slice).unwrap_or_default()
    }

    /// All qubes, in the order given.
    pub fn domains(&self) -> &[Domain] {
        &self.domains
    }
}
