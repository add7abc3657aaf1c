//! What `--help` and the manual say behind the options of each program: examples, exit status, environment, files. A line
//! without a blank in front that ends with a colon is a heading; so a page of the manual knows its sections.

/// How every call ends.
macro_rules! of_a_call {
    ($first:literal, $rest:literal) => {
        concat!(
            $first,
            "\n\nExit status:\n  of the service; 128+n if signal n ended it\n  2    the command line makes no sense\n  \
             125  trouble of qrexec itself, or a service that could not be started\n  126  refused by policy\n  \
             127  there is no such service\n  141  nobody was there any more to read the output\n  \
             255  the call was lost before the exit code came\n\n",
            $rest
        )
    };
}

const CLIENT_VM: &str = of_a_call!(
    "TARGET is
  NAME              a qube
  @default, or ''   whatever the policy says where nobody is named
  @dispvm           a new disposable, of the template that is the caller's default
  @dispvm:TEMPLATE  a new disposable of that template
  dom0, @adminvm    dom0
SERVICE is a name, or NAME+ARGUMENT. PROGRAM is found by its path; its stdin and stdout become the service's.

Examples:
  qrexec-client-vm vault qubes.GetDate                   what the service says
  echo 1 2 | qrexec-client-vm vault test.Add             with something to read
  qrexec-client-vm @default test.Add+fast                where to is up to the policy
  qrexec-client-vm vault qubes.Filecopy /usr/lib/qubes/qfile-agent FILE
  qrexec-client-vm vault test.Chat /bin/sh -c 'echo hello; read a; echo \"$a\" >&2'",
    "Environment:
  QREXEC_AGENT_SOCKET  the agent's socket
  QREXEC_LOG           what is logged on stderr

Files:
  /var/run/qubes/qrexec-agent  the agent's socket
  /etc/qubes-rpc/SERVICE       the service, in the qube that is called
  /etc/qubes/policy.d          who may call what, in dom0

See also: qvm-run(1), qrexec-services(7), policy.d(5), rpc-config(5)."
);

const CLIENT: &str = of_a_call!(
    "COMMAND is USER:LINE or DEFAULT:LINE. LINE is for that user's shell in the qube; or it is the words QUBESRPC SERVICE SOURCE, \
     and a service is called as if the qube SOURCE had called it, without policy.

Examples:
  qrexec-client -d work DEFAULT:'ls -l'
  qrexec-client -d work root:'cat /etc/fstab'
  qrexec-client -d work 'DEFAULT:QUBESRPC qubes.GetDate dom0'
  qrexec-client -d work -l 'sha256sum' DEFAULT:'tar c Documents'   sha256sum here reads what tar there writes
  qrexec-client -d work -e DEFAULT:firefox                         starts it and does not wait",
    "Environment:
  QREXEC_SOCKET_DIR  the folder of the daemons' sockets

Files:
  /var/run/qubes/qrexec.NAME  the socket of the daemon of a qube

See also: qvm-run(1), qrexec-daemon(8), qrexec-services(7)."
);

const AGENT: &str = "\
Examples:
  qrexec-agent                       as the unit qubes-qrexec-agent.service starts it
  QREXEC_LOG=debug qrexec-agent      says when a call begins, too

Exit status:
  0    told to end
  1    it could not start, or lost its transport; one line says why
  2    the command line makes no sense

Environment:
  QREXEC_AGENT_SOCKET, QREXEC_SERVICE_PATH, QUBES_RPC_CONFIG_PATH, QREXEC_MAX_CALLS, QREXEC_MAX_SERVED, QREXEC_TRANSPORT,
  QREXEC_LOG

Files:
  /var/run/qubes/qrexec-agent     where programs of this qube ask for calls
  /etc/qubes-rpc/SERVICE          services; before it /usr/local/etc/qubes-rpc, before that /run/qubes-rpc
  /etc/qubes/rpc-config/SERVICE   how they are run
  /etc/pam.d/qrexec               sessions of the users of calls

See also: qrexec-client-vm(1), qrexec-daemon(8), rpc-config(5), qrexec-services(7).";

const DAEMON: &str = "\
Examples:
  qrexec-daemon 7 work                   for the VM with id 7; goes into the background when its agent answers
  qrexec-daemon -D --direct 7 work user  stays in front, tells the service manager when it is ready

Exit status:
  0    told to end, or the VM is gone; in the background the first process ends with 0 when the agent answers
  1    it could not start; one line says why
  2    the command line makes no sense
  3    the agent did not answer in time

Environment:
  QREXEC_SOCKET_DIR, QREXEC_LOG_DIR, QREXEC_POLICY_SOCKET, QREXEC_STARTUP_TIMEOUT, QREXEC_STARTUP_NOWAIT, QREXEC_MAX_CALLS,
  QREXEC_MAX_SERVICES, QREXEC_MAX_STARTING, QREXEC_MAX_DISPOSABLES, QREXEC_LOG

Files:
  /var/run/qubes/qrexec.NAME, qrexec.ID  its socket
  /var/log/qubes/qrexec.NAME.log         one line for each call
  /run/qubes/policy.sock                 the policy daemon

See also: qrexec-client(1), qrexec-policy-daemon(8), policy.d(5).";

const FORK_SERVER: &str = "\
Examples:
  qrexec-fork-server                as the user's unit qubes-qrexec-fork-server.service starts it

Exit status:
  0    told to end
  2    the command line makes no sense
  125  it could not start

See also: qrexec-agent(8).";

const POLICY_EXEC: &str = "\
Examples:
  qrexec-policy-exec work vault test.Add                  decides, and prints the answer
  qrexec-policy-exec --just-evaluate work vault test.Add  nobody is asked or told

Exit status:
  0    allowed
  1    denied
  2    the command line makes no sense
  125  trouble

Environment:
  QREXEC_POLICY_DIR, QREXEC_OLD_POLICY_DIR, QREXEC_SYSTEM_INFO, QREXEC_QUBESD_DIR, QREXEC_QUBESD_SECONDS

Files:
  /etc/qubes/policy.d/*.policy  the policy

See also: qrexec-policy-eval(1), qrexec-policy-daemon(8), policy.d(5).";

const POLICY_EVAL: &str = "\
What the result says is what would happen now: a question for the user of a qube that has no guivm, or for an agent in dom0 \
that does not run, is a denial, and the answer says so.

Examples:
  qrexec-policy-eval work vault test.Add
  qrexec-policy-eval --explain work @default qubes.Gpg+key
  qrexec-policy-eval --policy-dir=/tmp/policy.d --system-info=system.json work vault test.Add
  qrexec-lab exec dom0 qrexec-policy-eval --explain work vault test.Add

Environment:
  QREXEC_POLICY_DIR, QREXEC_SYSTEM_INFO, QREXEC_SERVICE_PATH

Files:
  /etc/qubes/policy.d/*.policy, before it /run/qubes/policy.d

See also: policy.d(5), qubes-policy-lint(1), qrexec-policy-graph(1).";

const POLICY_AGENT: &str = "\
Examples:
  qrexec-policy-agent                in the user's session, as /etc/xdg/autostart starts it
  qrexec-policy-agent --terminal     asks here
  qrexec-policy-agent --program ./answer

Exit status:
  0    told to end
  2    the command line makes no sense
  125  it could not start, for example because another one has the socket

Environment:
  QREXEC_POLICY_AGENT_SOCKET  where questions are taken

Files:
  /etc/qubes-rpc/policy.Ask, policy.New, policy.Notify  lead to the socket

See also: policy.d(5), qrexec-policy-daemon(8).";

const POLICY_DAEMON: &str = "\
Examples:
  qrexec-policy-daemon              as the unit qubes-qrexec-policy-daemon.service starts it
  qrexec-policy-daemon --policy-path=/tmp/policy.d --socket-path=/tmp/policy.sock --system-info=system.json

Exit status:
  0    told to end
  2    the command line makes no sense
  125  it could not start; one line says why, and no socket is left behind

Environment:
  QREXEC_POLICY_DIR, QREXEC_POLICY_SOCKET, QREXEC_SYSTEM_INFO, QREXEC_QUBESD_DIR, QREXEC_QUBESD_SECONDS

Files:
  /etc/qubes/policy.d/*.policy      the policy; before it /run/qubes/policy.d
  /run/qubes/policy.sock            where questions are taken

See also: policy.d(5), qrexec-policy-eval(1), qrexec-daemon(8).";

const POLICY_GRAPH: &str = "\
Colours: red allow, orange ask. An arrow that is dotted leads to a qube that the system does not know.

Examples:
  qrexec-policy-graph                               DOT on stdout
  qrexec-policy-graph --service qubes.Filecopy --output copies.svg

Exit status:
  0    written
  2    the command line makes no sense
  125  the system information or the policy cannot be read, or the picture not be drawn

See also: policy.d(5), dot(1).";

const POLICY_LINT: &str = "\
Examples:
  qubes-policy-lint /etc/qubes/policy.d       every file of a folder that policy reads
  qubes-policy-lint --show-line 30-user.policy
  qubes-policy-lint --include-service /etc/qubes/policy.d/include/admin-local-ro
  qubes-policy-lint --system-info system.json 30-user.policy

Environment:
  QREXEC_SYSTEM_INFO  as --system-info; without either, dom0's qubesd is asked if there is one

See also: policy.d(5), qrexec-policy-eval(1).";

const POLICY: &str = "\
Examples:
  qubes-policy                           lists the files
  qubes-policy --get 30-user
  qubes-policy --replace 30-user <30-user.policy
  qubes-policy --list include/
  qubes-policy --remove 40-old

Exit status:
  0    done
  1    refused, or there is no such file; one line says why
  2    the command line makes no sense

Environment:
  QREXEC_POLICY_DIR  the folder of this machine, in dom0

Files:
  /etc/qubes/policy.d/NAME.policy, /etc/qubes/policy.d/include/NAME

See also: qubes-policy-editor(1), policy.d(5).";

const POLICY_EDITOR: &str = "\
Examples:
  qubes-policy-editor                    edits 30-user
  EDITOR=nano qubes-policy-editor 40-work

Exit status:
  0    nothing is left to be done
  1    refused
  2    the command line makes no sense
  125  the editor failed

Environment:
  VISUAL, EDITOR  the editor, else vi

See also: qubes-policy(1), qubes-policy-lint(1), policy.d(5).";

const LEGACY_CONVERT: &str = "\
It changes files: rules go into 30-user.policy and files of tools, and the old files are renamed to end with .rpmsave. Before and after, all calls are compared; where they differ it says so and asks whether to keep that. To undo it later, rename the old files back and remove what was added.

Exit status:
  0    converted, or the difference was kept
  1    everything is as it was before
  2    the command line makes no sense
  125  trouble

Files:
  /etc/qubes-rpc/policy, /etc/qubes/policy.d

See also: policy.d(5), qrexec-policy-restore(1).";

const BENCH: &str = "\
Examples:
  qrexec-bench                                      bandwidth, latency and rate of calls, a few minutes
  qrexec-bench --scenario latency --json now.json
  qrexec-bench --vs OLD/target/release              pairs with another build, each first equally often
  qrexec-bench --target vault                       between this VM and another real one
  qrexec-bench compare old.json new.json

Exit status:
  0    measured; for compare: nothing lost more than --fail-below allows
  1    compare --fail-below: something did
  2    the command line makes no sense
  125  a scenario failed, or no lab could be made; one line says why

See also: qrexec-lab(1).";

/// What is to be said about the program of this name.
pub(crate) fn of(program: &str) -> Option<&'static str> {
    Some(match program {
        "qrexec-agent" => AGENT,
        "qrexec-bench" => BENCH,
        "qrexec-client" => CLIENT,
        "qrexec-client-vm" => CLIENT_VM,
        "qrexec-daemon" => DAEMON,
        "qrexec-fork-server" => FORK_SERVER,
        "qrexec-legacy-convert" => LEGACY_CONVERT,
        "qrexec-policy-agent" => POLICY_AGENT,
        "qrexec-policy-daemon" => POLICY_DAEMON,
        "qrexec-policy-eval" => POLICY_EVAL,
        "qrexec-policy" | "qrexec-policy-exec" => POLICY_EXEC,
        "qrexec-policy-graph" => POLICY_GRAPH,
        "qubes-policy" => POLICY,
        "qubes-policy-editor" => POLICY_EDITOR,
        "qubes-policy-lint" => POLICY_LINT,
        _ => return None,
    })
}
