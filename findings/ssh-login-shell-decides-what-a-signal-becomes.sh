#!/bin/bash
# OpenSSH 9.2p1 (Debian 1:9.2p1-2+deb12u10), dash 0.5.12-2 and bash 5.2.15-2+b13 of Debian 12.
#
# One would think: a forced command is started by sshd, so a command that is killed by a signal
# looks the same on every far machine: no exit status, a signal's name, 255 from `ssh`.
#
# What happens: sshd starts the account's login shell with -c and the command. bash executes a
# single command in its own place, so sshd sees the signal and sends "exit-signal": over a master's
# control socket nothing comes but the end, `ssh` ends with 255. dash stays, turns the signal into
# status 143 and writes "Terminated" to stderr, which becomes the session's. With `exec` in front of
# the command both do as bash does.
#
# For this project: the near side of a plain link cannot know what an end without a status means,
# nor that 143 is a program's own. `admit` writes `command="exec qrexec-remote far LINK"`: one
# process less for each call, no text of a shell on stderr, and the end of the far program is the
# end of the session. A test of "far command killed" runs with both shells.
#
# Source: sshd(8) says that the command is run by the user's shell with -c; the rest is the shells'.
. "$(dirname "$0")/common/sshd.sh"
apt-get download -qq bash=5.2.15-2+b13 dash=0.5.12-2 >apt.log 2>&1 || { echo "these shells are not to be had here (other version: N/A)"; exit 1; }
dpkg -x bash_*.deb tree && dpkg -x dash_*.deb tree || exit 1
echo "guess: status 255 and nothing on stderr from both"
cat >far.sh <<'EOF'
#!/bin/sh
kill -TERM $$
EOF
cat >case.sh <<'EOF'
account() { sed "s,^\(far:.*:\)[^:]*$,\1$work/tree/bin/$1," passwd >passwd.new && cat passwd.new >passwd; }
run() {
	$ssh -F ssh.conf -o LogLevel=ERROR far x </dev/null >out 2>err
	echo "status $?, stderr [$(tr -d '\n' <err)]"
}
account bash
same "login shell bash" "$(run)" "status 255, stderr []"
account dash
same "login shell dash" "$(run)" "status 143, stderr [Terminated]"
sed -i 's/command="/command="exec /' keys
same "login shell dash, exec in front" "$(run)" "status 255, stderr []"
exit $changed
EOF
export -f same
export work
in_lab case.sh

# seen (2026-11-30):
#   openssh 1:9.2p1-2+deb12u10
#   guess: status 255 and nothing on stderr from both
#   login shell bash: status 255, stderr []
#   login shell dash: status 143, stderr [Terminated]
#   login shell dash, exec in front: status 255, stderr []
