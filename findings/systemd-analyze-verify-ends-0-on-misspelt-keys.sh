#!/bin/bash
# systemd 252.39 (Debian 252.39-1~deb12u2), systemd-analyze.
#
# One would think: `systemd-analyze verify UNIT` is the test for a unit file: a misspelt key, a
# value that cannot be read, an unknown section make it fail.
#
# What happens: each gets a line on stderr ("ignoring"), and the status is 0. So a unit whose
# ProtectSystem= is misspelt passes, and the service runs without that protection. With
# --recursive-errors=no the same warnings give 1: the option's name tells of other units, but it is
# what makes warnings count at all. A missing executable gives 1 either way; a User= that does not
# exist is not noticed at all.
#
# For this project: a check of dist/systemd in CI must call it with --recursive-errors=no, or demand
# an empty stderr; the plain call proves nothing about keys. Users in units are checked by nobody.
#
# Source: systemd-analyze(1), last sentence about --recursive-errors.
set -u
version=252.39-1~deb12u2
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
cd "$work" || exit 1
apt-get download -qq systemd=$version libsystemd-shared=$version >apt.log 2>&1 || { echo "systemd $version: not to be had here (other version: N/A)"; exit 1; }
for package in *.deb; do dpkg -x "$package" tree || exit 1; done
libraries=$(find "$work/tree" -name '*.so*' -printf '%h\n' | sort -u | tr '\n' ':')
verify() {
	LD_LIBRARY_PATH=$libraries tree/usr/bin/systemd-analyze verify "$@" 2>err
	echo "status $?, $(grep -c ':[0-9]*: ' err) warnings"
}
echo "systemd $version"
echo "guess: status not 0 for each"
unit() { printf '[Service]\nExecStart=%s\n%s\n' "$2" "$3" >"$work/$1.service"; }
unit good /bin/true PrivateTmp=yes
unit key /bin/true ProtectSytem=strict
unit value /bin/true Restart=sometimes
unit section /bin/true '[Instal]'
unit user /bin/true User=nobody-of-that-name
unit program /nowhere/program ''
changed=0
same() {
	if test "$2" = "$3"; then echo "$1: $2"; else
		echo "$1: $2   NOT AS RECORDED: $3"
		changed=1
	fi
}
same "nothing wrong" "$(verify "$work/good.service")" "status 0, 0 warnings"
same "misspelt key" "$(verify "$work/key.service")" "status 0, 1 warnings"
same "unknown value" "$(verify "$work/value.service")" "status 0, 1 warnings"
same "misspelt section" "$(verify "$work/section.service")" "status 0, 1 warnings"
same "no such user" "$(verify "$work/user.service")" "status 0, 0 warnings"
same "no such program" "$(verify "$work/program.service")" "status 1, 0 warnings"
same "misspelt key, --recursive-errors=no" "$(verify --recursive-errors=no "$work/key.service")" "status 1, 1 warnings"
same "nothing wrong, --recursive-errors=no" "$(verify --recursive-errors=no "$work/good.service")" "status 0, 0 warnings"
exit $changed

# seen (2026-11-30):
#   systemd 252.39-1~deb12u2
#   guess: status not 0 for each
#   nothing wrong: status 0, 0 warnings
#   misspelt key: status 0, 1 warnings
#   unknown value: status 0, 1 warnings
#   misspelt section: status 0, 1 warnings
#   no such user: status 0, 0 warnings
#   no such program: status 1, 0 warnings
#   misspelt key, --recursive-errors=no: status 1, 1 warnings
#   nothing wrong, --recursive-errors=no: status 0, 0 warnings
