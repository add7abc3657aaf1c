//! `qvm-copy`, `qvm-move`, `qvm-copy-to-vm`, `qvm-move-to-vm`: what people type.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use engine::say;

use crate::record::{self, Totals};
use crate::remove;
use crate::sender::{Links, complain};
use crate::shown::{Name, Size, count};
use crate::tree_check::{self, Rules};

/// What a command line asks for.
#[derive(Debug)]
struct Task {
    program: String,
    moves: bool,
    target: OsString,
    progress: bool,
    links: Links,
    paths: Vec<PathBuf>,
}

enum Parsed {
    Task(Task),
    /// Text for stdout, and the exit status.
    Text(String, i32),
}

/// The program; its own name decides which.
pub fn main(args: Vec<OsString>) -> i32 {
    match parse(args) {
        Parsed::Text(text, status) => {
            say::output(text);
            status
        }
        Parsed::Task(task) => run(&task).unwrap_or_else(|text| {
            complain(&task.program, &text);
            1
        }),
    }
}

fn usage(program: &str, named: bool) -> String {
    let (does, target) = match (program.starts_with("qvm-move"), named) {
        (false, false) => ("Copies files to another qube", ""),
        (true, false) => ("Moves files to another qube", ""),
        (false, true) => ("Copies files to QUBE", "QUBE "),
        (true, true) => ("Moves files to QUBE", "QUBE "),
    };
    let mut text = format!(
        "usage: {program} [OPTIONS] {target}FILE...\n{does}, into ~/QubesIncoming/ there.\n\n\
         --with-progress         show how far it is (default)\n\
         --without-progress      do not\n\
         --ignore-symlinks       leave symbolic links out\n\
         --no-ignore-symlinks    copy them as links (default)\n\
         --dereference           copy the files that they lead to\n"
    );
    if !named {
        text.push_str("--to QUBE               ask for this qube; else the policy or its question decides\n");
    }
    text.push_str("-h, --help              show this");
    text
}

fn parse(args: Vec<OsString>) -> Parsed {
    let mut words = args.into_iter();
    let called = words.next().unwrap_or_default();
    let program = Path::new(&called).file_name().and_then(OsStr::to_str).unwrap_or_default().to_owned();
    let (moves, named) = match program.as_str() {
        "qvm-copy" => (false, false),
        "qvm-move" => (true, false),
        "qvm-copy-to-vm" => (false, true),
        "qvm-move-to-vm" => (true, true),
        _ => {
            return Parsed::Text(
                "this program is called qvm-copy, qvm-move, qvm-copy-to-vm or qvm-move-to-vm".into(),
                1,
            );
        }
    };
    let wrong = |what: String| Parsed::Text(format!("{what}\n{}", usage(&program, named)), 1);
    let mut task = Task {
        program: program.clone(),
        moves,
        target: "@default".into(),
        progress: true,
        links: Links::Send,
        paths: Vec::new(),
    };
    let mut rest = Vec::new();
    while let Some(word) = words.next() {
        match word.as_bytes() {
            b"--" => break,
            b"--with-progress" => task.progress = true,
            b"--without-progress" => task.progress = false,
            b"--ignore-symlinks" => task.links = Links::Ignore,
            b"--no-ignore-symlinks" => task.links = Links::Send,
            b"--dereference" => task.links = Links::Follow,
            b"-h" | b"--help" => return Parsed::Text(usage(&program, named), 0),
            b"--to" if !named => match words.next() {
                Some(target) => task.target = target,
                None => return wrong("a qube is missing behind --to".to_owned()),
            },
            [b'-', ..] => return wrong(format!("unknown option {}", Name(word.as_bytes()))),
            _ => {
                rest.push(word);
                break;
            }
        }
    }
    rest.extend(words);
    let mut rest = rest.into_iter();
    if named {
        match rest.next() {
            Some(target) => task.target = target,
            None => return wrong("a qube and a file are needed".to_owned()),
        }
    }
    task.paths = rest.map(|path| PathBuf::from(without_slash(&path))).collect();
    if task.paths.is_empty() {
        return wrong("at least one file is needed".to_owned());
    }
    if task.target.is_empty() {
        return wrong("the name of the qube is empty".to_owned());
    }
    if named {
        let short = if moves { "qvm-move" } else { "qvm-copy" };
        say::error(format_args!(
            "{program}: {short} is shorter; the policy decides where files go, whatever QUBE is"
        ));
    }
    Parsed::Task(task)
}

/// One `/` at the end says nothing more than the name.
fn without_slash(path: &OsStr) -> &OsStr {
    match path.as_bytes() {
        [_, .., b'/'] => OsStr::from_bytes(path.as_bytes().strip_suffix(b"/").unwrap_or_default()),
        _ => path,
    }
}

fn run(task: &Task) -> Result<i32, String> {
    let rules = Rules {
        links: task.links,
        allow_links: true,
        allow_folders: true,
        allow_all_names: false,
        strict: true,
    };
    let found = tree_check::check(&task.paths, rules);
    if let Some(text) = found.complaint() {
        return Err(format!("{text}\nnothing was sent"));
    }
    let mut service = OsString::from("qubes.Filecopy");
    if found.special_names {
        say::error(format_args!(
            "{}: some names have unusual characters; asking for +allow-all-names",
            task.program
        ));
        service.push("+allow-all-names");
    }
    // Nobody else may say what was sent.
    let record =
        tempfile::NamedTempFile::new().map_err(|error| format!("cannot make a temporary file: {error}"))?;
    let status = call(task, &service, record.path(), found.content)?;
    if status != 0 {
        if task.moves {
            complain(&task.program, "nothing was removed");
        }
        return Ok(status);
    }
    let Some(totals) = record::totals(record.path()) else {
        return Err(
            "the call ended well, but the sender did not say that all was confirmed; nothing was removed"
                .into(),
        );
    };
    if task.progress {
        arrived(task, &totals);
    }
    if !task.moves {
        return Ok(0);
    }
    let kept = remove::remove(record.path()).map_err(|error| format!("nothing was removed: {error}"))?;
    complain(&task.program, &kept.lines.join("\n"));
    if kept.more > 0 {
        complain(&task.program, &format!("and {} more", kept.more));
    }
    Ok(i32::from(!kept.is_nothing() || totals.skipped > 0))
}

/// Makes the call and waits for its end.
fn call(task: &Task, service: &OsStr, record: &Path, content: u64) -> Result<i32, String> {
    let mut command = Command::new("qrexec-client-vm");
    command.arg("--filter-escape-chars-stderr").arg("--").arg(&task.target).arg(service);
    command.arg(helper("qfile-agent"));
    match task.links {
        Links::Send => {}
        Links::Ignore => drop(command.arg("--ignore-symlinks")),
        Links::Follow => drop(command.arg("--dereference")),
    }
    command.arg(if task.moves { "--record" } else { "--summary" }).arg(record).arg("--").args(&task.paths);
    command.env("PROGRESS_TYPE", if task.progress { "console" } else { "none" });
    command.env("FILECOPY_TOTAL_BYTES", content.to_string());
    let status = command.status().map_err(|error| format!("cannot start qrexec-client-vm: {error}"))?;
    Ok(status.code().or(status.signal().map(|signal| 128 + signal)).unwrap_or(1))
}

/// Says what arrived where.
fn arrived(task: &Task, totals: &Totals) {
    let mut what = vec![count(totals.files, "file")];
    for (number, name) in [(totals.folders, "folder"), (totals.links, "link")] {
        if number > 0 {
            what.push(count(number, name));
        }
    }
    let target = match task.target.as_bytes() {
        [b'@', ..] => "the other qube".to_owned(),
        name => String::from_utf8_lossy(name).into_owned(),
    };
    let own = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let own = std::env::var("QUBES_LAB_VM").unwrap_or(own);
    let line = format!(
        "{}: {} ({}) arrived in QubesIncoming/{own} of {target}",
        task.program,
        what.join(", "),
        Size(totals.bytes),
    );
    say::error(line);
    if totals.skipped > 0 {
        say::error(format_args!(
            "{}: {} left out",
            task.program,
            count(totals.skipped, "entry").replace("entrys", "entries")
        ));
    }
}

/// Where a program of ours is: beside us, as in a build or a lab, or in `../lib/qubes` beside our folder, as installed.
fn helper(name: &str) -> PathBuf {
    let called = std::env::args_os().next().map(PathBuf::from).filter(|path| path.components().count() > 1);
    let own = [called, std::env::current_exe().ok()];
    let folders = own.iter().flatten().filter_map(|path| path.parent());
    let mut places = folders.flat_map(|folder| [folder.join("../lib/qubes").join(name), folder.join(name)]);
    let found = places.find(|path| path.exists());
    // A link in a lab's folder for programs is found by its name.
    found.or_else(|| in_path(name)).unwrap_or_else(|| Path::new("/usr/lib/qubes").join(name))
}

fn in_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|folder| folder.join(name))
        .find(|path| path.is_absolute() && path.exists())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Parsed {
        parse(text.split(' ').map(OsString::from).collect())
    }

    #[test]
    fn the_last_option_wins_and_words_behind_the_first_file_are_files() {
        let Parsed::Task(task) =
            parsed("/usr/bin/qvm-move --without-progress --ignore-symlinks --no-ignore-symlinks a/ -b")
        else {
            panic!("a task")
        };
        assert!(task.moves && !task.progress && task.links == Links::Send);
        assert_eq!(task.target, "@default");
        assert_eq!(task.paths, [PathBuf::from("a"), PathBuf::from("-b")]);
        let Parsed::Task(task) = parsed("qvm-copy-to-vm vault -- a") else { panic!("a task") };
        assert_eq!((task.target.to_str(), task.paths.len()), (Some("vault"), 2));
        let Parsed::Task(task) = parsed("qvm-copy --to vault -- -a") else { panic!("a task") };
        assert_eq!((task.target.to_str(), &task.paths[0]), (Some("vault"), &PathBuf::from("-a")));
    }

    #[test]
    fn usage_is_for_stdout() {
        for (line, status) in [
            ("qvm-copy", 1),
            ("qvm-copy --help", 0),
            ("qvm-copy --bogus a", 1),
            ("qvm-copy-to-vm vault", 1),
            ("other a", 1),
        ] {
            assert!(matches!(parsed(line), Parsed::Text(_, code) if code == status), "{line}");
        }
    }
}
