#!/bin/bash
# checkpolicy 3.4 (Debian 3.4-1+b2), semodule-utils 3.4-1, selinux-utils 3.4-1+b6.
#
# One would think: `checkmodule -M -m` and `semodule_package -f` are the compiler of a policy
# module: a class or permission with a typing error and a .fc file that is not one are refused.
#
# What happens: whatever a `require` block names is believed: a class, a permission, an attribute
# that no policy has compile with status 0 and without a word. (A name that is *not* required is an
# error; so is a module whose file has another name than it.) semodule_package puts the .fc file
# into the package as it is, text that is no such file included. Both faults show at the
# installation on the user's machine only, where the whole module is refused.
#
# For this project: "the SELinux sources compile" is no test. CI compares the classes and
# permissions of each require block with a real policy's list, runs sefcontext_compile over the .fc
# file (it names a line with a wrong field or type of file), and looks each of our paths up in it.
#
# Source: checkmodule(8), semodule_package(8).
set -u
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
cd "$work" || exit 1
apt-get download -qq checkpolicy=3.4-1+b2 semodule-utils=3.4-1 selinux-utils=3.4-1+b6 libsepol2=3.4-2.1 libselinux1=3.4-1+b6 >apt.log 2>&1 ||
	{ echo "these versions are not to be had here (other version: N/A)"; exit 1; }
for package in *.deb; do dpkg -x "$package" tree || exit 1; done
LD_LIBRARY_PATH=$(find "$work/tree" -name '*.so*' -printf '%h\n' | sort -u | tr '\n' ':')
export LD_LIBRARY_PATH PATH="$work/tree/usr/bin:$work/tree/usr/sbin:$work/tree/sbin:$PATH"
echo "checkpolicy 3.4, semodule-utils 3.4"
echo "guess: status not 0 for everything but the first"
module() { # NAME CLASS PERMISSION ATTRIBUTE ALLOWED
	cat >"$1.te" <<EOF
module $1 1.0;
require {
	type unconfined_t;
	attribute $4;
	class $2 $3;
}
type qrexec_socket_t, $4;
allow unconfined_t qrexec_socket_t:$2 $5;
EOF
	checkmodule -M -m -o "$1.mod" "$1.te" >out 2>&1
	echo "status $?, $(wc -l <out) lines"
}
changed=0
same() {
	if test "$2" = "$3"; then echo "$1: $2"; else
		echo "$1: $2   NOT AS RECORDED: $3"
		changed=1
	fi
}
same "a right module" "$(module right sock_file write file_type write)" "status 0, 0 lines"
same "permission of no class: wirte" "$(module one sock_file wirte file_type wirte)" "status 0, 0 lines"
same "class of no policy: sokc_file" "$(module two sokc_file write file_type write)" "status 0, 0 lines"
same "attribute of no policy: flie_type" "$(module three sock_file write flie_type write)" "status 0, 0 lines"
same "permission that is not required" "$(module four sock_file write file_type read | sed 's/,.*//')" "status 1"
echo 'this is no file of contexts' >right.fc
semodule_package -o right.pp -m right.mod -f right.fc >out 2>&1
same "a .fc file that is none, packed" "status $?, $(wc -l <out) lines" "status 0, 0 lines"
sefcontext_compile -o right.bin right.fc >out 2>&1
same "the same by sefcontext_compile" "status $?, $(grep -c 'line 1 has invalid file type' out) line" "status 255, 1 line"
exit $changed

# seen (2026-11-30):
#   checkpolicy 3.4, semodule-utils 3.4
#   guess: status not 0 for everything but the first
#   a right module: status 0, 0 lines
#   permission of no class: wirte: status 0, 0 lines
#   class of no policy: sokc_file: status 0, 0 lines
#   attribute of no policy: flie_type: status 0, 0 lines
#   permission that is not required: status 1
#   a .fc file that is none, packed: status 0, 0 lines
#   the same by sefcontext_compile: status 255, 1 line
