#!/bin/sh
# The first process of a VM: runs what dom0 asks for, through keys in xenstore.
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/pts /dev/shm /run/qubes
mount -t tmpfs shm /dev/shm
mount -t devpts pts /dev/pts
export PATH=/test:/bin HOME=/root
. /etc/functions.sh
load_modules
ifconfig lo 127.0.0.1
export DOMID=$(xenstore-read domid) NAME=$(xenstore-read name)
echo "$NAME is up as domain $DOMID"
hostname "$NAME"
xenstore-write data/lab/up 1

# Keys data/lab/job/1, 2, ... hold commands; the exit status of each goes to data/lab/done/1, 2, ...
next=1
while :; do
    if job=$(xenstore-read "data/lab/job/$next" 2>/dev/null); then
        (
            sh -c "$job" </dev/null
            xenstore-write "data/lab/done/$next" $?
        ) 2>&1 &
        next=$((next + 1))
    else
        # One event at once and one for the change; the limit, because the key may have come just before.
        timeout 3 xenstore-watch -n 2 "data/lab/job/$next" >/dev/null 2>&1
    fi
done
