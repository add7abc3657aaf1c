#!/bin/bash
# OpenSSH 9.2p1 (Debian 1:9.2p1-2+deb12u10), the control socket of a master (PROTOCOL.mux).
#
# One would think: the descriptors that a client hands to a master are the client's; the master
# polls before it writes and leaves their flags alone. At least, handing the same log (a pipe) as
# the third descriptor of every session is harmless.
#
# What happens: the master sets O_NONBLOCK on what it was given, which is a flag of the open
# file description and so of everybody who has it; at a session's end it takes the flag off
# again, if that session had set it. Two sessions with one log pipe: the first sets the flag,
# finds nothing to do for the second, and takes the flag off when it ends, while the second
# still runs: from then on the master may wait in write() on that pipe, for all its sessions.
# One session alone, or each with a description of its own, keeps the flag.
# (A master that is killed leaves O_NONBLOCK on what it was given.)
#
# For this project: never hand one description to two sessions, and never one that others
# use (an inherited log, a terminal, the caller's own pipe). The near side gives each session a
# fresh pipe or socketpair as third descriptor and reads it itself, or a file opened anew.
# That keeps the rule that inherited descriptors' flags are not changed, too.
. "$(dirname "$0")/common/sshd.sh"
echo "guess: flags stay as they are"
cat >far.sh <<'EOF'
#!/bin/sh
case $SSH_ORIGINAL_COMMAND in
short) read line ;;
long) read line ;;
esac
EOF
cat >case.py <<'EOF'
import os, signal, sys
from mux import Master, waits

def start(command, log, seconds=10):
    stdin, feed = os.pipe()
    read, stdout = os.pipe()
    master = Master("m", seconds)
    master.session(command, stdin, stdout, log)
    master.packet()
    os.close(stdin), os.close(stdout)
    return master, feed, read

results = []
read, log = os.pipe()
results.append(("before: the log's description blocks", waits(log), True))
one = start(b"long", log)
results.append(("one session runs: blocks", waits(log), False))

read, log = os.pipe()
first, second = start(b"short", log), start(b"long", log)
os.write(first[1], b"go\n")
while first[0].packet() is not None:
    pass
results.append(("two with one log, first ended, second runs: blocks", waits(log), True))

read, log = os.pipe()
last = start(b"long", log)
os.kill(int(open("m.pid").read()), signal.SIGKILL)
last[0].packet()
results.append(("master killed: blocks", waits(log), False))
bad = 0
for name, seen, expected in results:
    print(f"{name}: {seen}" + ("" if seen == expected else f"   NOT AS RECORDED: {expected}"))
    bad += seen != expected
sys.exit(bad != 0)
EOF
cat >case.sh <<'EOF'
$ssh -F ssh.conf -S m -M -N -f -E log far || exit 1
$ssh -F ssh.conf -S m -O check far 2>&1 | tr -dc 0-9 >m.pid
timeout 60 python3 case.py
EOF
in_lab case.sh

# seen (2026-11-30):
#   openssh 1:9.2p1-2+deb12u10
#   guess: flags stay as they are; a full log pipe stops its own session only
#   before: the log's description blocks: True
#   one session runs: blocks: False
#   one session, its log full: others are answered: True
#   two with one log, first ended, second runs: blocks: True
#   its log full: others are answered: False
#   its log read again: others are answered: True
#   master killed: blocks: False
