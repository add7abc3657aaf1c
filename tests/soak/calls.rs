//! The kinds of calls, and how each of them should end.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::{Command, Stdio};

use lab::{DOM0, Lab};

use crate::common::{self, Pattern, Said, code, talk};

/// Signalled with SIGKILL, as a shell sees it.
const KILLED: i32 = 137;

/// Longest input of a call, in bytes: more than a ring holds.
const MAX_INPUT: usize = 300_000;

const POLICY: &str = "test.No * @anyvm @anyvm deny\n* * @anyvm @anyvm allow\n* * @anyvm @adminvm allow\n";

/// A service without children, so that its death is the call's.
const WORD: &str = "#!/bin/sh\nread word\necho \"$word back\"\nexit 3\n";

/// One kind of call.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Kind {
    /// A program of another VM, with bytes there and back.
    Program,
    /// A program of another VM, with an exit code.
    Code,
    /// A command of a VM, asked for by dom0.
    Command,
    /// A service of dom0.
    Dom0,
    /// A unix socket of another VM.
    Socket,
    /// Denied by policy.
    Refused,
    /// No such service.
    NotFound,
    /// The service kills itself.
    ServiceKilled,
    /// The caller is killed between two bytes.
    CallerKilled,
}

const KINDS: [Kind; 9] = [
    Kind::Program,
    Kind::Code,
    Kind::Command,
    Kind::Dom0,
    Kind::Socket,
    Kind::Refused,
    Kind::NotFound,
    Kind::ServiceKilled,
    Kind::CallerKilled,
];

/// How a call ended.
pub(crate) enum End {
    /// As it should.
    Well,
    /// Its client or its service was killed, and it says so.
    Victim,
    /// In a way that nothing explains.
    Wrong(String),
}

/// A lab with everything that the calls need.
pub(crate) fn lab() -> Lab {
    let lab = common::lab()
        .policy(POLICY)
        .script("vault", "test.Cat", "#!/bin/sh\nexec cat\n")
        .script("vault", "test.Word", WORD)
        .script("vault", "test.No", WORD)
        .script("vault", "test.Dies", "#!/bin/sh\nread word\nkill -KILL $$\n")
        .script(DOM0, "test.Word", WORD)
        .start()
        .unwrap();
    let listener = UnixListener::bind(lab.layout().services("vault").join("test.Socket")).unwrap();
    // Ends with the test program.
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || answer(stream));
        }
    });
    lab
}

/// The socket service: gives back what follows the description of the call. The caller may be killed at any moment.
fn answer(mut stream: UnixStream) {
    let mut byte = [1];
    while byte != [0] {
        if stream.read_exact(&mut byte).is_err() {
            return;
        }
    }
    let Ok(mut writer) = stream.try_clone() else { return };
    let _ = std::io::copy(&mut stream, &mut writer);
}

impl Kind {
    pub(crate) fn choose(chance: &mut Pattern) -> Self {
        KINDS[chance.below(KINDS.len())]
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Program => "program",
            Self::Code => "code",
            Self::Command => "command",
            Self::Dom0 => "dom0",
            Self::Socket => "socket",
            Self::Refused => "refused",
            Self::NotFound => "not found",
            Self::ServiceKilled => "service killed",
            Self::CallerKilled => "caller killed",
        }
    }

    /// Makes one call and judges its end.
    pub(crate) fn make(self, lab: &Lab, chance: &mut Pattern) -> End {
        let word = format!("word{}", chance.number());
        let line = format!("{word}\n");
        let back = format!("{word} back\n");
        match self {
            Self::Program => echoed(lab, "test.Cat", chance),
            Self::Socket => echoed(lab, "test.Socket", chance),
            Self::Code => judge(&vault(lab, "test.Word", &line), 3, back.as_bytes()),
            Self::Command => {
                let argv = ["qrexec-client", "-d", "vault", "DEFAULT:exec cat"];
                judge(&common::run(lab, DOM0, &argv, line.as_bytes()), 0, line.as_bytes())
            }
            Self::Dom0 => {
                let said = common::call(lab, "work", DOM0, "test.Word", line.as_bytes());
                judge(&said, 3, back.as_bytes())
            }
            Self::Refused => judge(&vault(lab, "test.No", &line), 126, b""),
            Self::NotFound => judge(&vault(lab, "test.Missing", &line), 127, b""),
            Self::ServiceKilled => judge(&vault(lab, "test.Dies", &line), KILLED, b""),
            Self::CallerKilled => killed_between_two_bytes(
                lab.command("work", ["qrexec-client-vm", "vault", "test.Cat"]).unwrap(),
            ),
        }
    }
}

fn vault(lab: &Lab, service: &str, line: &str) -> Said {
    common::call(lab, "work", "vault", service, line.as_bytes())
}

/// A call that gives back what it gets.
fn echoed(lab: &Lab, service: &str, chance: &mut Pattern) -> End {
    // Most calls are small.
    let length = if chance.below(8) == 0 { chance.below(MAX_INPUT) as u64 } else { 100 };
    let mut input = Vec::new();
    chance.clone().write_to(&mut input, length).unwrap();
    let command = lab.command("work", ["qrexec-client-vm", "vault", service]).unwrap();
    judge(&talk(command, &input), 0, &input)
}

fn judge(said: &Said, expected: i32, stdout: &[u8]) -> End {
    if said.code == expected && said.stdout == stdout {
        return End::Well;
    }
    // What a killed process had still to say is lost; what it has said is right.
    if said.code == KILLED && stdout.starts_with(&said.stdout) {
        return End::Victim;
    }
    let Said { code, stdout, stderr } = said;
    End::Wrong(format!("code {code}, {} bytes, {stderr:?}", stdout.len()))
}

/// Starts a call, sees that its data flows, and kills the caller.
fn killed_between_two_bytes(mut command: Command) -> End {
    let streams = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut caller = streams.spawn().unwrap();
    let mut byte = [0];
    // It may have been killed before, or its service.
    let flows = caller.stdin.as_mut().unwrap().write_all(b"x").is_ok()
        && caller.stdout.as_mut().unwrap().read_exact(&mut byte).is_ok();
    let _ = caller.kill();
    match (code(caller.wait().unwrap()), flows) {
        (KILLED, true) => End::Well,
        (KILLED, false) => End::Victim,
        (code, _) => End::Wrong(format!("code {code}")),
    }
}
