//! What `--help` and the manual say behind the options. A line without a blank in front that ends with a colon is a heading.

pub(super) const LAB: &str = "\
Examples:
  qrexec-lab run sh
      a shell in VM work of a lab that lives as long as the shell
  qrexec-lab run --service vault:test.Hello=./hello qrexec-client-vm vault test.Hello
      calls a service that you write
  qrexec-lab up --policy 30-user.policy; qrexec-lab exec work qvm-run -p vault -- ls; qrexec-lab down
      a lab that stays, with a policy of yours
  qrexec-lab logs -f work
      what the agent of work, and the daemon for it, say about each call

Exit status:
  that of the command for run and exec, 128 + N if a signal ended it; else 0
  2     the command line makes no sense
  125   the lab could not be made, found or ended, and one line says why
  of a call: 126 policy refused it, 127 there is no such service, 125 it could not be started, 255 its link was lost

Environment:
  XDG_RUNTIME_DIR         labs live in the folder qrexec-lab below it, else in qrexec-lab-UID below TMPDIR or /tmp
  QREXEC_LOG              what all programs of the lab log, for up and run: debug has a line at each call's beginning
  QUBES_LAB_NO_NAMESPACE  1: does without a PID namespace
  QUBES_LAB_VM            set in a lab: the machine's name

Files:
  All below the lab's folder, which status names. Services, their configuration and policy may be edited while it runs.
  vm/VM/rpc/SERVICE         a service, or SERVICE+ARGUMENT
  vm/VM/rpc-config/SERVICE  what is to be known about it, see rpc-config(5)
  vm/dom0/policy.d/*.policy the policy, see policy.d(5)
  vm/VM/log, lab.log        what logs shows
  vm/VM/home                the home folder of the machine's commands

See also:
  qrexec-client-vm(1), qvm-run(1), qrexec-services(7), policy.d(5), rpc-config(5), qrexec-bench(1)
";

pub(super) const RUN: &str = "\
Examples:
  qrexec-lab run sh
  qrexec-lab run --vm a --vm b -- sh -c 'qrexec-client-vm b qubes.GetDate'
  qrexec-lab run --policy 30-user.policy --service vault:test.Add=./add qrexec-client-vm vault test.Add
";

pub(super) const UP: &str = "\
Examples:
  qrexec-lab up
  qrexec-lab up two --vm a --vm b --ask --policy 30-user.policy
  qrexec-lab up --service vault:test.Http=/dev/tcp/127.0.0.1/8000 --config vault:test.Http=skip
      where the file skip has the line skip-service-descriptor=true
";

pub(super) const EXEC: &str = "\
Examples:
  qrexec-lab exec work sh
  qrexec-lab exec work qrexec-client-vm vault test.Add
  qrexec-lab exec dom0 qrexec-policy-agent --terminal
  qrexec-lab exec dom0 qrexec-policy-eval --explain work vault test.Add
";

pub(super) const LOGS: &str = "\
Each line begins with its file: VM/agent.log, dom0/daemon-VM.log, lab.log. One line for each call stands in the log of the
agent that carried it out and in that of the daemon of the VM that called.

Examples:
  qrexec-lab logs
  qrexec-lab logs -f work
  qrexec-lab logs --name two dom0
";

pub(super) const USB: &str = "\
attach and detach call qubes.USBAttach and qubes.USBDetach of the VM that gets the device, as dom0 does; the policy of the lab
must allow it qubes.USB+PORT of the other.

Examples:
  qrexec-lab usb camera
  qrexec-lab up --usb vault:1-1=stick --usb vault:1-2=keyboard
  qrexec-lab usb list; qrexec-lab usb attach work vault:1-1; qrexec-lab usb detach work
";

pub(super) const STATUS: &str = "\
With --json: a list of labs, each with lab, folder, stays and machines; each machine with name, id, processes (pid, program)
and ended (program, vm, code).
";
