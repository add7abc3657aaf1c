//! What a program is a part of is stated, and a statement that cannot be true starts nothing.

use crate::common::{folder, program, talk, within_deadline};

#[test]
fn a_start_where_statement_and_machine_disagree_is_refused_with_one_line() {
    within_deadline(|| {
        let root = folder();
        for (args, code) in [
            (&["qrexec-agent"][..], 1),
            (&["qrexec-fork-server", "--foreground"], 1),
            (&["qrexec-daemon", "--direct", "3", "work"], 1),
            (&["qubes-rpc-multiplexer", "test.Service", "work"], 125),
            (&["qrexec-client", "-d", "dom0", "DEFAULT:QUBESRPC test.Service dom0"], 125),
        ] {
            for (statement, mark, why) in [
                // Somebody has lost the statement on the way.
                (None, Some("7"), "QREXEC_INSTALLATION=lab is missing"),
                (Some("system"), Some("7"), "QREXEC_INSTALLATION=lab is missing"),
                (Some("laboratory"), None, "expected system or lab"),
            ] {
                let mut command = program(root.path(), "3", args);
                command.env_remove("QREXEC_INSTALLATION");
                let variables = [("QREXEC_INSTALLATION", statement), ("QUBES_LAB", mark)];
                command.envs(variables.into_iter().filter_map(|(name, value)| Some((name, value?))));
                let said = talk(command, b"");
                assert_eq!(said.code, code, "{args:?} {statement:?}: {said:?}");
                assert!(said.stderr.contains(why), "{args:?} {statement:?}: {said:?}");
                assert_eq!(said.stderr.lines().count(), 1, "{args:?} {statement:?}: {said:?}");
            }
        }
    });
}
