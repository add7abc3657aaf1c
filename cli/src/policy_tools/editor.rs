//! `qubes-policy-editor`: a policy file in the user's editor, checked before it is taken.

use std::ffi::OsString;
use std::io::{self, BufRead, Write};
use std::path::Path;
use std::process::Command;

use clap::Parser;
use engine::say;

use super::admin::Name;
use super::admin::client::{AdminClient, CallError};
use super::lint;
use crate::failure::Failure;
use crate::usage;

const PROGRAM: &str = "qubes-policy-editor";

/// Edits a file of the qrexec policy; what has an error is not taken.
///
/// The editor is $VISUAL, else $EDITOR, else vi.
#[derive(Debug, Parser)]
#[command(name = PROGRAM)]
struct PolicyEditorArgs {
    /// The file, without `.policy`.
    #[arg(value_name = "[include/]FILE", default_value = "30-user")]
    file: String,
}

/// The command line, for manual pages and completions.
pub fn command() -> clap::Command {
    <PolicyEditorArgs as clap::CommandFactory>::command()
}

/// Runs the program with these arguments, its name first, and gives its exit status.
pub fn main(args: Vec<OsString>) -> i32 {
    usage::run(PROGRAM, args, run)
}

fn run(args: &PolicyEditorArgs) -> Result<(), Failure> {
    let client = AdminClient::of_this_machine();
    let name = Name::parse(args.file.strip_suffix(".policy").unwrap_or(&args.file));
    let (token, text) = match client.call("Get", &name, b"") {
        Ok(got) => split(&got)?,
        Err(CallError::NotFound) => ("new".to_owned(), Vec::new()),
        Err(error) => return Err(refused(&error)),
    };
    let suffix =
        if name.include { format!("_include_{}", name.name) } else { format!("_{}.policy", name.name) };
    let mut file =
        tempfile::Builder::new().suffix(&suffix).tempfile().map_err(Failure::during("a file to edit"))?;
    file.write_all(&text).map_err(Failure::during("a file to edit"))?;
    loop {
        edit(file.path())?;
        let edited = std::fs::read(file.path()).map_err(Failure::during(file.path().display()))?;
        if edited == text {
            say::error(format_args!("{PROGRAM}: nothing was changed"));
            return Ok(());
        }
        let shown = file.path().display().to_string();
        // One file alone does not show which remote qubes an earlier one has shut out.
        let mut relays = lint::Relays::default();
        let good = lint::lint_file(&shown, name.include, true, None, &mut relays, &mut io::stderr().lock());
        let refusal = if good.map_err(Failure::during("checking"))? {
            let input = [token.as_bytes(), b"\n", &edited].concat();
            match client.call("Replace", &name, &input) {
                Ok(_) => return Ok(()),
                Err(error) => Some(error.to_string()),
            }
        } else {
            None
        };
        say::error(format_args!("{PROGRAM}: not taken: {}", refusal.as_deref().unwrap_or("it has errors")));
        let wish = again()?;
        if wish != Some(Wish::Edit) {
            let kept = file.into_temp_path().keep().map_err(Failure::during("keeping the file"))?;
            let message = format!("nothing was changed; your text is {}", kept.display());
            // To leave errors unmended is the user's own wish; not so a change that is refused.
            if refusal.is_some() || wish.is_none() {
                return Err(Failure { status: 1, message });
            }
            say::error(format_args!("{PROGRAM}: {message}"));
            return Ok(());
        }
    }
}

fn refused(error: &CallError) -> Failure {
    Failure { status: 1, message: error.to_string() }
}

/// Token and text of what `policy.Get` gave.
fn split(got: &[u8]) -> Result<(String, Vec<u8>), Failure> {
    let end = got.iter().position(|byte| *byte == b'\n');
    let (token, text) = got.split_at(end.ok_or_else(|| Failure::trouble("the answer has no token"))?);
    let token = String::from_utf8(token.to_vec()).map_err(Failure::during("the token"))?;
    Ok((token, text.get(1..).unwrap_or_default().to_vec()))
}

fn edit(path: &Path) -> Result<(), Failure> {
    let editor = "exec ${VISUAL:-${EDITOR:-vi}} \"$1\"";
    let status = Command::new("/bin/sh").args(["-c", editor, "sh"]).arg(path).status();
    match status.map_err(Failure::during("the editor"))? {
        status if status.success() => Ok(()),
        status => Err(Failure::trouble(format!("the editor: {status}"))),
    }
}

/// What to do with a text that was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wish {
    Edit,
    Quit,
}

/// Asks for it; `None` at the end of the input.
fn again() -> Result<Option<Wish>, Failure> {
    loop {
        say::question("What now? (e)dit again, (q)uit without a change: ");
        let mut line = String::new();
        let count = io::stdin().lock().read_line(&mut line).map_err(Failure::during("reading the answer"))?;
        match line.trim() {
            "e" => return Ok(Some(Wish::Edit)),
            "q" => return Ok(Some(Wish::Quit)),
            _ if count == 0 => return Ok(None),
            _ => {}
        }
    }
}
