//! A folder of the C programs, made to fit a lab.
//!
//! They speak the same protocol and know almost the same options. What is different: their daemon starts a program for
//! every question of policy, and their rings find each other through `VCHAN_SOCKET_DIR` whatever carries the bytes. So
//! they get a lab of the socket transport, and a daemon that is told of a program which allows everything (the folder's
//! own `qrexec-policy-exec` if it has one).

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use super::process::silent;
use cli::failure::Failure;

/// Answers a question of policy: `-- SOURCE TARGET SERVICE`. One process without children.
const ALLOW: &str = "#!/bin/sh\nprintf 'user=DEFAULT\\nresult=allow\\ntarget=%s\\nautostart=False\\nrequested_target=%s\\n' \"$3\" \"$3\"\n";

/// Whether the folder has the C programs: their daemon has no version to show.
pub(super) fn is_upstream(folder: &Path) -> bool {
    let daemon = folder.join("qrexec-daemon");
    silent(Command::new(daemon).arg("--version")).status().is_ok_and(|status| !status.success())
}

/// Makes, in `place`, a folder of programs that a lab can start like our own.
pub(super) fn adapt(folder: &Path, place: &Path) -> Result<PathBuf, Failure> {
    let during = |what: &Path| Failure::during(format!("adapting {}", what.display()));
    let folder = fs::canonicalize(folder).map_err(during(folder))?;
    let adapted = place.join("bin");
    fs::create_dir(&adapted).map_err(during(&adapted))?;
    for name in ["qrexec-agent", "qrexec-client-vm"] {
        symlink(folder.join(name), adapted.join(name)).map_err(during(&folder))?;
    }
    let own = folder.join("qrexec-policy-exec");
    let policy = if own.exists() { own } else { script(&adapted.join("allow"), ALLOW)? };
    let daemon = format!(
        "#!/bin/sh\nexec {} --policy-program={} \"$@\"\n",
        quoted(&folder.join("qrexec-daemon")),
        quoted(&policy)
    );
    script(&adapted.join("qrexec-daemon"), &daemon)?;
    Ok(adapted)
}

pub(super) fn script(path: &Path, text: &str) -> Result<PathBuf, Failure> {
    let during = || Failure::during(format!("writing {}", path.display()));
    fs::write(path, text).map_err(during())?;
    fs::set_permissions(path, PermissionsExt::from_mode(0o700)).map_err(during())?;
    Ok(path.to_owned())
}

/// One word of a shell.
pub(super) fn quoted(path: &Path) -> String {
    format!("'{}'", path.display().to_string().replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_daemon_is_told_of_a_policy() {
        let place = tempfile::tempdir().unwrap();
        let folder = place.path().join("it's");
        fs::create_dir(&folder).unwrap();
        assert!(!is_upstream(&folder));
        script(&folder.join("qrexec-daemon"), "#!/bin/sh\ntest \"$1\" != --version && echo \"$@\"\n")
            .unwrap();
        assert!(is_upstream(&folder));
        let adapted = adapt(&folder, place.path()).unwrap();
        let said = Command::new(adapted.join("qrexec-daemon")).arg("-D").output().unwrap().stdout;
        let policy = adapted.join("allow");
        assert_eq!(String::from_utf8_lossy(&said), format!("--policy-program={} -D\n", policy.display()));
        let answer = Command::new(policy).args(["--", "work", "vault", "x+"]).output().unwrap().stdout;
        assert!(String::from_utf8_lossy(&answer).contains("\ntarget=vault\n"));
    }
}
