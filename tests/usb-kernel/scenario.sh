#!/bin/sh
# The first process of the machine that boot.sh boots. Its lab has a VM that exports and one that imports, both with this
# kernel. Each case prints a line; the first failure ends the run, with the kernel's last words.
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/pts /dev/shm
mount -t devpts pts /dev/pts
mount -t tmpfs shm /dev/shm
mount -t tmpfs tmp /tmp
mount -t tmpfs run /run
mount -t configfs config /sys/kernel/config 2>/dev/null
export PATH=/bin HOME=/root XDG_RUNTIME_DIR=/run/user
mkdir -m 700 -p /run/user
mkdir -p /run/qubes
. /etc/settings
exec 2>&1

end() {
    echo "USB $1"
    sleep 0.2
    poweroff -f
    sleep 60
}
fail() {
    dmesg | tail -n 25
    find /run/user -name '*.log' -exec tail -n 15 {} +
    end "failed: $1"
}
now() { cut -d' ' -f1 /proc/uptime; }
passed() { echo "USB passed: $1, $(now) s"; }
(
    sleep "$limit"
    end "time is up"
) &

# until_true SECONDS CONDITION: looks every 50 ms.
until_true() {
    left=$(($1 * 20))
    until eval "$2"; do
        left=$((left - 1))
        [ $left -gt 0 ] || fail "never: $2"
        usleep 50000
    done
}

for module in usbip-host vhci-hcd usb-storage sd_mod dummy_hcd usb_f_mass_storage; do
    modprobe $module || fail "modprobe $module"
done
[ -d /sys/kernel/config/usb_gadget ] || mount -t configfs config /sys/kernel/config
echo 0 >/sys/module/usb_storage/parameters/delay_use

# A stick of 16 MiB on the kernel's own controller for such devices.
dd if=/dev/urandom of=/tmp/medium bs=1M count=16 2>/dev/null
gadget=/sys/kernel/config/usb_gadget/stick
mkdir $gadget || fail "no gadgets"
echo 0x1209 >$gadget/idVendor
echo 0x0001 >$gadget/idProduct
mkdir -p $gadget/strings/0x409 $gadget/configs/c.1 $gadget/functions/mass_storage.0
echo 4711 >$gadget/strings/0x409/serialnumber
echo /tmp/medium >$gadget/functions/mass_storage.0/lun.0/file
ln -s $gadget/functions/mass_storage.0 $gadget/configs/c.1/
plug() { echo dummy_udc.0 >$gadget/UDC; }
unplug() { echo >$gadget/UDC; }
plug || fail "the gadget has no controller"
until_true 20 '[ -e /sys/block/sda ]'
port=$(readlink /sys/block/sda | grep -o '/[0-9]*-[0-9.]*/' | tr -d /)
[ -n "$port" ] || fail "no port id in $(readlink /sys/block/sda)"
wanted=$(sha256sum </tmp/medium)
device=/sys/bus/usb/devices/$port
passed "a gadget at $port"

# qubesdb's commands write down what they are told.
for name in write rm; do
    printf '#!/bin/sh\necho %s "$@" >>/run/keys\n' $name >/bin/qubesdb-$name
done
printf '#!/bin/sh\nexit 1\n' >/bin/qubesdb-read
chmod 755 /bin/qubesdb-*
for name in qubes.USB qubes.USBAttach qubes.USBDetach lab.Sim; do
    program=$name
    [ $name != lab.Sim ] || program='qrexec-usb-sim stick --size 4'
    [ $name != qubes.USB ] || program='/bin/qubes.USB "$@"'
    [ $name != qubes.USBAttach ] || program=/bin/qubes.USBAttach
    [ $name != qubes.USBDetach ] || program=/bin/qubes.USBDetach
    printf '#!/bin/sh\nPATH=/bin:$PATH exec %s\n' "$program" >/tmp/$name
    chmod 755 /tmp/$name
done
set --
for vm in vault work; do
    for name in qubes.USB qubes.USBAttach qubes.USBDetach lab.Sim; do set -- "$@" --service "$vm:$name=/tmp/$name"; done
done
qrexec-lab up "$@" || fail "the lab"

request() { echo "$3" | qrexec-lab exec dom0 qrexec-client -d "$1" "DEFAULT:QUBESRPC $2 dom0"; }
attach() { request work qubes.USBAttach "vault $port"; }
status() { cat $device/usbip_status 2>/dev/null; }
ports_in_use() { cat /sys/devices/platform/vhci_hcd.0/status* | awk '($1 == "hs" || $1 == "ss") && $3 + 0 != 4' | wc -l; }
imported_disk() {
    disk=
    for block in /sys/block/sd*; do
        case $(readlink "$block") in *vhci_hcd*) disk=/dev/${block##*/} ;; esac
    done
    [ -n "$disk" ] && [ -b "$disk" ] && [ "$(cat "/sys/block/${disk##*/}/size")" -gt 0 ]
}
no_imported_disk() { ! imported_disk; }
# Processes of the lab, which has process numbers of its own.
matching() { qrexec-lab exec work ps | awk -v text="$1" 'index($0, text) { print $1 }'; }
no_services() { [ -z "$(matching qubes.USB)$(matching usb-import)" ]; }
clean() { until_true 10 '[ "$(status)" != 2 ] && [ "$(ports_in_use)" = 0 ] && no_imported_disk'; }
compare() {
    until_true 20 imported_disk
    got=$(dd if=$disk bs=1M iflag=direct 2>/dev/null | sha256sum)
    [ "$got" = "$wanted" ] || fail "$1: the content is another"
}

began=$(now)
attach || fail "attach"
passed "attach, $began to $(now)"
compare "a gadget"
[ "$(status)" = 2 ] || fail "the export's state is $(status)"
grep -q "write /qubes-usb-devices/$port/connected-to work" /run/keys || fail "no key: $(cat /run/keys)"
[ "$(cat /sys/devices/platform/vhci_hcd.0/usb*/*-*/power/control | sort -u)" = on ] || fail "the device may be sent to sleep"
passed "a gadget's 16 MiB"

said=$(attach 2>&1) && fail "attached twice"
case $said in *"attached"*"already"*) ;; *) fail "twice: $said" ;; esac
passed "not twice: $said"

dd if=/dev/urandom of=/tmp/news bs=64k count=3 2>/dev/null
dd if=/tmp/news of=$disk bs=64k seek=5 oflag=direct 2>/dev/null || fail "write"
sync
dd if=/tmp/medium bs=64k skip=5 count=3 2>/dev/null | cmp - /tmp/news || fail "what was written is not there"
wanted=$(sha256sum </tmp/medium)
(dd if=$disk of=/dev/null bs=1M iflag=direct 2>/dev/null; echo $? >/run/reader1) &
(dd if=$disk of=/dev/null bs=4k count=1000 iflag=direct 2>/dev/null; echo $? >/run/reader2) &
until_true 60 '[ -s /run/reader1 ] && [ -s /run/reader2 ]'
[ "$(cat /run/reader1 /run/reader2 | sort -u)" = 0 ] || fail "two readers"
compare "after writing"
passed "writing, two readers at once"

request work qubes.USBDetach "vault $port" || fail "detach in the import"
clean
passed "detach in the import"
attach || fail "attach again"
until_true 20 imported_disk
request vault qubes.USBDetach "$port" || fail "detach in the export"
clean
until_true 20 '[ -e /sys/block/sda ] || [ -e /sys/block/sdb ]'
[ ! -e $device/usbip_status ] || fail "the device has not its own driver again"
passed "detach in the export: the device has its own driver"

resets() { dmesg | grep -c "$port: reset .* USB device"; }
there_and_back() {
    attach || fail "attach $1"
    compare "$1"
    request work qubes.USBDetach "vault $port" || fail "detach $1"
    clean
}
before=$(resets)
there_and_back "without a reset of its own"
usual=$(($(resets) - before))
mkdir -p /run/qubes-service
touch /run/qubes-service/usb-reset-on-attach
before=$(resets)
there_and_back "with a reset of its own"
rm /run/qubes-service/usb-reset-on-attach
[ $(($(resets) - before)) -gt $usual ] || fail "the device was not reset: $usual, $(($(resets) - before))"
passed "a reset before the attach"

# The end of whoever watches for the export is nothing to the kernel: it is told by dom0.
for victim in 'qrexec-client-vm --use' "/bin/qubes.USB $port"; do
    attach || fail "attach before the death of $victim"
    until_true 20 imported_disk
    pids=$(matching "$victim")
    [ -n "$pids" ] || fail "no $victim: $(qrexec-lab exec work ps)"
    qrexec-lab exec work kill -9 $pids
    case $victim in /bin*) request vault qubes.USBDetach "$port" ;; esac
    clean
    passed "kill -9 of $victim"
done

attach || fail "attach before an unplugging"
until_true 20 imported_disk
(dd if=$disk of=/dev/null bs=4k iflag=direct 2>/dev/null) &
unplug
until_true 20 '[ "$(ports_in_use)" = 0 ] && no_imported_disk && [ ! -e $device ]'
passed "unplugged while it is read"

echo 0x0002 >$gadget/idProduct
plug
until_true 20 '[ -e $device ]'
attach || fail "attach of another device at the same port"
until_true 20 imported_disk
[ "$(cat /sys/devices/platform/vhci_hcd.0/usb*/*-*/idProduct)" = 0002 ] || fail "not the device that is there now"
request work qubes.USBDetach "vault $port" || fail "detach of another device at the same port"
clean
passed "another device at the same port"

attach || fail "attach before detach-all"
qrexec-lab exec vault usb-detach-all || fail "usb-detach-all"
clean
passed "usb-detach-all"

said=$(request work qubes.USBAttach "vault 9-9" 2>&1) && fail "a device that is not there"
case $said in *"No such device: 9-9"*) ;; *) fail "not there: $said" ;; esac
passed "a reason in dom0"

qrexec-lab exec work sh -c 'exec qrexec-client-vm --filter usbip vault lab.Sim /bin/usb-import /run/sim.state' &
until_true 20 imported_disk
dd if=$disk of=/tmp/sim bs=1M count=1 iflag=direct 2>/dev/null || fail "the simulated stick"
[ "$(wc -c </tmp/sim)" = 1048576 ] || fail "the simulated stick is short"
head -n 1 /run/sim.state >/sys/devices/platform/vhci_hcd.0/detach
clean
passed "a simulated stick by vhci_hcd"

began=$(now)
round=0
while [ $round -lt "$rounds" ]; do
    attach || fail "attach in round $round"
    if [ $((round % 2)) = 0 ]; then
        request work qubes.USBDetach "vault $port" || fail "detach in round $round"
    else
        request vault qubes.USBDetach "$port" || fail "detach in round $round"
    fi
    round=$((round + 1))
done
clean
until_true 10 no_services
passed "$rounds rounds, $began to $(now)"
qrexec-lab down || fail "down"

# The same device by the lab's own commands.
qrexec-lab up --usb-kernel || fail "a lab with the kernel's devices"
listed() { qrexec-lab usb list | awk -v device="vault:$port" '$1 == device { print $5 }'; }
[ "$(listed)" = - ] || fail "before the attach: $(qrexec-lab usb list)"
qrexec-lab usb attach work "vault:$port" || fail "qrexec-lab usb attach"
compare "by qrexec-lab usb"
[ "$(listed)" = attached ] || fail "attached: $(qrexec-lab usb list)"
qrexec-lab usb detach work "vault:$port" || fail "qrexec-lab usb detach"
clean
[ "$(listed)" = - ] || fail "after the detach: $(qrexec-lab usb list)"
passed "qrexec-lab usb list, attach, detach"
qrexec-lab down || fail "down"
dmesg | grep -E 'BUG:|Oops|WARNING:' && fail "the kernel complains"
end "all passed"
