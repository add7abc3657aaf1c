//! The ways to show a question or a notice: a program, a desktop's dialogs, the terminal.

use std::ffi::OsString;
use std::fmt;
use std::fs::File;
use std::io;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::question::{Chosen, Question, REFUSE, called};
use super::terminal;
use crate::policy_tools::people::Notice;
use crate::policy_tools::reply::{Ended, read_reply};

/// How long a program may take to show a notice.
const NOTICE_LIMIT: Duration = Duration::from_secs(10);

/// How the user is asked.
#[derive(Debug)]
pub(super) enum Dialog {
    Program(PathBuf),
    Zenity(PathBuf),
    Kdialog(PathBuf),
    Terminal,
}

impl fmt::Display for Dialog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Program(path) | Self::Zenity(path) | Self::Kdialog(path) => {
                write!(f, "with {}", path.display())
            }
            Self::Terminal => f.write_str("on the terminal"),
        }
    }
}

impl Dialog {
    /// What was asked for, else what there is.
    pub(super) fn choose(program: Option<&Path>, terminal: bool) -> Self {
        if let Some(program) = program {
            return Self::Program(program.to_owned());
        }
        let shown = ["WAYLAND_DISPLAY", "DISPLAY"].iter().any(|name| std::env::var_os(name).is_some());
        if terminal || !shown {
            return Self::Terminal;
        }
        let zenity = find("zenity").map(Self::Zenity);
        zenity.or_else(|| find("kdialog").map(Self::Kdialog)).unwrap_or(Self::Terminal)
    }

    /// Asks; `None` is a refusal. Ends when the other end of `caller` is closed or the time is over.
    pub(super) fn ask(
        &self,
        question: &Question,
        caller: BorrowedFd<'_>,
        until: Option<Instant>,
    ) -> io::Result<Option<Chosen>> {
        let (mut child, output) = match self {
            Self::Terminal => {
                let chosen = terminal::ask(question, caller, until)?;
                return Ok(chosen.as_deref().and_then(Chosen::read));
            }
            Self::Program(path) => {
                let (what, text) = &question.for_program;
                start(path, &[what], Some(text))?
            }
            Self::Zenity(path) => start(path, &zenity(question), None)?,
            Self::Kdialog(path) => start(path, &kdialog(question), None)?,
        };
        let limit = until.map(|until| until.saturating_duration_since(Instant::now()));
        let said = read_reply(output, Some(caller), limit)?;
        if child.status()? != 0 {
            return Ok(None);
        }
        let said = said.trim_end_matches('\n');
        Ok(match self {
            Self::Program(_) => Chosen::said(said),
            _ => Chosen::read(said),
        })
    }

    /// Tells; whether that works is of no importance.
    pub(super) fn notify(&self, notice: &Notice) {
        let line = line(notice);
        let shown = match self {
            Self::Program(path) => serde_json::to_vec(notice)
                .map_err(io::Error::from)
                .and_then(|text| finish(path, &["notify"], Some(&text))),
            Self::Zenity(_) | Self::Kdialog(_) => match find("notify-send") {
                Some(path) => finish(&path, &["--", "qrexec", &line], None),
                None => terminal::tell(&line),
            },
            Self::Terminal => terminal::tell(&line),
        };
        if let Err(error) = shown {
            tracing::warn!("{line} (could not be shown: {error})");
        }
    }
}

/// Starts a program; one without a folder is searched for.
fn start(path: &Path, words: &[impl AsRef<str>], input: Option<&[u8]>) -> io::Result<(Ended, File)> {
    let found = path.to_str().filter(|name| !name.contains('/')).and_then(find);
    let words = words.iter().map(|word| OsString::from(word.as_ref()));
    let words: Vec<OsString> = std::iter::once(path.as_os_str().to_owned()).chain(words).collect();
    Ended::start(found.as_deref().unwrap_or(path), &words, input)
}

fn finish(path: &Path, words: &[&str], input: Option<&[u8]>) -> io::Result<()> {
    let (_child, output) = start(path, words, input)?;
    read_reply(output, None, Some(NOTICE_LIMIT)).map(drop)
}

/// A notice in words.
fn line(notice: &Notice) -> String {
    let Notice { resolution, service, argument, source, target } = notice;
    let what = match resolution.as_str() {
        "allow" => "Allowed",
        "deny" => "Denied",
        _ => "Failed",
    };
    format!("{what}: {} from {source} to {target}", called(service, argument))
}

/// Neither dialog can be kept from taking a key press that was meant for another window, so what is marked
/// at first is the refusal.
fn zenity(question: &Question) -> Vec<String> {
    let mut words = ["--list", "--radiolist", "--title=Qubes: allow this call?", "--hide-column=2"].to_vec();
    words.extend(["--print-column=2", "--column=", "--column=id", "--column=where", "--height=400"]);
    let Question { text, ask, choices, .. } = question;
    let text = format!("--text={text}. {ask}");
    words.extend([text.as_str(), "TRUE", REFUSE, "refuse"]);
    for (choice, shown) in choices {
        words.extend(["FALSE", choice, shown]);
    }
    words.into_iter().map(str::to_owned).collect()
}

fn kdialog(question: &Question) -> Vec<String> {
    let mut words = vec!["--title", "Qubes: allow this call?", "--radiolist", &question.text];
    words.extend([REFUSE, "refuse", "on"]);
    for (choice, shown) in &question.choices {
        words.extend([choice.as_str(), shown, "off"]);
    }
    words.into_iter().map(str::to_owned).collect()
}

/// A program of the search path.
fn find(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(name)).find(|file| file.is_file())
}
