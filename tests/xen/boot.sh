#!/usr/bin/env bash
# Boots Xen with a dom0 and two VMs in qemu, by software emulation, and runs scenario.sh in dom0. `cargo xtask xen` calls it.
#
#     boot.sh WORK PROGRAMS LIMIT
#
# WORK      folder for packages, trees and images; kept between runs
# PROGRAMS  folder whose files are put into /test of every domain, with the libraries they need
# LIMIT     seconds after which the machine is switched off
#
# Needs qemu-system-x86_64, a static busybox, xz and cpio's format from it. Debian packages are downloaded by name and
# unpacked below WORK; nothing is installed. XENSTORED=oxenstored takes the other xenstore, SUITES="rings calls" only these parts, in
# this order (deaths ends a VM, so it comes last); ENDS, CHANNELS, SPEED_MIB, SPEED_ROUNDS, FIELD_MIB, FIELD_ROUNDS: how many and how much in
# ends, churn, speed and field. DEVICES=libxen has all of it by the other layer of devices. BOOT_SECONDS is LIMIT where `cargo xtask xen` calls this.
# QREXEC_PEER_DIR: a folder with upstream's qrexec-agent, -client-vm and -daemon, built for libxenvchan, to be measured too.
set -euo pipefail
export LC_ALL=C
here=$(cd "$(dirname "$0")" && pwd)
work=$1 programs=$2 limit=$3
xenstored=${XENSTORED:-xenstored}
busybox=$(command -v busybox)
root=$work/root
tools=$root/usr/lib/xen-4.17/bin

packages=(
    xen-hypervisor-4.17-amd64 xen-utils-4.17 xen-utils-common xenstore-utils libxencall1 libxendevicemodel1 libxenevtchn1
    libxenforeignmemory1 libxengnttab1 libxenhypfs1 libxenmisc4.17 libxenstore4 libxentoolcore1 libxentoollog1 libyajl2
    libfdt1 libnl-3-200 libnl-route-3-200
)
# brd is a disk in memory, for O_DIRECT.
modules=(xen-privcmd xen-evtchn xen-gntdev xen-gntalloc xenfs brd)

fetch() {
    [ -e "$work/fetched" ] && return
    local kernel
    kernel=$(apt-cache depends linux-image-amd64 | awk '/Depends: linux-image-[0-9]/ { print $2; exit }')
    mkdir -p "$work/debs" "$root"
    if [ -z "$(ls "$work/debs")" ]; then
        echo "downloading $kernel and Xen's packages"
        (cd "$work/debs" && apt-get -qq -o APT::Sandbox::User=root download "${packages[@]}" "$kernel")
    fi
    for deb in "$work"/debs/*.deb; do dpkg -x "$deb" "$root"; done
    zcat "$root"/boot/xen-4.17-amd64.gz >"$work/xen"
    unpack_kernel "$root"/boot/vmlinuz-* "$work/vmlinux"
    touch "$work/fetched"
}

# The kernel proper, so that no emulated processor has to unpack it three times.
unpack_kernel() {
    local at
    at=$(grep -abom1 $'\xFD7zXZ' "$1" | head -1 | cut -d: -f1)
    tail -c "+$((at + 1))" "$1" | xz -dc --single-stream >"$2" 2>/dev/null || true
    [ "$(head -c 4 "$2" | tail -c 3)" = ELF ] || cp "$1" "$2"
}

# What ldd names for a program, Xen's own libraries from the unpacked packages.
libraries() {
    LD_LIBRARY_PATH=$root/usr/lib/x86_64-linux-gnu:$root/lib/x86_64-linux-gnu:$(echo "$root"/usr/lib/xen-4.17/lib/*) \
        ldd "$1" 2>/dev/null | grep -o '/[^ ]*' || true
}

# A file and what it needs, into a tree.
add() {
    local tree=$1 to=$2 file library
    shift 2
    mkdir -p "$tree/$to"
    for file in "$@"; do
        cp -L "$file" "$tree/$to/"
        for library in $(libraries "$file"); do
            case $library in
            */ld-linux*) cp -Lu "$library" "$tree/lib64/" ;;
            *) cp -Lu "$library" "$tree/lib/" ;;
            esac
        done
    done
}

# What dom0 and the VMs have in common.
common_tree() {
    local tree=$1 applet
    rm -rf "$tree"
    mkdir -p "$tree"/{bin,dev,etc,lib,lib64,modules,proc,root,run,sys,test,tmp,usr,var/log/qubes,home/user}
    ln -s ../bin "$tree/usr/bin"
    ln -s ../bin "$tree/usr/sbin"
    ln -s bin "$tree/sbin"
    ln -s ../lib "$tree/usr/lib"
    ln -s ../run "$tree/var/run"
    cp "$busybox" "$tree/bin/busybox"
    for applet in $("$busybox" --list); do [ "$applet" = busybox ] || ln -s busybox "$tree/bin/$applet"; done
    printf 'root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000:user:/home/user:/bin/sh\n' >"$tree/etc/passwd"
    printf 'root:x:0:\nuser:x:1000:\n' >"$tree/etc/group"
    add "$tree" bin "$root"/usr/bin/xenstore-{read,write,ls,rm,exists,chmod,watch}
    cp -L /lib/x86_64-linux-gnu/libgcc_s.so.1 "$tree/lib/"
    for module in "${modules[@]}"; do find "$root/lib/modules" -name "$module.ko" -exec cp {} "$tree/modules/" \;; done
    add "$tree" test $(find "$programs" -maxdepth 1 -type f)
    # For the transport of that name, which looks for it at run time.
    cp -L "$root"/usr/lib/x86_64-linux-gnu/libxenvchan.so.4.17* "$tree/lib/" 2>/dev/null || true
    # For the layer of devices of that name, likewise.
    add "$tree" lib "$root"/usr/lib/x86_64-linux-gnu/lib{xenevtchn,xengnttab}.so.1
    for role in qrexec-{agent,client,client-vm,daemon,bench}; do ln -sf qrexec "$tree/test/$role"; done
    cp -r "$here/etc" "$tree/"
    [ -z "${QREXEC_PEER_DIR:-}" ] || peer_tree "$tree"
    chmod 755 "$tree"/etc/qubes-rpc/*
    ln -s /test/qrexec "$tree/etc/qubes-rpc/qrexec-bench"
    cp "$here/functions.sh" "$tree/etc/"
    [ -z "${DEVICES:-}" ] || echo "export QREXEC_XEN_DEVICES=$DEVICES" >>"$tree/etc/functions.sh"
}

# The C programs in /peer, and what they need: services are started by the multiplexer, sessions are PAM's.
peer_tree() {
    local tree=$1 security=/lib/x86_64-linux-gnu/security kind program
    for program in agent client-vm daemon; do
        [ -x "$QREXEC_PEER_DIR/qrexec-$program" ] || { echo "QREXEC_PEER_DIR: there is no $QREXEC_PEER_DIR/qrexec-$program" >&2 && exit 1; }
    done
    add "$tree" peer "$QREXEC_PEER_DIR"/qrexec-*
    if [ ! -e "$tree/peer/qrexec-policy-exec" ]; then
        printf '#!/bin/sh\n[ "$1" != -- ] || shift\nprintf "user=DEFAULT\\nresult=allow\\ntarget=%%s\\nautostart=True\\nrequested_target=%%s\\n" "$2" "$2"\n' \
            >"$tree/peer/qrexec-policy-exec"
        chmod 755 "$tree/peer/qrexec-policy-exec"
    fi
    mkdir -p "$tree/lib/qubes" "$tree/etc/pam.d" "$tree/lib/x86_64-linux-gnu"
    ln -s /test/qrexec "$tree/lib/qubes/qubes-rpc-multiplexer"
    [ -e $security/pam_permit.so ] || return 0
    add "$tree" lib/x86_64-linux-gnu/security $security/pam_permit.so
    for kind in auth account password session; do echo "$kind required pam_permit.so"; done >"$tree/etc/pam.d/qrexec"
}

archive() { (cd "$1" && find . -mindepth 1 | sort | "$busybox" cpio -o -H newc 2>/dev/null); }

build() {
    common_tree "$work/vm"
    install -m 755 "$here/init-vm.sh" "$work/vm/init"
    archive "$work/vm" | gzip -1 >"$work/vm.cpio.gz"
    common_tree "$work/dom0"
    install -m 755 "$here/init-dom0.sh" "$work/dom0/init"
    cp "$here"/{scenario,ends,vms}.sh "$work/dom0/"
    add "$work/dom0" lib/xen-4.17/bin "$tools"/{xl,xenstored,oxenstored,xenconsoled,xen-init-dom0,lsevtchn,libxl-save-helper,xenstore-control}
    ln -s xen-4.17/bin/lsevtchn "$work/dom0/lib/lsevtchn"
    mkdir -p "$work/dom0/boot" "$work/dom0/etc/xen" "$work/dom0/var/lib/xen" "$work/dom0/var/log/xen/console"
    printf 'autoballoon="off"\nclaim_mode=0\n' >"$work/dom0/etc/xen/xl.conf"
    cp "$root/etc/xen/oxenstored.conf" "$work/dom0/etc/xen/"
    cp "$work/vmlinux" "$work/vm.cpio.gz" "$work/dom0/boot/"
    {
        echo "export xenstored=$xenstored limit=$((limit - 10))"
        for name in SUITES ENDS END_MS DEATH_MS CHANNELS SPEED_MIB SPEED_ROUNDS FIELD_MIB FIELD_ROUNDS; do
            [ -z "${!name:-}" ] || echo "export $name='${!name}'"
        done
    } >"$work/dom0/boot/settings"
    archive "$work/dom0" >"$work/dom0.cpio"
}

# Features that the emulation gets wrong under Xen stay off: smap, xsave; and those for which the kernel would copy a byte at a
# time, as no processor does: erms, fsrm.
boot() {
    local linux="console=hvc0 quiet loglevel=3 panic=-1 mitigations=off audit=0 apparmor=0 random.trust_cpu=1"
    timeout -k 5 "$limit" qemu-system-x86_64 -nodefaults -machine pc -accel tcg,thread=multi,tb-size=512 \
        -cpu max,-smap,-xsave,-pcid,-svm,-erms,-fsrm -smp 2 -m 2048 -display none -no-reboot -serial stdio -kernel "$work/xen" \
        -append "console=com1 com1=115200,8n1 loglvl=warning guest_loglvl=warning dom0_mem=768M,max:768M dom0_max_vcpus=2" \
        -initrd "$work/vmlinux $linux,$work/dom0.cpio" </dev/null 2>"$work/qemu.err" | tee "$work/console.log" |
        sed -u 's/\r$//' | grep --line-buffered -E '^(LAB|vm[123]:|dom0:)' || true
}

mkdir -p "$work"
fetch
build
echo "booting: dom0 $(du -m "$work/dom0.cpio" | cut -f1) MiB, a VM $(du -m "$work/vm.cpio.gz" | cut -f1) MiB"
boot
if ! grep -q '^LAB all passed' "$work/console.log"; then
    echo "not passed; the whole console is in $work/console.log"
    exit 1
fi
