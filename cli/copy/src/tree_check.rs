//! `qubes-fs-tree-check`: whether files can be sent, before anything is; and how much they are.

use std::ffi::{CString, OsString};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use engine::say;
use rustix::fs::{
    Access, AtFlags, CWD, FileType, Mode, OFlags, Stat, accessat, fstat, openat, readlinkat, statat,
};
use rustix::io::Errno;
use wire::filecopy::{LinkRules, NAME_MAX, NameRules, Wrong, check_link, is_plain};

use crate::sender::{Links, complain};
use crate::walk::{self, Entry, Visitor};
use filecopy::shown::{self, Name};

/// Most lines about what cannot be sent; the rest is counted.
const MOST: usize = 100;

/// What to look for.
#[derive(Debug, Clone, Copy, Default)]
pub struct Rules {
    /// What will be done about links.
    pub links: Links,
    /// Links may be sent at all.
    pub allow_links: bool,
    /// Folders may be sent.
    pub allow_folders: bool,
    /// Names outside the table are nothing to speak of.
    pub allow_all_names: bool,
    /// Files have to be readable, and names not too long.
    pub strict: bool,
}

/// Why something cannot be sent. The text is the line for stderr.
#[derive(Debug, thiserror::Error)]
enum Offence {
    #[error("an empty argument names no file")]
    Empty,
    #[error("{} cannot be sent: name the folder itself, or what is in it", Name(.0))]
    Nameless(Vec<u8>),
    #[error("{}: {}", Name(path), shown::errno(*error))]
    File { path: Vec<u8>, error: Errno },
    #[error("{}: its name is too long to be sent", Name(.0))]
    LongName(Vec<u8>),
    #[error("{} is a folder, which may not be sent here", Name(.0))]
    Folder(Vec<u8>),
    #[error("{} is a symbolic link, which may not be sent here", Name(.0))]
    Link(Vec<u8>),
    #[error("refusing to copy the symbolic link {} to {}: {wrong}", Name(path), Name(target))]
    LeadsOut { path: Vec<u8>, target: Vec<u8>, wrong: Wrong },
    #[error("the sizes add up to more than can be counted")]
    TooMuch,
}

/// What was found.
#[derive(Debug, Default)]
pub struct Found {
    /// Sizes of files and lengths of links' targets.
    pub bytes: u64,
    /// Sizes of files alone: what a progress bar ends at.
    pub content: u64,
    /// Whether a name or a target is outside the table.
    pub special_names: bool,
    /// What cannot be sent, a line for each.
    pub offenders: Vec<String>,
    /// How many more there are.
    pub more: u64,
}

impl Found {
    fn offend(&mut self, offence: &Offence) {
        if self.offenders.len() < MOST {
            self.offenders.push(offence.to_string());
        } else {
            self.more = self.more.saturating_add(1);
        }
    }

    /// All that cannot be sent, as text.
    pub fn complaint(&self) -> Option<String> {
        if self.offenders.is_empty() {
            return None;
        }
        let mut text = self.offenders.join("\n");
        if self.more > 0 {
            text.push_str(&format!("\nand {} more", self.more));
        }
        Some(text)
    }
}

/// Looks at everything that these arguments name.
pub fn check(paths: &[PathBuf], rules: Rules) -> Found {
    let user = rustix::process::geteuid().as_raw();
    let mut look = Look { rules, user, found: Found::default() };
    for path in paths {
        if let Err(offence) = look.argument(path) {
            look.found.offend(&offence);
        }
    }
    look.found
}

struct Look {
    rules: Rules,
    /// Who looks.
    user: u32,
    found: Found,
}

impl Look {
    fn argument(&mut self, path: &Path) -> Result<(), Offence> {
        let bytes = path.as_os_str().as_bytes();
        let (folder, name) = walk::split_argument(bytes).ok_or(Offence::Empty)?;
        if matches!(name, b"." | b".." | b"/") {
            return Err(Offence::Nameless(bytes.to_vec()));
        }
        let trouble = |error| Offence::File { path: bytes.to_vec(), error };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let parent = openat(CWD, folder, flags, Mode::empty()).map_err(trouble)?;
        let name = CString::new(name).map_err(|_| trouble(Errno::INVAL))?;
        walk::walk(parent.as_fd(), &name, self)
    }

    fn look(&mut self, entry: &Entry<'_>) -> Result<Option<(OwnedFd, Stat)>, Offence> {
        let trouble = |error| Offence::File { path: entry.path.to_vec(), error };
        let mut stat = statat(entry.parent, entry.name, AtFlags::SYMLINK_NOFOLLOW).map_err(trouble)?;
        let mut kind = FileType::from_raw_mode(stat.st_mode);
        if kind == FileType::Symlink {
            match self.rules.links {
                Links::Ignore => return Ok(None),
                Links::Send => return self.link(entry).map(|()| None),
                Links::Follow => {
                    stat = statat(entry.parent, entry.name, AtFlags::empty()).map_err(trouble)?;
                    kind = FileType::from_raw_mode(stat.st_mode);
                    if kind == FileType::Directory {
                        return Ok(None);
                    }
                }
            }
        }
        if !is_plain(entry.name.to_bytes()) {
            self.found.special_names = true;
        }
        if self.rules.strict && entry.path.len() >= NAME_MAX as usize {
            return Err(Offence::LongName(entry.path.to_vec()));
        }
        match kind {
            FileType::RegularFile => {
                // Of files of our own the mode tells.
                let own = stat.st_uid == self.user && stat.st_mode & 0o400 != 0;
                if self.rules.strict && !own {
                    accessat(entry.parent, entry.name, Access::READ_OK, AtFlags::EACCESS).map_err(trouble)?;
                }
                let size = u64::try_from(stat.st_size).unwrap_or(0);
                self.found.content = self.found.content.saturating_add(size);
                self.add(size).map(|()| None)
            }
            FileType::Directory if !self.rules.allow_folders => Err(Offence::Folder(entry.path.to_vec())),
            FileType::Directory => {
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let fd = openat(entry.parent, entry.name, flags, Mode::empty()).map_err(trouble)?;
                let stat = fstat(&fd).map_err(trouble)?;
                Ok(Some((fd, stat)))
            }
            _ => Ok(None),
        }
    }

    fn link(&mut self, entry: &Entry<'_>) -> Result<(), Offence> {
        let path = || entry.path.to_vec();
        if !self.rules.allow_links {
            return Err(Offence::Link(path()));
        }
        let target = readlinkat(entry.parent, entry.name, Vec::new());
        let target = target.map_err(|error| Offence::File { path: path(), error })?;
        let target = target.to_bytes();
        if let Err(wrong) = check_link(entry.path, target, NameRules::All, LinkRules::Inside) {
            return Err(Offence::LeadsOut { path: path(), target: target.to_vec(), wrong });
        }
        if !is_plain(entry.name.to_bytes()) || !is_plain(target) {
            self.found.special_names = true;
        }
        self.add(target.len() as u64)
    }

    fn add(&mut self, bytes: u64) -> Result<(), Offence> {
        let sum = self.found.bytes.checked_add(bytes);
        self.found.bytes = sum.ok_or(Offence::TooMuch)?;
        Ok(())
    }
}

impl Visitor for Look {
    type Error = Offence;

    fn visit(&mut self, entry: &Entry<'_>) -> Result<Option<(OwnedFd, Stat)>, Offence> {
        // One that cannot be sent does not keep the others from being named.
        Ok(self.look(entry).unwrap_or_else(|offence| {
            self.found.offend(&offence);
            None
        }))
    }

    fn leave(&mut self, _: &[u8], _: &Stat) -> Result<(), Offence> {
        Ok(())
    }

    fn unreadable(&mut self, path: &[u8], error: Errno) -> Offence {
        Offence::File { path: path.to_vec(), error }
    }
}

const PROGRAM: &str = "qubes-fs-tree-check";
const USAGE: &str = "usage: qubes-fs-tree-check [--machine-readable] [--[no-]ignore-symlinks] [--[no-]allow-symlinks]\n\
    \x20      [--[no-]allow-directories] [--[no-]allow-all-names] [--] PATH...";

/// The options, by what they set.
const OPTIONS: [&str; 10] = [
    "machine-readable",
    "ignore-symlinks",
    "no-ignore-symlinks",
    "allow-symlinks",
    "no-allow-symlinks",
    "allow-directories",
    "no-allow-directories",
    "allow-all-names",
    "no-allow-all-names",
    "help",
];

/// The program.
pub fn main(args: Vec<OsString>) -> i32 {
    match run(args) {
        Ok(status) => status,
        Err(error) => {
            complain(PROGRAM, error);
            1
        }
    }
}

/// Why the program ends with 1. The text is for stderr.
#[derive(Debug, thiserror::Error)]
enum TreeCheckError {
    #[error("unknown option {}\n{USAGE}", Name(.0.as_bytes()))]
    Option(OsString),
    #[error("{USAGE}")]
    Usage,
    #[error("{0}")]
    Offences(String),
}

fn run(args: Vec<OsString>) -> Result<i32, TreeCheckError> {
    let (mut rules, mut machine, mut paths) = (Rules::default(), false, Vec::new());
    let mut words = args.into_iter().skip(1);
    while let Some(word) = words.next() {
        let Some(option) = word.as_bytes().strip_prefix(b"-") else {
            paths.push(PathBuf::from(word));
            continue;
        };
        if option == b"-" {
            paths.extend(words.by_ref().map(PathBuf::from));
            break;
        }
        match whole(option).ok_or_else(|| TreeCheckError::Option(word.clone()))? {
            "machine-readable" => machine = true,
            "help" => {
                say::output(USAGE);
                return Ok(0);
            }
            name => {
                let (name, on) = name.strip_prefix("no-").map_or((name, true), |name| (name, false));
                match name {
                    "ignore-symlinks" => rules.links = if on { Links::Ignore } else { Links::Send },
                    "allow-symlinks" => rules.allow_links = on,
                    "allow-directories" => rules.allow_folders = on,
                    _ => rules.allow_all_names = on,
                }
            }
        }
    }
    if paths.is_empty() {
        return Err(TreeCheckError::Usage);
    }
    let found = check(&paths, rules);
    if let Some(text) = found.complaint() {
        return Err(TreeCheckError::Offences(text));
    }
    if machine {
        say::output(found.bytes);
    }
    Ok(if found.special_names && !rules.allow_all_names { 2 } else { 0 })
}

/// The option that `-WORD` begins: long ones may be cut short where no other begins the same.
fn whole(word: &[u8]) -> Option<&'static str> {
    let word = std::str::from_utf8(word.strip_prefix(b"-")?).ok()?;
    let mut fitting = OPTIONS.iter().filter(|option| option.starts_with(word));
    match (OPTIONS.iter().find(|option| **option == word), fitting.next(), fitting.next()) {
        (Some(exact), ..) => Some(exact),
        (None, Some(only), None) => Some(only),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_option_of_the_manual_is_understood() {
        let known = crate::pages::options(&crate::pages::tree_check());
        assert_eq!(known.len() + 1, OPTIONS.len(), "all but --help");
        for option in known {
            let word = option[0].to_str().unwrap();
            assert_eq!(whole(&word.as_bytes()[1..]), word.strip_prefix("--"));
        }
    }

    #[test]
    fn options_may_be_cut_short_where_that_is_clear() {
        assert_eq!(whole(b"-machine"), Some("machine-readable"));
        assert_eq!(whole(b"-allow-s"), Some("allow-symlinks"));
        assert_eq!(whole(b"-allow"), None);
        assert_eq!(whole(b"-x"), None);
        assert_eq!(whole(b"x"), None);
    }
}
