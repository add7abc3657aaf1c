#!/bin/bash
# Times bulk file copies: `perf/copy.sh OURS PEER ROUNDS [FOLDER [pipes|call]]`. OURS and PEER are folders with qfile-agent and
# qfile-unpacker; they are joined by two plain pipes and, where OURS has a qrexec-lab, through a call from one VM of a lab
# to another; "own" is qvm-copy to the receiver that is built in. FOLDER is where files are made, /dev/shm if it is not named.
# Prints one line for each copy: how, what, who, seconds, and for pipes and cp user and system seconds of both sides, for
# calls the busy seconds of the whole machine. Rounds go in turn over all pairs.
set -eu
ours=$(realpath "$1") peer=$(realpath "$2") rounds=$3 top=$(mktemp -d -p "${4:-/dev/shm}")
trap 'rm -rf "$top"' EXIT
uid=$(id -u)
TIMEFORMAT='%R %U %S'

mkdir "$top/large" "$top/small"
head -c $((2 << 30)) /dev/urandom >"$top/large/t"
for folder in $(seq 20); do
    mkdir -p "$top/small/t/$folder"
    head -c $((1000 * 1024)) /dev/urandom | (cd "$top/small/t/$folder" && split -b 1024 -a 3 -d)
done
mkfifo "$top/answer"

whole() { # SOURCE
    [ "$(find "$top/in" | wc -l)" = "$(find "$1" | wc -l)" ] || echo -n " incomplete"
    rm -rf "$top/in"
    echo
}
pipes() { # WHAT WHO SENDER RECEIVER
    mkdir "$top/in"
    echo -n "pipes $1 $2 "
    (cd "$top/$1" && time { "$3" t <"$top/answer" | "$4" "$uid" "$top/in" >"$top/answer"; }) 2>&1 | tr -d '\n'
    whole "$top/$1"
}
busy() { # hundredths of a second that the machine's processors have worked
    awk '$1 == "cpu" { print $2 + $3 + $4 + $7 + $8 }' /proc/stat
}
call() { # WHAT WHO SENDER SERVICE
    mkdir "$top/in"
    echo -n "call $1 $2 "
    local before=$(busy)
    (cd "$top/$1" && TIMEFORMAT=%R && time qrexec-client-vm vault "$4" "$3" t) 2>&1 | tr -d '\n'
    echo -n " $(($(busy) - before))"
    whole "$top/$1"
}
own() { # WHAT
    local arrives
    arrives=$(find "$QUBES_LAB_ROOT" -path '*vault*' -name home -type d | head -1)/QubesIncoming/work
    echo -n "own $1 ours-ours "
    local before=$(busy)
    (cd "$top/$1" && TIMEFORMAT=%R && time qvm-copy --without-progress --to vault t) 2>&1 | tr -d '\n'
    echo -n " $(($(busy) - before))"
    mv "$arrives" "$top/in"
    whole "$top/$1"
}
plain() { # WHAT
    mkdir "$top/in"
    echo -n "cp $1 cp "
    (time cp -r "$top/$1/t" "$top/in/") 2>&1 | tr -d '\n'
    whole "$top/$1"
}
rounds() { # HOW OUR-RECEIVER THEIR-RECEIVER
    for _ in $(seq "$rounds"); do
        for what in large small; do
            "$1" $what ours-ours "$ours/qfile-agent" "$2"
            "$1" $what peer-peer "$peer/qfile-agent" "$3"
            "$1" $what ours-peer "$ours/qfile-agent" "$3"
            "$1" $what peer-ours "$peer/qfile-agent" "$2"
            [ "$1" = pipes ] || own $what
            plain $what
        done
    done
}

echo "$(date -u); $(uname -srm); $(nproc) x $(grep -m1 'model name' /proc/cpuinfo | cut -d: -f2)"
[ "${5:-pipes}" = call ] || rounds pipes "$ours/qfile-unpacker" "$peer/qfile-unpacker"
[ "${5:-call}" = call ] && [ -x "$ours/qrexec-lab" ] || exit 0
service() { # FOLDER
    printf '#!/bin/sh\nexec %s %s %s\n' "$1/qfile-unpacker" "$uid" "$top/in"
}
service "$ours" >"$top/service-ours"
service "$peer" >"$top/service-peer"
chmod +x "$top"/service-*
mkdir -m 700 "$top/run"
export -f rounds call own busy plain whole
export ours peer rounds top uid TIMEFORMAT XDG_RUNTIME_DIR="$top/run" QUBES_LAB_ROOT="$top/run"
"$ours/qrexec-lab" run --service "vault:perf.Ours=$top/service-ours" --service "vault:perf.Peer=$top/service-peer" -- \
    bash -c 'rounds call perf.Ours perf.Peer'
