#!/usr/bin/env bash
# Boots Debian's kernel in qemu, by software emulation, and runs scenario.sh there as its first process: a USB device of the
# kernel's own making, exported by usbip-host, imported by vhci_hcd, through the programs. `cargo xtask usb` calls it.
#
#     boot.sh WORK PROGRAM LIMIT
#
# WORK      folder for the package, its tree and the image; kept between runs
# PROGRAM   qrexec-bench, which is every program
# LIMIT     seconds after which the machine is switched off
#
# Needs qemu-system-x86_64, a static busybox, kmod and gzip. The kernel's package is downloaded by name and unpacked below WORK;
# nothing is installed. ROUNDS: how often the device is attached and detached at the end. KERNEL: another package than the newest.
set -euo pipefail
export LC_ALL=C
here=$(cd "$(dirname "$0")" && pwd)
work=$1 program=$2 limit=$3
busybox=$(command -v busybox)
root=$work/root
modules=(usbip-host vhci-hcd dummy_hcd libcomposite usb_f_mass_storage usb-storage sd_mod)

fetch() {
    [ -e "$work/fetched" ] && return
    local kernel=${KERNEL:-}
    [ -n "$kernel" ] || kernel=$(apt-cache depends linux-image-amd64 | awk '/Depends: linux-image-[0-9]/ { print $2; exit }')
    mkdir -p "$work/debs" "$root"
    if [ -z "$(ls "$work/debs")" ]; then
        echo "downloading $kernel"
        (cd "$work/debs" && apt-get -qq -o APT::Sandbox::User=root download "$kernel")
    fi
    for deb in "$work"/debs/*.deb; do dpkg -x "$deb" "$root"; done
    touch "$work/fetched"
}

# Files and the libraries that ldd names for them, into the tree.
add() {
    local to=$1 file library
    shift
    mkdir -p "$tree/$to"
    for file in "$@"; do
        cp -L "$file" "$tree/$to/"
        for library in $(ldd "$file" 2>/dev/null | grep -o '/[^ ]*' || true); do
            case $library in
            */ld-linux*) cp -Lu "$library" "$tree/lib64/" ;;
            *) cp -Lu "$library" "$tree/lib/" ;;
            esac
        done
    done
}

# The modules that are named, and those that they need, where modprobe looks for them.
add_modules() {
    local release folder file
    release=$(ls "$root/lib/modules")
    folder=lib/modules/$release
    depmod -b "$root" "$release"
    for file in $(modprobe -d "$root" -S "$release" --show-depends -a "${modules[@]}" | awk '$1 == "insmod" { print $2 }'); do
        mkdir -p "$tree/$folder/$(dirname "${file#"$root/$folder/"}")"
        cp "$file" "$tree/$folder/${file#"$root/$folder/"}"
    done
    cp "$root/$folder"/modules.{order,builtin,builtin.modinfo} "$tree/$folder/"
    depmod -b "$tree" "$release"
}

build() {
    local applet role
    tree=$work/tree
    rm -rf "$tree"
    mkdir -p "$tree"/{bin,dev,etc/qubes-rpc,lib,lib64,proc,root,run,sys,test,tmp,usr/lib/qubes,var/log/qubes,home/user}
    ln -s ../bin "$tree/usr/bin"
    ln -s ../bin "$tree/usr/sbin"
    ln -s bin "$tree/sbin"
    ln -s ../run "$tree/var/run"
    cp "$busybox" "$tree/bin/busybox"
    for applet in $("$busybox" --list); do [ "$applet" = busybox ] || ln -s busybox "$tree/bin/$applet"; done
    rm -f "$tree"/bin/{modprobe,insmod,rmmod,lsmod,depmod}
    add bin "$(command -v kmod)"
    for applet in modprobe rmmod lsmod; do ln -s kmod "$tree/bin/$applet"; done
    printf 'root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000:user:/home/user:/bin/sh\n' >"$tree/etc/passwd"
    printf 'root:x:0:\nuser:x:1000:\n' >"$tree/etc/group"
    add bin "$program"
    mv "$tree/bin/$(basename "$program")" "$tree/bin/qrexec"
    cp -L /lib/x86_64-linux-gnu/libgcc_s.so.1 "$tree/lib/"
    for role in qrexec-{lab,agent,client,client-vm,daemon,usb-sim} usb-{export,import,detach-all} qubes.USB{,Attach,Detach}; do
        ln -s qrexec "$tree/bin/$role"
    done
    add_modules
    install -m 755 "$here/scenario.sh" "$tree/init"
    echo "limit=$((limit - 5)) rounds=${ROUNDS:-50}" >"$tree/etc/settings"
    (cd "$tree" && find . -mindepth 1 | sort | "$busybox" cpio -o -H newc 2>/dev/null) | gzip -1 >"$work/tree.cpio.gz"
}

# Features for which the kernel would copy a byte at a time in the emulation, as no processor does, stay off: erms, fsrm. On a busy
# machine the emulated timer comes too late for the kernel's check of it.
boot() {
    timeout -k 5 "$limit" qemu-system-x86_64 -nodefaults -machine pc -accel tcg,thread=multi,tb-size=512 \
        -cpu max,-erms,-fsrm -smp 2 -m 1024 -display none -no-reboot -serial stdio \
        -kernel "$root"/boot/vmlinuz-* -initrd "$work/tree.cpio.gz" \
        -append "console=ttyS0 quiet loglevel=3 panic=-1 mitigations=off audit=0 apparmor=0 random.trust_cpu=1 no_timer_check" \
        </dev/null 2>"$work/qemu.err" | tee "$work/console.log" | sed -u 's/\r$//' | grep --line-buffered '^USB' || true
}

mkdir -p "$work"
fetch
build
echo "booting $(basename "$root"/boot/vmlinuz-*), $(du -m "$work/tree.cpio.gz" | cut -f1) MiB"
boot
if ! grep -q '^USB all passed' "$work/console.log"; then
    echo "not passed; the whole console is in $work/console.log"
    exit 1
fi
