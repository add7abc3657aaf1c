#!/bin/bash
# musl-tools 1.2.3-1 (Debian 12) with Debian's gcc 12.2.0: `musl-gcc -static-pie`.
#
# One would think: a static executable that can be loaded anywhere, as `gcc -static-pie` makes with glibc, since
# the package has rcrt1.o, by which such an executable begins.
#
# What happens: no error, no warning, and an executable that wants /lib/ld-musl-x86_64.so.1. The
# wrapper's specs know -static and -shared only: -static-pie falls through to what a dynamic executable gets,
# Scrt1.o and the dynamic linker. It runs on the machine that built it, which has musl, and on no other.
#
# For this project: `qrexec-client-vm` is linked against musl where that can be had. With musl-gcc as the linker
# of Rust's target it would start on the machine of whoever packages it and be "not found" in every qube. It is
# linked by the host's own cc, with rcrt1.o named; the build starts what it has made, and looks for no library.
#
# Source: the wrapper's file /usr/lib/x86_64-linux-musl/musl-gcc.specs.
set -u
version=1.2.3-1
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
cd "$work" || exit 1
apt-get download -qq musl=$version musl-dev=$version musl-tools=$version >apt.log 2>&1 ||
	{ echo "musl-tools $version: not to be had here"; exit 1; }
for package in *.deb; do dpkg -x "$package" tree || exit 1; done
echo "musl-tools $version, gcc $(gcc -dumpfullversion)"
# The same specs, with the folder in which they are here.
sed "s#/usr/lib/x86_64-linux-musl#$work/tree/usr/lib/x86_64-linux-musl#g
	s#/usr/include/x86_64-linux-musl#$work/tree/usr/include/x86_64-linux-musl#g" \
	tree/usr/lib/x86_64-linux-musl/musl-gcc.specs >specs
echo 'int main(void) { return 0; }' >a.c

changed=0
same() {
	if test "$2" = "$3"; then echo "$1: $2"; else
		echo "$1: $2   NOT AS RECORDED: $3"
		changed=1
	fi
}
interpreter() { readelf -l "$1" | sed -n 's/.*interpreter: \(.*\)]/\1/p'; }

gcc -specs=specs -static a.c -o plain 2>plain.log
same "-static ends with" $? 0
same "-static wants the interpreter" "$(interpreter plain)" ""
gcc -specs=specs -static-pie a.c -o pie 2>pie.log
same "-static-pie ends with" $? 0
same "-static-pie says" "$(cat pie.log)" ""
same "-static-pie wants the interpreter" "$(interpreter pie)" "/lib/ld-musl-x86_64.so.1"
test -f tree/usr/lib/x86_64-linux-musl/rcrt1.o
same "rcrt1.o is there" $? 0
gcc -static-pie a.c -o glibc
same "gcc -static-pie with glibc wants the interpreter" "$(interpreter glibc)" ""
exit $changed

# seen (2026-12-01):
#   musl-tools 1.2.3-1, gcc 12.2.0
#   guess: -static-pie gives an executable without an interpreter, as with glibc
#   -static ends with: 0
#   -static wants the interpreter:
#   -static-pie ends with: 0
#   -static-pie says:
#   -static-pie wants the interpreter: /lib/ld-musl-x86_64.so.1
#   rcrt1.o is there: 0
#   gcc -static-pie with glibc wants the interpreter:
