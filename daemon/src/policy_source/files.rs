//! Decisions from the policy folders and the system information, both always as they are now.

use std::path::{Path, PathBuf};

use policy::{Decision, Policy, Request, SystemInfo};
use wire::names::{ServiceName, Target};

use super::disk::{Disk, Footprint};
use crate::question::{Allow, Question, User, Verdict};

/// The policy of this machine. Every question is answered from the files of this moment: before it
/// is used, each file and folder that was read is looked at again, which costs microseconds.
#[derive(Debug)]
pub struct PolicyFiles {
    folders: Vec<PathBuf>,
    policy: Option<(Policy, Footprint)>,
    system_path: Option<PathBuf>,
    system: Option<(SystemInfo, Footprint)>,
}

impl PolicyFiles {
    /// The policy of these folders, the one that hides the others first, on the system that the file
    /// `system` describes. Nothing is read yet; what is missing denies.
    #[must_use]
    pub fn new(folders: Vec<PathBuf>, system: Option<PathBuf>) -> Self {
        Self { folders, policy: None, system_path: system, system: None }
    }

    /// Decides. Whatever goes wrong on the way denies.
    pub fn decide(&mut self, question: &Question) -> Verdict {
        match self.decision(question) {
            Ok(Decision::Allow(allow)) => allowed(allow),
            Ok(Decision::Ask(ask)) => {
                Verdict::deny(format!("{} asks the user, and there is nobody to ask", ask.rule))
            }
            Ok(Decision::Deny(deny)) => Verdict::Deny(deny.reason),
            Err(reason) => Verdict::Deny(reason),
        }
    }

    fn decision(&mut self, question: &Question) -> Result<Decision, String> {
        let path = self.system_path.as_deref().ok_or("no system information is configured")?;
        let (system, _) = fresh(&mut self.system, || read_system(path))?;
        let (policy, _) = fresh(&mut self.policy, || Ok(read_policy(&self.folders)))?;
        let service = question.service.as_str();
        let mut request = Request::new(question.source.as_str(), question.target.as_str(), service);
        request.requested_source = question.requested_source.as_ref().map(Target::as_str);
        Ok(policy.decide(system, &request))
    }
}

/// What is in the slot if it still holds, else what `read` gives.
fn fresh<T>(
    slot: &mut Option<(T, Footprint)>,
    read: impl FnOnce() -> Result<(T, Footprint), String>,
) -> Result<&(T, Footprint), String> {
    let kept = slot.take().filter(|(_, footprint)| footprint.holds());
    let value = match kept {
        Some(value) => value,
        None => read()?,
    };
    Ok(slot.insert(value))
}

fn read_policy(folders: &[PathBuf]) -> (Policy, Footprint) {
    let disk = Disk::new(folders);
    let policy = Policy::compile_or_deny(&disk);
    match policy.error() {
        Some(error) => tracing::error!("every call is denied until the policy is mended: {error}"),
        None => tracing::debug!("policy read: {} rules", policy.rules().len()),
    }
    (policy, disk.into_footprint())
}

fn read_system(path: &Path) -> Result<(SystemInfo, Footprint), String> {
    let mut footprint = Footprint::default();
    footprint.note(path);
    let text = std::fs::read(path).map_err(|error| format!("{}: {error}", path.display()))?;
    let system = SystemInfo::from_json(&text).map_err(|error| format!("{}: {error}", path.display()))?;
    Ok((system, footprint))
}

/// The engine's permission in the daemon's types. A name that no qube or service can have, which only
/// a wrong system information could bring in, denies.
fn allowed(allow: policy::Allow) -> Verdict {
    let rule = allow.rule.to_string();
    checked(allow).map_or_else(
        || Verdict::deny(format!("{rule} leads to a name that cannot be used")),
        |allow| Verdict::Allow(Box::new(allow)),
    )
}

fn checked(allow: policy::Allow) -> Option<Allow> {
    let target = |text: Option<String>| text.map(|text| Target::new(&text)).transpose().ok();
    Some(Allow {
        user: allow.user.map_or_else(|| Some(User::default()), |user| User::new(&user))?,
        target: Target::new(&allow.target).ok()?,
        target_uuid: target(allow.target_uuid)?,
        autostart: allow.autostart,
        requested_target: Target::new(&allow.requested_target).ok()?,
        service: allow.service.map(|name| ServiceName::new(&name)).transpose().ok()?,
        policy_source: target(allow.policy_source)?,
        rule: Some(allow.rule.to_string()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use wire::names::DomainName;

    const SYSTEM: &str = r#"{"domains": {
        "dom0": {"type": "AdminVM", "tags": [], "template_for_dispvms": false, "power_state": "Running"},
        "work": {"type": "AppVM", "tags": [], "template_for_dispvms": false, "power_state": "Running"},
        "vault": {"type": "AppVM", "tags": [], "template_for_dispvms": false, "power_state": "Running"}}}"#;

    struct Machine {
        root: tempfile::TempDir,
        files: PolicyFiles,
    }

    impl Machine {
        fn new(policy: &str) -> Self {
            let root = tempfile::tempdir().unwrap();
            let folders: Vec<PathBuf> = ["run", "etc"].map(|name| root.path().join(name)).into();
            folders.iter().for_each(|folder| fs::create_dir(folder).unwrap());
            fs::write(root.path().join("etc/30-user.policy"), policy).unwrap();
            fs::write(root.path().join("system.json"), SYSTEM).unwrap();
            let files = PolicyFiles::new(folders, Some(root.path().join("system.json")));
            Self { root, files }
        }

        fn ask(&mut self, target: &str) -> Result<String, String> {
            let question = Question {
                source: DomainName::new("work").unwrap(),
                requested_source: None,
                target: Target::new(target).unwrap(),
                service: ServiceName::new("demo.Add").unwrap(),
            };
            match self.files.decide(&question) {
                Verdict::Allow(allow) => Ok(allow.daemon().to_string()),
                Verdict::Deny(reason) => Err(reason),
            }
        }

        fn write(&self, path: &str, text: &str) {
            fs::write(self.root.path().join(path), text).unwrap();
        }
    }

    #[test]
    fn decides_by_the_files() {
        let mut machine = Machine::new("demo.Add * work vault allow\ndemo.Add * work dom0 ask\n");
        assert_eq!(machine.ask("vault"), Ok("vault".to_owned()));
        assert!(machine.ask("dom0").unwrap_err().contains("nobody to ask"));
        assert!(machine.ask("@default").is_err());
    }

    #[test]
    fn every_change_counts_at_once() {
        let mut machine = Machine::new("demo.Add * work vault allow\n");
        for _ in 0..50 {
            machine.write("etc/30-user.policy", "demo.Add * work vault allow\n");
            assert!(machine.ask("vault").is_ok());
            machine.write("etc/30-user.policy", "demo.Add * work vault deny \n");
            assert!(machine.ask("vault").is_err());
        }
        machine.write("run/10-first.policy", "demo.Add * work vault allow\n");
        assert!(machine.ask("vault").is_ok());
        fs::remove_file(machine.root.path().join("run/10-first.policy")).unwrap();
        assert!(machine.ask("vault").is_err());
    }

    #[test]
    fn a_link_that_comes_to_life_counts() {
        let mut machine = Machine::new("demo.Add * work vault deny\n");
        let link = machine.root.path().join("etc/10-link.policy");
        std::os::unix::fs::symlink(machine.root.path().join("elsewhere"), link).unwrap();
        assert!(machine.ask("vault").is_err());
        machine.write("elsewhere", "demo.Add * work vault allow\n");
        assert!(machine.ask("vault").is_ok());
        machine.write("elsewhere", "demo.Add * work vault deny\n");
        assert!(machine.ask("vault").is_err());
    }

    #[test]
    fn what_is_missing_or_broken_denies() {
        let mut machine = Machine::new("demo.Add * work vault allow\n");
        machine.write("etc/99-broken.policy", "nonsense\n");
        assert!(machine.ask("vault").is_err());
        fs::remove_file(machine.root.path().join("etc/99-broken.policy")).unwrap();
        assert!(machine.ask("vault").is_ok());
        machine.write("system.json", "{}");
        assert!(machine.ask("vault").is_err());
        machine.write("system.json", SYSTEM);
        assert!(machine.ask("vault").is_ok());
        fs::remove_file(machine.root.path().join("system.json")).unwrap();
        assert!(machine.ask("vault").is_err());
        machine.write("system.json", SYSTEM);
        fs::remove_dir_all(machine.root.path().join("run")).unwrap();
        assert!(machine.ask("vault").is_err());
        machine.files = PolicyFiles::new(Vec::new(), None);
        assert!(machine.ask("vault").is_err());
    }
}
