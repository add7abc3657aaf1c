//! The test programs as cargo built them.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::steps::{Failure, cargo};

/// The program with every test from end to end.
pub(super) const END_TO_END: &str = "all";

pub(super) struct Programs(Vec<PathBuf>);

impl Programs {
    /// Builds them, if that has not happened yet.
    pub(super) fn built() -> Result<Self, Failure> {
        let output = cargo(["test", "--no-run", "--message-format=json"])
            .output()
            .map_err(|error| format!("cargo test: {error}"))?;
        if !output.status.success() {
            return Err(format!("cargo test --no-run: {}", String::from_utf8_lossy(&output.stderr)));
        }
        let programs = read(&String::from_utf8_lossy(&output.stdout));
        if programs.is_empty() {
            Err("cargo test --no-run names no test program".into())
        } else {
            Ok(Self(programs))
        }
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &Path> {
        self.0.iter().map(PathBuf::as_path)
    }

    pub(super) fn named(&self, wanted: &str) -> impl Iterator<Item = &Path> {
        self.all().filter(move |path| name(path) == wanted)
    }
}

/// The name of a test program without what cargo adds to it.
pub(super) fn name(program: &Path) -> &str {
    let file = program.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    file.rsplit_once('-').map_or(file, |(name, _)| name)
}

/// The executables among cargo's messages that are test programs.
fn read(messages: &str) -> Vec<PathBuf> {
    #[derive(Deserialize)]
    struct Artifact {
        executable: Option<PathBuf>,
        profile: Profile,
    }
    #[derive(Deserialize)]
    struct Profile {
        test: bool,
    }
    let artifacts = messages.lines().filter_map(|line| serde_json::from_str::<Artifact>(line).ok());
    let mut programs: Vec<PathBuf> = artifacts
        .filter(|artifact| artifact.profile.test)
        .filter_map(|artifact| artifact.executable)
        .collect();
    programs.sort();
    programs.dedup();
    programs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_programs_are_found_among_the_messages() {
        let messages = concat!(
            r#"{"reason":"compiler-artifact","executable":"/t/deps/call-0a1b","profile":{"test":true}}"#,
            "\n",
            r#"{"reason":"compiler-artifact","executable":"/t/qrexec-lab","profile":{"test":false}}"#,
            "\n",
            r#"{"reason":"compiler-artifact","executable":null,"profile":{"test":true}}"#,
            "\n",
            r#"{"reason":"build-finished","success":true}"#,
        );
        let found = Programs(read(messages));
        assert_eq!(found.all().map(name).collect::<Vec<_>>(), ["call"]);
        assert_eq!(found.named("call").count(), 1);
        assert_eq!(found.named("bulk").count(), 0);
    }
}
