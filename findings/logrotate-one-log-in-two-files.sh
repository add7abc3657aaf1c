#!/bin/bash
# logrotate 3.21.0 (Debian 3.21.0-1).
#
# One would think: where two files of /etc/logrotate.d name the same log, that one log is rotated by
# one of them, with a warning, and all other logs of both files are rotated as they say.
#
# What happens: the file that comes first by name has the log. In the other one the block is taken
# up to the shared log, in the order of the names that its patterns expand to, and everything behind
# it is dropped ("found error in file …, skipping"): a log that only this block names is rotated if
# its name sorts before the shared one, and never if it sorts after it. The patterns are expanded at
# each run, so this begins on the day when the first log appears that both name, not when the
# package is installed. The status is 1, which only the timer's unit sees.
#
# For this project: in dom0 /var/log/qubes/ has the daemon's logs (one for each VM) beside those of
# other programs. A file of ours with `/var/log/qubes/qrexec.*.log` and anybody's
# `/var/log/qubes/*.log` leave some of the logs to grow for ever. Our package must look for a
# pattern that covers its logs before it lays a file (or the installation check must run `logrotate
# -d` and read it), and the bound on a log's size must hold without logrotate.
#
# Source: seen here; logrotate(8) does not describe two entries for one log.
set -u
version=3.21.0-1
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
cd "$work" || exit 1
apt-get download -qq logrotate=$version libpopt0=1.19+dfsg-1 >apt.log 2>&1 || { echo "logrotate $version: not to be had here (other version: N/A)"; exit 1; }
for package in *.deb; do dpkg -x "$package" tree || exit 1; done
echo "logrotate $version"
echo "guess: every log that any file names is rotated"
rotate() {
	(cd conf && LD_LIBRARY_PATH=$work/tree/usr/lib/x86_64-linux-gnu:$work/tree/lib/x86_64-linux-gnu \
		"$work/tree/usr/sbin/logrotate" -s "$work/state" "$work/conf") 2>err
	echo "status $?, rotated: $(cd logs && echo *.1)"
}
fresh() {
	rm -rf logs conf state
	mkdir -m 755 logs conf
	for log in dom0.log qrexec.vault.log qrexec.work.log update.log; do echo line >"logs/$log"; done
}
block() { printf '%s {\n\trotate 2\n\tsize 1\n}\n' "$2" >"conf/$1"; chmod 644 "conf/$1"; }
changed=0
same() {
	if test "$2" = "$3"; then echo "$1: $2"; else
		echo "$1: $2   NOT AS RECORDED: $3"
		changed=1
	fi
}
fresh
block qrexec "$work/logs/qrexec.*.log"
same "qrexec.*.log alone" "$(rotate)" "status 0, rotated: qrexec.vault.log.1 qrexec.work.log.1"
fresh
block all "$work/logs/*.log"
same "*.log alone" "$(rotate)" "status 0, rotated: dom0.log.1 qrexec.vault.log.1 qrexec.work.log.1 update.log.1"
fresh
block qrexec "$work/logs/qrexec.*.log"
block zz-all "$work/logs/*.log"
same "both, *.log in the later file" "$(rotate)" "status 1, rotated: dom0.log.1 qrexec.vault.log.1 qrexec.work.log.1"
fresh
block qrexec "$work/logs/qrexec.*.log"
block all "$work/logs/qrexec.vault.log"
same "the first of our two logs is in an earlier file" "$(rotate)" "status 1, rotated: qrexec.vault.log.1"
fresh
block qrexec "$work/logs/qrexec.*.log"
block all "$work/logs/qrexec.work.log"
same "the second is" "$(rotate)" "status 1, rotated: qrexec.vault.log.1 qrexec.work.log.1"
exit $changed

# seen (2026-11-30):
#   logrotate 3.21.0-1
#   guess: every log that any file names is rotated
#   qrexec.*.log alone: status 0, rotated: qrexec.vault.log.1 qrexec.work.log.1
#   *.log alone: status 0, rotated: dom0.log.1 qrexec.vault.log.1 qrexec.work.log.1 update.log.1
#   both, *.log in the later file: status 1, rotated: dom0.log.1 qrexec.vault.log.1 qrexec.work.log.1
#   the first of our two logs is in an earlier file: status 1, rotated: qrexec.vault.log.1
#   the second is: status 1, rotated: qrexec.vault.log.1 qrexec.work.log.1
