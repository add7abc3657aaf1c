#!/bin/bash
# OpenSSH 9.2p1 (Debian 1:9.2p1-2+deb12u10).
#
# One would think: with `restrict,command="…"` in front of a key the forced command is the only
# thing that sshd starts, so its first byte is the first byte of the session.
#
# What happens: `restrict` includes no-user-rc, so ~/.ssh/rc is left out; and sshd then runs the
# other one, /etc/ssh/sshrc, if it exists, in front of the forced command. Its output is the
# session's output. It is run for subsystem requests, too. (Where a user's rc file is allowed and
# exists, it is run in place of the system's. So the stricter key runs the file that the freer key
# would not.)
#
# For this project: an administrator's sshrc (people keep "set up X11 cookies" and greetings there)
# that prints puts text before our HELLO on every remote call. The near side must name it: "LINK
# sends text before qrexec's greeting: look at /etc/ssh/sshrc", and the documentation of a link must
# say that no option of a key turns it off (PermitUserRC does not either). `qrexec-remote join`
# should check the greeting once, when the link is made.
#
# Source: sshd(8), LOGIN PROCESS and SSHRC, which do not say how the two go with `restrict`.
. "$(dirname "$0")/common/sshd.sh"
echo "guess: the session's output is what the forced command prints, nothing before it"
cat >far.sh <<'EOF'
#!/bin/sh
echo HELLO
EOF
cat >case.sh <<'EOF'
run() { $ssh -F ssh.conf "$@" far </dev/null 2>/dev/null | tr '\n' ' '; }
same "no sshrc" "$(run)" "HELLO "
echo 'echo text of the machine' >etc/sshrc
same "/etc/ssh/sshrc, key with restrict" "$(run)" "text of the machine HELLO "
same "a subsystem asked for" "$($ssh -F ssh.conf -s far sftp </dev/null 2>/dev/null | tr '\n' ' ')" "text of the machine HELLO "
echo 'PermitUserRC no' >>sshd.conf
same "PermitUserRC no" "$(run)" "text of the machine HELLO "
sed -i '/PermitUserRC/d' sshd.conf
mkdir -p home/.ssh
echo 'echo text of the account' >home/.ssh/rc
same "~/.ssh/rc as well, key with restrict" "$(run)" "text of the machine HELLO "
sed -i 's/^restrict,/user-rc,/' keys
same "the same without restrict" "$(run)" "text of the account HELLO "
exit $changed
EOF
export -f same
in_lab case.sh

# seen (2026-11-30):
#   openssh 1:9.2p1-2+deb12u10
#   guess: the session's output is what the forced command prints, nothing before it
#   no sshrc: HELLO 
#   /etc/ssh/sshrc, key with restrict: text of the machine HELLO 
#   a subsystem asked for: text of the machine HELLO 
#   PermitUserRC no: text of the machine HELLO 
#   ~/.ssh/rc as well, key with restrict: text of the machine HELLO 
#   the same without restrict: text of the account HELLO 
