//! Which of the four programs are the peer's.

use std::fmt;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use lab::{Builder, DOM0, Lab, Transport};

use tempfile::TempDir;

use crate::common::EXE;

/// The programs that may be mixed, in the order of [`Mixture`]'s bits.
pub(crate) const PROGRAMS: [&str; 4] = ["qrexec-agent", "qrexec-client-vm", "qrexec-daemon", "qrexec-client"];

/// The folder with the peer's programs.
#[derive(Clone)]
pub(crate) struct Peer(pub PathBuf);

impl Peer {
    /// `None`, and a line that says so, if there is none.
    pub(crate) fn from_env() -> Option<Peer> {
        match std::env::var_os("QREXEC_PEER_DIR") {
            Some(folder) => Some(Peer(folder.into())),
            None => {
                println!("skipped: no peer");
                None
            }
        }
    }
}

/// A choice of programs: bit n says that `PROGRAMS[n]` is the peer's.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mixture(u8);

impl Mixture {
    /// All sixteen, our own programs alone first.
    pub(crate) fn all() -> impl Iterator<Item = Mixture> {
        (0..1 << PROGRAMS.len()).map(Mixture)
    }

    /// Our own programs alone.
    pub(crate) fn of_ours() -> Mixture {
        Mixture(0)
    }

    /// The peer's agent with all else our own.
    pub(crate) fn with_agent_of_peer() -> Mixture {
        Mixture(1)
    }

    /// The peer's programs alone.
    pub(crate) fn of_peer() -> Mixture {
        Mixture((1 << PROGRAMS.len()) - 1)
    }

    /// Whether all four are our own.
    pub(crate) fn is_ours(self) -> bool {
        self.0 == 0
    }

    pub(crate) fn is_peers(self, program: &str) -> bool {
        PROGRAMS.iter().zip(0..).any(|(name, bit)| *name == program && self.0 >> bit & 1 == 1)
    }

    /// Starts a lab of these programs. The folder must live as long as the lab.
    pub(crate) fn start(self, peer: &Peer) -> (Lab, TempDir) {
        let folder = tempfile::tempdir().unwrap();
        let lab = self.lab(peer, folder.path()).start().unwrap_or_else(|error| panic!("{self}: {error}"));
        // The peer's sockets are there a moment before they take connections.
        for vm in &lab.plan().vms {
            for socket in [lab.layout().agent_socket(vm), lab.layout().daemon_socket(vm)] {
                while UnixStream::connect(&socket).is_err() {
                    std::thread::yield_now();
                }
            }
        }
        (lab, folder)
    }

    /// A lab with the services that the tests call.
    pub(crate) fn lab(self, peer: &Peer, folder: &Path) -> Builder {
        for program in PROGRAMS.iter().filter(|program| self.is_peers(program)) {
            let text = wrapper(program, peer, &folder.join("policy"));
            script(&folder.join(program), &text);
        }
        script(&folder.join("policy"), POLICY_PROGRAM);
        let namespace = std::env::var_os("QUBES_LAB_NO_NAMESPACE").is_none();
        let cat = "#!/bin/sh\nexec cat\n";
        let dom0 = "#!/bin/sh\nread text\n\
                    echo $QREXEC_REMOTE_DOMAIN $QREXEC_REQUESTED_TARGET_TYPE $1 $text\nexit 5\n";
        let who = "#!/bin/sh\n\
                   echo \"$QREXEC_REMOTE_DOMAIN|$QREXEC_SERVICE_FULL_NAME|$QREXEC_SERVICE_ARGUMENT|$1\"\n\
                   echo complaint >&2\n";
        Lab::builder()
            .exe(EXE)
            .transport(Transport::Socket)
            .namespace(namespace)
            .bin_dir(folder)
            .policy("test.No * @anyvm @anyvm deny\n* * @anyvm @anyvm allow\n* * @anyvm @adminvm allow\n")
            .script("vault", "test.Cat", cat)
            .script("vault", "test.Exit", "#!/bin/sh\nexit $1\n")
            .script("vault", "test.Signal", "#!/bin/sh\nkill -$1 $$\n")
            .script("vault", "test.Who", who)
            .script("vault", "test.Add", "#!/bin/sh\nread a b\necho $((a+b))\n")
            .script("vault", "test.No", cat)
            .script(DOM0, "test.Dom0", dom0)
            .program("work", "sum", "#!/bin/sh\necho 1 2\nexec cat >&$SAVED_FD_1\n")
    }
}

impl fmt::Display for Mixture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for program in PROGRAMS {
            let whose = if self.is_peers(program) { "peer's" } else { "our" };
            write!(f, "{whose} {} ", program.trim_start_matches("qrexec-"))?;
        }
        Ok(())
    }
}

impl fmt::Debug for Mixture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// As root the peer's agent opens a PAM session for every call. Without a configuration for `qrexec` PAM would want a
/// password: each call would fail, two seconds later. So the agent gets one that wants nothing and that nobody else sees;
/// and in it root's home is `/`, so that nobody's start-up files (which may wait for a lock) are part of a command.
const PRIVATE_PAM: &str =
    "[ \"$(id -u)\" = 0 ] && [ -z \"$PRIVATE_PAM\" ] && exec env PRIVATE_PAM=1 unshare --mount \"$0\" \"$@\"
if [ -n \"$PRIVATE_PAM\" ]; then
unset PRIVATE_PAM
mount -t tmpfs none /etc/pam.d || exit
for kind in auth account password session; do echo $kind required pam_permit.so; done >/etc/pam.d/qrexec
sed 's|^\\(root:.*\\):[^:]*:\\([^:]*\\)$|\\1:/:\\2|' /etc/passwd >/etc/pam.d/passwd && mount --bind /etc/pam.d/passwd /etc/passwd
fi
";

/// Tells the peer's program by options what ours read from the lab's environment.
fn wrapper(program: &str, peer: &Peer, policy: &Path) -> String {
    let option = match program {
        "qrexec-client-vm" => "--agent-socket=\"$QREXEC_AGENT_SOCKET\"".to_owned(),
        "qrexec-client" => "--socket-dir=\"$QREXEC_SOCKET_DIR\"".to_owned(),
        "qrexec-daemon" => format!("--policy-program='{}'", policy.display()),
        _ => String::new(),
    };
    let prepare = if program == "qrexec-agent" { PRIVATE_PAM } else { "" };
    format!("#!/bin/sh\n{prepare}exec '{}' {option} \"$@\"\n", peer.0.join(program).display())
}

/// The lab's policy as a program, for a daemon that does not read it itself. Arguments: `-- SOURCE TARGET SERVICE`.
const POLICY_PROGRAM: &str = "#!/bin/sh
shift
case $3 in test.No*) echo result=deny; exit 0 ;; esac
target=$2
case $2 in dom0) target=@adminvm ;; esac
printf 'user=DEFAULT\\nresult=allow\\ntarget=%s\\nautostart=True\\nrequested_target=%s\\n' \"$target\" \"$2\"
";

/// Writes an executable.
pub(crate) fn script(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, PermissionsExt::from_mode(0o755)).unwrap();
}
