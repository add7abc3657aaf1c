//! What is said before a lab starts: what its user wrote and cannot have meant, and what will be refused.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use cli::policy_tools::lint;
use engine::exec::ServiceConfig;
use engine::say;

use super::args::{LabArgs, ServiceArg};
use super::plan::Age;
use super::{DEFAULT_VMS, DOM0, Error};

fn warn(text: impl std::fmt::Display) {
    say::error(format_args!("qrexec-lab: warning: {text}"));
}

fn read(path: &Path) -> Result<Vec<u8>, Error> {
    fs::read(path).map_err(|error| Error::io(format!("cannot read {}", path.display()), error))
}

/// Reads the policy, says what is wrong with it, and gives its text if nothing is.
pub(super) fn policy(path: &Path, lab: &LabArgs) -> Result<String, Error> {
    let text = read(path)?;
    let mut findings = lint::findings(&text, false);
    let vms: BTreeSet<&str> = match lab.vm.as_slice() {
        [] => DEFAULT_VMS.into(),
        named => named.iter().map(String::as_str).collect(),
    };
    findings.extend(lint::unknown_qubes(&text, "this lab", |name| name == DOM0 || vms.contains(name)));
    findings.extend(lint::includes(&text).into_iter().map(|line| lint::Finding {
        line,
        error: true,
        text: "a lab has no other policy files: every call is denied".to_owned(),
    }));
    findings.sort_by_key(|finding| finding.line);
    for finding in &findings {
        let what = if finding.error { "error" } else { "warning" };
        say::error(format_args!("{}:{}: {what}: {}", path.display(), finding.line, finding.text));
    }
    if findings.iter().any(|finding| finding.error) {
        return Err(Error::new(format!("{} is no policy: no lab was started", path.display())));
    }
    if let Some(line) = lint::asks(&text).first().filter(|_| lab.age != Age::R2) {
        if lab.ask {
            say::error(format_args!(
                "qrexec-lab: the policy asks: \"qrexec-lab exec dom0 qrexec-policy-agent --terminal\" shows the questions"
            ));
        } else {
            warn(format_args!(
                "{}:{line}: the policy asks, and in this lab nobody can be asked: such calls are refused; --ask makes dom0 ask",
                path.display()
            ));
        }
    }
    String::from_utf8(text).map_err(|_| Error::new(format!("{} is not UTF-8", path.display())))
}

/// Looks at the services of the command line and at what is said about them.
pub(super) fn on_services(services: &[ServiceArg], configs: &[ServiceArg]) -> Result<(), Error> {
    let mut skipping = BTreeSet::new();
    for ServiceArg { vm, name, path } in configs {
        let (config, unknown) = ServiceConfig::check(&read(path)?)
            .map_err(|error| Error::new(format!("{}: {error}", path.display())))?;
        for (line, key) in unknown {
            warn(format_args!("{}: line {line}: unknown key {key} is ignored", path.display()));
        }
        if config.skip_service_descriptor {
            skipping.insert((vm, name.split('+').next().unwrap_or_default()));
        }
    }
    for ServiceArg { vm, name, path } in
        services.iter().filter(|service| service.path.starts_with("/dev/tcp"))
    {
        if !skipping.contains(&(vm, name.split('+').next().unwrap_or_default())) {
            say::error(format_args!(
                "qrexec-lab: {vm}'s {name}: {} is sent \"{name}+ CALLER\" and a NUL first; if it does not expect that, \
                 write skip-service-descriptor=true into a file and add --config {vm}:{name}=FILE",
                path.display()
            ));
        }
    }
    Ok(())
}
