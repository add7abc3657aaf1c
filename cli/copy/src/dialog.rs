//! Dialogs of the desktop: how far a copy is, with a way to end it, and what went wrong. `zenity` or `kdialog` show them. What
//! they show is one argument each, or a line for their stdin; no shell sees it.

use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::process::{Child, ChildStdin, Command, Stdio};

/// Most characters of a message: no screen has room for more.
const MOST: usize = 2_000;
/// The names that the program goes by that speaks to a dialog of KDE.
const QDBUS: [&str; 3] = ["qdbus", "qdbus-qt6", "qdbus-qt5"];

/// Whose dialogs are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Desktop {
    Gnome,
    Kde,
}

/// A dialog that shows how far something is.
#[derive(Debug)]
pub(crate) enum Bar {
    Zenity {
        child: Child,
        input: Option<ChildStdin>,
    },
    Kdialog {
        qdbus: &'static str,
        place: Vec<String>,
    },
    /// There is no program for it.
    Nobody,
}

impl Bar {
    pub(crate) fn open(desktop: Desktop, text: &str) -> Self {
        if desktop == Desktop::Kde
            && let Some(bar) = kdialog(text)
        {
            return bar;
        }
        zenity(text).unwrap_or(Self::Nobody)
    }

    /// Shows so many hundredths. Whether the person has not ended it.
    pub(crate) fn show(&mut self, percent: u64) -> bool {
        match self {
            Self::Zenity { input, .. } => tell(input.as_mut(), &format!("{percent}\n")),
            Self::Kdialog { qdbus, place } => {
                let is_open = said(Command::new(*qdbus).args(&*place).arg("wasCancelled"));
                let _ = said(Command::new(*qdbus).args(&*place).args(["value", &percent.to_string()]));
                is_open.is_some_and(|word| word != "true")
            }
            Self::Nobody => true,
        }
    }

    /// Says something else.
    pub(crate) fn say(&mut self, text: &str) {
        match self {
            Self::Zenity { input, .. } => {
                tell(input.as_mut(), &format!("# {text}\n"));
            }
            Self::Kdialog { qdbus, place } => {
                let _ = said(Command::new(*qdbus).args(&*place).args(["setLabelText", text]));
            }
            Self::Nobody => {}
        }
    }

    /// What has an error once the person has ended the dialog.
    pub(crate) fn watched(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Self::Zenity { input, .. } => input.as_ref().map(|input| input.as_fd()),
            _ => None,
        }
    }

    /// Takes it away.
    pub(crate) fn close(&mut self) {
        match self {
            Self::Zenity { child, input } => {
                drop(input.take());
                // It stays until somebody presses a button otherwise.
                let _ = child.kill();
                let _ = child.wait();
            }
            Self::Kdialog { qdbus, place } => {
                let _ = said(Command::new(*qdbus).args(&*place).arg("close"));
            }
            Self::Nobody => {}
        }
        *self = Self::Nobody;
    }
}

fn zenity(text: &str) -> Option<Bar> {
    let mut command = Command::new("zenity");
    command.args(["--progress", "--percentage=0"]).arg(format!("--text={text}"));
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().ok()?;
    let input = child.stdin.take()?;
    // One that hangs does not make the copy wait.
    let _ = rustix::io::ioctl_fionbio(&input, true);
    Some(Bar::Zenity { child, input: Some(input) })
}

fn kdialog(text: &str) -> Option<Bar> {
    // Without it nobody could say how far it is.
    let qdbus = QDBUS.into_iter().find(|name| is_there(name))?;
    let place = said(Command::new("kdialog").args(["--progressbar", text, "100"]))?;
    let place: Vec<String> = place.split_whitespace().map(str::to_owned).collect();
    let _ = said(Command::new(qdbus).args(&place).args(["showCancelButton", "true"]));
    Some(Bar::Kdialog { qdbus, place })
}

/// Shows what went wrong until somebody has read it.
pub(crate) fn complain(desktop: Desktop, text: &str) {
    let text: String = text.chars().take(MOST).collect();
    let quiet = |command: &mut Command| {
        let command = command.stdin(Stdio::null()).stdout(Stdio::null());
        command.status().is_ok()
    };
    // What looks like HTML is shown as such there, and part of it comes from another qube.
    let plain = text.replace('<', "\u{2039}").replace('>', "\u{203a}");
    let mut kdialog = Command::new("kdialog");
    if desktop == Desktop::Kde && quiet(kdialog.args(["--sorry", &plain])) {
        return;
    }
    quiet(Command::new("zenity").args(["--error", "--no-markup"]).arg(format!("--text={text}")));
}

/// Whether somebody reads it, now or later.
fn tell(input: Option<&mut ChildStdin>, line: &str) -> bool {
    match input.map_or(Ok(()), |input| input.write_all(line.as_bytes())) {
        Ok(()) => true,
        Err(error) => error.kind() == io::ErrorKind::WouldBlock,
    }
}

/// What a program says on its stdout, if it ends well.
fn said(command: &mut Command) -> Option<String> {
    let output = command.stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned())
}

/// Whether a program can be found.
fn is_there(name: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(name).is_file())
}
