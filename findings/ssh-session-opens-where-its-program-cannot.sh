#!/bin/bash
# OpenSSH 9.2p1 (Debian 1:9.2p1-2+deb12u10): sshd with fewer descriptors than MaxSessions asks for.
#
# One would think: a session for which sshd has no descriptors is refused like one behind
# MaxSessions ("Session open refused by peer"), or ends with a status and a reason.
#
# What happens: the session is opened, the master says so, and then everything ends: no byte, no
# exit status, nothing on stderr; `ssh -S` makes 255 of it without a word. The reason is in the far
# machine's log only. A session costs sshd about three descriptors, and systemd gives a service
# 1,024: about 330 sessions, whatever MaxSessions says.
#
# For this project: an opened session proves nothing. A session greets before a call is given to
# it; one that ends before its greeting and without a status has run nothing, so the call may look
# for another place. And the page recommends LimitNOFILE beside MaxSessions.
#
# Source: sshd_config(5), MaxSessions, says nothing of it.
. "$(dirname "$0")/common/sshd.sh"
echo "guess: of 40 sessions with 64 descriptors the last ones are refused"
cat >far.sh <<'END'
#!/bin/sh
echo here
exec cat
END
cat >case.py <<'END'
import os, struct, sys
from mux import Master

kept, whole, empty, refused = [], 0, 0, 0
after = set()
for _ in range(40):
    (stdin, feed), (out, stdout), (err, stderr) = os.pipe(), os.pipe(), os.pipe()
    master = Master("m")
    master.session(b"x", stdin, stdout, stderr)
    for descriptor in (stdin, stdout, stderr):
        os.close(descriptor)
    if struct.unpack(">I", master.packet()[:4])[0] != 0x80000006:
        refused += 1
    elif os.read(out, 100) == b"here\n":
        whole += 1
    else:
        empty += 1
        after.add("the end" if master.packet() is None else "a status")
        after.add(f"{len(os.read(err, 100))} bytes on stderr")
    kept.append((master, feed, out, err))
print(f"opened, with a program: {whole}")
seen = [("refused", refused == 0, refused), ("opened, without one", empty > 10, empty),
        ("behind these", after == {"the end", "0 bytes on stderr"}, ", ".join(sorted(after)))]
for name, good, value in seen:
    print(f"{name}: {value}" + ("" if good else "   NOT AS RECORDED"))
sys.exit(not all(good for _, good, _ in seen))
END
cat >case.sh <<'END'
sed -i "s|^ProxyCommand .*|ProxyCommand /bin/bash -c 'ulimit -n 64; exec $sshd -i -E $PWD/slog -f $PWD/sshd.conf'|" ssh.conf
echo "MaxSessions 1000" >>sshd.conf
$ssh -F ssh.conf -S m -M -N -f -E log far || exit 1
timeout 60 python3 case.py || exit 1
said=$(grep pipe slog | sort -u | tr -d '\r')
echo "the far log: $said"
test "$said" = "do_exec_no_pty: pipe err: Too many open files"
END
in_lab case.sh

# seen (2026-12-01):
#   openssh 1:9.2p1-2+deb12u10
#   guess: of 40 sessions with 64 descriptors the last ones are refused
#   opened, with a program: 17
#   refused: 0
#   opened, without one: 23
#   behind these: 0 bytes on stderr, the end
#   the far log: do_exec_no_pty: pipe err: Too many open files
