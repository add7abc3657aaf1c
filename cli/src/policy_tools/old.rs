//! Making the call of a VM of R1 or R2: a client of its daemon for the caller, glued to one that runs the service.

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use daemon::answer;
use daemon_core::question::{Allow, Verdict};
use engine::process::own_executable;
use wire::names::ServiceName;

use crate::failure::Failure;

/// Programs by these paths are what every system of the time has; a lab has them in its search path.
const FOLDER: &str = "/usr/lib/qubes";

/// Becomes the client that is connected to the waiting caller. One that is denied reads the end of its input.
pub(super) fn connect(folder: &Path, answer: &str, words: [&str; 2], ident: &str) -> Result<i32, Failure> {
    let [source, service] = words;
    let allow = match answer::parse(answer.as_bytes()).map(|answer| answer.verdict) {
        Ok(Verdict::Allow(allow)) => Some(allow),
        _ => None,
    };
    let local = match allow {
        Some(allow) => local_command(folder, &allow, source, service)?,
        None => "/bin/false".to_owned(),
    };
    let mut client = Command::new(own_executable());
    client.arg0("qrexec-client").arg("--socket-dir").arg(folder);
    client.args(["-d", source, "-l", &local, "-c", ident]);
    Err(Failure::during("qrexec-client")(client.exec()))
}

/// The other half, in words that a shell takes as they are: their letters are those of names.
fn local_command(folder: &Path, allow: &Allow, source: &str, service: &str) -> Result<String, Failure> {
    let service = match &allow.service {
        Some(service) => service.clone(),
        None => ServiceName::new(service).map_err(Failure::during("the service's name"))?,
    };
    if allow.is_for_dom0() {
        return Ok(format!("exec {} {service} {source}", program("qubes-rpc-multiplexer")));
    }
    // The daemons of R2 themselves are known by number and name only.
    let is_there = folder.join(format!("qrexec.{}", allow.daemon())).exists();
    let target = if is_there { allow.daemon().as_str() } else { allow.target.as_str() };
    let user = allow.user.as_str();
    // A user's name may have a quote in it, as far as the policy goes.
    if user.contains('\'') {
        return Err(Failure::trouble("the user's name cannot be passed on"));
    }
    if let Some(template) = target.strip_prefix("@dispvm:") {
        let creator = program("qfile-daemon-dvm");
        return Ok(format!("exec {creator} --template={template} -- {service} {source} '{user}'"));
    }
    let client = program("qrexec-client");
    Ok(format!("exec {client} -d {target} '{user}:QUBESRPC {service} {source}'"))
}

fn program(name: &str) -> String {
    let path = Path::new(FOLDER).join(name);
    let lab = std::env::var_os("QREXEC_INSTALLATION").is_some_and(|word| word == "lab");
    if !lab && path.exists() { path.display().to_string() } else { name.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_daemon_without_uuid_is_called_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let answer = b"user=DEFAULT\nresult=allow\ntarget=vault\ntarget_uuid=uuid:00000000-0000-0000-0000-000000000002\n\
            autostart=False\nrequested_target=vault\n";
        let Verdict::Allow(allow) = answer::parse(answer).unwrap().verdict else { panic!("denied") };
        let command = || local_command(folder.path(), &allow, "work", "test.Add").unwrap();
        assert_eq!(command(), "exec qrexec-client -d vault 'DEFAULT:QUBESRPC test.Add work'");
        std::fs::write(folder.path().join("qrexec.uuid:00000000-0000-0000-0000-000000000002"), "").unwrap();
        let uuid = "uuid:00000000-0000-0000-0000-000000000002";
        assert_eq!(command(), format!("exec qrexec-client -d {uuid} 'DEFAULT:QUBESRPC test.Add work'"));
    }

    #[test]
    fn a_disposable_is_made_of_the_template_for_the_user_that_the_policy_names() {
        let folder = tempfile::tempdir().unwrap();
        let command = |user: &str| {
            let answer = format!(
                "user={user}\nresult=allow\ntarget=@dispvm:tmpl\nautostart=True\nrequested_target=@dispvm\n"
            );
            let Verdict::Allow(allow) = answer::parse(answer.as_bytes()).unwrap().verdict else {
                panic!("denied")
            };
            local_command(folder.path(), &allow, "work", "test.Add")
        };
        let expected = "exec qfile-daemon-dvm --template=tmpl -- test.Add work 'joe'";
        assert_eq!(command("joe").unwrap(), expected);
        assert!(command("jo'e").is_err());
    }
}
