//! Questions on the terminal of whoever started the agent.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::BorrowedFd;
use std::time::Instant;

use rustix::termios::{QueueSelector, tcflush};

use super::dialog::{ordered, question, shown};
use crate::policy_tools::people::Prompt;
use crate::policy_tools::reply::wait_readable;

/// Longest line that is looked at.
const MAX_LINE: usize = 256;

fn terminal() -> io::Result<File> {
    File::options().read(true).write(true).open("/dev/tty")
}

/// Shows a line.
pub(super) fn tell(line: &str) -> io::Result<()> {
    writeln!(terminal()?, "\n{line}")
}

/// Asks for one of the choices. An empty line, the end of the input and everything that is no choice
/// refuse.
pub(super) fn ask(
    prompt: &Prompt,
    caller: BorrowedFd<'_>,
    until: Option<Instant>,
) -> io::Result<Option<String>> {
    let mut terminal = terminal()?;
    terminal.write_all(text(prompt).as_bytes())?;
    // What was typed before the question was there is no answer to it. Only then is anybody asked to type.
    tcflush(&terminal, QueueSelector::IFlush)?;
    terminal.write_all(invitation(prompt).as_bytes())?;
    let line = read_line(&mut terminal, caller, until);
    let chosen = line.as_deref().ok().and_then(|line| choice(prompt, line));
    let verdict = match (&line, &chosen) {
        (Err(error), _) => format!("\nrefused: {error}\n"),
        (Ok(_), Some(target)) => format!("allowed: {}\n", shown(target)),
        (Ok(_), None) => "refused\n".to_owned(),
    };
    terminal.write_all(verdict.as_bytes())?;
    line.map(|_| chosen)
}

fn text(prompt: &Prompt) -> String {
    let mut text = format!("\n{}.\n", question(prompt));
    for (number, target) in (1..).zip(ordered(prompt)) {
        text.push_str(&format!("  {number:3}  {}\n", shown(target)));
    }
    text
}

fn invitation(prompt: &Prompt) -> &'static str {
    match prompt.default_target.as_str() {
        "" => "Where? Number or name, anything else refuses: ",
        _ => "Where? Number or name, y for the first, anything else refuses: ",
    }
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
fn choice(prompt: &Prompt, line: &str) -> Option<String> {
    if line == "y" && !prompt.default_target.is_empty() {
        return Some(prompt.default_target.clone());
    }
    // A name comes first: a qube might be called by a number.
    let by_name = ordered(prompt).find(|target| *target == line);
    let index = || line.parse::<usize>().ok()?.checked_sub(1);
    by_name.or_else(|| ordered(prompt).nth(index()?)).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_choice_is_a_number_a_name_or_the_default() {
        let mut prompt = Prompt {
            source: "work".to_owned(),
            service: "demo.Add".to_owned(),
            argument: "+1".to_owned(),
            targets: ["a", "b", "@dispvm:c"].map(str::to_owned).to_vec(),
            default_target: "b".to_owned(),
            icons: Default::default(),
        };
        let chosen = |prompt: &Prompt, line| choice(prompt, line);
        for (line, target) in [("1", "b"), ("2", "a"), ("b", "b"), ("y", "b"), ("3", "@dispvm:c")] {
            assert_eq!(chosen(&prompt, line).as_deref(), Some(target), "{line}");
        }
        for line in ["", "0", "4", "c", "yes", "-1", "B"] {
            assert_eq!(chosen(&prompt, line), None, "{line}");
        }
        assert!(text(&prompt).contains("work wants to use demo.Add+1.\n    1  b\n"));
        prompt.default_target.clear();
        assert_eq!(chosen(&prompt, "y"), None);
    }
}
