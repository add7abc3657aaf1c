//! The core's lines, each in the share of the log of the source that it is about.
//!
//! A daemon's log has lines about the calls of its own VM and about those that other VMs make to it.

use engine::voice::speaking_for;
use wire::names::Target;

use crate::core::Level;

/// Writes a line.
pub(super) fn write(level: Level, line: &str) {
    speaking_for(source(line), || match level {
        Level::Debug => tracing::debug!("{line}"),
        Level::Info => tracing::info!("{line}"),
        Level::Warn => tracing::warn!("{line}"),
    });
}

/// The source of a call, with which all lines about calls begin; nothing where a line is about something else.
fn source(line: &str) -> &str {
    match line.split_once(" -> ") {
        Some((source, _)) if Target::new(source).is_ok_and(|name| name.as_str() == source) => source,
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_about_calls_begin_with_their_source() {
        assert_eq!(source("work -> vault: test.Add+1: ended after 0.1 s, port 513"), "work");
        assert_eq!(source("dom0 -> work: a command: ended after 0.1 s, port 513"), "dom0");
        for other in ["", "a local client was closed: it was too slow", "not sent: x -> y", " -> vault: x"] {
            assert_eq!(source(other), "", "{other:?}");
        }
    }
}
