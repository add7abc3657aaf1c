#!/bin/bash
# libselinux 3.4 (Debian 3.4-1+b6: libselinux1, selinux-utils), file_contexts.
#
# One would think: a line with a whole path is more specific than `/run/qubes(/.*)?`, so it wins,
# wherever it stands; whether its dot is escaped matters only for names like "policyXsock".
#
# What happens: a line is a plain path only if it has no unescaped character of a regular
# expression. Plain paths win over all expressions. Among expressions the *last* line wins, however
# long. So `/run/qubes/policy.sock` (a dot, not escaped) is an expression and loses to a
# `/run/qubes(/.*)?` further down, while `/run/qubes/policy\.sock` wins in any order. And among
# plain paths a later line without a type of file wins over an earlier one for sockets (-s).
#
# For this project: our sockets have dots (policy.sock, qrexec.work.sock, qrexec-server.user.sock).
# Each dot in our .fc file is written `\.`; a test looks up every path of ours, with the mode of a
# socket, in a file that has a general line for /run/qubes behind ours, too: the installed order is
# not that of our source.
#
# Source: selabel_file(5); the order was seen here.
set -u
version=3.4-1+b6
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
cd "$work" || exit 1
apt-get download -qq selinux-utils=$version libselinux1=$version >apt.log 2>&1 || { echo "libselinux $version: not to be had here (other version: N/A)"; exit 1; }
for package in *.deb; do dpkg -x "$package" tree || exit 1; done
libraries=$(find "$work/tree" -name '*.so*' -printf '%h\n' | sort -u | tr '\n' ':')
echo "libselinux $version"
echo "guess: the line with the whole path wins each time"
socket=$((0140000))
lookup() { # FILE PATH
	LD_LIBRARY_PATH=$libraries tree/usr/sbin/selabel_lookup -b file -f "$work/$1" -k "$2" -t $socket 2>&1 |
		sed -n 's/^Default context: s:o:\([a-z]*\):s0.*/\1/p; s/^ERROR.*/none/p'
}
changed=0
same() {
	if test "$2" = "$3"; then echo "$1: $2"; else
		echo "$1: $2   NOT AS RECORDED: $3"
		changed=1
	fi
}
general='/run/qubes(/.*)?	s:o:general:s0'
dot='/run/qubes/policy.sock	-s	s:o:whole:s0'
escaped='/run/qubes/policy\.sock	-s	s:o:whole:s0'
printf '%s\n' "$dot" "$general" >dot-first
printf '%s\n' "$general" "$dot" >dot-last
printf '%s\n' "$escaped" "$general" >escaped-first
printf '%s\n' "$general" "$escaped" >escaped-last
printf '%s\n' "$escaped" '/run/qubes/policy\.sock	s:o:untyped:s0' >two-plain
same "dot, general line behind it" "$(lookup dot-first /run/qubes/policy.sock)" general
same "dot, general line before it" "$(lookup dot-last /run/qubes/policy.sock)" whole
same "escaped dot, general line behind it" "$(lookup escaped-first /run/qubes/policy.sock)" whole
same "escaped dot, general line before it" "$(lookup escaped-last /run/qubes/policy.sock)" whole
same "escaped for sockets, then escaped for anything" "$(lookup two-plain /run/qubes/policy.sock)" untyped
exit $changed

# seen (2026-11-30):
#   libselinux 3.4-1+b6
#   guess: the line with the whole path wins each time
#   dot, general line behind it: general
#   dot, general line before it: whole
#   escaped dot, general line behind it: whole
#   escaped dot, general line before it: whole
#   escaped for sockets, then escaped for anything: untyped
