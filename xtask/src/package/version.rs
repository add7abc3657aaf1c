//! Which version a package has: the workspace's, and in front of a release the date and the commit it was made of.

use std::fs;
use std::process::Command;

use crate::steps::{Failure, root, said};

/// What a build is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Version {
    /// As Debian and rpm compare it: `0.1.0~git20261201.023524.bac766a` is before `0.1.0`.
    pub(crate) text: String,
    /// The time of the commit, which is that of every file in a package.
    pub(crate) seconds: u64,
}

impl Version {
    pub(crate) fn of_this_tree() -> Result<Self, Failure> {
        let release = release()?;
        // Sources without git are those of a release.
        let Some(commit) =
            git(&["log", "-1", "--format=%ct %cd %h", "--abbrev=12", "--date=format-local:%Y%m%d.%H%M%S"])
        else {
            return Ok(Self { text: release, seconds: 0 });
        };
        let tags = git(&["tag", "--points-at", "HEAD"]).unwrap_or_default();
        let is_changed =
            git(&["status", "--porcelain", "--untracked-files=no"]).is_some_and(|text| !text.is_empty());
        Self::read(&release, &commit, &tags, is_changed)
            .ok_or_else(|| format!("git says of its commit: {commit}"))
    }

    fn read(release: &str, commit: &str, tags: &str, is_changed: bool) -> Option<Self> {
        let mut words = commit.split(' ');
        let (seconds, date, id) = (words.next()?.parse().ok()?, words.next()?, words.next()?);
        let is_release = tags.lines().any(|tag| tag.strip_prefix('v') == Some(release)) && !is_changed;
        let changed = if is_changed { ".changed" } else { "" };
        let text = if is_release { release.to_owned() } else { format!("{release}~git{date}.{id}{changed}") };
        Some(Self { text, seconds })
    }

    /// Its date as in Debian's changelogs.
    pub(crate) fn date(&self) -> Result<String, Failure> {
        said(Command::new("date").args(["-u", "-R", "-d"]).arg(format!("@{}", self.seconds)))
    }
}

fn git(args: &[&str]) -> Option<String> {
    let mut command = Command::new("git");
    // As root a checkout may be somebody else's.
    command.args(["-c", "safe.directory=*"]).args(args).current_dir(root()).env("TZ", "UTC");
    let output = command.output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// The workspace's version.
pub(crate) fn release() -> Result<String, Failure> {
    let path = root().join("Cargo.toml");
    let text = fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    let manifest: toml::Table = text.parse().map_err(|error| format!("{}: {error}", path.display()))?;
    let version = manifest.get("workspace").and_then(|workspace| workspace.get("package")?.get("version"));
    let version = version.and_then(toml::Value::as_str);
    version.map(str::to_owned).ok_or_else(|| format!("{}: no version", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_has_date_and_commit_until_it_is_released() {
        let commit = "1796092524 20261201.023524 bac766a4f1aa";
        let text = |tags, changed| Version::read("0.1.0", commit, tags, changed).unwrap().text;
        assert_eq!(text("", false), "0.1.0~git20261201.023524.bac766a4f1aa");
        assert_eq!(text("v0.1.0", false), "0.1.0");
        assert_eq!(text("v0.1.0", true), "0.1.0~git20261201.023524.bac766a4f1aa.changed");
        assert_eq!(text("v0.1", false), text("", false));
        assert_eq!(Version::read("0.1.0", commit, "", false).unwrap().seconds, 1_796_092_524);
        assert_eq!(Version::read("0.1.0", "fatal", "", false), None);
    }
}
