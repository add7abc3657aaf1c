//! Decisions from the policy folders and the system information, both always as they are now.

use std::path::PathBuf;

use daemon_core::question::{Allow, Question, User, Verdict};
use policy::{Decision, Request};
use wire::names::{ServiceName, Target};

use super::store::{NoSystem, PolicyStore, SystemFile};

/// The policy of this machine. Every question is answered from the files of this moment: before it
/// is used, each file and folder that was read is looked at again, which costs microseconds. (A
/// system has many daemons but few inotify instances, so the kernel is not asked to tell.)
#[derive(Debug)]
pub struct PolicyFiles {
    policy: PolicyStore,
    system: Option<SystemFile>,
}

impl PolicyFiles {
    /// The policy of these folders, the one that hides the others first, on the system that the file
    /// `system` describes. Nothing is read yet; what is missing denies.
    #[must_use]
    pub fn new(folders: Vec<PathBuf>, system: Option<PathBuf>) -> Self {
        Self { policy: PolicyStore::new(folders), system: system.map(SystemFile::new) }
    }

    /// Decides, unless a person has to be asked, or told: then the question needs a program that can.
    /// Whatever goes wrong on the way denies.
    pub fn decide(&mut self, question: &Question) -> Option<Verdict> {
        let (decision, told, note) = match self.decision(question) {
            Ok(decision) => decision,
            Err(reason) => return Some(Verdict::deny(reason.to_string())),
        };
        match decision {
            Decision::Ask(ask) if !told => {
                Some(Verdict::deny(format!("{} asks the user, and the caller has no guivm", ask.rule)))
            }
            Decision::Allow(allow) if !(told && allow.notify) => Some(allowed(allow, note)),
            Decision::Deny(deny) if !(told && deny.notify) => Some(Verdict::Deny(deny.reason + note)),
            // The program sees and says the rest itself.
            _ => None,
        }
    }

    /// The decision, whether there is somebody to ask and to tell, and what the log says about the target.
    fn decision(&mut self, question: &Question) -> Result<(Decision, bool, &'static str), NoSystem> {
        let system = self.system.as_mut().ok_or(NoSystem::NotConfigured)?.current()?;
        let service = question.service.as_str();
        let mut request = Request::new(question.source.as_str(), question.target.as_str(), service);
        request.requested_source = question.requested_source.as_ref().map(Target::as_str);
        let decision = self.policy.current().decide(&system, &request);
        let caller = request.speaker(&system);
        let told = system.asked_in(caller).is_some();
        Ok((decision, told, system.note_on(request.target)))
    }
}

/// The engine's permission in the daemon's types. A name that no qube or service can have, which only
/// a wrong system information could bring in, denies.
fn allowed(allow: policy::Allow, note: &str) -> Verdict {
    let rule = format!("{}{note}", allow.rule);
    match checked(allow, rule.clone()) {
        Some(allow) => Verdict::Allow(Box::new(allow)),
        None => Verdict::deny(format!("{rule} leads to a name that cannot be used")),
    }
}

fn checked(allow: policy::Allow, rule: String) -> Option<Allow> {
    let target = |text: Option<String>| text.map(|text| Target::new(&text)).transpose().ok();
    Some(Allow {
        user: allow.user.map_or_else(|| Some(User::default()), |user| User::new(&user).ok())?,
        target: Target::new(&allow.target).ok()?,
        target_uuid: target(allow.target_uuid)?,
        autostart: allow.autostart,
        requested_target: Target::new(&allow.requested_target).ok()?,
        service: allow.service.map(|name| ServiceName::new(&name)).transpose().ok()?,
        policy_source: target(allow.policy_source)?,
        rule: Some(rule),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use wire::names::{DomainName, Ident};

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
                service: ServiceName::new("demo.Add").unwrap().into(),
                ident: Ident::numbered(1),
            };
            match self.files.decide(&question).expect("nobody is to be asked") {
                Verdict::Allow(allow) => Ok(allow.daemon().to_string()),
                Verdict::Deny(reason) => Err(reason),
                Verdict::Made => panic!("files make no calls"),
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
        assert!(machine.ask("dom0").unwrap_err().contains("no guivm"));
        assert!(!machine.ask("@default").unwrap_err().contains("no such qube"));
        assert!(machine.ask("nobody").unwrap_err().ends_with(" (no such qube, taken as @default)"));
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

    /// Were it an error, every call would be denied; were it read once and for all, its target would never count.
    #[test]
    fn a_link_that_comes_to_life_counts() {
        let mut machine = Machine::new("demo.Add * work vault allow\n");
        let link = machine.root.path().join("etc/10-link.policy");
        let elsewhere = machine.root.path().join("elsewhere");
        std::os::unix::fs::symlink(&elsewhere, link).unwrap();
        for _ in 0..3 {
            assert!(machine.ask("vault").is_ok(), "it leads nowhere, and is no file");
            machine.write("elsewhere", "demo.Add * work vault deny\n");
            assert!(machine.ask("vault").unwrap_err().contains("10-link.policy:1"));
            machine.write("elsewhere", "demo.Add * work vault allow target=dom0\n");
            assert_eq!(machine.ask("vault"), Ok("dom0".to_owned()));
            fs::remove_file(&elsewhere).unwrap();
        }
        fs::create_dir(&elsewhere).unwrap();
        assert!(machine.ask("vault").is_ok(), "nor is one that leads to a folder");
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
