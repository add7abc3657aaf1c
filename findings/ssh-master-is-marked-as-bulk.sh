#!/bin/bash
# OpenSSH 9.2p1 (Debian 1:9.2p1-2+deb12u10), the mark (IP_TOS) of a master's connection.
#
# One would think: a connection that carries sessions of all kinds has no mark, or the one for
# interactive sessions as long as nothing large moves.
#
# What happens: a master without a session of its own (-M -N) marks its packets as bulk data as soon
# as it has authenticated (0x08 in Debian; upstream's default is CS1, "lower effort"), and sshd does
# the same with the first session that has no terminal. What moves plays no part in it. Both keep it
# as long as the connection lasts.
#
# For this project: behind a router that honours marks every call of a link waits behind everybody
# else's traffic, small ones too. The link's configuration says `IPQoS none`, and the page names the
# same line for the far sshd, whose answers are marked by its own configuration.
#
# Source: ssh_config(5), IPQoS, speaks of interactive and non-interactive sessions, not of a master
# that has none. The connection here is one over the loopback; its listener is closed at once.
. "$(dirname "$0")/common/sshd.sh"
echo "guess: 0x0 or 0x10 at both ends while only small commands run"
cat >far.sh <<'END'
#!/bin/sh
exec true
END
cat >proxy.py <<'END'
"""Gives ssh a TCP connection to an sshd -i, and writes down how both ends are marked whenever that changes."""
import os, socket, subprocess, sys, time

listener = socket.create_server(("127.0.0.1", 0))
near = socket.create_connection(listener.getsockname())
far, _ = listener.accept()
listener.close()
subprocess.Popen(sys.argv[1:], stdin=far, stdout=far, stderr=subprocess.DEVNULL)
socket.send_fds(socket.socket(fileno=1), [b"\0"], [near.fileno()])
if os.fork():
    os._exit(0)
seen = None
while True:
    now = tuple(end.getsockopt(socket.IPPROTO_IP, socket.IP_TOS) for end in (near, far))
    if now != seen:
        seen = now
        with open("marks", "a") as marks:
            print(*(hex(mark) for mark in now), file=marks)
    time.sleep(0.01)
END
cat >case.sh <<'END'
sed -i "s|^ProxyCommand .*|ProxyUseFdpass yes\nProxyCommand python3 $PWD/proxy.py $sshd -i -f $PWD/sshd.conf|" ssh.conf
bad=0
at() { # NAME EXPECTED OPTIONS: ssh's mark and sshd's, without a session and after a small one
	rm -f marks
	$ssh -F ssh.conf $3 -S m -M -N -f -E log far || { cat log; exit 1; }
	sleep 1
	seen="$(tail -n 1 marks)"
	$ssh -F ssh.conf -S m far true || exit 1
	sleep 1
	seen="$seen, $(tail -n 1 marks)"
	$ssh -F ssh.conf -S m -O exit far 2>/dev/null
	if test "$seen" = "$2"; then echo "$1: $seen"; else
		echo "$1: $seen   NOT AS RECORDED: $2"
		bad=1
	fi
}
at "as it is" "0x8 0x0, 0x8 0x8" ""
at "IPQoS none" "0x0 0x0, 0x0 0x8" "-o IPQoS=none"
exit $bad
END
in_lab case.sh

# seen (2026-12-01):
#   openssh 1:9.2p1-2+deb12u10
#   guess: 0x0 or 0x10 at both ends while only small commands run
#   as it is: 0x8 0x0, 0x8 0x8
#   IPQoS none: 0x0 0x0, 0x0 0x8
