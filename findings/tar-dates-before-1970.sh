#!/bin/bash
# Files dated before 1970 in tar archives. Writers: GNU tar 1.34 (Debian 1.34+dfsg-1.2+deb12u1)
# and bsdtar 3.6.2; readers: crate tar 0.4.46, busybox 1.35.0, Python 3's tarfile.
#
# One would think: an old date is kept, or becomes 0 where the form has no sign; all readers
# agree.
#
# What happens: GNU's form has the time in binary, 12 bytes of two's complement (here fff…5740),
# and all read it. bsdtar's default form has it in binary as well, but in 11 of the 12 bytes, with
# a blank as the last: who reads the field as GNU's gets a date 256 times as old, in 1969 still
# plausible; the true one is in a pax record. Crate tar and busybox do not read mtime in pax
# records: they set the wrong date, and for GNU's pax form, whose header says 0, crate tar sets 1
# and busybox 0. GNU tar -H ustar leaves such a file out and ends 2. bsdtar --format=gnutar writes
# 0.
#
# For this project: tar2qfile gets such archives (dates of 1969 come from a wrong zone, dates of
# 1904 and 1601 from other systems). Its reader must take mtime from pax records, with sign and
# fraction, and the binary field with its sign; a number it cannot read in a date is no reason to
# call the whole archive no tar file. The wire's seconds are the low 32 bits, so an old date goes
# through.
#
# Source: seen here; the GNU tar manual has the binary form, pax(1) the record.
set -u
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
cd "$work" || exit 1
apt-get download -qq tar=1.34+dfsg-1.2+deb12u1 libarchive-tools=3.6.2-1+deb12u5 libarchive13=3.6.2-1+deb12u5 \
	busybox=1:1.35.0-4+deb12u1+b1 >apt.log 2>&1 || { echo "these versions are not to be had here (other version: N/A)"; exit 1; }
for package in *.deb; do dpkg -x "$package" tree || exit 1; done
mkdir -p files reader/src
echo data >files/old
touch -d @-43200 files/old
gnutar() { tree/bin/tar -C files "$@" old; }
bsdtar() { LD_LIBRARY_PATH=$work/tree/usr/lib/x86_64-linux-gnu tree/usr/bin/bsdtar -C files "$@" old; }
gnutar --format=gnu -cf gnu.tar
gnutar --format=pax -cf pax.tar
gnutar --format=ustar -cf ustar.tar 2>ustar.log
ustar=$?
bsdtar -cf bsdtar.tar
bsdtar --format=gnutar -cf bsdgnu.tar
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
    let file = std::fs::File::open(std::env::args().nth(1).unwrap()).unwrap();
    tar::Archive::new(file).unpack("out").unwrap();
}
END
(cd reader && CARGO_TARGET_DIR=$work/target cargo build -q) || exit 1
dates() {
	mkdir out
	target/debug/reader "$1"
	crate=$(stat -c %Y out/old)
	rm -r out
	mkdir out
	tree/bin/busybox tar -xf "$1" -C out
	busybox=$(stat -c %Y out/old)
	rm -r out
	python=$(python3 -c 'import sys, tarfile; print(int(tarfile.open(sys.argv[1]).getmember("old").mtime))' "$1")
	echo "crate tar $crate, busybox $busybox, Python $python"
}
changed=0
same() {
	if test "$2" = "$3"; then echo "$1: $2"; else
		echo "$1: $2   NOT AS RECORDED: $3"
		changed=1
	fi
}
echo "GNU tar 1.34, bsdtar 3.6.2, crate tar 0.4.46, busybox 1.35.0, $(python3 --version)"
echo "guess: -43200 from all, or 0"
same "GNU tar's own form" "$(dates gnu.tar)" "crate tar -43200, busybox -43200, Python -43200"
same "GNU tar --format=pax" "$(dates pax.tar)" "crate tar 1, busybox 0, Python -43200"
same "bsdtar" "$(dates bsdtar.tar)" "crate tar -11059168, busybox -11059168, Python -43200"
same "bsdtar --format=gnutar" "$(dates bsdgnu.tar)" "crate tar 1, busybox 0, Python 0"
same "GNU tar --format=ustar" "status $ustar, $(grep -c . ustar.log) lines of complaint" "status 2, 2 lines of complaint"
exit $changed

# seen (2026-11-30):
#   GNU tar 1.34, bsdtar 3.6.2, crate tar 0.4.46, busybox 1.35.0, Python 3.11.7
#   guess: -43200 from all, or 0
#   GNU tar's own form: crate tar -43200, busybox -43200, Python -43200
#   GNU tar --format=pax: crate tar 1, busybox 0, Python -43200
#   bsdtar: crate tar -11059168, busybox -11059168, Python -43200
#   bsdtar --format=gnutar: crate tar 1, busybox 0, Python 0
#   GNU tar --format=ustar: status 2, 2 lines of complaint
