//! The one line with which a starting lab says that it is ready, or why not.

use std::io::{self, BufRead, BufReader, Read, Write};

use serde::{Deserialize, Serialize};

use super::Error;

/// What became of the start. It goes to the supervisor's standard output, a pipe to the starter.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Report {
    /// Every agent and daemon answers.
    Ready {
        /// Whether the lab has a PID namespace of its own.
        namespace: bool,
    },
    /// The reason, for a person.
    Failed(String),
}

impl Report {
    /// Writes the report; nobody being there to read it is no error here, the lifeline tells.
    pub(super) fn send(&self) {
        if let Ok(line) = serde_json::to_string(self) {
            let mut stdout = io::stdout();
            let _ = writeln!(stdout, "{line}").and_then(|()| stdout.flush());
        }
    }

    /// Waits for the report of a lab that was just started.
    pub(super) fn receive(pipe: impl Read) -> Result<Self, Error> {
        let mut line = String::new();
        BufReader::new(pipe)
            .read_line(&mut line)
            .map_err(|error| Error::io("the lab does not report", error))?;
        if line.is_empty() {
            return Err(Error::new("the lab ended before it was ready"));
        }
        serde_json::from_str(&line)
            .map_err(|error| Error::io("the lab reports nonsense", io::Error::from(error)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_it_writes_and_knows_silence() {
        let line = serde_json::to_string(&Report::Ready { namespace: true }).unwrap();
        assert_eq!(Report::receive(line.as_bytes()).unwrap(), Report::Ready { namespace: true });
        assert!(Report::receive(&b""[..]).is_err());
        assert!(Report::receive(&b"{"[..]).is_err());
    }
}
