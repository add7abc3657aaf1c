//! `qrexec-policy-restore`: policy files of a backup into the policy folder, none overwritten.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use clap::Parser;
use daemon::policy_source::read_file;
use engine::say;

use super::admin::{MAX_FILE, write};
use crate::failure::Failure;
use crate::usage;

const PROGRAM: &str = "qrexec-policy-restore";

/// Copies the policy files of a backup, with those of its `include` folder, into the policy folder.
///
/// Files that are there already are left as they are.
#[derive(Debug, Parser)]
#[command(name = PROGRAM)]
struct PolicyRestoreArgs {
    /// The policy folder.
    #[arg(long, value_name = "DIRECTORY", default_value = policy::load::POLICY_FOLDER)]
    dest: PathBuf,
    /// The backup: a folder of policy files.
    #[arg(value_name = "DIRECTORY")]
    path: PathBuf,
}

/// The command line, for manual pages and completions.
pub fn command() -> clap::Command {
    <PolicyRestoreArgs as clap::CommandFactory>::command()
}

/// Runs the program with these arguments, its name first, and gives its exit status.
pub fn main(args: Vec<OsString>) -> i32 {
    usage::run(PROGRAM, args, run)
}

fn run(args: &PolicyRestoreArgs) -> Result<(), Failure> {
    super::check_not_the_hosts([args.dest.as_path()])?;
    let include = args.dest.join("include");
    fs::create_dir_all(&include).map_err(Failure::during(include.display()))?;
    if include.is_symlink() {
        return Err(Failure::trouble(format!("{} is a link", include.display())));
    }
    // What is included comes first, so that there is no moment at which an include leads nowhere.
    for (folder, suffix) in [("include", ""), ("", ".policy")] {
        let from = args.path.join(folder);
        if folder.is_empty() || from.exists() {
            copy(&from, &args.dest.join(folder), suffix)?;
        }
    }
    Ok(())
}

fn copy(from: &Path, to: &Path, suffix: &str) -> Result<(), Failure> {
    let listed =
        || -> io::Result<Vec<PathBuf>> { fs::read_dir(from)?.map(|entry| Ok(entry?.path())).collect() };
    let mut paths = listed().map_err(Failure::during(from.display()))?;
    paths.sort();
    for path in paths.iter().filter(|path| path.is_file()) {
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
        if name.starts_with('.') || !name.ends_with(suffix) {
            continue;
        }
        let target = to.join(name);
        if target.symlink_metadata().is_ok() {
            say::error(format_args!("{PROGRAM}: not overwriting {}", target.display()));
            continue;
        }
        let text = read_file(path, MAX_FILE).map_err(Failure::during(path.display()))?;
        write(&target, &text).map_err(|error| Failure::trouble(error.to_string()))?;
    }
    Ok(())
}
