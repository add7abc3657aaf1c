#!/bin/bash
# OpenSSH 9.2p1 (Debian 1:9.2p1-2+deb12u10).
#
# One would think: a client that asks for the subsystem "sftp" with a key that has a forced command
# is refused, or the forced command finds the word it asked for, `sftp`, in SSH_ORIGINAL_COMMAND, as
# it finds the command that a client asks for.
#
# What happens: the forced command runs, and SSH_ORIGINAL_COMMAND holds the text behind the name in
# the far machine's own sshd_config: path and options. So the same request shows as another text on
# every machine, and it is a text with blanks that nobody sent. A name that is not configured is
# refused before the forced command runs, with the status 255. And an empty command and no command
# are the same thing: the variable is not set.
#
# For this project: the far program cannot tell from the text that a subsystem was asked for. Its
# grammar (five words, the first two `qrexec-remote 1`) must be the only thing that it accepts, and
# nothing may be made of what else comes but 125; a log line that says "the near side asked for …"
# would name a path of the far machine. The plain form (`qrexec-client-vm --source-qube=… TARGET
# SERVICE`) has the same duty. A test cannot expect a fixed text: it depends on the machine's
# Subsystem line.
#
# Source: sshd_config(5), Subsystem and ForceCommand: the text of the variable is "the command
# originally supplied by the client".
. "$(dirname "$0")/common/sshd.sh"
echo "guess: [sftp], or refused"
cat >far.sh <<'EOF'
#!/bin/sh
echo "[${SSH_ORIGINAL_COMMAND-not set}]"
EOF
cat >case.sh <<'EOF'
ask() { $ssh -F ssh.conf "$@" </dev/null 2>/dev/null; echo "status $?"; }
line() { ask "$@" | tr '\n' ' '; }
same "command ls -l" "$(line far ls -l)" "[ls -l] status 0 "
same "subsystem sftp" "$(line -s far sftp)" "[/usr/lib/openssh/sftp-server -f AUTH] status 0 "
sed -i 's/^Subsystem.*/Subsystem sftp internal-sftp/' sshd.conf
same "the same, sshd_config says internal-sftp" "$(line -s far sftp)" "[internal-sftp] status 0 "
sed -i '/^Subsystem/d' sshd.conf
same "the same, sshd_config says nothing" "$(line -s far sftp)" "status 255 "
same "no command" "$(line far)" "[not set] status 0 "
same "empty command" "$(line far '')" "[not set] status 0 "
exit $changed
EOF
export -f same
in_lab case.sh

# seen (2026-11-30):
#   openssh 1:9.2p1-2+deb12u10
#   guess: [sftp], or refused
#   command ls -l: [ls -l] status 0 
#   subsystem sftp: [/usr/lib/openssh/sftp-server -f AUTH] status 0 
#   the same, sshd_config says internal-sftp: [internal-sftp] status 0 
#   the same, sshd_config says nothing: status 255 
#   no command: [not set] status 0 
#   empty command: [not set] status 0 
