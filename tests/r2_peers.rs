//! Our agent and daemon of protocol 1 with those of R2, in the four mixtures; `QREXEC_R2_PEER_DIR` names a folder with R2's
//! `qrexec-agent`, `qrexec-daemon` and `qubes-rpc-multiplexer`, built over a vchan that is a unix stream in
//! `VCHAN_SOCKET_DIR`. Numbers are those of the cases in docs/r2.md.
//!
//! R2's programs have fixed folders. Each runs in a mount namespace in which these are the lab's, which root alone may make.

use std::fmt;
use std::path::{Path, PathBuf};

use crate::common::{self, DEADLINE, Said, full, run, skipped, within};
use lab::{Age, DOM0, Lab, Transport};
use tempfile::TempDir;

/// Begins every wrapper: `enter RUN ETC COMMAND…` has the lab's folders where R2's programs look. Commands run in login
/// shells there, and root's home is `/`, so that nobody's start-up files are part of them.
const ENTER: &str = r#"#!/bin/bash
export BIN=$(dirname "$0")
enter() {
    mkdir -p /var/run/qubes /etc/qubes-rpc /usr/lib/qubes /var/log/qubes
    exec unshare --mount --propagation private bash -c '
        mount --bind "$1" /var/run/qubes && mount --bind "$2" /etc/qubes-rpc && mount --bind "$LIB" /usr/lib/qubes &&
        mount --bind "$QREXEC_LOG_DIR" /var/log/qubes && mount --bind "$LIB/passwd" /etc/passwd || exit 125
        shift 2
        exec "$@"' enter "$@"
}
"#;

const AGENT: &str = r#"
for word; do case $word in --r2-api=*) run=${word#*=} ;; esac; done
enter "$run" "$QREXEC_SERVICE_PATH" "$PEER/qrexec-agent"
"#;

/// R2's daemon goes into the background when it has met its agent; the lab watches who stays. Its link by name leads to
/// a fixed folder, and our client knows its age by a file.
const DAEMON: &str = r#"
words=()
for word; do case $word in --socket-dir=*) run=${word#*=} ;; -*) ;; *) words+=("$word") ;; esac; done
enter "$run" "$QREXEC_SERVICE_PATH" bash -c '
    id=$1 name=$2
    cd /var/run/qubes
    trap "pkill -TERM -s \$session; rm -f qrexec.$id* qrexec.$name*; exit 0" TERM
    "$PEER/qrexec-daemon" "$@"
    session=$(pgrep -f "^$PEER/qrexec-daemon $id $name ")
    touch "qrexec.$id.protocol-1" "qrexec.$name.protocol-1"
    ln -sfn "qrexec.$id" "qrexec.$name"
    tail --pid="$session" -f /dev/null & wait' daemon "${words[@]}"
"#;

/// What R2's daemon runs for a request of its VM: ours, whose words are the same.
const POLICY: &str = "#!/bin/bash\nexec \"$BIN/qrexec-policy\" -- \"$@\"\n";
const CLIENT: &str = "#!/bin/bash\nexec \"$BIN/qrexec-client\" \"$@\"\n";

/// The caller's program: sends what it reads, and says what comes.
const BOTH: &str = "#!/bin/sh\ncat <&$SAVED_FD_0 & exec cat >&$SAVED_FD_1\n";

/// Who is of R2.
#[derive(Clone, Copy)]
struct Mixture {
    agents: bool,
    daemons: bool,
}

impl fmt::Display for Mixture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whose = |peers| if peers { "R2's" } else { "our" };
        write!(f, "{} agents, {} daemons", whose(self.agents), whose(self.daemons))
    }
}

const MIXTURES: [Mixture; 4] = [
    Mixture { agents: false, daemons: false },
    Mixture { agents: true, daemons: false },
    Mixture { agents: false, daemons: true },
    Mixture { agents: true, daemons: true },
];

fn peer() -> Option<PathBuf> {
    let folder = std::env::var_os("QREXEC_R2_PEER_DIR").map(PathBuf::from);
    if folder.is_none() {
        skipped("the programs of R2: QREXEC_R2_PEER_DIR names no folder with them");
    }
    let folder = folder?;
    if !rustix::process::geteuid().is_root() {
        skipped("the programs of R2: only root can give them their folders");
        return None;
    }
    Some(folder)
}

fn write_program(path: &Path, text: &str) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, text).unwrap();
    std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
}

fn start(mixture: Mixture, peer: &Path) -> (Lab, TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let lib = folder.path().join("lib");
    for (name, text) in [("qrexec-policy", POLICY), ("qrexec-client", CLIENT)] {
        write_program(&lib.join(name), text);
    }
    std::fs::write(lib.join("passwd"), "root:x:0:0:root:/:/bin/sh\n").unwrap();
    std::fs::copy(peer.join("qubes-rpc-multiplexer"), lib.join("qubes-rpc-multiplexer")).unwrap();
    let head = format!("{ENTER}export PEER={} LIB={}\n", peer.display(), lib.display());
    let bin = folder.path().join("bin");
    std::fs::create_dir(&bin).unwrap();
    for (name, text, wanted) in
        [("qrexec-agent", AGENT, mixture.agents), ("qrexec-daemon", DAEMON, mixture.daemons)]
    {
        if wanted {
            write_program(&bin.join(name), &format!("{head}{text}"));
        }
    }
    let lab = common::lab()
        .transport(Transport::Socket)
        .age(Age::R2)
        .bin_dir(&bin)
        .vm("work")
        .vm("vault")
        .vm("mail")
        .script("vault", "test.Add", "read a b; echo $((a + b)) for $QREXEC_REMOTE_DOMAIN\n")
        .script("vault", "test.Echo", "exec cat\n")
        .script("vault", "test.Early", "echo first; exit 5\n")
        .script("mail", "test.Who", "echo mail for $QREXEC_REMOTE_DOMAIN: $#\n")
        .script("vault", "test.Never", "exec cat\n")
        .program("work", "add", "#!/bin/sh\necho $1 $2\nexec cat >&2\n")
        .program("work", "both", BOTH)
        .program("work", "late", "#!/bin/sh\ncat >&$SAVED_FD_1\nexec cat <&$SAVED_FD_0\n")
        .old_policy("test.Who", "anyvm anyvm allow,target=mail\n")
        .old_policy("test.Never", "work vault deny\n")
        .start()
        .unwrap_or_else(|error| panic!("{mixture}: {error}"));
    (lab, folder)
}

fn client_vm(lab: &Lab, target: &str, service: &str, words: &[&str], input: &[u8]) -> Said {
    let program = lab.layout().programs("work").join(words[0]);
    let line = [&["qrexec-client-vm", target, service, program.to_str().unwrap()], &words[1..]].concat();
    run(lab, "work", &line, input)
}

fn round(mixture: Mixture, lab: &Lab, bytes: &[u8]) {
    let dom0 =
        |words: &[&str], input: &[u8]| run(lab, DOM0, &[&["qrexec-client", "-d"], words].concat(), input);
    let command = |text: &str| format!("{}:{text}", lab.plan().user);
    // Case 5.
    let said = dom0(&["work", &command("cat; echo e >&2; exit 3")], b"hello\n");
    assert_eq!((said.code, said.text().as_str(), said.stderr.as_str()), (3, "hello\n", "e\n"), "{mixture}");
    // Case 1.
    let said = client_vm(lab, "vault", "test.Add", &["add", "11", "22"], b"");
    assert_eq!((said.code, said.stderr.as_str()), (0, "33 for work\n"), "{mixture}: {said:?}");
    // Case 6.
    let said = dom0(&["work", "-e", &command("echo to nobody")], b"");
    assert_eq!((said.code, said.text().as_str()), (0, ""), "{mixture}: {said:?}");
    // Case 8.
    let said = dom0(&["vault", &command("cat")], bytes);
    assert!(
        said.code == 0 && said.stdout == bytes,
        "{mixture}: {} bytes, {}",
        said.stdout.len(),
        said.stderr
    );
    let said = client_vm(lab, "vault", "test.Echo", &["both"], bytes);
    assert!(
        said.code == 0 && said.stdout == bytes,
        "{mixture}: {} bytes, {}",
        said.stdout.len(),
        said.stderr
    );
    // Case 9: what is written to a service that has ended is dropped.
    let said = client_vm(lab, "vault", "test.Early", &["late"], bytes);
    assert_eq!(said.text(), "first\n", "{mixture}: {}", said.stderr);
    // Cases 12 and 14.
    let said = client_vm(lab, "vault", "test.Never", &["both"], b"");
    assert_eq!(said.text(), "", "{mixture}: {}", said.stderr);
    let said = client_vm(lab, "vault", "test.Who", &["both"], b"");
    assert_eq!(said.text(), "mail for work: 0\n", "{mixture}: {}", said.stderr);
}

/// Calls at once that are made by `callers` threads.
fn storm(mixture: Mixture, lab: &Lab, callers: usize, each: usize) {
    std::thread::scope(|scope| {
        for caller in 0..callers {
            scope.spawn(move || {
                for call in 0..each {
                    let (a, b) = (caller.to_string(), call.to_string());
                    let said = client_vm(lab, "vault", "test.Add", &["add", &a, &b], b"");
                    let sum = format!("{} for work\n", caller + call);
                    assert_eq!(said.stderr, sum, "{mixture}: caller {caller}, call {call}: {said:?}");
                }
            });
        }
    });
}

/// Case 23.
#[test]
fn they_do_what_ours_do() {
    let Some(peer) = peer() else { return };
    let rounds = if full() { 20 } else { 1 };
    within(DEADLINE * rounds, move || {
        let bytes: Vec<u8> = (0..1_u32 << 20).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        for mixture in MIXTURES {
            let (lab, _folder) = start(mixture, &peer);
            for _ in 0..rounds {
                round(mixture, &lab, &bytes);
            }
            // With eleven policy programs R2's daemon stands still until one ends, and no call goes on.
            let callers = if mixture.daemons { 8 } else { 16 };
            storm(mixture, &lab, callers, if full() { 20 } else { 2 });
            lab.down().unwrap_or_else(|error| panic!("{mixture}: {error}"));
        }
    });
}
