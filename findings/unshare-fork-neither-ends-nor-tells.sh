#!/bin/bash
# unshare of util-linux 2.38.1 (Debian 2.38.1-5+deb12u3), --fork.
#
# One would think: the waiting parent ends at SIGTERM, taking its child along with --kill-child,
# and reports a killed child as 128 plus the signal, as all other wrappers do.
#
# What happens: SIGTERM is blocked in the parent: it goes on and so does the child, with
# --kill-child too (that one is for SIGKILL to the parent alone). A child that SIGTERM killed
# makes 143, but one that SIGKILL killed (the OOM killer, a manager's last resort) makes status 1
# and the line "sigprocmask unblock failed: Invalid argument", as if unshare had failed. bwrap
# ends at SIGTERM and makes 137.
#
# For this project: the page "In containers" and tests that start an agent in namespaces with
# unshare: stop the child itself, not unshare; a status 1 may be a killed agent, so look for what
# the agent said, not at the status. A script that ends its unshare by SIGTERM and waits stays
# where it is. bwrap --die-with-parent or an init (tini, dumb-init) forwards and tells.
#
# Source: unshare(1) says of --fork that SIGINT and SIGTERM are ignored; the status was seen here.
set -u
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
cd "$work" || exit 1
apt-get download -qq util-linux=2.38.1-5+deb12u3 bubblewrap=0.8.0-2+deb12u1 >apt.log 2>&1 ||
	{ echo "these versions are not to be had here (other version: N/A)"; exit 1; }
for package in *.deb; do dpkg -x "$package" tree || exit 1; done
export PATH=$work/tree/usr/bin:$PATH
killed() { # by signal $1, inside the wrapper
	signal=$1
	shift
	"$@" sh -c "kill -$signal \$\$" >killed.log 2>&1
	echo $?
}
stopped() { # by SIGTERM to the wrapper: who is still there
	rm -f child
	"$@" sh -c 'echo $$ >child; exec sleep 20' 2>/dev/null &
	wrapper=$!
	for _ in $(seq 100); do test ! -s child || break; sleep 0.05; done
	child=$(cat child)
	kill -TERM $wrapper
	for _ in $(seq 30); do
		sleep 0.05
		state=$(cut -d' ' -f3 /proc/$wrapper/stat 2>/dev/null)
		test "${state:-Z}" != Z || break
	done
	parent="parent ended"
	test "${state:-Z}" = Z || parent="parent goes on"
	sleep 0.2
	state=$(cut -d' ' -f3 /proc/$child/stat 2>/dev/null)
	test "${state:-Z}" = Z && echo "$parent, child ended" || echo "$parent, child goes on"
	kill -KILL $child 2>/dev/null
	wait $wrapper 2>/dev/null
}
changed=0
same() {
	if test "$2" = "$3"; then echo "$1: $2"; else
		echo "$1: $2   NOT AS RECORDED: $3"
		changed=1
	fi
}
exec 2>/dev/null # what the shell says about killed jobs
echo "$(unshare --version), bwrap 0.8.0-2+deb12u1"
echo "guess: 143 and 137; both ended with --kill-child, the parent ended without"
same "unshare --fork, child killed by SIGTERM" "$(killed TERM unshare --fork)" 143
same "unshare --fork, child killed by SIGKILL" "$(killed KILL unshare --fork)" 1
same "its words" "$(sed 's/.*: \(sigprocmask\)/\1/' killed.log)" "sigprocmask unblock failed: Invalid argument"
same "bwrap, child killed by SIGKILL" "$(killed KILL bwrap --dev-bind / /)" 137
same "SIGTERM to unshare --fork" "$(stopped unshare --fork)" "parent goes on, child goes on"
same "SIGTERM to unshare --fork --kill-child" "$(stopped unshare --fork --kill-child)" "parent goes on, child goes on"
same "SIGTERM to bwrap --die-with-parent" "$(stopped bwrap --dev-bind / / --die-with-parent)" "parent ended, child ended"
exit $changed

# seen (2026-11-30):
#   unshare from util-linux 2.38.1, bwrap 0.8.0-2+deb12u1
#   guess: 143 and 137; both ended with --kill-child, the parent ended without
#   unshare --fork, child killed by SIGTERM: 143
#   unshare --fork, child killed by SIGKILL: 1
#   its words: sigprocmask unblock failed: Invalid argument
#   bwrap, child killed by SIGKILL: 137
#   SIGTERM to unshare --fork: parent goes on, child goes on
#   SIGTERM to unshare --fork --kill-child: parent goes on, child goes on
#   SIGTERM to bwrap --die-with-parent: parent ended, child ended
