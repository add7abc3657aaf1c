//! Questions on the terminal of whoever started the agent.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::BorrowedFd;
use std::time::Instant;

use rustix::termios::{QueueSelector, tcflush};

use super::question::Question;
use crate::policy_tools::reply::wait_readable;

/// Longest line that is looked at.
const MAX_LINE: usize = 256;

/// The controlling terminal; without one, what stands in for it as our input.
fn terminal() -> io::Result<File> {
    File::options().read(true).write(true).open("/dev/tty").or_else(|error| {
        let input = rustix::stdio::stdin();
        if !rustix::termios::isatty(input) {
            return Err(error);
        }
        Ok(File::from(input.try_clone_to_owned()?))
    })
}

/// Shows a line.
pub(super) fn tell(line: &str) -> io::Result<()> {
    writeln!(terminal()?, "\n{line}")
}

/// Asks for one of the choices. An empty line, the end of the input and everything that is no choice
/// refuse.
pub(super) fn ask(
    question: &Question,
    caller: BorrowedFd<'_>,
    until: Option<Instant>,
) -> io::Result<Option<String>> {
    let mut terminal = terminal()?;
    terminal.write_all(text(question).as_bytes())?;
    // What was typed before the question was there is no answer to it. Only then is anybody asked to type.
    tcflush(&terminal, QueueSelector::IFlush)?;
    terminal.write_all(invitation(question).as_bytes())?;
    let line = read_line(&mut terminal, caller, until);
    let chosen = line.as_deref().ok().and_then(|line| choice(question, line));
    let verdict = match (&line, &chosen) {
        (Err(error), _) => format!("\nrefused: {error}\n"),
        (Ok(_), Some((_, shown))) => format!("yes: {shown}\n"),
        (Ok(_), None) => "refused\n".to_owned(),
    };
    terminal.write_all(verdict.as_bytes())?;
    line.map(|_| chosen.map(|(choice, _)| choice.clone()))
}

fn text(question: &Question) -> String {
    let mut text = format!("\n{}.\n", question.text);
    for (number, (_, shown)) in (1..).zip(&question.choices) {
        text.push_str(&format!("  {number:3}  {shown}\n"));
    }
    text
}

fn invitation(question: &Question) -> String {
    let first = if question.proposed { " y for the first," } else { "" };
    format!("{} Number or name,{first} anything else refuses: ", question.ask)
}

fn read_line(terminal: &mut File, caller: BorrowedFd<'_>, until: Option<Instant>) -> io::Result<String> {
    let mut line = Vec::new();
    loop {
        wait_readable(terminal, Some(caller), until)?;
        let mut buffer = [0_u8; MAX_LINE];
        let count = terminal.read(&mut buffer)?;
        line.extend_from_slice(buffer.get(..count).unwrap_or_default());
        if count == 0 || line.contains(&b'\n') || line.len() > MAX_LINE {
            return Ok(String::from_utf8_lossy(&line).trim().to_owned());
        }
    }
}

/// What a line chooses.
fn choice<'a>(question: &'a Question, line: &str) -> Option<&'a (String, String)> {
    if line == "y" && question.proposed {
        return question.choices.first();
    }
    // A name comes first: a qube might be called by a number.
    let by_name = question.choices.iter().find(|(choice, _)| choice == line);
    let index = || line.parse::<usize>().ok()?.checked_sub(1);
    by_name.or_else(|| question.choices.get(index()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy_tools::people::{NewPolicy, Prompt};

    fn prompt(default: &str, always: bool) -> Question {
        let prompt = Prompt {
            source: "work".to_owned(),
            service: "demo.Add".to_owned(),
            argument: "+1".to_owned(),
            targets: ["a", "b", "@dispvm:c"].map(str::to_owned).to_vec(),
            default_target: default.to_owned(),
            icons: Default::default(),
            always,
        };
        Question::call(&prompt).unwrap()
    }

    fn chosen(question: &Question, line: &str) -> Option<String> {
        choice(question, line).map(|(choice, _)| choice.clone())
    }

    #[test]
    fn a_choice_is_a_number_a_name_or_the_default() {
        let question = prompt("b", false);
        for (line, target) in [("1", "b"), ("2", "a"), ("b", "b"), ("y", "b"), ("3", "@dispvm:c")] {
            assert_eq!(chosen(&question, line).as_deref(), Some(target), "{line}");
        }
        for line in ["", "0", "4", "c", "yes", "-1", "B"] {
            assert_eq!(chosen(&question, line), None, "{line}");
        }
        assert!(text(&question).contains("work wants to use demo.Add+1.\n    1  b\n"));
        assert_eq!(chosen(&prompt("", false), "y"), None);
    }

    #[test]
    fn always_is_a_choice_of_its_own_and_only_where_it_is_offered() {
        let question = prompt("b", true);
        assert_eq!(chosen(&question, "b").as_deref(), Some("b"));
        assert_eq!(chosen(&question, "4").as_deref(), Some("(always) b"));
        assert!(text(&question).contains("    6  new disposable of c, now and always\n"));
        assert!(!text(&prompt("b", false)).contains("always"));
    }

    #[test]
    fn a_policy_is_made_by_number_only() {
        let new = NewPolicy { source: "work".to_owned(), service: "demo.Add".to_owned() };
        let question = Question::new_policy(&new).unwrap();
        assert!(text(&question).starts_with("\nwork wants to use demo.Add, for which there is no policy.\n"));
        assert!(chosen(&question, "1").is_some());
        for line in ["y", "", "2", "make"] {
            assert_eq!(chosen(&question, line), None, "{line}");
        }
    }
}
