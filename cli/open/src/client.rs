//! `qvm-open-in-vm`, `qvm-open-in-dvm`: a file or an address, opened in another qube.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use clap::Parser;
use cli::failure::Failure;
use cli::number;
use engine::say;

use crate::exchange::Exchange;
use crate::guard;
use crate::replace::{Original, Received};
use crate::service::{self, MAX_FILE, MAX_URL, shown};

const IN_VM: &str = "qvm-open-in-vm";
const IN_DVM: &str = "qvm-open-in-dvm";

/// A new disposable qube.
const DISPOSABLE: &str = "@dispvm";

/// The file was opened, and something of what came back is not where it belongs.
const KEPT: i32 = 1;

const HELP: &str = "\
A file is sent, opened there, and what was changed takes the place of the original when the program there has ended: with its \
mode, behind a link if it is one. Whatever goes wrong on the way, the original stays, and what came back is kept beside it as \
FILE.from-QUBE. A file that was emptied there stays as it is here. An address (http://…) is opened there and nothing comes back.

Examples:
  qvm-open-in-dvm --view-only letter.pdf
  qvm-open-in-vm vault notes.txt
  qvm-open-in-vm web https://www.qubes-os.org

Exit status: 0 opened, and what was changed is here; 1 what came back was kept beside the file; 2 the command line, or no \
file and no address; 125 trouble of qrexec; 126 refused; else that of the program there.

Environment: QUBES_OPEN (there): the program that opens, else qubes-open, else what xdg-open has for the type.

See also: qvm-copy(1), qvm-run(1), qrexec-services(7).";

/// Open a file or an address in another qube.
#[derive(Debug, Parser)]
#[command(name = IN_VM, override_usage = "qvm-open-in-vm [OPTIONS] [--] QUBE FILE|ADDRESS", after_help = HELP)]
struct OpenInVmArgs {
    /// The file is only to be looked at: nothing comes back
    #[arg(long)]
    view_only: bool,
    /// Take no more bytes back than this; K or M may be behind
    #[arg(long, value_name = "N")]
    max_size: Option<String>,
    /// The qube, and what is to be opened there
    #[arg(required = true, num_args = 1.., value_names = ["QUBE", "WHAT"])]
    words: Vec<OsString>,
}

/// The command line of `qvm-open-in-vm`, for manual pages and completions.
pub fn command() -> clap::Command {
    <OpenInVmArgs as clap::CommandFactory>::command()
}

/// That of `qvm-open-in-dvm`.
pub fn dvm_command() -> clap::Command {
    command()
        .name(IN_DVM)
        .bin_name(IN_DVM)
        .about("Open a file or an address in a new disposable qube")
        .override_usage("qvm-open-in-dvm [OPTIONS] [--] FILE|ADDRESS")
        .mut_arg("words", |arg| arg.value_names(["WHAT"]).num_args(1).help("What is to be opened"))
}

/// Runs the program with these arguments, its name first, and gives its exit status.
pub fn main(args: Vec<OsString>) -> i32 {
    let called = args.first().map(Path::new).and_then(Path::file_name);
    let disposable = called == Some(OsStr::new(IN_DVM));
    let program = if disposable { IN_DVM } else { IN_VM };
    let command = if disposable { dvm_command() } else { command() };
    let task = match cli::usage::parse_as::<OpenInVmArgs>(cli::usage::completed(command), program, args) {
        Ok(args) => Task::new(program, disposable, args),
        Err(status) => return status,
    };
    task.and_then(|task| task.run()).unwrap_or_else(|failure| failure.report(program))
}

struct Task {
    program: &'static str,
    target: String,
    what: OsString,
    view_only: bool,
    max: u64,
}

impl Task {
    fn new(program: &'static str, disposable: bool, args: OpenInVmArgs) -> Result<Self, Failure> {
        let max = args.max_size.map_or(Ok(MAX_FILE), |text| {
            number::parse_size(&text, u64::MAX)
                .map_err(|error| Failure::usage(format!("--max-size: {error}")))
        })?;
        let (target, what) = match (disposable, args.words.as_slice()) {
            (true, [what]) => (DISPOSABLE.to_owned(), what.clone()),
            (false, [target, what]) => (target.to_string_lossy().replace('$', "@"), what.clone()),
            (true, _) => return Err(Failure::usage("one file or address is needed")),
            (false, _) => return Err(Failure::usage("a qube, and one file or address are needed")),
        };
        if target.is_empty() {
            return Err(Failure::usage("the name of the qube is empty"));
        }
        Ok(Self { program, target, what, view_only: args.view_only, max })
    }

    fn run(&self) -> Result<i32, Failure> {
        let url = is_address(self.what.as_bytes());
        let path = PathBuf::from(&self.what);
        let file = if url { None } else { Some(self.file(&path)?) };
        if self.target.starts_with(DISPOSABLE) && guard::is_inside() {
            let question = format!(
                "This qube was itself asked to open something. Open {} in a disposable qube?",
                shown(&path)
            );
            match guard::confirmed(&question) {
                Some(true) => {}
                answer => {
                    let why =
                        answer.map_or("there is no zenity or kdialog to ask with", |_| "the answer was no");
                    return Err(Failure {
                        status: 1,
                        message: format!("inside a call that opens something: {why}"),
                    });
                }
            }
        }
        match file {
            None => self.open_url(),
            Some((original, file)) => self.open_file(&path, &original, file),
        }
    }

    fn file(&self, path: &Path) -> Result<(Original, File), Failure> {
        let failed = |error: std::io::Error| Failure::usage(format!("{}: {error}", shown(path)));
        Original::open(path).map_err(failed)
    }

    fn call(&self, service: &str) -> Result<Exchange, i32> {
        Exchange::open(self.program, &self.target, service)
    }

    fn open_url(&self) -> Result<i32, Failure> {
        let url = self.what.as_bytes();
        if url.len() > MAX_URL || url.iter().any(u8::is_ascii_control) {
            return Err(Failure::usage(format!(
                "an address has at most {MAX_URL} bytes and no control characters"
            )));
        }
        let mut call = match self.call("qubes.OpenURL") {
            Ok(call) => call,
            Err(status) => return Ok(status),
        };
        let sent = call.send([url, b"\n"].concat().as_slice());
        sent.map_err(Failure::during("sending"))?;
        call.end();
        // Nothing of it is for us.
        let _ = std::io::copy(&mut call, &mut std::io::sink());
        Ok(self.explained(call.finish()?))
    }

    fn explained(&self, status: i32) -> i32 {
        if status != 0 {
            say::error(format_args!(
                "{}: {}: it ended with status {status} there",
                self.program, self.target
            ));
        }
        status
    }

    fn open_file(&self, path: &Path, original: &Original, file: File) -> Result<i32, Failure> {
        let name = path.file_name().unwrap_or_default();
        let (header, changed) = service::header(name.as_bytes(), self.view_only);
        if changed {
            say::error(format_args!(
                "{}: {} is sent with a '_' in front: it would be read-only there by its name",
                self.program,
                shown(path)
            ));
        }
        let mut call = match self.call("qubes.OpenInVM") {
            Ok(call) => call,
            Err(status) => return Ok(status),
        };
        let sent = call.send(header.as_slice().chain(file)).map_err(Failure::during(shown(path)))?;
        call.end();
        let received = if self.view_only {
            let _ = std::io::copy(&mut call, &mut std::io::sink());
            None
        } else {
            Received::take(original, &mut call, self.max).map_err(Failure::during("what came back"))?
        };
        let mut ended = match &received {
            // Who sends without end is not waited for.
            Some(received) if received.too_much => {
                drop(call);
                Err(Failure { status: KEPT, message: format!("more than {} bytes came back", self.max) })
            }
            _ => call.finish(),
        };
        if !sent && ended.as_ref().is_ok_and(|status| *status == 0) {
            ended = Err(Failure::trouble("the other side did not take the whole file"));
        }
        let Some(received) = received else { return ended.map(|status| self.explained(status)) };
        let (why, received) = match &ended {
            Ok(0) => {
                let bytes = received.bytes;
                match received.replace(original) {
                    Ok(()) => {
                        say::error(format_args!("{}: {} changed: {bytes} bytes", self.program, shown(path)));
                        return Ok(0);
                    }
                    Err((why, received)) => (why, received),
                }
            }
            Ok(status) => (format!("it ended with status {status} there"), received),
            Err(failure) => (failure.message.clone(), received),
        };
        let kept = received.keep(original, &self.qube()).map_err(Failure::during("what came back"))?;
        say::error(format_args!(
            "{}: {} stays as it was: {why}; what came back is in {}",
            self.program,
            shown(path),
            shown(&kept)
        ));
        Ok(match ended {
            Ok(0) => KEPT,
            Ok(status) => status,
            Err(failure) => failure.status.max(KEPT),
        })
    }

    /// The qube's name as part of a file's.
    fn qube(&self) -> String {
        match self.target.strip_prefix('@') {
            Some(keyword) => keyword.replace([':', '@'], "-"),
            None => self.target.replace('/', "_"),
        }
    }
}

/// `NAME://`, whatever it is the name of.
fn is_address(what: &[u8]) -> bool {
    let Some(at) = what.windows(3).position(|part| part == b"://") else { return false };
    let scheme = what.get(..at).unwrap_or_default();
    scheme.first().is_some_and(u8::is_ascii_alphabetic)
        && scheme.iter().all(|byte| byte.is_ascii_alphanumeric() || *byte == b'+')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_begins_with_a_scheme() {
        for good in ["http://a", "svn+ssh://b", "x://"] {
            assert!(is_address(good.as_bytes()), "{good}");
        }
        for bad in ["a.txt", "/tmp/a://b", "://x", "1a://x", "a b://x"] {
            assert!(!is_address(bad.as_bytes()), "{bad}");
        }
    }

    #[test]
    fn a_wrong_command_line_is_2_and_help_0() {
        let main = |line: &str| main(line.split(' ').map(OsString::from).collect());
        assert_eq!(main("qvm-open-in-vm --help"), 0);
        for wrong in [
            "qvm-open-in-vm",
            "qvm-open-in-vm vault",
            "qvm-open-in-vm --bogus vault a",
            "qvm-open-in-vm vault /no/such/file",
            "qvm-open-in-vm vault /tmp",
            "qvm-open-in-vm vault a b",
            "qvm-open-in-dvm",
            "qvm-open-in-dvm a b",
        ] {
            assert_eq!(main(wrong), 2, "{wrong}");
        }
    }
}
