//! `qfile-agent` and `qfile-dom0-agent`: send files on stdout, read the answer on stdin.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::time::Duration;

use wire::escape::Escaped;
use wire::filecopy::{Answer, Answered, Code};

use crate::outlet::{Outlet, Stop};
use crate::progress::Progress;
use crate::record::{Totals, Writer};
use crate::sender::{CannotSend, End, Links, Missing, Sending, check_arguments, complain};
use filecopy::shown::Name;

/// What an exit status of 32 means to the GUI's script.
const CANCELLED: i32 = 32;
/// How long nobody is told that the other side takes its time.
const PATIENCE: Duration = Duration::from_secs(5);

/// What to send, and how.
#[derive(Debug, Default)]
pub(crate) struct Task {
    pub(crate) program: String,
    pub(crate) paths: Vec<PathBuf>,
    pub(crate) links: Links,
}

/// `qfile-agent [--ignore-symlinks | --dereference] [--] PATH…`
pub fn main(args: Vec<OsString>) -> i32 {
    match parse(args) {
        Ok(task) => run(&task, Progress::from_environment()),
        Err(error) => {
            complain("qfile-agent", error);
            1
        }
    }
}

/// `qfile-dom0-agent PATH…`: every word is a path.
pub fn dom0_main(args: Vec<OsString>) -> i32 {
    let paths = args.into_iter().skip(1).map(PathBuf::from).collect();
    run(&Task { program: "qfile-dom0-agent".to_owned(), paths, ..Task::default() }, Progress::silent())
}

/// An option that nobody knows.
#[derive(Debug, thiserror::Error)]
#[error("unknown option {}", Name(.0.as_bytes()))]
struct UnknownOption(OsString);

fn parse(args: Vec<OsString>) -> Result<Task, UnknownOption> {
    let mut task = Task { program: "qfile-agent".to_owned(), ..Task::default() };
    let mut words = args.into_iter().skip(1);
    while let Some(word) = words.next() {
        match word.as_bytes() {
            b"--" => {
                task.paths.extend(words.by_ref().map(PathBuf::from));
            }
            b"--ignore-symlinks" => task.links = Links::Ignore,
            b"--no-ignore-symlinks" => task.links = Links::Send,
            b"--dereference" => task.links = Links::Follow,
            [b'-', _, ..] if task.paths.is_empty() => {
                return Err(UnknownOption(word));
            }
            _ => task.paths.push(word.into()),
        }
    }
    Ok(task)
}

fn run(task: &Task, mut progress: Progress) -> i32 {
    let done = check_arguments(&task.paths).map_err(|missing| Failure::from(missing).into()).and_then(|()| {
        let (input, output) = engine::localfd::take_stdin_stdout().map_err(Failure::Io)?;
        let mut outlet = Outlet::new(Some(input), output).map_err(Failure::Nobody)?;
        send(task, &mut outlet, &mut progress, None)
    });
    progress.done();
    status(&task.program, done)
}

/// The exit status of an ending, which is said.
pub(crate) fn status(program: &str, done: Result<Totals, Ending>) -> i32 {
    match done {
        Ok(_) => 0,
        Err(Ending::Cancelled) => CANCELLED,
        Err(Ending::Failed(error)) => {
            complain(program, error);
            1
        }
    }
}

/// Why not everything has arrived.
#[derive(Debug)]
pub(crate) enum Ending {
    Failed(Failure),
    Cancelled,
}

/// What went wrong. The text is for stderr, a line or more.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error(transparent)]
    Missing(#[from] Missing),
    #[error("nobody takes the files: {0}")]
    Nobody(io::Error),
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Sending(#[from] CannotSend),
    #[error(transparent)]
    Answer(#[from] NotConfirmed),
}

impl<E: Into<Failure>> From<E> for Ending {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}

/// Sends everything and judges the answer: what was confirmed. The record is complete only then.
pub(crate) fn send(
    task: &Task,
    outlet: &mut Outlet,
    progress: &mut Progress,
    mut record: Option<&mut Writer>,
) -> Result<Totals, Ending> {
    let sent = send_all(task, outlet, progress, record.as_deref_mut());
    let totals = match sent {
        Ok(totals) => Some(totals),
        // It has answered early; what, is to be read.
        Err(End::Stopped(Stop::Answered)) => None,
        Err(End::Stopped(Stop::Io(error))) => return Err(error.into()),
        Err(End::Failed(error)) => {
            // What was complete before is to arrive.
            let _ = outlet.flush();
            return Err(error.into());
        }
        Err(End::Cancelled) => return Err(Ending::Cancelled),
    };
    if totals.is_some() {
        progress.all_sent();
    }
    let patience = if progress.is_watched() { Duration::from_secs(1) } else { PATIENCE };
    let slow = || {
        progress.say(&format!("{}: all is sent; waiting until it is on the other side's disk", task.program))
    };
    let answered = outlet.answer(patience, slow)?;
    judge(&answered, outlet.checksum(), totals.is_some())?;
    let totals = totals.unwrap_or_default();
    if let Some(record) = record {
        record.confirm(&totals)?;
    }
    Ok(totals)
}

fn send_all(
    task: &Task,
    outlet: &mut Outlet,
    progress: &mut Progress,
    record: Option<&mut Writer>,
) -> Result<Totals, End> {
    let mut sending = Sending::new(outlet, progress, record, task.links, &task.program);
    for path in &task.paths {
        sending.send(path)?;
    }
    sending.end()
}

/// What an answer says that does not confirm everything. The text is the line for stderr.
#[derive(Debug, thiserror::Error)]
#[cfg_attr(test, derive(PartialEq))]
pub(crate) enum NotConfirmed {
    #[error("what arrived is not what was sent: the checksums differ")]
    Checksum,
    #[error("the receiver ended before everything was sent")]
    TooEarly,
    #[error("{}", refused(.0))]
    Refused(Answer),
    #[error("the receiver ended without an answer; if it could not start, it has said why")]
    Nothing,
    #[error("the receiver ended in the middle of its answer")]
    Cut,
    #[error(
        "in place of an answer came the text \"{}\": a login script of the other side prints it",
        Escaped::new(.0)
    )]
    Text(Vec<u8>),
}

/// What an answer means: nothing, or why not everything has arrived.
pub(crate) fn judge(answered: &Answered, checksum: u32, complete: bool) -> Result<(), NotConfirmed> {
    let answer = match answered {
        Answered::Cut(bytes) => return Err(no_answer(bytes)),
        Answered::Whole(answer) => answer,
    };
    if answer.code.is_good() {
        return match (complete, answer.checksum == checksum) {
            (true, true) => Ok(()),
            (true, false) => Err(NotConfirmed::Checksum),
            (false, _) => Err(NotConfirmed::TooEarly),
        };
    }
    if let Some(text) = answer.code.as_text() {
        return Err(NotConfirmed::Text(text.to_vec()));
    }
    Err(NotConfirmed::Refused(answer.clone()))
}

fn refused(answer: &Answer) -> String {
    let name = answer.last_name.as_deref().unwrap_or_default();
    let number = answer.code.0;
    let mark = answer.code.name().map_or_else(|| number.to_string(), str::to_owned);
    let advice = match answer.code.upright() {
        Code::LINK => "; --ignore-symlinks leaves links out",
        Code::EXISTS => "; move it away there, or copy under another name",
        _ => "",
    };
    match name {
        b"" => format!("{} ({mark}){advice}", answer.code),
        name => format!("{}: {} ({mark}){advice}", Name(name), answer.code),
    }
}

fn no_answer(bytes: &[u8]) -> NotConfirmed {
    let text = |byte: &u8| matches!(byte, 0x20..=0x7e | b'\n' | b'\r' | b'\t' | 0x1b);
    match bytes {
        [] => NotConfirmed::Nothing,
        bytes if bytes.iter().all(text) => NotConfirmed::Text(bytes.to_vec()),
        _ => NotConfirmed::Cut,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(code: u32, name: &[u8], complete: bool) -> Result<(), NotConfirmed> {
        let answer = Answer { code: Code(code), checksum: 7, last_name: Some(name.to_vec()) };
        judge(&Answered::Whole(answer), 7, complete)
    }

    #[test]
    fn only_a_good_answer_to_everything_is_good() {
        assert_eq!(judged(0, b"x", true), Ok(()));
        assert_eq!(judged(0, b"x", false), Err(NotConfirmed::TooEarly));
        let other = Answered::Whole(Answer { checksum: 8, ..Answer::default() });
        assert_eq!(judge(&other, 7, true), Err(NotConfirmed::Checksum));
    }

    #[test]
    fn each_code_has_a_sentence_and_names_are_escaped() {
        for code in [17, 22, 28, 67, 84, 121, 122, 9999, 31_415_926, 4_294_967_212] {
            let said = judged(code, b"a\x1b\"%s", true).unwrap_err().to_string();
            assert!(said.starts_with("\"a\\u{1B}\\\"%s\": ") && said.len() > 20, "{said}");
        }
        let said = |code| judged(code, b"x", true).unwrap_err().to_string();
        assert_eq!(said(84), said(4_294_967_212));
    }

    #[test]
    fn every_option_of_the_manual_is_understood() {
        for option in crate::pages::options(&crate::pages::agent()) {
            let words = [OsString::from("qfile-agent")].into_iter().chain(option.clone()).collect();
            assert!(parse(words).is_ok_and(|task| task.paths.is_empty()), "{option:?}");
        }
    }

    #[test]
    fn text_in_place_of_an_answer_is_shown() {
        let said = judged(174_945_902, b"", true).unwrap_err().to_string();
        assert!(said.contains("\"nvm\\x0a\"") && said.contains("login script"), "{said}");
        assert!(
            judge(&Answered::Cut(b"hi\n".to_vec()), 0, true).unwrap_err().to_string().contains("\"hi\\x0a\"")
        );
        assert!(
            judge(&Answered::Cut(Vec::new()), 0, true).unwrap_err().to_string().contains("without an answer")
        );
        assert!(judge(&Answered::Cut(vec![0; 8]), 0, true).unwrap_err().to_string().contains("middle"));
    }
}
