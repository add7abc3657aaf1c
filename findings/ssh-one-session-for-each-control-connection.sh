#!/bin/bash
# OpenSSH 9.2p1 (Debian 1:9.2p1-2+deb12u10), the control socket of a master (PROTOCOL.mux).
#
# One would think: every request on the control socket has an id and every session a number, so that
# one control connection carries many sessions, one behind the other at least.
#
# What happens: it carries one. A second request while the first session runs is refused with
# "Multiple sessions not supported" (other requests, an alive check for one, are answered
# meanwhile), and after the session's end the master closes the connection.
#
# For this project: each call needs a connection of its own to the socket (with the HELLO of both
# sides), and a session that is opened ahead holds one. So a relay with 1,000 calls has 1,000
# connections and the descriptors to go with them, and the refusal of a *place* (MaxSessions) must
# be told from this one by its text: trying again on the same connection never helps.
#
# Source: PROTOCOL.mux of openssh-portable, section 2, does not say it; its introduction speaks of
# "multiple concurrent sessions".
. "$(dirname "$0")/common/sshd.sh"
echo "guess: both sessions are opened, on one connection"
cat >far.sh <<'EOF'
#!/bin/sh
read line
exit 5
EOF
cat >case.py <<'EOF'
import os, struct, sys
from mux import Master, text

null = os.open("/dev/null", os.O_RDWR)
stdin, feed = os.pipe()
master = Master("m")

def kind(packet):
    if packet is None:
        return "the end"
    number = struct.unpack(">I", packet[:4])[0]
    names = {0x80000003: "failure: " + packet[12:].decode("latin-1"), 0x80000004: "exit status",
             0x80000005: "alive", 0x80000006: "opened"}
    return names.get(number, hex(number))

seen = []
master.session(b"first", stdin, null, null)
seen.append(("first session", kind(master.packet()), "opened"))
master.link.sendall(text(struct.pack(">II", 0x10000004, 9)))
seen.append(("alive check meanwhile", kind(master.packet()), "alive"))
master.session(b"second", null, null, null)
seen.append(("second session", kind(master.packet()), "failure: Multiple sessions not supported"))
os.write(feed, b"\n")
seen.append(("first session ends", kind(master.packet()), "exit status"))
seen.append(("and then", kind(master.packet()), "the end"))
bad = 0
for name, text_seen, expected in seen:
    print(f"{name}: {text_seen}" + ("" if text_seen == expected else f"   NOT AS RECORDED: {expected}"))
    bad += text_seen != expected
sys.exit(bad != 0)
EOF
cat >case.sh <<'EOF'
$ssh -F ssh.conf -S m -M -N -f -E log far || exit 1
timeout 60 python3 case.py
EOF
in_lab case.sh

# seen (2026-11-30):
#   openssh 1:9.2p1-2+deb12u10
#   guess: both sessions are opened, on one connection
#   first session: opened
#   alive check meanwhile: alive
#   second session: failure: Multiple sessions not supported
#   first session ends: exit status
#   and then: the end
