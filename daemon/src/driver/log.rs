//! The core's lines, each in the share of the log of the source that it is about.
//!
//! A daemon's log has lines about the calls of its own VM and about those that other VMs make to it.

use daemon_core::Level;
use engine::log_source::speaking_for;
use wire::names::Target;

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
    let is_name = |text: &str| Target::new(text).is_ok_and(|name| name.as_str() == text);
    // `qrexec: SERVICE: CLAIMED (by SOURCE) -> …`: whoever really calls pays. Neither name can have a blank.
    let caller = line.strip_prefix("qrexec: ").and_then(|line| line.split_once(" -> ")).map(|(before, _)| {
        let caller = before.rsplit_once(": ").map_or(before, |(_, caller)| caller);
        caller.strip_suffix(')').and_then(|caller| caller.split_once(" (by ")).map_or(caller, |(_, by)| by)
    });
    // `VM: what was wrong with its request`.
    let vm = || line.split_once(": ").map(|(vm, _)| vm).filter(|vm| is_name(vm) && *vm != "qrexec");
    caller.filter(|caller| is_name(caller)).or_else(vm).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_about_calls_begin_with_their_source() {
        assert_eq!(source("qrexec: test.Add+1: work -> vault: ended after 0.1 s, port 513"), "work");
        assert_eq!(source("qrexec: a command: dom0 -> work: ended after 0.1 s, port 513"), "dom0");
        assert_eq!(source("qrexec: test.Add+: far (by relay) -> vault: denied: no"), "relay");
        assert_eq!(source("work: its request has a malformed id"), "work");
        for other in [
            "",
            "a local client was closed: it was too slow",
            "not sent: x -> y",
            " -> vault: x",
            "qrexec: x",
        ] {
            assert_eq!(source(other), "", "{other:?}");
        }
    }
}
