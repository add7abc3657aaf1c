#!/bin/bash
# socat 1.7.4.4 (Debian 1.7.4.4-2) and systemd-socket-proxyd 252.39 (Debian 252.39-1~deb12u2).
#
# One would think: a forwarder between two sockets passes the end of one direction on and carries
# the other direction until that ends, too, as a service with one socket does.
#
# What happens: socat passes the end on and leaves half a second later, with status 0, whether or
# not the other side has answered (-t SECONDS sets the wait). systemd-socket-proxyd closes both
# connections at the first end that it sees, at once, and has no option. A server that needs longer
# is cut off (broken pipe); the client sees an empty answer and no error.
#
# For this project: upstream's qvm-connect-tcp and dom0's qubes.ConnectTCP put socat in the middle
# of a call, and socket units put proxyd there: a client that sends its request, shuts down its
# writing side and waits (`nc -N`) gets an answer from quick servers only, or from none. Ours
# connect by themselves and keep both directions apart; units of ours start the client with
# Accept=yes on the socket itself; mixed tests with upstream's scripts do not half-close; the
# documentation names both for whoever keeps them.
#
# Source: socat(1), option -t, "the default is 0.5 seconds"; systemd-socket-proxyd(8) does not say.
set -u
version=1.7.4.4-2
work=$(mktemp -d) || exit 1
children=
trap 'kill $children 2>/dev/null; rm -rf "$work"' EXIT
cd "$work" || exit 1
systemd=252.39-1~deb12u2
apt-get download -qq socat=$version libwrap0=7.6.q-32 systemd=$systemd libsystemd-shared=$systemd libsystemd0=$systemd >apt.log 2>&1 ||
	{ echo "socat $version, systemd $systemd: not to be had here (other version: N/A)"; exit 1; }
for package in *.deb; do dpkg -x "$package" tree || exit 1; done
LD_LIBRARY_PATH=$(find "$work/tree" -name '*.so*' -printf '%h\n' | sort -u | tr '\n' ':')
echo "socat $version, systemd-socket-proxyd $systemd"
echo "guess: [answer to request] each time"
cat >server.py <<'EOF'
import socket, sys, time
listener = socket.socket(socket.AF_UNIX)
listener.bind("server")
listener.listen(8)
print("ready", flush=True)
while True:
    link, _ = listener.accept()
    request = b""
    while more := link.recv(4096):
        request += more
    wait, text = request.split()
    time.sleep(float(wait))
    try:
        link.sendall(b"answer to " + text)
    except OSError as error:
        open("trouble", "w").write(error.strerror)
    link.close()
EOF
python3 server.py >ready &
children=$!
until test -s ready; do kill -0 $children || exit 1; sleep 0.05; done
changed=0
same() {
	if test "$2" = "$3"; then echo "$1: $2"; else
		echo "$1: $2   NOT AS RECORDED: $3"
		changed=1
	fi
}
ask() { echo "[$(echo "$1 request" | LD_LIBRARY_PATH=$LD_LIBRARY_PATH tree/usr/bin/socat ${2-} - UNIX-CONNECT:server)] status $?"; }
same "socat, answer at once" "$(ask 0)" "[answer to request] status 0"
same "socat, answer after 2 s" "$(ask 2)" "[] status 0"
same "socat, answer after 2 s, -t 10" "$(ask 2 -t10)" "[answer to request] status 0"
same "socat, what the server saw" "$(cat trouble)" "Broken pipe"

cat >client.py <<'EOF'
import socket, sys
link = socket.socket(socket.AF_UNIX)
link.connect(sys.argv[1])
link.settimeout(10)
link.sendall(sys.argv[2].encode() + b" request")
link.shutdown(socket.SHUT_WR)
answer = b""
while more := link.recv(4096):
    answer += more
print("[%s]" % answer.decode())
EOF
LD_LIBRARY_PATH=$LD_LIBRARY_PATH tree/usr/bin/systemd-socket-activate -l "$work/front" \
	"$work/tree/lib/systemd/systemd-socket-proxyd" "$work/server" >proxy.log 2>&1 &
children="$children $!"
until test -S front; do kill -0 $! || exit 1; sleep 0.05; done
same "directly, answer after 0.2 s" "$(python3 client.py server 0.2)" "[answer to request]"
same "proxyd, answer after 0.2 s" "$(python3 client.py front 0.2)" "[]"
exit $changed


# seen (2026-11-30):
#   socat 1.7.4.4-2, systemd-socket-proxyd 252.39-1~deb12u2
#   guess: [answer to request] each time
#   socat, answer at once: [answer to request] status 0
#   socat, answer after 2 s: [] status 0
#   socat, answer after 2 s, -t 10: [answer to request] status 0
#   socat, what the server saw: Broken pipe
#   directly, answer after 0.2 s: [answer to request]
#   proxyd, answer after 0.2 s: []
