#!/bin/bash
# dpkg 1.21.23 (Debian 12), dpkg --verify.
#
# One would think: --verify compares each file of a package with its checksum, looks for a
# diverted one at the place it was moved to, and ends with 1 when something differs, as rpm -V
# does (dpkg(1): 1 is a check that came out false).
#
# What happens: it always ends with 0; only its output tells. Of a diverted file it says whether
# it is there (under the name it was moved to), but its content is not compared: another program
# in that place is passed over without a word. The package that diverted it is compared as any
# other.
#
# For this project: "qrexec-switch status", the way back to upstream's programs, and the test that
# nothing is left after a removal must read the output of --verify, not its status, and compare
# diverted files with the line in /var/lib/dpkg/info/PACKAGE.md5sums themselves: before upstream's
# program is put back is the moment to know whether it is still upstream's.
#
# Source: seen here; dpkg(1), --verify, EXIT STATUS.
set -u
version=1.21.23
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
cd "$work" || exit 1
apt-get download -qq dpkg=$version >apt.log 2>&1 || { echo "dpkg $version: not to be had here (other version: N/A)"; exit 1; }
dpkg -x dpkg_*.deb tree || exit 1
export PATH=$work/tree/usr/bin:$PATH DPKG_DATADIR=$work/tree/usr/share/dpkg
package() { # name: a package with /usr/bin/it
	mkdir -p "$1/DEBIAN" "$1/usr/bin"
	printf 'Package: %s\nVersion: 1\nArchitecture: all\nMaintainer: X <x@x>\nDescription: x\n' "$1" >"$1/DEBIAN/control"
	echo "program of $1" >"$1/usr/bin/it"
	(cd "$1" && md5sum usr/bin/it >DEBIAN/md5sums)
	dpkg-deb -b "$1" "$1.deb" >/dev/null || exit 1
}
package theirs
package ours
mkdir -p root/var/lib/dpkg/info root/var/lib/dpkg/updates root/usr/bin
touch root/var/lib/dpkg/status root/var/lib/dpkg/available
root_dpkg() { dpkg --root="$work/root" --force-not-root --force-bad-path --force-script-chrootless "$@"; }
root_dpkg -i theirs.deb >dpkg.log 2>&1 || { cat dpkg.log; exit 1; }
dpkg-divert --root "$work/root" --package ours --rename --add /usr/bin/it >divert.log 2>&1 || { cat divert.log; exit 1; }
root_dpkg -i ours.deb >dpkg.log 2>&1 || { cat dpkg.log; exit 1; }
cp -a root whole
verified() { # package; what is changed in the root beforehand
	out=$(root_dpkg --verify "$1" 2>&1)
	echo "status $?, $(echo "${out:-no word}" | tr -s ' ')"
	rm -rf root
	cp -a whole root
}
changed=0
same() {
	if test "$2" = "$3"; then echo "$1: $2"; else
		echo "$1: $2   NOT AS RECORDED: $3"
		changed=1
	fi
}
echo "$(dpkg --version | sed -n '1s/ (.*//p')"
echo "guess: 0 for the first, 1 and a line for each other"
same "nothing changed" "$(verified theirs)" "status 0, no word"
same "ours changed" "$(echo other >root/usr/bin/it; verified ours)" "status 0, ??5?????? /usr/bin/it"
same "ours gone" "$(rm root/usr/bin/it; verified ours)" "status 0, missing /usr/bin/it"
same "theirs, diverted, changed" "$(echo other >root/usr/bin/it.distrib; verified theirs)" "status 0, no word"
same "theirs, diverted, gone" "$(rm root/usr/bin/it.distrib; verified theirs)" "status 0, missing /usr/bin/it.distrib"
exit $changed

# seen (2026-11-30):
#   Debian 'dpkg' package management program version 1.21.23
#   guess: 0 for the first, 1 and a line for each other
#   nothing changed: status 0, no word
#   ours changed: status 0, ??5?????? /usr/bin/it
#   ours gone: status 0, missing /usr/bin/it
#   theirs, diverted, changed: status 0, no word
#   theirs, diverted, gone: status 0, missing /usr/bin/it.distrib
