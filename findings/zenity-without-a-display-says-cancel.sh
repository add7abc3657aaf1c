#!/bin/bash
# zenity 3.44.0 (Debian 3.44.0-1) with GTK 3.24.38 (Debian 3.24.38-2~deb12u3).
#
# One would think: 1 is the user's "Cancel" or "No", 5 a time-out, and trouble of zenity's own is
# 255 (it has its own variables for the codes, ZENITY_CANCEL and ZENITY_ERROR).
#
# What happens: without a display, or with one that cannot be reached, GTK ends the process before
# zenity sees anything, with status 1: for every kind of dialog, for a wrong option and for
# --version too, and ZENITY_ERROR has no say. With a display the same words give 0, 5 and 255.
#
# For this project: a progress dialog that ends with 1 is the user's "Cancel", which stops a copy:
# on a machine without a session, or with DISPLAY=:0 set by guess as upstream's sender does, the
# copy would be "cancelled" before its first byte. Before a dialog is used `zenity --version` must
# end with 0; if it does not, the plain text way is taken. A question without a display is "No" in
# the same way: never build an allowance on "not 0".
#
# Source: zenity's manual, "Environment variables" (ZENITY_ERROR); gtk_init() in GTK's reference
# says that it terminates the program.
set -u
work=$(mktemp -d) || exit 1
server=
trap 'test -z "$server" || kill $server; rm -rf "$work"' EXIT
cd "$work" || exit 1
packages=$(apt-get install --no-install-recommends --print-uris -y zenity=3.44.0-1 libgtk-3-0=3.24.38-2~deb12u3 libgtk-3-bin=3.24.38-2~deb12u3 2>apt.log |
	sed -n "s/^'[^ ]* \([^_]*\)_.*/\1/p")
apt-get download -qq $packages zenity=3.44.0-1 libgtk-3-0=3.24.38-2~deb12u3 libgtk-3-bin=3.24.38-2~deb12u3 >>apt.log 2>&1 ||
	{ echo "zenity 3.44.0-1: not to be had here (other version: N/A)"; exit 1; }
for package in *.deb; do dpkg -x "$package" tree || exit 1; done
libraries=$(find "$work/tree" -name '*.so*' -printf '%h\n' | sort -u | tr '\n' ':')
cp tree/usr/share/zenity/zenity.ui . || exit 1
export XDG_RUNTIME_DIR=$work/run
mkdir -m 0700 run
unset DISPLAY WAYLAND_DISPLAY ZENITY_ERROR
# A display that is a unix socket in this folder.
LD_LIBRARY_PATH=$libraries tree/usr/bin/broadwayd --unixsocket "$work/run/http" :5 >broadway.log 2>&1 &
server=$!
for _ in $(seq 100); do test ! -S run/broadway6.socket || break; sleep 0.1; done
status() {
	echo 40 | LD_LIBRARY_PATH=$libraries timeout 10 tree/usr/bin/zenity "$@" >zenity.log 2>&1
	echo $?
}
shown() { GDK_BACKEND=broadway BROADWAY_DISPLAY=:5 status "$@"; }
changed=0
same() {
	if test "$2" = "$3"; then echo "$1: $2"; else
		echo "$1: $2   NOT AS RECORDED: $3"
		changed=1
	fi
}
echo "zenity 3.44.0, GTK 3.24.38"
echo "guess: 255 from all without a display"
both() { # words, status with a display
	recorded=$1
	shift
	same "zenity $*" "$(shown "$@") with a display, $(status "$@") without" "$recorded with a display, 1 without"
}
both 0 --version
both 0 --progress --auto-close
both 5 --question --text=x --timeout=1
both 5 --error --text=x --timeout=1
both 255 --no-such-option
same "with an X display that is not there" "$(DISPLAY=:4711 status --version)" 1
same "with ZENITY_ERROR=77" "$(ZENITY_ERROR=77 status --error --text=x)" 1
exit $changed

# seen (2026-11-30):
#   zenity 3.44.0, GTK 3.24.38
#   guess: 255 from all without a display
#   zenity --version: 0 with a display, 1 without
#   zenity --progress --auto-close: 0 with a display, 1 without
#   zenity --question --text=x --timeout=1: 5 with a display, 1 without
#   zenity --error --text=x --timeout=1: 5 with a display, 1 without
#   zenity --no-such-option: 255 with a display, 1 without
#   with an X display that is not there: 1
#   with ZENITY_ERROR=77: 1
