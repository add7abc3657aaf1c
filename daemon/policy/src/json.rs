//! The JSON text of the system: `internal.GetSystemInfo` of qubesd, or a file.

use std::fmt;

use serde::Deserialize;
use serde::de::{MapAccess, Visitor};

use crate::system::{Domain, SystemError, SystemInfo};

impl SystemInfo {
    /// Reads `{"domains": {NAME: {"type": …, "tags": […], "template_for_dispvms": …, …}}}`.
    ///
    /// `type`, `tags` and `template_for_dispvms` must be there for every qube: a rule about a fact
    /// that is missing could only be guessed. Everything else may be missing or `null`. Keys
    /// `uuid:…` are second names that some writers add; they are made anew here.
    ///
    /// # Errors
    ///
    /// Text that is not this JSON, and names that no qube can have.
    pub fn from_json(text: &[u8]) -> Result<Self, SystemError> {
        Ok(serde_json::from_slice(text)?)
    }
}

impl<'de> Deserialize<'de> for SystemInfo {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Text::deserialize(deserializer)?;
        Self::new(text.domains.0).map_err(serde::de::Error::custom)
    }
}

#[derive(Deserialize)]
struct Text {
    domains: Domains,
}

/// The qubes in the order of the text, which decides between two qubes of one UUID.
struct Domains(Vec<Domain>);

#[derive(Deserialize)]
struct Fields {
    #[serde(rename = "type")]
    kind: String,
    tags: Vec<String>,
    template_for_dispvms: bool,
    default_dispvm: Option<String>,
    power_state: Option<String>,
    icon: Option<String>,
    label: Option<String>,
    uuid: Option<String>,
    internal: Option<bool>,
    guivm: Option<String>,
    relayvm: Option<String>,
    transport_rpc: Option<String>,
}

impl Fields {
    fn named(self, name: String) -> Domain {
        let some = |text: Option<String>| text.filter(|text| !text.is_empty());
        Domain {
            name,
            kind: self.kind,
            tags: self.tags,
            template_for_dispvms: self.template_for_dispvms,
            // An empty one is kept: it is an error of the system, not "none".
            default_dispvm: self.default_dispvm,
            power_state: self.power_state.unwrap_or_default(),
            icon: self.icon.unwrap_or_default(),
            label: self.label.unwrap_or_default(),
            uuid: some(self.uuid),
            internal: self.internal.unwrap_or_default(),
            guivm: some(self.guivm),
            relayvm: some(self.relayvm),
            transport_rpc: some(self.transport_rpc),
        }
    }
}

impl<'de> Deserialize<'de> for Domains {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct InOrder;
        impl<'de> Visitor<'de> for InOrder {
            type Value = Domains;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object with a qube under each name")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Domains, A::Error> {
                let mut domains = Vec::new();
                while let Some(name) = map.next_key::<String>()? {
                    if name.starts_with("uuid:") {
                        map.next_value::<serde::de::IgnoredAny>()?;
                    } else {
                        domains.push(map.next_value::<Fields>()?.named(name));
                    }
                }
                Ok(Domains(domains))
            }
        }
        deserializer.deserialize_map(InOrder)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_qubesd_gives() {
        let text = br#"{"domains": {
            "work": {"tags": ["a"], "type": "AppVM", "template_for_dispvms": true, "default_dispvm": null,
                     "power_state": "Running", "icon": "red", "uuid": "u-1", "internal": null, "guivm": "",
                     "relayvm": null, "label": "0xcc0000", "name": "work", "extra": 1},
            "uuid:u-1": {"tags": []},
            "old": {"tags": [], "type": "AppVM", "template_for_dispvms": false}}}"#;
        let system = SystemInfo::from_json(text).unwrap();
        let work = system.get("uuid:u-1").unwrap();
        assert_eq!(work.name, "work");
        assert!(work.is_running() && work.has_tag("a") && work.guivm.is_none());
        assert_eq!(system.domains().len(), 2);
        assert_eq!(system.get("old").unwrap().uuid, None);
    }

    #[test]
    fn missing_facts_and_impossible_names_are_errors() {
        for text in [
            r#"{"domains": {"a": {"tags": [], "type": "AppVM"}}}"#,
            r#"{"domains": {"@a": {"tags": [], "type": "AppVM", "template_for_dispvms": false}}}"#,
            r#"{"domains": []}"#,
            r#"{}"#,
            "",
        ] {
            assert!(SystemInfo::from_json(text.as_bytes()).is_err(), "{text}");
        }
    }
}
