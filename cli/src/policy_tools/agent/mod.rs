//! `qrexec-policy-agent`: puts the policy's questions to the user and shows its notices.
//!
//! It serves `policy.Ask`, `policy.New` and `policy.Notify` on a socket. Whatever goes wrong denies: a question that is
//! not understood, a dialog that is closed, a time that is over, a caller that is gone.

mod dialog;
mod question;
mod screen;
mod terminal;

use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Parser;
use engine::process::Signals;
use engine::reactor::{self, Interest, Reactor};
use rustix::io::Errno;
use rustix::net::{SocketFlags, accept_with};
use rustix::process::Signal;

use super::people::{ASK, NEW, NOTIFY, NewPolicy, Notice, Prompt};
use super::places::{Notices, Places};
use crate::{status, usage};
use dialog::Dialog;
use question::{Chosen, Question};
use screen::Screen;

const PROGRAM: &str = "qrexec-policy-agent";

/// Callers that may be heard or answered at once; more are denied.
const MAX_OPEN: usize = 128;
/// Questions that may wait for the user at once; more are denied.
const MAX_QUESTIONS: usize = 64;
/// Of those, about one source: nobody answers more, and others shall have a place.
const SHARE: usize = 8;
/// Longest question, in bytes: a few thousand qubes to choose from.
const MAX_QUESTION: u64 = 1 << 20;
/// How long a caller may take to put its question.
const QUESTION_LIMIT: Duration = Duration::from_secs(10);

/// Asks the user what the qrexec policy leaves to them.
///
/// Dialogs are shown with zenity or kdialog where there is a display and one of them, else on the terminal.
#[derive(Debug, Parser)]
#[command(name = PROGRAM)]
struct PolicyAgentArgs {
    /// Where questions are taken.
    #[arg(
        short,
        long,
        value_name = "PATH",
        env = "QREXEC_POLICY_AGENT_SOCKET",
        default_value = "/var/run/qubes/policy-agent.sock"
    )]
    socket_path: PathBuf,
    /// Ask on the terminal, whatever else there is.
    #[arg(long, conflicts_with = "program")]
    terminal: bool,
    /// Run PROGRAM ask, new or notify, with the JSON of the question or notice to read; it prints
    /// allow:TARGET, always:TARGET, make or deny.
    #[arg(long, value_name = "PROGRAM")]
    program: Option<PathBuf>,
    /// How long the user may think; then the answer is no. 0: as long as they like.
    #[arg(long, value_name = "SECONDS", default_value_t = 300)]
    timeout: u32,
}

/// What is common to all questions.
struct Agent {
    dialog: Dialog,
    limit: Option<Duration>,
    screen: Screen,
    questions: Arc<Places>,
    notices: Notices,
    open: Arc<Places>,
}

/// The command line, for manual pages and completions.
pub fn command() -> clap::Command {
    <PolicyAgentArgs as clap::CommandFactory>::command()
}

/// Runs the program with these arguments, its name first, and gives its exit status.
pub fn main(args: Vec<OsString>) -> i32 {
    let args = match usage::parse::<PolicyAgentArgs>(PROGRAM, args) {
        Ok(args) => args,
        Err(status) => return status,
    };
    match listen(&args) {
        Ok(()) => 0,
        Err(error) => {
            tracing::error!("{}: {error}", args.socket_path.display());
            status::TROUBLE
        }
    }
}

/// What the policy agent's reactor knows its descriptors by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Token {
    Signals,
    Callers,
}

impl reactor::Named for Token {
    const ALL: &'static [Self] = &[Self::Signals, Self::Callers];
}

fn listen(args: &PolicyAgentArgs) -> io::Result<()> {
    let mut reactor = Reactor::new()?;
    // Before any thread, so that all of them leave the signals to this one.
    let signals = Signals::block(&[Signal::TERM, Signal::INT, Signal::HUP])?;
    let socket = engine::unix::Bound::new(&args.socket_path, 0o600)?;
    reactor.add(&signals, Token::Signals, Interest::Read)?;
    reactor.add(&socket, Token::Callers, Interest::Read)?;
    let agent = Arc::new(Agent {
        dialog: Dialog::choose(args.program.as_deref(), args.terminal),
        limit: (args.timeout > 0).then(|| Duration::from_secs(args.timeout.into())),
        screen: Screen::new()?,
        questions: Places::new(MAX_QUESTIONS, SHARE),
        notices: Notices::default(),
        // Callers are dom0's own, and not known by more than that.
        open: Places::new(MAX_OPEN, MAX_OPEN),
    });
    tracing::info!("asking {} for {}", agent.dialog, args.socket_path.display());
    let mut events = Vec::new();
    loop {
        reactor.wait(None, &mut events)?;
        if events.iter().any(|event| event.token == Token::Signals) {
            return socket.withdraw();
        }
        match accept_with(&socket, SocketFlags::CLOEXEC) {
            Ok(stream) => answer_apart(&agent, stream),
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(error) => tracing::warn!("taking a connection: {error}"),
        }
    }
}

fn answer_apart(agent: &Arc<Agent>, stream: OwnedFd) {
    let mut stream = UnixStream::from(stream);
    let agent = Arc::clone(agent);
    let Some(place) = agent.open.take("") else {
        tracing::warn!("a question was denied: too many are open");
        let _ = stream.write_all(b"deny");
        return;
    };
    let started = std::thread::Builder::new().spawn(move || {
        let _place = place;
        let reply = agent.answer(&mut stream).unwrap_or_else(|why| {
            tracing::warn!("denied: {why}");
            "deny".to_owned()
        });
        // A caller that is gone has no use for it.
        let _ = stream.write_all(reply.as_bytes());
    });
    if let Err(error) = started {
        // The place went with the thread, and so did the caller, which denies.
        tracing::warn!("starting a thread: {error}");
    }
}

/// Why a question is denied without an answer of the user.
#[derive(Debug, thiserror::Error)]
enum Denied {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("the question has no descriptor")]
    NoDescriptor,
    #[error("the descriptor is no text")]
    NotText,
    #[error("{0:?} is not dom0")]
    Caller(String),
    #[error("{0}")]
    Json(#[from] serde_json::Error),
    #[error("a name is empty")]
    EmptyName,
    #[error("{0:?} is no resolution")]
    Resolution(String),
    #[error("{0:?} is no service of this agent")]
    Service(String),
    #[error("the default is not among the choices")]
    Default,
    #[error("{0:?} is no name")]
    BadName(String),
    #[error("too many questions about {0} are open")]
    TooMany(String),
}

impl Agent {
    fn answer(&self, stream: &mut UnixStream) -> Result<String, Denied> {
        let mut text = Vec::new();
        stream.set_read_timeout(Some(QUESTION_LIMIT))?;
        (&*stream).take(MAX_QUESTION).read_to_end(&mut text)?;
        match Heard::parse(&text)? {
            Heard::Notice(notice) => {
                self.notices.show(&notice, || self.dialog.notify(&notice));
                Ok(String::new())
            }
            Heard::Prompt(prompt) => {
                let is_choice = |target: &String| prompt.targets.contains(target);
                Ok(match self.ask(&prompt.source, Question::call(&prompt), stream)? {
                    Some(Chosen::Target(target)) if is_choice(&target) => format!("allow:{target}"),
                    Some(Chosen::Always(target)) if prompt.always && is_choice(&target) => {
                        format!("always:{target}")
                    }
                    _ => "deny".to_owned(),
                })
            }
            Heard::New(new) => Ok(match self.ask(&new.source, Question::new_policy(&new), stream)? {
                Some(Chosen::Make) => "allow".to_owned(),
                _ => "deny".to_owned(),
            }),
        }
    }

    fn ask(
        &self,
        source: &str,
        question: io::Result<Question>,
        stream: &UnixStream,
    ) -> Result<Option<Chosen>, Denied> {
        let question = question?;
        let place = self.questions.take(source);
        let _place = place.ok_or_else(|| Denied::TooMany(source.to_owned()))?;
        let _shown = self.screen.wait_for(stream.as_fd())?;
        let until = self.limit.and_then(|limit| Instant::now().checked_add(limit));
        Ok(self.dialog.ask(&question, stream.as_fd(), until)?)
    }
}

/// What a caller wants.
#[derive(Debug, PartialEq, Eq)]
enum Heard {
    Prompt(Prompt),
    New(NewPolicy),
    Notice(Notice),
}

impl Heard {
    /// `SERVICE dom0[ …]`, NUL, JSON. Only dom0 may ask, and only with names that are names: whatever is
    /// shown to the user has no character in it by which it could pass for something else.
    fn parse(text: &[u8]) -> Result<Self, Denied> {
        let end = text.iter().position(|byte| *byte == 0).ok_or(Denied::NoDescriptor)?;
        let (head, json) = text.split_at(end);
        let head = std::str::from_utf8(head).map_err(|_| Denied::NotText)?;
        let json = json.get(1..).unwrap_or_default();
        let mut words = head.split(' ');
        let (called, caller) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        if caller != "dom0" {
            return Err(Denied::Caller(caller.to_owned()));
        }
        match called.strip_suffix('+').unwrap_or(called) {
            ASK => {
                let prompt: Prompt = serde_json::from_slice(json)?;
                check(&prompt)?;
                Ok(Self::Prompt(prompt))
            }
            NEW => {
                let new: NewPolicy = serde_json::from_slice(json)?;
                plain(&new.source, QUBE)?;
                plain(&new.service, SERVICE)?;
                if new.source.is_empty() || new.service.is_empty() {
                    return Err(Denied::EmptyName);
                }
                Ok(Self::New(new))
            }
            NOTIFY => {
                let notice: Notice = serde_json::from_slice(json)?;
                let Notice { resolution, service, argument, source, target } = &notice;
                if !matches!(resolution.as_str(), "allow" | "deny" | "fail") {
                    return Err(Denied::Resolution(resolution.clone()));
                }
                [service, argument].into_iter().try_for_each(|text| plain(text, SERVICE))?;
                [source, target].into_iter().try_for_each(|text| plain(text, QUBE))?;
                Ok(Self::Notice(notice))
            }
            other => Err(Denied::Service(other.to_owned())),
        }
    }
}

const QUBE: &str = "@_-.:";
const SERVICE: &str = "_-.+";

fn check(prompt: &Prompt) -> Result<(), Denied> {
    plain(&prompt.source, QUBE)?;
    plain(&prompt.service, SERVICE)?;
    plain(&prompt.argument, SERVICE)?;
    prompt.targets.iter().try_for_each(|target| plain(target, QUBE))?;
    if prompt.source.is_empty() || prompt.service.is_empty() || prompt.targets.iter().any(String::is_empty) {
        return Err(Denied::EmptyName);
    }
    if !prompt.default_target.is_empty() && !prompt.targets.contains(&prompt.default_target) {
        return Err(Denied::Default);
    }
    Ok(())
}

fn plain(text: &str, others: &str) -> Result<(), Denied> {
    match text.chars().find(|c| !c.is_ascii_alphanumeric() && !others.contains(*c)) {
        Some(_) => Err(Denied::BadName(text.to_owned())),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(source: &str, target: &str, default: &str) -> Result<Heard, Denied> {
        let json = serde_json::json!({"source": source, "service": "demo.Add", "argument": "+1",
            "targets": [target], "default_target": default, "icons": {"x": "y"}});
        Heard::parse(format!("policy.Ask dom0 name dom0\0{json}").as_bytes())
    }

    #[test]
    fn only_names_are_shown() {
        assert!(matches!(parse("work", "vault", ""), Ok(Heard::Prompt(_))));
        assert!(matches!(parse("work", "@dispvm:vault", "@dispvm:vault"), Ok(Heard::Prompt(_))));
        for (source, target, default) in [
            ("work\nvault", "vault", ""),
            ("w\u{202e}krow", "vault", ""),
            ("work", "vau<b>lt", ""),
            ("work", "", ""),
            ("", "vault", ""),
            ("work", "vault", "other"),
            ("w\u{430}rk", "vault", ""),
            ("\x1b[2J", "vault", ""),
        ] {
            assert!(parse(source, target, default).is_err(), "{source:?} {target:?}");
        }
    }

    #[test]
    fn only_dom0_asks() {
        assert!(Heard::parse(b"policy.Ask work\0{}").unwrap_err().to_string().contains("not dom0"));
        assert!(Heard::parse(b"policy.Ask dom0\0{}").is_err());
        assert!(Heard::parse(b"policy.Else dom0\0{}").is_err());
        assert!(Heard::parse(b"policy.Ask dom0").is_err());
        let notice =
            br#"{"resolution":"deny","service":"a.B","argument":"+","source":"work","target":"@default"}"#;
        let text = [&b"policy.Notify dom0\0"[..], notice].concat();
        assert!(matches!(Heard::parse(&text), Ok(Heard::Notice(_))));
    }
}
