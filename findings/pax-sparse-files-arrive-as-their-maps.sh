#!/bin/bash
# libarchive's bsdtar 3.6.2 (Debian 3.6.2-1+deb12u5), GNU tar 1.34+dfsg-1.2+deb12u1, crate tar
# 0.4.46.
#
# One would think: an archiver that was not asked for sparse files (`-S`) writes a file with holes
# as an ordinary entry; and crate `tar`, which knows "GNU sparse", unpacks one whichever way it was
# written, or says that it cannot.
#
# What happens: bsdtar's default form writes every file that has holes as a GNU sparse 1.0 entry,
# unasked; GNU tar does so with -S and --format=posix (in one of three versions). Crate tar knows
# the old GNU type 'S' only. From the others it unpacks, with Ok: version 1.0 a file
# GNUSparseFile.N/NAME that holds the text of the map and then the pieces, version 0.1 the pieces
# alone under that name, version 0.0 the pieces alone under the *right* name, so a disk image of 1
# MiB arrives as 4 KiB with its own name. Python's tarfile and both archivers read all of them.
#
# For this project: tar2qfile's input is whatever tar a user or a backup made. Its reader must know
# the three pax forms (keys GNU.sparse.*: name, realsize, map; size in the map's own block for 1.0)
# and expand them, or refuse an entry that has such a key with its name: never copy it on. Crate tar
# cannot be the reader as it is. Tests: one archive of each of the five kinds.
#
# Source: the manual of GNU tar, "Storing Sparse Files"; libarchive-formats(5) names the forms that
# it writes, not that it does so by itself.
set -u
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
cd "$work" || exit 1
apt-get download -qq libarchive-tools=3.6.2-1+deb12u5 libarchive13=3.6.2-1+deb12u5 tar=1.34+dfsg-1.2+deb12u1 >apt.log 2>&1 ||
	{ echo "these versions are not to be had here (other version: N/A)"; exit 1; }
for package in *.deb; do dpkg -x "$package" tree || exit 1; done
tar=$work/tree/bin/tar
bsdtar() { LD_LIBRARY_PATH=$work/tree/usr/lib/x86_64-linux-gnu "$work/tree/usr/bin/bsdtar" "$@"; }
echo "bsdtar 3.6.2, GNU tar 1.34, crate tar 0.4.46"
echo "guess: a file 'image' of 1,048,576 bytes each time"

mkdir files reader reader/src
truncate -s 1M files/image
printf data | dd of=files/image bs=1 seek=524288 conv=notrunc status=none
bsdtar -cf bsdtar.tar -C files image
$tar -S -cf gnu.tar -C files image
for form in 0.0 0.1 1.0; do $tar -S --format=posix --sparse-version=$form -cf pax-$form.tar -C files image; done

cat >reader/Cargo.toml <<'EOF'
[package]
name = "reader"
version = "0.0.0"
edition = "2021"
[dependencies]
tar = { version = "=0.4.46", default-features = false }
[profile.dev]
debug = 0
EOF
cat >reader/src/main.rs <<'EOF'
fn main() {
    let words: Vec<String> = std::env::args().collect();
    let file = std::fs::File::open(&words[1]).unwrap();
    println!("{:?}", tar::Archive::new(file).unpack(&words[2]).map_err(|e| e.to_string()));
}
EOF
(cd reader && CARGO_TARGET_DIR=$work/target cargo build -q) || exit 1

changed=0
same() {
	if test "$2" = "$3"; then echo "$1: $2"; else
		echo "$1: $2   NOT AS RECORDED: $3"
		changed=1
	fi
}
unpacked() {
	mkdir "out-$1"
	result=$("target/debug/reader" "$1" "out-$1")
	echo "$result $(cd "out-$1" && find . -type f -printf '%P %s' | sed 's/GNUSparseFile\.[0-9]*/GNUSparseFile.N/')"
}
same "written by GNU tar -S" "$(unpacked gnu.tar)" "Ok(()) image 1048576"
same "written by bsdtar, not asked for sparse" "$(unpacked bsdtar.tar)" "Ok(()) GNUSparseFile.N/image 4608"
same "written by GNU tar -S --format=posix, version 1.0" "$(unpacked pax-1.0.tar)" "Ok(()) GNUSparseFile.N/image 4608"
same "version 0.1" "$(unpacked pax-0.1.tar)" "Ok(()) GNUSparseFile.N/image 4096"
same "version 0.0" "$(unpacked pax-0.0.tar)" "Ok(()) image 4096"
for archive in bsdtar.tar gnu.tar pax-0.0.tar pax-0.1.tar pax-1.0.tar; do
	mkdir "again-$archive"
	bsdtar -xf "$archive" -C "again-$archive"
	cmp -s files/image "again-$archive/image" || { echo "bsdtar itself reads $archive differently"; changed=1; }
done
exit $changed

# seen (2026-11-30):
#   bsdtar 3.6.2, GNU tar 1.34, crate tar 0.4.46
#   guess: a file 'image' of 1,048,576 bytes each time
#   written by GNU tar -S: Ok(()) image 1048576
#   written by bsdtar, not asked for sparse: Ok(()) GNUSparseFile.N/image 4608
#   written by GNU tar -S --format=posix, version 1.0: Ok(()) GNUSparseFile.N/image 4608
#   version 0.1: Ok(()) GNUSparseFile.N/image 4096
#   version 0.0: Ok(()) image 4096
