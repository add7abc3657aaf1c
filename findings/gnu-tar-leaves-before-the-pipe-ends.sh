#!/bin/bash
# GNU tar 1.34 (Debian 1.34+dfsg-1.2+deb12u1), bsdtar 3.6.2, busybox 1.35.0, crate tar 0.4.46 and
# Python 3's tarfile, all as readers of a pipe.
#
# One would think: a tar that reads a pipe reads it to its end (it has code that drains pipes), so
# that the writer is never cut off; small readers stop at the end mark.
#
# What happens: GNU tar ends behind the record with the end mark, as crate tar and tarfile do:
# what the writer still has, the padding of a record larger than 10,240 bytes (-b), or anything
# appended, meets a closed pipe: the writer is killed by SIGPIPE, 141, after a copy in which
# nothing is missing. With the usual record there is nothing behind the mark, so nobody sees it.
# bsdtar and busybox read on to the end, and therefore wait for a writer that keeps the pipe open.
#
# For this project: `tar -b 2048 -c … | qvm-run -p VM 'tar x'` with pipefail fails although all
# arrived, or not, by what else is on the way; say so in docs/. tar2qfile reads its input to the
# end behind the mark (and bounds how long), so that its writer ends with 0. Tests that move
# archives use the status of the reader.
#
# Source: seen here; the manual of GNU tar ("Blocking") does not say.
set -u
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
cd "$work" || exit 1
apt-get download -qq tar=1.34+dfsg-1.2+deb12u1 libarchive-tools=3.6.2-1+deb12u5 libarchive13=3.6.2-1+deb12u5 \
	busybox=1:1.35.0-4+deb12u1+b1 >apt.log 2>&1 || { echo "these versions are not to be had here (other version: N/A)"; exit 1; }
for package in *.deb; do dpkg -x "$package" tree || exit 1; done
mkdir -p files reader/src
echo data >files/a
cat >reader/Cargo.toml <<'END'
[package]
name = "reader"
version = "0.0.0"
edition = "2021"
[dependencies]
tar = { version = "=0.4.46", default-features = false }
[profile.dev]
debug = 0
END
cat >reader/src/main.rs <<'END'
fn main() {
    tar::Archive::new(std::io::stdin()).unpack(".").unwrap();
}
END
(cd reader && CARGO_TARGET_DIR=$work/target cargo build -q) || exit 1
gnutar() { "$work/tree/bin/tar" "$@"; }
reader() {
	case $1 in
	"GNU tar") gnutar -x ;;
	bsdtar) LD_LIBRARY_PATH=$work/tree/usr/lib/x86_64-linux-gnu "$work/tree/usr/bin/bsdtar" -xf - ;;
	busybox) "$work/tree/bin/busybox" tar -x ;;
	"crate tar") "$work/target/debug/reader" ;;
	tarfile) python3 -W ignore -c 'import sys, tarfile; tarfile.open(fileobj=sys.stdin.buffer, mode="r|").extractall()' ;;
	esac
}
copy() { # reader, factor of the writer's records
	rm -rf to
	mkdir to
	cd to || exit 1
	gnutar -C ../files -b "$2" -c . 2>/dev/null | reader "$1" >/dev/null 2>&1
	echo "writer ${PIPESTATUS[0]}, reader ${PIPESTATUS[1]}, $(cmp -s a ../files/a && echo copied || echo missing)"
	cd ..
}
changed=0
same() {
	if test "$2" = "$3"; then echo "$1: $2"; else
		echo "$1: $2   NOT AS RECORDED: $3"
		changed=1
	fi
}
echo "GNU tar 1.34, bsdtar 3.6.2, busybox 1.35.0, crate tar 0.4.46, $(python3 --version)"
echo "guess: the writer ends with 0 for GNU tar and bsdtar, with 141 for the others"
for name in "GNU tar" bsdtar busybox "crate tar" tarfile; do
	same "$name, records of 10,240 bytes" "$(copy "$name" 20)" "writer 0, reader 0, copied"
	case $name in bsdtar | busybox) status=0 ;; *) status=141 ;; esac
	same "$name, records of 2 MiB" "$(copy "$name" 4096)" "writer $status, reader 0, copied"
done
exit $changed

# seen (2026-11-30):
#   GNU tar 1.34, bsdtar 3.6.2, busybox 1.35.0, crate tar 0.4.46, Python 3.11.7
#   guess: the writer ends with 0 for GNU tar and bsdtar, with 141 for the others
#   GNU tar, records of 10,240 bytes: writer 0, reader 0, copied
#   GNU tar, records of 2 MiB: writer 141, reader 0, copied
#   bsdtar, records of 10,240 bytes: writer 0, reader 0, copied
#   bsdtar, records of 2 MiB: writer 0, reader 0, copied
#   busybox, records of 10,240 bytes: writer 0, reader 0, copied
#   busybox, records of 2 MiB: writer 0, reader 0, copied
#   crate tar, records of 10,240 bytes: writer 0, reader 0, copied
#   crate tar, records of 2 MiB: writer 141, reader 0, copied
#   tarfile, records of 10,240 bytes: writer 0, reader 0, copied
#   tarfile, records of 2 MiB: writer 141, reader 0, copied
