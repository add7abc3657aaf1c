#!/bin/bash
# OpenSSH 9.2p1 (Debian 1:9.2p1-2+deb12u10).
#
# One would think: ssh reads `-F /dev/fd/N` (a pipe or memfd of the caller, as cat would) and a
# master that goes into the background keeps a lock's descriptor that it inherited, so that flock(1)
# around its start holds the lock as long as the master lives.
#
# What happens: the first thing that ssh does is to close every descriptor above 2. So -F and -i
# with /dev/fd/N find nothing, and an inherited flock is given up by the master at once: the lock is
# free as soon as the caller lets go. (-F /dev/stdin does work.)
#
# For this project: a link's configuration and key must be files with names (private folder, 0600),
# not memory; the lock around the start may be held by the starter alone, with no close-on-exec
# needed for ssh, and proves nothing about a live master afterwards.
#
# Source: none found in ssh(1); it shows in a trace as close_range(3, …).
. "$(dirname "$0")/common/sshd.sh"
echo "guess: -F /dev/fd/3 works; the lock is taken while the master lives"
cat >far.sh <<'EOF'
#!/bin/sh
echo fine
EOF
cat >case.sh <<'EOF'
exec 3<ssh.conf
same "cat /dev/fd/3" "$(cat /dev/fd/3 | head -1)" "Host *"
same "ssh -F /dev/fd/3" "$($ssh -F /dev/fd/3 far </dev/null 2>err; echo "status $?,$(grep -c "Can.t open user config file /dev/fd/3" err) line")" "status 255,1 line"
same "ssh -F /dev/stdin" "$($ssh -n -F /dev/stdin far <ssh.conf 2>/dev/null)" "fine"
exec 3<&-
exec 9>lock
flock 9
$ssh -F ssh.conf -S m -M -N -f -E log far
exec 9>&-
$ssh -F ssh.conf -S m -O check far >/dev/null 2>&1
same "the master lives: status" "$?" 0
flock -n lock true
same "its lock is free: status" "$?" 0
(exec 9>lock; flock 9; sleep 2 & )
flock -n lock true
same "the same with sleep in place of the master: status" "$?" 1
exit $changed
EOF
export -f same
in_lab case.sh

# seen (2026-11-30):
#   openssh 1:9.2p1-2+deb12u10
#   guess: -F /dev/fd/3 works; the lock is taken while the master lives
#   cat /dev/fd/3: Host *
#   ssh -F /dev/fd/3: status 255,1 line
#   ssh -F /dev/stdin: fine
#   the master lives: status: 0
#   its lock is free: status: 0
#   the same with sleep in place of the master: status: 1
