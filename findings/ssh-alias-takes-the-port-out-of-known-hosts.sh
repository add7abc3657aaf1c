#!/bin/bash
# OpenSSH 9.2p1 (Debian 1:9.2p1-2+deb12u10).
#
# One would think: for a port other than 22 a line of known_hosts begins with `[name]:port`, and
# HostKeyAlias replaces the name in it: `[link]:2222`.
#
# What happens: with HostKeyAlias the port is left out: `link` alone is looked for, `[link]:2222` is
# an unknown key, and ssh-keyscan's lines for that port (`[host]:2222 ...`) never fit. (Without an
# alias the line with the port fits, and a line with the bare name is taken, too.) The other way
# round one line serves a far machine that moves to another port, and two far machines behind one
# address need two aliases.
#
# For this project: `join` writes the invitation's key as `LINK TYPE KEY`, whatever the port; the
# test of "host key changed or unknown" must use a port that is not 22, as every lab does, or it
# cannot tell the two forms apart.
#
# Source: ssh_config(5), HostKeyAlias, does not speak of ports.
. "$(dirname "$0")/common/sshd.sh"
echo "guess: status 0 for [link]:2222 only"
cat >far.sh <<'EOF'
#!/bin/sh
echo fine
EOF
cat >case.sh <<'EOF'
run() { $ssh -F ssh.conf -p 2222 far x </dev/null >out 2>&1; echo "status $?"; }
as() { echo "$1 $(cut -d' ' -f1,2 hk.pub)" >known; }
as link
same "known as link" "$(run)" "status 0"
as '[link]:2222'
same "known as [link]:2222" "$(run)" "status 255"
sed -i '/HostKeyAlias/d' ssh.conf
as '[far]:2222'
same "no alias, known as [far]:2222" "$(run)" "status 0"
as far
same "no alias, known as far" "$(run)" "status 0"
exit $changed
EOF
export -f same
in_lab case.sh

# seen (2026-11-30):
#   openssh 1:9.2p1-2+deb12u10
#   guess: status 0 for [link]:2222 only
#   known as link: status 0
#   known as [link]:2222: status 255
#   no alias, known as [far]:2222: status 0
#   no alias, known as far: status 0
