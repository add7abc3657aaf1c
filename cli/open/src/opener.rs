//! The program that opens a file or an address here, and when it is done with the file.
//!
//! `xdg-open` hands a file to a program and ends, often long before that program has read it. So where nothing better is
//! there, the program is found as `xdg-open` finds it and started here, and afterwards nobody may have the file open.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use engine::say;
use run::children::Children;
use rustix::fs::inotify;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

/// Names a program, with words in front of what it opens.
const VARIABLE: &str = "QUBES_OPEN";

/// Longest answer or description that is read, in bytes.
const MAX_TEXT: u64 = 1 << 20;

/// What to start.
#[derive(Debug, PartialEq, Eq)]
struct Opener {
    words: Vec<OsString>,
    /// It ends before the program that it has started has.
    leaves: bool,
}

/// Opens an address; the program's status.
///
/// # Errors
/// There is no program that could.
pub fn open_url(children: &mut Children, url: &OsStr) -> io::Result<i32> {
    let opener = configured().unwrap_or_else(|| Opener { words: vec!["xdg-open".into()], leaves: true });
    start(children, opener, url)
}

/// Opens a file and waits until it is done with; the program's status.
///
/// # Errors
/// There is no program that could.
pub fn open_file(children: &mut Children, path: &Path) -> io::Result<i32> {
    let opener = configured().or_else(|| by_type(path));
    let opener = opener.unwrap_or_else(|| Opener { words: vec!["xdg-open".into()], leaves: true });
    let leaves = opener.leaves;
    let status = start(children, opener, path.as_os_str())?;
    if leaves && children.told().is_none() {
        wait_for_others(children, path)?;
    }
    Ok(status)
}

/// What the user has set, or Qubes' own program, which waits itself.
fn configured() -> Option<Opener> {
    let told = std::env::var(VARIABLE).unwrap_or_default();
    let words: Vec<OsString> = told.split_whitespace().map(OsString::from).collect();
    if !words.is_empty() {
        return Some(Opener { words, leaves: false });
    }
    let own = run::children::find("qubes-open");
    own.exists().then(|| Opener { words: vec![own.into()], leaves: false })
}

fn start(children: &mut Children, opener: Opener, what: &OsStr) -> io::Result<i32> {
    let Some((program, words)) = opener.words.split_first() else {
        return Err(io::ErrorKind::NotFound.into());
    };
    let mut command = Command::new(program);
    command.args(words);
    // Words that name the place of what is opened have it already.
    if !words.iter().any(|word| word == what) {
        command.arg(what);
    }
    command.stdin(Stdio::null()).env("DE", "generic");
    // Its output is no part of the answer.
    command.stdout(io::stderr().as_fd().try_clone_to_owned()?);
    let failed = |error: io::Error| {
        let error = cli::status::not_started(program.as_ref(), error);
        io::Error::new(error.kind(), format!("{}: {error}", program.display()))
    };
    children.start(0, &mut command).map_err(failed)?;
    children.wait(None)?;
    Ok(children.status(0).unwrap_or(1))
}

/// The program for files of this type, as the desktop has it.
fn by_type(path: &Path) -> Option<Opener> {
    let kind = answer("xdg-mime", &["query".as_ref(), "filetype".as_ref(), path.as_os_str()])?;
    let id = answer("xdg-mime", &["query".as_ref(), "default".as_ref(), kind.as_ref()])?;
    let text = applications().find_map(|folder| read(&folder.join(&id)))?;
    Some(Opener { words: exec_line(&text, path.as_os_str())?, leaves: true })
}

/// The first line that a program says.
fn answer(program: &str, words: &[&OsStr]) -> Option<String> {
    let output =
        Command::new(program).args(words).stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    let text = String::from_utf8(output.stdout).ok().filter(|_| output.status.success())?;
    let line = text.lines().next()?.trim().to_owned();
    Some(line).filter(|line| !line.is_empty() && line.len() < 256 && !line.contains('\0'))
}

/// Folders with descriptions of programs.
fn applications() -> impl Iterator<Item = PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    let home = set("HOME").map(|home| PathBuf::from(home).join(".local/share"));
    let own = set("XDG_DATA_HOME").map(PathBuf::from).or(home);
    let all = set("XDG_DATA_DIRS").unwrap_or_else(|| "/usr/local/share:/usr/share".into());
    let all: Vec<PathBuf> = std::env::split_paths(&all).collect();
    own.into_iter().chain(all).map(|folder| folder.join("applications"))
}

fn read(path: &Path) -> Option<String> {
    let is_small = fs::metadata(path).is_ok_and(|meta| meta.is_file() && meta.len() <= MAX_TEXT);
    fs::read_to_string(path).ok().filter(|_| is_small)
}

/// The words of a description's command, the file among them. A program that needs a terminal is not ours to start.
fn exec_line(text: &str, file: &OsStr) -> Option<Vec<OsString>> {
    let mut lines = text.lines().map(str::trim).skip_while(|line| *line != "[Desktop Entry]").skip(1);
    let entry: Vec<&str> = lines.by_ref().take_while(|line| !line.starts_with('[')).collect();
    let value =
        |key: &str| entry.iter().find_map(|line| line.strip_prefix(key)?.trim_start().strip_prefix('='));
    if value("Terminal").is_some_and(|value| value.trim() == "true") {
        return None;
    }
    let mut words = Vec::new();
    let mut named = false;
    for word in split(value("Exec")?.trim())? {
        match word.as_str() {
            "%f" | "%F" | "%u" | "%U" => {
                words.push(file.to_owned());
                named = true;
            }
            "%i" | "%c" | "%k" | "%d" | "%D" | "%n" | "%N" | "%v" | "%m" => {}
            _ => words.push(word.replace("%%", "%").into()),
        }
    }
    if !named {
        words.push(file.to_owned());
    }
    Some(words).filter(|words| words.len() > 1)
}

/// Words with `"` around some, inside of which `\` stands in front of `"`, a backtick, `$` and itself.
fn split(line: &str) -> Option<Vec<String>> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quoted = false;
    let mut rest = line.chars();
    while let Some(c) = rest.next() {
        match c {
            '"' => {
                quoted = !quoted;
                word.get_or_insert_default();
            }
            '\\' if quoted => word.get_or_insert_default().push(rest.next()?),
            ' ' | '\t' if !quoted => words.extend(word.take()),
            _ => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    Some(words).filter(|_| !quoted)
}

/// Waits until nobody has the file open or on their command line. Ends of processes and closings of the file are events.
fn wait_for_others(children: &mut Children, path: &Path) -> io::Result<()> {
    let watch = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
    let folder = path.parent().unwrap_or(path);
    inotify::add_watch(&watch, folder, inotify::WatchFlags::CLOSE | inotify::WatchFlags::MOVED_TO)?;
    loop {
        let holders = holders(path);
        if holders.is_empty() {
            return Ok(());
        }
        let ends: Vec<_> =
            holders.into_iter().filter_map(|pid| pidfd_open(pid, PidfdFlags::empty()).ok()).collect();
        let fds: Vec<_> = std::iter::once(watch.as_fd()).chain(ends.iter().map(AsFd::as_fd)).collect();
        if !children.wait_for(&fds)? {
            return Ok(());
        }
        while rustix::io::read(&watch, &mut [0_u8; 4096]).is_ok() {}
    }
}

/// Processes that we may look at and that have the file open or among their words.
fn holders(path: &Path) -> Vec<Pid> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let file = fs::metadata(path).map(|meta| (meta.dev(), meta.ino())).ok();
    let own = std::process::id();
    let numbers = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok());
    let numbers = numbers.filter(|number| u32::try_from(*number) != Ok(own));
    numbers.filter(|number| holds(*number, path, file)).filter_map(Pid::from_raw).collect()
}

fn holds(number: i32, path: &Path, file: Option<(u64, u64)>) -> bool {
    let process = PathBuf::from(format!("/proc/{number}"));
    let words = fs::read(process.join("cmdline")).unwrap_or_default();
    if words.split(|byte| *byte == 0).any(|word| word == path.as_os_str().as_bytes()) {
        return true;
    }
    let Ok(fds) = fs::read_dir(process.join("fd")) else { return false };
    let is_it = |entry: io::Result<fs::DirEntry>| {
        let meta = entry.ok().and_then(|entry| fs::metadata(entry.path()).ok());
        meta.map(|meta| (meta.dev(), meta.ino())) == file
    };
    file.is_some() && fds.into_iter().any(is_it)
}

/// Says why nothing was opened.
pub(crate) fn complain(program: &str, error: &io::Error) -> i32 {
    say::error(format_args!("{program}: nothing here opens it: {error}"));
    cli::status::of_start(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Option<Vec<String>> {
        let words = exec_line(text, OsStr::new("/tmp/f.txt"))?;
        Some(words.into_iter().map(|word| word.into_string().unwrap()).collect())
    }

    #[test]
    fn a_description_says_what_to_start() {
        let of = |exec: &str| {
            words(&format!("[Desktop Entry]\nName=X\n{exec}\n\n[Desktop Action a]\nExec=other\n"))
        };
        let list = |words: &[&str]| Some(words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>());
        assert_eq!(of("Exec=edit --new %f"), list(&["edit", "--new", "/tmp/f.txt"]));
        assert_eq!(
            of("Exec = \"my \\\"edit\\\"\" %U %i 100%%"),
            list(&["my \"edit\"", "/tmp/f.txt", "100%"])
        );
        assert_eq!(of("Exec=edit"), list(&["edit", "/tmp/f.txt"]));
        for bad in ["Exec=\"open", "Exec=", "Name=Y", "Terminal=true\nExec=vi %f"] {
            assert_eq!(of(bad), None, "{bad}");
        }
    }

    #[test]
    fn who_has_a_file_open_is_found_and_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("f");
        fs::write(&path, "").unwrap();
        assert!(holders(&path).is_empty());
        let mut command = Command::new("/bin/sh");
        command.arg("-c").arg("exec 3<\"$0\"; echo; read x").arg(&path);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut [0]).unwrap();
        let pid = Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
        assert_eq!(holders(&path), [pid]);
        let mut children = Children::new().unwrap();
        let end = std::thread::spawn(move || {
            drop(child.stdin.take());
            child.wait().unwrap();
        });
        wait_for_others(&mut children, &path).unwrap();
        end.join().unwrap();
        assert!(holders(&path).is_empty());
    }
}
