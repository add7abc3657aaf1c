#!/bin/bash
# notify-send of libnotify 0.8.1 (Debian 0.8.1-1), dbus-daemon 1.14.10 (Debian 1.14.10-1~deb12u1),
# GLib 2.74.
#
# One would think: a notice is shown or not, at once: nobody there to show it is an error; a
# notification service that hangs costs the 25 seconds that a call on the bus has.
#
# What happens: without a bus, or without a service on it, it ends with 1 at once. With a service
# that owns its name and does not answer (a desktop that is starting, suspended or stopped in a
# debugger) notify-send makes three calls one after the other, each with its own 25 seconds: 75 s
# until it ends with 1. No option sets a limit (--expire-time is the notice's).
#
# For this project: a notice ("refused", "copied") that a script or one of our programs shows with
# notify-send must not stand in the way of the call: start it in a session of its own without our
# streams, never wait for it, end it after 2 s. The same for calls on the bus of our own: a limit
# for all of them together.
#
# Source: seen here, three method calls in dbus-monitor; notify-send(1) has no word of it.
set -u
work=$(mktemp -d) || exit 1
daemon= hole=
trap 'kill $hole $daemon 2>/dev/null; rm -rf "$work"' EXIT
cd "$work" || exit 1
packages=$(apt-get install --no-install-recommends --print-uris -y libnotify-bin=0.8.1-1 2>apt.log | sed -n "s/^'[^ ]* \([^_]*\)_.*/\1/p")
apt-get download -qq $packages libnotify-bin=0.8.1-1 libnotify4=0.8.1-1 dbus-daemon=1.14.10-1~deb12u1 \
	dbus-bin=1.14.10-1~deb12u1 dbus-tests=1.14.10-1~deb12u1 libdbus-1-3=1.14.10-1~deb12u1 >>apt.log 2>&1 || { echo "libnotify 0.8.1-1: not to be had here (other version: N/A)"; exit 1; }
for package in *.deb; do dpkg -x "$package" tree || exit 1; done
libraries=$(find "$work/tree" -name '*.so*' -printf '%h\n' | sort -u | tr '\n' ':')
unset DISPLAY XDG_RUNTIME_DIR
run() { LD_LIBRARY_PATH=$libraries "$@"; }
cat >bus.conf <<END
<busconfig><type>session</type><listen>unix:path=$work/bus</listen><auth>EXTERNAL</auth>
<policy context="default"><allow send_destination="*" eavesdrop="true"/><allow eavesdrop="true"/><allow own="*"/></policy></busconfig>
END
result() {
	run timeout "$1" tree/usr/bin/notify-send hello >notify.log 2>&1
	case $? in 0) echo "0" ;; 1) echo "1" ;; 124) echo "not ended" ;; *) echo "other" ;; esac
}
changed=0
same() {
	if test "$2" = "$3"; then echo "$1: $2"; else
		echo "$1: $2   NOT AS RECORDED: $3"
		changed=1
	fi
}
echo "notify-send 0.8.1"
echo "guess: 1 at once, 1 at once, 1 after 25 s"
export DBUS_SESSION_BUS_ADDRESS=unix:path=$work/bus
same "no bus, within 5 s" "$(result 5)" 1
LD_LIBRARY_PATH=$libraries tree/usr/bin/dbus-daemon --config-file="$work/bus.conf" --nofork 2>daemon.log &
daemon=$!
for _ in $(seq 100); do test ! -S bus || break; sleep 0.1; done
same "nobody shows notices, within 5 s" "$(result 5)" 1
LD_LIBRARY_PATH=$libraries tree/usr/bin/dbus-test-tool black-hole --session --name=org.freedesktop.Notifications &
hole=$!
for _ in $(seq 100); do
	run tree/usr/bin/dbus-send --session --print-reply --dest=org.freedesktop.DBus / org.freedesktop.DBus.NameHasOwner string:org.freedesktop.Notifications 2>/dev/null | grep -q true && break
	sleep 0.1
done
same "a service that does not answer, within 45 s" "$(result 45)" "not ended"
exit $changed

# seen (2026-11-30):
#   notify-send 0.8.1
#   guess: 1 at once, 1 at once, 1 after 25 s
#   no bus, within 5 s: 1
#   nobody shows notices, within 5 s: 1
#   a service that does not answer, within 45 s: not ended
