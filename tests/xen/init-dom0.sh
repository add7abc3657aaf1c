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

for vm in vm1 vm2; do
    cat >"/etc/xen/$vm.cfg" <<C
name = "$vm"
type = "pv"
kernel = "/boot/vmlinux"
ramdisk = "/boot/vm.cpio.gz"
extra = "console=hvc0 quiet loglevel=3 panic=-1 mitigations=off audit=0 apparmor=0 random.trust_cpu=1"
memory = 256
vcpus = 1
on_poweroff = "destroy"
on_reboot = "destroy"
on_crash = "destroy"
C
    xl create -q "/etc/xen/$vm.cfg" || echo "LAB cannot create $vm"
    : >"/var/log/xen/console/guest-$vm.log"
    tail -F "/var/log/xen/console/guest-$vm.log" 2>/dev/null | while IFS= read -r line; do echo "$vm: $line"; done &
done
echo "LAB VMs created, $(cut -d' ' -f1 /proc/uptime) s, $xenstored"
hostname dom0
cd / && sh /scenario.sh
usleep 300000
poweroff -f
