#!/bin/bash
# glibc 2.36, ldconfig (Debian libc-bin 2.36-9+deb12u14).
#
# One would think: the link libNAME.so.1 leads to the file with the plain name, libNAME.so.1.0;
# who moves that one to libNAME.so.1.0.distrib (as dpkg-divert does by itself), .bak or ~ beside
# it and lays another in its place has replaced the library.
#
# What happens: ldconfig looks at every file whose name begins with "lib" and has ".so" in it,
# whatever follows, and takes from those with one SONAME the one whose name sorts last; a longer
# name is a newer version. So it points the link to the copy that was moved away, also if the link
# was right before. It does so when any library of the system is installed or removed (a trigger),
# so what was tried works until then. A name with something in front of "lib" is left alone.
#
# For this project: whoever lays our libvchan in the place of another (drop-in for C programs,
# qrexec-switch) moves the old file to another folder (dpkg-divert --divert), or to a name that
# does not begin with "lib", runs ldconfig, and looks where the link leads; "status" looks each
# time. The same for a copy that somebody keeps by hand beside ours: a line in docs/.
#
# Source: dpkg-divert(1) warns that ldconfig does not honour diversions and the link "may" lead to
# the diverted file; that it always does, and copies of any name as well, was seen here.
set -u
version=2.36-9+deb12u14
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
cd "$work" || exit 1
apt-get download -qq libc-bin=$version >apt.log 2>&1 || { echo "libc-bin $version: not to be had here (other version: N/A)"; exit 1; }
dpkg -x libc-bin_*.deb tree || exit 1
echo 'int answer(void) { return 1; }' >it.c
cc -shared -fPIC -Wl,-soname,libit.so.1 -o it it.c || exit 1
changed=0
same() {
	if test "$2" = "$3"; then echo "$1: $2"; else
		echo "$1: $2   NOT AS RECORDED: $3"
		changed=1
	fi
}
beside() { # where the link leads with a second copy of that name, after it led to libit.so.1.0
	rm -rf lib
	mkdir lib
	cp it lib/libit.so.1.0
	ln -s libit.so.1.0 lib/libit.so.1
	cp it "lib/$1"
	tree/sbin/ldconfig -n lib
	readlink lib/libit.so.1
}
echo "ldconfig $version"
echo "guess: libit.so.1.0 each time"
for end in .distrib .bak .ours .dpkg-dist .rpmsave -old '~'; do
	same "beside libit.so.1.0$end" "$(beside "libit.so.1.0$end")" "libit.so.1.0$end"
done
same "beside old-libit.so.1.0" "$(beside old-libit.so.1.0)" "libit.so.1.0"
exit $changed

# seen (2026-11-30):
#   ldconfig 2.36-9+deb12u14
#   guess: libit.so.1.0 each time
#   beside libit.so.1.0.distrib: libit.so.1.0.distrib
#   beside libit.so.1.0.bak: libit.so.1.0.bak
#   beside libit.so.1.0.ours: libit.so.1.0.ours
#   beside libit.so.1.0.dpkg-dist: libit.so.1.0.dpkg-dist
#   beside libit.so.1.0.rpmsave: libit.so.1.0.rpmsave
#   beside libit.so.1.0-old: libit.so.1.0-old
#   beside libit.so.1.0~: libit.so.1.0~
#   beside old-libit.so.1.0: libit.so.1.0
