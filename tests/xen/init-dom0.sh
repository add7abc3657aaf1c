#!/bin/sh
# The first process of dom0: starts Xen's own services and both VMs, runs the scenario, switches the machine off.
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/pts /dev/shm /run/xen /run/xenstored /run/qubes/policy.d /var/lib/xenstored
mount -t tmpfs shm /dev/shm
mount -t devpts pts /dev/pts
export PATH=/test:/lib/xen-4.17/bin:/bin HOME=/root
. /etc/functions.sh
. /boot/settings
load_modules
mkdir -p /proc/xen
mount -t xenfs xenfs /proc/xen
(
    sleep "$limit"
    echo "LAB time is up"
    poweroff -f
) &

case $xenstored in
oxenstored) oxenstored --no-fork --config-file /etc/xen/oxenstored.conf & ;;
*) xenstored --pid-file /run/xenstored.pid ;;
esac
until xenstore-read / >/dev/null 2>&1; do usleep 50000; done
xen-init-dom0
xenconsoled --log=guest --log-dir=/var/log/xen/console --pid-file=/run/xenconsoled.pid

. /vms.sh
create_vm vm1
create_vm vm2
echo "LAB VMs created, $(cut -d' ' -f1 /proc/uptime) s, $xenstored"
hostname dom0
cd / && sh /scenario.sh
usleep 300000
poweroff -f
