//! `qvm-copy`, `qvm-move`, `qvm-copy-to-vm`, `qvm-move-to-vm`: what people type.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use cli::failure::Failure;
use cli::{client, client_vm, own};
use engine::say;

use crate::agent;
use crate::confine::confine;
use crate::outlet::Outlet;
use crate::progress::Progress;
use crate::record::{Reader, Totals, Writer};
use crate::remove;
use crate::sender::{Links, complain};
use crate::tree_check::{self, Rules};
use filecopy::shown::{Name, Size, count};

/// What a command line asks for.
#[derive(Debug)]
struct Task {
    program: String,
    moves: bool,
    /// The qube is an argument.
    named: bool,
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
        Parsed::Task(task) => run(&task).unwrap_or_else(|error| {
            complain(&task.program, error);
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
        named,
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
    if named && client_vm::own::has_agent() {
        let short = if moves { "qvm-move" } else { "qvm-copy" };
        say::error(format_args!(
            "{program}: {short} is shorter; the policy decides where files go, whatever QUBE is"
        ));
    }
    if !named && is_dom0() {
        let text = format!("{program}: dom0 has no agent that could ask; use {program}-to-vm QUBE FILE...");
        return Parsed::Text(text, 1);
    }
    Parsed::Task(task)
}

/// dom0 has daemons, or `qubesd`, and no agent.
fn is_dom0() -> bool {
    let set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    let daemons = set("QREXEC_SOCKET_DIR") || Path::new("/var/run/qubesd.sock").exists();
    daemons && !client_vm::own::has_agent()
}

/// One `/` at the end says nothing more than the name.
fn without_slash(path: &OsStr) -> &OsStr {
    match path.as_bytes() {
        [_, .., b'/'] => OsStr::from_bytes(path.as_bytes().strip_suffix(b"/").unwrap_or_default()),
        _ => path,
    }
}

/// What went wrong besides the call. The text is for stderr, a line or more.
#[derive(Debug, thiserror::Error)]
enum QvmCopyError {
    #[error("{0}\nnothing was sent")]
    Unsendable(String),
    #[error("{}", .0.message)]
    Call(Failure),
    #[error("cannot make a temporary file: {0}")]
    NoRecord(io::Error),
    #[error("this process cannot be confined, nothing was sent: {0}")]
    Unconfined(io::Error),
    #[error("the call was lost")]
    Lost,
    #[error("nothing was removed: {0}")]
    NotRemoved(io::Error),
}

fn run(task: &Task) -> Result<i32, QvmCopyError> {
    let rules = Rules {
        links: task.links,
        allow_links: true,
        allow_folders: true,
        allow_all_names: false,
        strict: true,
    };
    let found = tree_check::check(&task.paths, rules);
    if let Some(text) = found.complaint() {
        return Err(QvmCopyError::Unsendable(text));
    }
    let mut service = String::from("qubes.Filecopy");
    if found.special_names {
        say::error(format_args!(
            "{}: some names have unusual characters; asking for +allow-all-names",
            task.program
        ));
        service.push_str("+allow-all-names");
    }
    let mut progress = if task.progress { Progress::of_command(found.content) } else { Progress::silent() };
    let call = match open(task, &service).map_err(QvmCopyError::Call)? {
        Ok(call) => call,
        Err(status) => {
            if task.moves {
                complain(&task.program, "nothing was removed");
            }
            return Ok(status);
        }
    };
    let (status, sent) = send(task, call, &mut progress)?;
    let Some((totals, record)) = sent.filter(|_| status == 0) else {
        if task.moves {
            complain(&task.program, "nothing was removed");
        }
        return Ok(if status == 0 { 1 } else { status });
    };
    if task.progress && !progress.is_dialog() {
        arrived(task, &totals);
    }
    let Some(record) = record else { return Ok(0) };
    let kept = remove::remove(record).map_err(QvmCopyError::NotRemoved)?;
    complain(&task.program, kept.lines.join("\n"));
    if kept.more > 0 {
        complain(&task.program, format!("and {} more", kept.more));
    }
    Ok(i32::from(!kept.is_nothing() || totals.skipped > 0))
}

/// Makes the call. dom0 has no agent; there the daemon of the qube that is named is asked.
fn open(task: &Task, service: &str) -> Result<Result<own::Call, i32>, Failure> {
    if task.named && !client_vm::own::has_agent() {
        return client::own::open(&task.target, service).map(Ok);
    }
    Ok(client_vm::own::open(&task.target, OsStr::new(service)))
}

/// What was sent and confirmed, and for a move each entry of it.
type Sent = (Totals, Option<Reader>);

/// Sends everything in this process and waits for the call's end: its status.
fn send(task: &Task, call: own::Call, progress: &mut Progress) -> Result<(i32, Option<Sent>), QvmCopyError> {
    let record = task.moves.then(Writer::new).transpose();
    let mut record = record.map_err(QvmCopyError::NoRecord)?;
    let what = agent::Task { program: task.program.clone(), paths: task.paths.clone(), links: task.links };
    let own::Call { mut client, held } = call;
    confine(&mut client, &task.paths, task.links, task.moves).map_err(QvmCopyError::Unconfined)?;
    let mut outlet = Outlet::of_call(client);
    let done = agent::send(&what, &mut outlet, progress, record.as_mut());
    progress.done();
    let totals = done.as_ref().ok().copied();
    let own_status = agent::status(&task.program, done);
    let client = outlet.into_call().ok_or(QvmCopyError::Lost)?;
    let mut outcome = client.finish();
    outcome.local = Some(own_status);
    drop(held);
    let record = record.map(Writer::into_reader).transpose();
    let record = record.map_err(QvmCopyError::NotRemoved)?;
    let status = own::status(&outcome).unwrap_or_else(|failure| {
        complain(&task.program, &failure.message);
        failure.status
    });
    Ok((status, totals.map(|totals| (totals, record))))
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
    fn every_option_of_the_manual_is_understood() {
        for (name, page) in [
            ("qvm-copy", crate::pages::copy()),
            ("qvm-move", crate::pages::move_files()),
            ("qvm-copy-to-vm", crate::pages::copy_to_vm()),
            ("qvm-move-to-vm", crate::pages::move_to_vm()),
        ] {
            for option in crate::pages::options(&page) {
                let words = [OsString::from(name)].into_iter().chain(option.clone());
                let words = words.chain(["vault".into(), "file".into()]).collect();
                assert!(matches!(parse(words), Parsed::Task(_)), "{name} {option:?}");
                let known = usage(name, name.ends_with("vm"));
                assert!(known.contains(&*option[0].to_string_lossy()), "{name} {option:?}");
            }
        }
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
