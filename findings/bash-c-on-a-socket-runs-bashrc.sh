#!/bin/bash
# Debian's bash, version 5.2.15-2+b13.
#
# One would think: `bash -c COMMAND` is neither interactive nor a login shell, so it reads no
# start-up file, whatever its descriptors are.
#
# What happens: bash asks getpeername() about its stdin. When that answers (any socket, also one end
# of an unnamed socketpair) and SHLVL is below 2, bash takes itself for a command started over the
# network and runs ~/.bashrc first, with the command's own stdin and stdout. A .bashrc that prints
# puts its text in front of the answer; one that reads takes bytes of the caller's data. With a pipe
# as stdin, with SHLVL of 1 or more in the environment, with --norc, or under the name `sh`, nothing
# is read. `exec bash -c …` typed into a bash that reads its commands from a socket meets it, too:
# `exec` takes one off SHLVL again.
#
# For this project: a service's stdin is a socketpair, and qvm-run sends `exec bash -c 'COMMAND' ||
# exit 127` to qubes.VMShell. So the account's .bashrc runs in front of every such command, and the
# same call behaves otherwise where a service is configured to get pipes. Whoever starts bash for a
# command must say --norc (or leave SHLVL set), and a test needs a home whose .bashrc prints and
# reads.
#
# Source: bash(1), INVOCATION, "when it is being run with its standard input connected to a network
# connection"; that one end of a socketpair counts as such it does not say.
set -u
version=5.2.15-2+b13
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
cd "$work" || exit 1
apt-get download -qq "bash=$version" >apt.log 2>&1 || { echo "bash $version: not to be had here (other version: N/A)"; exit 1; }
dpkg -x bash_*.deb tree || exit 1
echo "bash $version"
echo "guess: bash -c reads no start-up file, on a socket as on a pipe: 'abcdef' comes back everywhere"
mkdir home
printf 'echo start-up file ran\nhead -c 3 >/dev/null\n' >home/.bashrc

cat >run.py <<'EOF'
import os, socket, subprocess, sys
bash = os.path.abspath(sys.argv[1])

def run(stdin, argv, data=b"abcdef", **more):
    env = {"HOME": os.path.abspath("home"), "PATH": os.path.dirname(bash) + ":/usr/bin:/bin", **more}
    if stdin == "pipe":
        return subprocess.run(argv, executable=bash, input=data, stdout=subprocess.PIPE, env=env).stdout
    ours, theirs = socket.socketpair()
    ours.sendall(data)
    ours.shutdown(socket.SHUT_WR)
    return subprocess.run(argv, executable=bash, stdin=theirs, stdout=subprocess.PIPE, env=env).stdout

ran = b"start-up file ran\ndef"
cases = [
    ("pipe, bash -c", run("pipe", ["bash", "-c", "cat"]), b"abcdef"),
    ("socket, bash -c", run("socket", ["bash", "-c", "cat"]), ran),
    ("socket, bash -c, SHLVL=1", run("socket", ["bash", "-c", "cat"], SHLVL="1"), b"abcdef"),
    ("socket, bash --norc -c", run("socket", ["bash", "--norc", "-c", "cat"]), b"abcdef"),
    ("socket, the same file as sh -c", run("socket", ["sh", "-c", "cat"]), b"abcdef"),
    ("pipe, exec bash -c from commands", run("pipe", ["bash"], b"exec bash -c cat\nabcdef"), b"abcdef"),
    ("socket, exec bash -c from commands", run("socket", ["bash"], b"exec bash -c cat\nabcdef"), ran),
]
bad = 0
for name, seen, expected in cases:
    print(f"{name}: {seen!r}" + ("" if seen == expected else f"  NOT AS RECORDED: {expected!r}"))
    bad += seen != expected
sys.exit(bad != 0)
EOF
python3 run.py tree/bin/bash

# seen (2026-11-30):
#   bash 5.2.15-2+b13
#   guess: bash -c reads no start-up file, on a socket as on a pipe: 'abcdef' comes back everywhere
#   pipe, bash -c: b'abcdef'
#   socket, bash -c: b'start-up file ran\ndef'
#   socket, bash -c, SHLVL=1: b'abcdef'
#   socket, bash --norc -c: b'abcdef'
#   socket, the same file as sh -c: b'abcdef'
#   pipe, exec bash -c from commands: b'abcdef'
#   socket, exec bash -c from commands: b'start-up file ran\ndef'
