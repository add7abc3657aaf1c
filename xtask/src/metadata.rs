//! The part of `cargo metadata` that the checks look at.

use std::collections::{HashMap, HashSet};

use serde::Deserialize;

use crate::steps::{Failure, cargo};

#[derive(Default, Deserialize)]
pub(crate) struct Metadata {
    pub(crate) packages: Vec<Package>,
    #[serde(default)]
    pub(crate) resolve: Resolve,
}

/// Who uses whom, by id.
#[derive(Default, Deserialize)]
pub(crate) struct Resolve {
    nodes: Vec<Node>,
}

#[derive(Deserialize)]
struct Node {
    id: String,
    deps: Vec<Use>,
}

#[derive(Deserialize)]
struct Use {
    pkg: String,
    dep_kinds: Vec<Kind>,
}

#[derive(Deserialize)]
struct Kind {
    kind: Option<String>,
}

#[derive(Default, Deserialize)]
pub(crate) struct Package {
    #[serde(default)]
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) license: Option<String>,
    /// `None` for the members of the workspace, which come from paths.
    pub(crate) source: Option<String>,
    pub(crate) dependencies: Vec<Dependency>,
}

#[derive(Deserialize)]
pub(crate) struct Dependency {
    pub(crate) name: String,
    /// `None` for a normal dependency, else `dev` or `build`.
    pub(crate) kind: Option<String>,
}

impl Metadata {
    /// The names of all crates that become part of what `root` builds; those of its tests do not.
    pub(crate) fn contents_of(&self, root: &str) -> HashSet<&str> {
        let by_id: HashMap<&str, &Package> = self.packages.iter().map(|p| (p.id.as_str(), p)).collect();
        let uses: HashMap<&str, &Node> =
            self.resolve.nodes.iter().map(|node| (node.id.as_str(), node)).collect();
        let mut open: Vec<&str> =
            self.packages.iter().filter(|p| p.name == root).map(|p| p.id.as_str()).collect();
        let mut seen: HashSet<&str> = HashSet::new();
        while let Some(id) = open.pop() {
            if seen.insert(id) {
                let deps = uses.get(id).into_iter().flat_map(|node| &node.deps);
                let linked = deps.filter(|dep| dep.dep_kinds.iter().any(|kind| kind.kind.is_none()));
                open.extend(linked.map(|dep| dep.pkg.as_str()));
            }
        }
        seen.into_iter().filter_map(|id| Some(by_id.get(id)?.name.as_str())).collect()
    }

    /// Asks cargo for what is built on this machine: crates for other systems need not even be there.
    pub(crate) fn read() -> Result<Self, Failure> {
        let host = host()?;
        let asked = cargo(["metadata", "--format-version", "1", "--filter-platform", &host]).output();
        let output = asked.map_err(|error| format!("cargo metadata: {error}"))?;
        if !output.status.success() {
            return Err(format!("cargo metadata: {}", String::from_utf8_lossy(&output.stderr)));
        }
        let metadata: Self =
            serde_json::from_slice(&output.stdout).map_err(|error| format!("cargo metadata: {error}"))?;
        Ok(metadata)
    }
}

fn host() -> Result<String, Failure> {
    let output = std::process::Command::new("rustc").arg("-vV").output();
    let text = output.map_err(|error| format!("rustc: {error}"))?.stdout;
    let text = String::from_utf8_lossy(&text);
    let host = text.lines().find_map(|line| line.strip_prefix("host: "));
    host.map(str::to_owned).ok_or_else(|| "rustc does not name its host".to_owned())
}
