//! The filter of USB over IP, as it is asked for: in a service's configuration, and at both clients.

use std::process::Stdio;

use crate::common::{lab, within_deadline};
use lab::{DOM0, Lab};

/// A device's line and a header that is none.
const LIAR: &str = "#!/bin/sh\nprintf '131073 480\\n'; head -c 48 /dev/zero; cat >/dev/null\n";
const FILTER: &str = "filter='usbip no-vendor-requests'\n";
/// What passes of it, in whatever pieces it comes.
const LINE: &str = "131073 480\n";
const TEXT: &str = "USB filter, what the other side sent: command has a value that it cannot have";

/// A command line for the user that the lab's services run as.
fn as_user(lab: &Lab, command: &str) -> String {
    format!("{}:{command}", lab.plan().user)
}

/// Runs it with nothing to read: what it wrote, its error output, its exit code.
fn run(lab: &Lab, vm: &str, args: &[&str]) -> (String, String, Option<i32>) {
    let mut command = lab.command(vm, args).unwrap();
    let output = command.stdin(Stdio::null()).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (text(output.stdout), text(output.stderr), output.status.code())
}

#[test]
fn a_client_refuses_what_a_service_sends() {
    within_deadline(|| {
        let lab = lab().script("vault", "test.Liar", LIAR).start().unwrap();
        let (out, err, code) =
            run(&lab, "work", &["qrexec-client-vm", "--filter", "usbip", "vault", "test.Liar"]);
        assert_eq!((out.as_str(), code), (LINE, Some(125)), "{err}");
        assert!(err.lines().count() == 1 && err.contains(TEXT), "{err}");
        let command = as_user(&lab, &LIAR["#!/bin/sh\n".len()..]);
        let dom0 = ["qrexec-client", "-d", "work", "--filter", "usbip", &command];
        let (out, err, code) = run(&lab, DOM0, &dom0);
        assert_eq!((out.as_str(), code), (LINE, Some(125)), "{err}");
        assert!(err.lines().count() == 1 && err.contains(TEXT), "{err}");
        // Nobody asked for it: the service's bytes are its own affair.
        let (out, _, code) = run(&lab, "work", &["qrexec-client-vm", "vault", "test.Liar"]);
        assert_eq!((out.len(), code), (LINE.len() + 48, Some(0)));
    });
}

#[test]
fn a_services_configuration_asks_for_it() {
    within_deadline(|| {
        let lab = lab()
            .policy("* * @anyvm @adminvm allow\n* * @anyvm @anyvm allow\n")
            .script("vault", "test.Liar", LIAR)
            .config("vault", "test.Liar", FILTER)
            .script(DOM0, "test.Liar", LIAR)
            .config(DOM0, "test.Liar", FILTER)
            .start()
            .unwrap();
        for target in ["vault", "dom0"] {
            let (out, err, code) = run(&lab, "work", &["qrexec-client-vm", target, "test.Liar"]);
            assert_eq!((out.as_str(), code), (LINE, Some(255)), "{target}: {err}");
        }
        // As a local program of a caller in dom0 it is on the side that gets the device, and must not begin.
        let remote = as_user(&lab, "cat");
        let local = ["qrexec-client", "-d", "work", "-l", "QUBESRPC test.Liar dom0", &remote];
        let (_, err, code) = run(&lab, DOM0, &local);
        assert_eq!(code, Some(125), "{err}");
        assert!(err.contains("USB filter, what this side sends: command has"), "{err}");
        // Between two programs of dom0 there is nothing that could filter.
        let own = ["qrexec-client", "-d", "dom0", "DEFAULT:QUBESRPC test.Liar dom0"];
        let (out, err, code) = run(&lab, DOM0, &own);
        assert_eq!((out.as_str(), err.lines().count(), code), ("", 1, Some(125)), "{err}");
    });
}
