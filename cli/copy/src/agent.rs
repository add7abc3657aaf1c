//! `qfile-agent` and `qfile-dom0-agent`: send files on stdout, read the answer on stdin.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::time::Duration;

use wire::escape::Escaped;
use wire::filecopy::{Answer, Answered, Code};

use crate::outlet::{Outlet, Stop};
use crate::progress::Progress;
use crate::record::{Totals, Writer};
use crate::sender::{End, Links, Sending, check_arguments, complain};
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
        Err(text) => {
            complain("qfile-agent", &text);
            1
        }
    }
}

/// `qfile-dom0-agent PATH…`: every word is a path.
pub fn dom0_main(args: Vec<OsString>) -> i32 {
    let paths = args.into_iter().skip(1).map(PathBuf::from).collect();
    run(&Task { program: "qfile-dom0-agent".to_owned(), paths, ..Task::default() }, Progress::silent())
}

fn parse(args: Vec<OsString>) -> Result<Task, String> {
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
                return Err(format!("unknown option {}", Name(word.as_bytes())));
            }
            _ => task.paths.push(word.into()),
        }
    }
    Ok(task)
}

fn run(task: &Task, mut progress: Progress) -> i32 {
    let done = check_arguments(&task.paths).map_err(Ending::Failed).and_then(|()| {
        let (input, output) = engine::localfd::take_stdin_stdout().map_err(trouble)?;
        let gone = |error: std::io::Error| Ending::Failed(format!("nobody takes the files: {error}"));
        let mut outlet = Outlet::new(Some(input), output).map_err(gone)?;
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
        Err(Ending::Failed(text)) => {
            complain(program, &text);
            1
        }
    }
}

/// Why not everything has arrived.
#[derive(Debug)]
pub(crate) enum Ending {
    Failed(String),
    Cancelled,
}

fn trouble(error: std::io::Error) -> Ending {
    Ending::Failed(error.to_string())
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
        Err(End::Stopped(Stop::Io(error))) => return Err(trouble(error)),
        Err(End::Failed(text)) => {
            // What was complete before is to arrive.
            let _ = outlet.flush();
            return Err(Ending::Failed(text));
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
    let answered = outlet.answer(patience, slow).map_err(trouble)?;
    judge(&answered, outlet.checksum(), totals.is_some()).map_err(Ending::Failed)?;
    let totals = totals.unwrap_or_default();
    if let Some(record) = record {
        record.confirm(&totals).map_err(trouble)?;
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

/// What an answer means: nothing, or the line for stderr.
pub(crate) fn judge(answered: &Answered, checksum: u32, complete: bool) -> Result<(), String> {
    let answer = match answered {
        Answered::Cut(bytes) => return Err(no_answer(bytes)),
        Answered::Whole(answer) => answer,
    };
    if answer.code.is_good() {
        return match (complete, answer.checksum == checksum) {
            (true, true) => Ok(()),
            (true, false) => Err("what arrived is not what was sent: the checksums differ".to_owned()),
            (false, _) => Err("the receiver ended before everything was sent".to_owned()),
        };
    }
    if let Some(text) = answer.code.as_text() {
        return Err(printed(&text));
    }
    Err(refused(answer))
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

fn no_answer(bytes: &[u8]) -> String {
    let text = |byte: &u8| matches!(byte, 0x20..=0x7e | b'\n' | b'\r' | b'\t' | 0x1b);
    match bytes {
        [] => "the receiver ended without an answer; if it could not start, it has said why".to_owned(),
        bytes if bytes.iter().all(text) => printed(bytes),
        _ => "the receiver ended in the middle of its answer".to_owned(),
    }
}

fn printed(text: &[u8]) -> String {
    let text = Escaped::new(OsStr::from_bytes(text).as_bytes());
    format!("in place of an answer came the text \"{text}\": a login script of the other side prints it")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(code: u32, name: &[u8], complete: bool) -> Result<(), String> {
        let answer = Answer { code: Code(code), checksum: 7, last_name: Some(name.to_vec()) };
        judge(&Answered::Whole(answer), 7, complete)
    }

    #[test]
    fn only_a_good_answer_to_everything_is_good() {
        assert_eq!(judged(0, b"x", true), Ok(()));
        assert!(judged(0, b"x", false).unwrap_err().contains("before everything"));
        let other = Answered::Whole(Answer { checksum: 8, ..Answer::default() });
        assert!(judge(&other, 7, true).unwrap_err().contains("checksum"));
    }

    #[test]
    fn each_code_has_a_sentence_and_names_are_escaped() {
        for code in [17, 22, 28, 67, 84, 121, 122, 9999, 31_415_926, 4_294_967_212] {
            let said = judged(code, b"a\x1b\"%s", true).unwrap_err();
            assert!(said.starts_with("\"a\\u{1B}\\\"%s\": ") && said.len() > 20, "{said}");
        }
        assert_eq!(judged(84, b"x", true), judged(4_294_967_212, b"x", true));
    }

    #[test]
    fn text_in_place_of_an_answer_is_shown() {
        let said = judged(174_945_902, b"", true).unwrap_err();
        assert!(said.contains("\"nvm\\x0a\"") && said.contains("login script"), "{said}");
        assert!(judge(&Answered::Cut(b"hi\n".to_vec()), 0, true).unwrap_err().contains("\"hi\\x0a\""));
        assert!(judge(&Answered::Cut(Vec::new()), 0, true).unwrap_err().contains("without an answer"));
        assert!(judge(&Answered::Cut(vec![0; 8]), 0, true).unwrap_err().contains("middle"));
    }
}
