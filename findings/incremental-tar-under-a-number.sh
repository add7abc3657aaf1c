#!/bin/bash
# GNU tar 1.34 (Debian 1.34+dfsg-1.2+deb12u1) as writer; readers: Python 3.11.2's tarfile (Debian
# 3.11.2-6+deb12u9), Archive::Tar 2.40 (perl 5.36.0-7+deb12u4), bsdtar 3.6.2, crate tar 0.4.46.
#
# One would think: a backup made with --listed-incremental holds the files under the names that
# were given; a reader that does not know the extra entries leaves those out.
#
# What happens: in GNU's own form the last 155 bytes of a header are no name prefix: with
# --listed-incremental the access time and change time stand there in octal. Python's tarfile and
# Perl's Archive::Tar look at the field without looking at the magic ("ustar  " there, "ustar" and
# NUL in the POSIX form), and put the digits in front of every name: 15303367432/d/c. They end
# without a word; as the number differs from file to file, one folder becomes many. bsdtar and
# crate tar read the names as they are, and make a folder of the entries of type D, as GNU tar
# does. With --format=posix all agree. The entry that --label makes has empty number fields: crate
# tar says Err and nothing of the archive is read, tarfile makes an empty file of the label.
#
# For this project: tar2qfile's input is what a backup made: prefix only after "ustar\0"; an entry
# of type D is a folder whose body is skipped, one of type V nothing, and an empty number is 0;
# tests with a real incremental archive and a labelled one. A test that compares by Python's
# tarfile would report our right names as wrong.
#
# Source: GNU tar's manual, "Basic Tar Format" (struct oldgnu_header).
set -u
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
cd "$work" || exit 1
apt-get download -qq tar=1.34+dfsg-1.2+deb12u1 libarchive-tools=3.6.2-1+deb12u5 libarchive13=3.6.2-1+deb12u5 \
	python3.11-minimal=3.11.2-6+deb12u9 libpython3.11-minimal=3.11.2-6+deb12u9 libpython3.11-stdlib=3.11.2-6+deb12u9 \
	perl-modules-5.36=5.36.0-7+deb12u4 >apt.log 2>&1 || { echo "these versions are not to be had here (other version: N/A)"; exit 1; }
for package in *.deb; do dpkg -x "$package" tree || exit 1; done
mkdir -p files/d reader/src
echo data >files/d/c
touch -d @1700000000 files/d/c files/d
tree/bin/tar -C files -g snapshot -cf gnu.tar d
tree/bin/tar -C files -g snapshot.posix --format=posix -cf posix.tar d
tree/bin/tar -C files -V 'my backup' -cf label.tar d
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
    for entry in tar::Archive::new(file).entries().unwrap() {
        match entry {
            Ok(entry) => println!("{}", entry.path().unwrap().display()),
            Err(error) => println!("{error}"),
        }
    }
}
END
(cd reader && CARGO_TARGET_DIR=$work/target cargo build -q) || exit 1
names() { # of files, digits of the number as N
	case $1 in
	tarfile) PYTHONHOME=$work/tree/usr tree/usr/bin/python3.11 -c 'import sys, tarfile; print(*tarfile.open(sys.argv[1]).getnames(), sep="\n")' "$2" ;;
	Archive::Tar) perl -I tree/usr/share/perl/5.36.0 -MArchive::Tar -e 'print "$_\n" for Archive::Tar->list_archive($ARGV[0])' "$2" ;;
	bsdtar) LD_LIBRARY_PATH=$work/tree/usr/lib/x86_64-linux-gnu tree/usr/bin/bsdtar -tf "$2" ;;
	"crate tar") target/debug/reader "$2" ;;
	esac 2>/dev/null | grep "${3:-c}\$" | sed 's/^[0-7]\{11\}/N/'
}
changed=0
same() {
	if test "$2" = "$3"; then echo "$1: $2"; else
		echo "$1: $2   NOT AS RECORDED: $3"
		changed=1
	fi
}
echo "GNU tar 1.34, tarfile of Python 3.11.2, Archive::Tar 2.40, bsdtar 3.6.2, crate tar 0.4.46"
echo "guess: d/c each time"
for reader in tarfile Archive::Tar bsdtar "crate tar"; do
	case $reader in tarfile | Archive::Tar) recorded=N/d/c ;; *) recorded=d/c ;; esac
	same "$reader, --listed-incremental" "$(names "$reader" gnu.tar)" "$recorded"
	same "$reader, the same with --format=posix" "$(names "$reader" posix.tar)" d/c
done
same "crate tar, --label" "$(names "crate tar" label.tar .)" "numeric field was not a number:  when getting size for my backup"
same "tarfile, --label" "$(names tarfile label.tar backup)" "my backup"
exit $changed

# seen (2026-11-30):
#   GNU tar 1.34, tarfile of Python 3.11.2, Archive::Tar 2.40, bsdtar 3.6.2, crate tar 0.4.46
#   guess: d/c each time
#   tarfile, --listed-incremental: N/d/c
#   tarfile, the same with --format=posix: d/c
#   Archive::Tar, --listed-incremental: N/d/c
#   Archive::Tar, the same with --format=posix: d/c
#   bsdtar, --listed-incremental: d/c
#   bsdtar, the same with --format=posix: d/c
#   crate tar, --listed-incremental: d/c
#   crate tar, the same with --format=posix: d/c
#   crate tar, --label: numeric field was not a number:  when getting size for my backup
#   tarfile, --label: my backup
