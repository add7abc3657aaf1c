#!/bin/bash
# OpenSSH 9.2p1 (Debian 1:9.2p1-2+deb12u10).
#
# One would think: `ssh -M -N -f -S SOCKET far` while a live master owns SOCKET either does nothing,
# or fails with a status that is not 0.
#
# What happens: it logs one line (to the -E file or stderr), connects and authenticates once more,
# goes into the background and ends with 0. That process has no socket, so no -O command and no
# client ever reaches it; it holds its connection, its place at the far sshd, until it is killed by
# its pid, which nobody was told. `-O exit` ends the first one only, and then there is no master
# although the start reported success. Another trap of the same start: SOCKET may have at most 90
# bytes, not the 107 of a unix socket's address: the master binds a temporary name with 17 more
# bytes first.
#
# For this project: the status of the start says nothing about the socket. Start under the lock
# only, and afterwards ask the socket itself (alive check, MUX_C_ALIVE_CHECK) and compare its pid
# with the process that was started; start without -f and keep the child, so that a loser can be
# ended. Keep the socket's path at 90 bytes or less (a short folder, or chdir and a relative name),
# and refuse longer ones with a line that says why.
#
# Source: ssh(1), -M and -f, say nothing about a socket that is taken.
. "$(dirname "$0")/common/sshd.sh"
echo "guess: second start: status not 0, or no second connection; 107 bytes of path"
cat >far.sh <<'EOF'
#!/bin/sh
echo "$PPID"
EOF
cat >case.sh <<'EOF'
masters() { grep -lsa -- "-SUNIQUE" /proc/[0-9]*/cmdline | wc -l; }
ln -s . UNIQUE
count() {
	n=0
	for file in /proc/[0-9]*/cmdline; do
		case $({ tr '\0' ' ' <"$file"; } 2>/dev/null) in *"-S $work/m -M -N -f"*) n=$((n + 1)) ;; esac
	done
	echo $n
}
start() { $ssh -F ssh.conf -S "$work/m" -M -N -f -E log far; echo "status $?"; }
check() { $ssh -F ssh.conf -S "$work/m" -O check far >/dev/null 2>&1; echo "status $?"; }
same "first start" "$(start), $(count) process" "status 0, 1 process"
same "second start" "$(start), $(count) processes" "status 0, 2 processes"
same "its log" "$(grep -c 'already exists, disabling multiplexing' log) line" "1 line"
$ssh -F ssh.conf -S "$work/m" -O exit far 2>/dev/null
for i in $(seq 100); do test "$(count)" = 1 && break; sleep 0.05; done
same "after -O exit" "$(count) process, check: $(check)" "1 process, check: status 255"
long() { printf "%s/%0*d" "$short" $(($1 - ${#short} - 1)) 0; }
try() { $ssh -F ssh.conf -S "$(long $1)" -M -N -f -E log far; echo "status $?"; }
same "path of 90 bytes" "$(try 90)" "status 0"
same "path of 91 bytes" "$(try 91)" "status 255"
exit $changed
EOF
sed -i '/^masters\|^ln -s/d' case.sh
export -f same
export work
short=$(mktemp -d /tmp/sXXXX)
export short
trap 'rm -rf "$work" "$short"' EXIT
in_lab case.sh

# seen (2026-11-30):
#   openssh 1:9.2p1-2+deb12u10
#   guess: second start: status not 0, or no second connection; 107 bytes of path
#   first start: status 0, 1 process
#   second start: status 0, 2 processes
#   its log: 1 line
#   after -O exit: 1 process, check: status 255
#   path of 90 bytes: status 0
#   path of 91 bytes: status 255
