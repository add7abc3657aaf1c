//! `qrexec-manual FOLDER [PROGRAM…]`: writes the manual pages and shell completions of these programs, or of all, below FOLDER, as
//! `man/manN/NAME.N` and `bash-completion/completions/NAME`, `zsh/site-functions/_NAME`,
//! `fish/vendor_completions.d/NAME.fish`: what belongs under `share`.
#![forbid(unsafe_code)]

mod names;
mod page;

use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Command, Parser};
use clap_complete::Shell;
use cli::programs::Page;

/// Writes manual pages and completions.
#[derive(Parser)]
struct ManualArgs {
    /// The `share` folder
    folder: PathBuf,
    /// Only those of these programs; names that nobody knows have none
    programs: Vec<String>,
}

fn main() -> ExitCode {
    let ManualArgs { folder, programs } = ManualArgs::parse();
    match write(&folder, &programs) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("qrexec-manual: {error}");
            ExitCode::FAILURE
        }
    }
}

fn write(folder: &Path, programs: &[String]) -> io::Result<()> {
    let wanted = |name: &str| programs.is_empty() || programs.iter().any(|program| program == name);
    for (name, page) in pages().filter(|(name, _)| wanted(name)) {
        write_pages(folder, name, page.section, &page.command())?;
    }
    Ok(())
}

/// The manual pages of a program, and what each shell knows of it.
fn write_pages(folder: &Path, name: &str, section: u8, command: &Command) -> io::Result<()> {
    for (file, text) in page::of(command, section)? {
        put(&folder.join(format!("man/man{section}/{file}.{section}")), &text)?;
    }
    for (shell, place) in SHELLS {
        let mut text = Vec::new();
        clap_complete::generate(shell, &mut command.clone(), name, &mut text);
        if shell == Shell::Bash {
            text = names::bash(name, text);
        }
        put(&folder.join(place.replace("NAME", name)), &text)?;
    }
    Ok(())
}

/// Every program that has a page of the manual, by name.
fn pages() -> impl Iterator<Item = (&'static str, &'static Page)> {
    let programs = lab::TABLES.into_iter().chain([bench::PROGRAMS]).flatten();
    programs.filter_map(|program| Some((program.name, program.page.as_ref()?)))
}

/// Where each shell looks.
const SHELLS: [(Shell, &str); 3] = [
    (Shell::Bash, "bash-completion/completions/NAME"),
    (Shell::Fish, "fish/vendor_completions.d/NAME.fish"),
    (Shell::Zsh, "zsh/site-functions/_NAME"),
];

fn put(path: &Path, text: &[u8]) -> io::Result<()> {
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent)?;
    }
    std::fs::write(path, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_program_has_its_pages() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), &[]).unwrap();
        let page = std::fs::read_to_string(dir.path().join("man/man1/qrexec-client-vm.1")).unwrap();
        for expected in
            [".TH", "buffer\\-size", "TARGET", ".SH EXAMPLES", ".SH EXIT STATUS", "QREXEC_AGENT_SOCKET"]
        {
            assert!(page.contains(expected), "{expected}");
        }
        let page = std::fs::read_to_string(dir.path().join("man/man1/qrexec-lab-logs.1")).unwrap();
        assert!(page.contains("qrexec\\-lab logs [OPTIONS] [VM]"), "{page}");
        for (name, page) in pages() {
            assert!(dir.path().join(format!("man/man{0}/{name}.{0}", page.section)).exists(), "{name}");
        }
        for path in [
            "man/man1/qvm-copy.1",
            "man/man8/qrexec-agent.8",
            "man/man8/qrexec-fork-server.8",
            "bash-completion/completions/qrexec-client",
            "zsh/site-functions/_qrexec-daemon",
            "fish/vendor_completions.d/qrexec-lab.fish",
        ] {
            assert!(dir.path().join(path).exists(), "{path}");
        }
    }

    #[test]
    fn one_side_gets_only_its_own() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), &["qrexec-client-vm".to_owned(), "qrexec_client_vm".to_owned()]).unwrap();
        assert!(dir.path().join("fish/vendor_completions.d/qrexec-client-vm.fish").exists());
        assert_eq!(std::fs::read_dir(dir.path().join("man/man1")).unwrap().count(), 1);
    }
}
