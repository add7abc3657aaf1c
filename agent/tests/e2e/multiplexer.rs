//! The old entry of a service.

use std::io::{Read, Write};
use std::process::Stdio;

use super::lab::Lab;

pub(crate) fn it_runs_a_service() {
    let lab = Lab::start();
    lab.service(
        "test.Add",
        "read a b; echo $((a+b)) $QREXEC_REMOTE_DOMAIN $1 $QREXEC_REQUESTED_TARGET $QREXEC_AGENT_PID
        echo note >&2; exec <&- >&-; read go <\"$GATE\"; exit 6",
    );
    let gate = lab.path("gate");
    rustix::fs::mknodat(rustix::fs::CWD, &gate, rustix::fs::FileType::Fifo, 0o600.into(), 0).expect("fifo");
    let run = |args: &[&str]| {
        let mut command = lab.multiplexer();
        command.args(args).env("QREXEC_AGENT_PID", "11").env("GATE", &gate);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().expect("multiplexer")
    };
    let mut child = run(&["test.Add+x", "work", "name", "dom0"]);
    child.stdin.take().expect("piped").write_all(b"1 2\n").expect("write");
    let mut out = String::new();
    // The output ends while the service still runs.
    child.stdout.take().expect("piped").read_to_string(&mut out).expect("read");
    assert_eq!(out, "3 work x dom0 11\n");
    std::fs::write(&gate, "go\n").expect("write");
    let output = child.wait_with_output().expect("wait");
    assert_eq!((output.status.code(), output.stderr.as_slice()), (Some(6), &b"note\n"[..]));

    // What the program itself has to say is not for the caller, who may be in another VM.
    let output = run(&["test.None", "work"]).wait_with_output().expect("wait");
    assert_eq!((output.status.code(), output.stderr.as_slice()), (Some(127), &b""[..]));
    let code = |args: &[&str]| run(args).wait().expect("wait").code();
    assert_eq!(code(&["test.Add"]), Some(2));
}
