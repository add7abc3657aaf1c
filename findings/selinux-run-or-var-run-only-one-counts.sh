#!/bin/bash
# libselinux 3.4 (Debian 3.4-1+b6: libselinux1, selinux-utils), file_contexts.subs_dist; the
# policies are Debian's (selinux-policy-default 2:2.20221101-9) and Fedora's.
#
# One would think: /var/run is a link to /run, so a line for /run/qubes/... labels what is there; a
# line for the other spelling does no harm and is a good second.
#
# What happens: before a path is looked up, the policy's own table of equal folders replaces the
# beginning of the *path*, not of the lines. Debian's table says `/var/run /run`: there lines for
# /var/run/... never match anything. A table with `/run /var/run`, which Fedora's policy had, turns
# it round: a line for /run/... never matches, not even for /run/... No tool complains of a line
# that cannot match.
#
# For this project: one .fc file for dom0 and VMs of several ages must have each socket's line in
# both spellings, /run/... and /var/run/..., with the same context: on each system one of the two
# counts. A test looks each path up under both tables.
#
# Source: selabel_file(5), file_contexts.subs_dist; Fedora's table: fedora-selinux/selinux-policy,
# config/file_contexts.subs_dist at 1797c61 (the newest releases were not looked at).
set -u
version=3.4-1+b6
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
cd "$work" || exit 1
apt-get download -qq selinux-utils=$version libselinux1=$version selinux-policy-default=2:2.20221101-9 >apt.log 2>&1 ||
	{ echo "libselinux $version: not to be had here (other version: N/A)"; exit 1; }
for package in *.deb; do dpkg -x "$package" tree || exit 1; done
libraries=$(find "$work/tree" -name 'libselinux.so*' -printf '%h\n' | sort -u | tr '\n' ':')
echo "libselinux $version"
echo "guess: /run/... by its line in /run, under any table"
socket=$((0140000))
printf '/run/qubes/new\\.sock\t-s\ts:o:run:s0\n/var/run/qubes/old\\.sock\t-s\ts:o:varrun:s0\n' >contexts
lookup() {
	LD_LIBRARY_PATH=$libraries tree/usr/sbin/selabel_lookup -b file -f "$work/contexts" -k "$1" -t $socket 2>&1 |
		sed -n 's/^Default context: s:o:\([a-z]*\):s0.*/\1/p; s/^ERROR.*/none/p'
}
all() { echo "$(lookup /run/qubes/new.sock) $(lookup /var/run/qubes/new.sock) $(lookup /run/qubes/old.sock) $(lookup /var/run/qubes/old.sock)"; }
changed=0
same() {
	if test "$2" = "$3"; then echo "$1: $2"; else
		echo "$1: $2   NOT AS RECORDED: $3"
		changed=1
	fi
}
echo "asked: /run/qubes/new.sock, /var/run/qubes/new.sock, /run/qubes/old.sock, /var/run/qubes/old.sock"
same "no table" "$(all)" "run none none varrun"
echo '/run /var/run' >contexts.subs_dist
same "table: /run /var/run (Fedora)" "$(all)" "none none varrun varrun"
echo '/var/run /run' >contexts.subs_dist
same "table: /var/run /run (Debian)" "$(all)" "run run none none"
table=$(find tree -name file_contexts.subs_dist | head -1)
same "Debian 12's policy says" "$(grep -E '^(/run|/var/run) ' "$table" | tr '\n' ';')" "/var/run /run;"
exit $changed

# seen (2026-11-30):
#   libselinux 3.4-1+b6
#   guess: /run/... by its line in /run, under any table
#   asked: /run/qubes/new.sock, /var/run/qubes/new.sock, /run/qubes/old.sock, /var/run/qubes/old.sock
#   no table: run none none varrun
#   table: /run /var/run (Fedora): none none varrun varrun
#   table: /var/run /run (Debian): run run none none
#   Debian 12's policy says: /var/run /run;
