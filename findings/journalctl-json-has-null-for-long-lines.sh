#!/bin/bash
# systemd 252.39 (Debian 252.39-1~deb12u2), journalctl -o json.
#
# One would think: the JSON form is the exact one: MESSAGE is the text, whole, or cut with a mark.
#
# What happens: a field whose name, `=` and value make 4,096 bytes or more is null, so a MESSAGE of
# 4,088 bytes; nothing tells how long it was, the status is 0, and the same entry is printed whole
# by the other forms. A text with one control byte (an escape, a carriage return at the end) or bad
# UTF-8 is an array of numbers; a tab or newline keeps it a string. With --all the long ones are
# strings. The plain form takes escape sequences and a final carriage return away.
#
# For this project: a service's error output goes to the journal line by line, up to 48 KiB in each;
# whoever collects it as JSON (monitoring, our own tests) sees null for the long ones, and arrays
# for lines with colours. Tests read with `-o json --all` or `-o export` and accept strings and
# arrays; docs/ names --all; our own log lines stay below 4,000 bytes.
#
# Source: journalctl(1), -o json: "values larger than 4096 bytes are encoded as null" (in fact name
# and value together, and from 4096 on).
set -u
version=252.39-1~deb12u2
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
cd "$work" || exit 1
apt-get download -qq systemd=$version libsystemd-shared=$version libsystemd0=$version systemd-journal-remote=$version libmicrohttpd12=0.9.75-6 >apt.log 2>&1 ||
	{ echo "systemd $version: not to be had here (other version: N/A)"; exit 1; }
for package in *.deb; do dpkg -x "$package" tree || exit 1; done
libraries=$(find "$work/tree" -name '*.so*' -printf '%h\n' | sort -u | tr '\n' ':')
cat >entries.py <<'EOF'
import struct, sys
moment = 1700000000000000
for text in (b"short", b"x" * 4087, b"x" * 4088, b"a\ttab", b"\x1b[1mbold", b"return\r", b"\xff"):
    moment += 1000000
    sys.stdout.buffer.write(b"__REALTIME_TIMESTAMP=%d\n__MONOTONIC_TIMESTAMP=%d\n_BOOT_ID=%s\n" % (moment, moment, b"1" * 32))
    sys.stdout.buffer.write(b"MESSAGE\n" + struct.pack("<Q", len(text)) + text + b"\n\n")
EOF
cat >kinds.py <<'EOF'
import json, sys
def kind(value):
    if value is None:
        return "null"
    return "%s of %d" % ("string" if isinstance(value, str) else "array", len(value))
print(", ".join(kind(json.loads(line)["MESSAGE"]) for line in sys.stdin))
EOF
python3 entries.py | LD_LIBRARY_PATH=$libraries tree/lib/systemd/systemd-journal-remote -o "$work/it.journal" - >remote.log 2>&1 || { cat remote.log; exit 1; }
read_json() { LD_LIBRARY_PATH=$libraries tree/bin/journalctl --file it.journal -o json "$@" | python3 kinds.py; }
changed=0
same() {
	if test "$2" = "$3"; then echo "$1: $2"; else
		echo "$1: $2   NOT AS RECORDED: $3"
		changed=1
	fi
}
echo "journalctl $version"
echo "guess: a string each time, of 5, 4087, 4088, 5, 8, 7 characters; an array for bad UTF-8 alone"
same "-o json" "$(read_json)" "string of 5, string of 4087, null, string of 5, array of 8, array of 7, array of 1"
same "-o json --all" "$(read_json --all)" "string of 5, string of 4087, string of 4088, string of 5, array of 8, array of 7, array of 1"
exit $changed

# seen (2026-11-30):
#   journalctl 252.39-1~deb12u2
#   guess: a string each time, of 5, 4087, 4088, 5, 8, 7 characters; an array for bad UTF-8 alone
#   -o json: string of 5, string of 4087, null, string of 5, array of 8, array of 7, array of 1
#   -o json --all: string of 5, string of 4087, string of 4088, string of 5, array of 8, array of 7, array of 1
