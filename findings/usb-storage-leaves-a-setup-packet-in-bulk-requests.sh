#!/bin/bash
# Linux 6.1.192 (Debian 12's linux-image-6.1.0-57-amd64): usb-storage over vhci_hcd.
#
# One would think: only control requests, those of endpoint 0, have a setup packet. The kernel's own
# Documentation/usb/usbip_protocol.rst says of the field: "data bytes for USB setup, filled with
# zeros if not used".
#
# What happens: usb-storage uses one urb for its control requests and for the commands and statuses
# of bulk-only transport, and the urb keeps the setup packet of the last control request (GET MAX
# LUN). vhci_hcd sends it whenever the urb has one: every command and every status of a stick or
# disk carries a1 fe 00 00 00 00 01 00. Data have urbs of their own, and zeros.
#
# For this project: a filter of USB/IP, and a simulated device, must not refuse a request for it.
# It means nothing there, so it is zero in what is sent on.
#
# Needed beside the others: qemu-system-x86_64, a static busybox, kmod, cc with -static. It boots
# the kernel by software emulation, one to three minutes.
#
# Source: seen here; Documentation/usb/usbip_protocol.rst, CMD_SUBMIT.
set -u
package=linux-image-6.1.0-57-amd64 version=6.1.192-3
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
cd "$work" || exit 1
apt-get download -qq -o APT::Sandbox::User=root $package=$version >apt.log 2>&1 || { echo "$package $version: not to be had here (other version: N/A)"; exit 1; }
dpkg -x $package*.deb root || exit 1
release=6.1.0-57-amd64
depmod -b root $release
mkdir -p tree/bin tree/dev tree/proc tree/sys tree/tmp tree/modules
cp "$(command -v busybox)" tree/bin/ || exit 1
busybox --list | while read -r name; do [ "$name" = busybox ] || ln -s busybox "tree/bin/$name"; done
modprobe -d root -S $release --show-depends -a usbip-host vhci-hcd dummy_hcd libcomposite usb_f_mass_storage usb-storage sd_mod |
	awk '$1 == "insmod" && !seen[$2]++ { print $2 }' >list
number=100
while read -r file; do
	cp "$file" "tree/modules/$number.ko"
	number=$((number + 1))
done <list

cat >between.c <<'END'
// Gives one socket to the exporting driver, one to the importing one, and reads along what the importer sends.
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include <arpa/inet.h>

static void put(const char *path, const char *text)
{
	FILE *f = fopen(path, "w");
	if (!f || fputs(text, f) < 0 || fclose(f)) {
		perror(path);
		exit(1);
	}
}

static int take(int fd, unsigned char *to, size_t n)
{
	for (size_t at = 0; at < n;) {
		ssize_t got = read(fd, to + at, n - at);
		if (got <= 0)
			return 0;
		at += got;
	}
	return 1;
}

static void all(int fd, const unsigned char *from, size_t n)
{
	while (n) {
		ssize_t put = write(fd, from, n);
		if (put <= 0)
			exit(1);
		from += put, n -= put;
	}
}

int main(int argc, char **argv)
{
	static unsigned char header[48], data[1 << 20];
	char text[64];
	int e[2], i[2];
	unsigned commands = 0, kept[3] = { 0, 0, 0 };
	if (argc != 4 || socketpair(AF_UNIX, SOCK_STREAM, 0, e) || socketpair(AF_UNIX, SOCK_STREAM, 0, i))
		return 1;
	snprintf(text, sizeof text, "%d", e[1]);
	put(argv[1], text);
	snprintf(text, sizeof text, "0 %d %s 3", i[1], argv[3]);
	put(argv[2], text);
	close(e[1]), close(i[1]);
	for (;;) {
		struct pollfd fds[2] = { { e[0], POLLIN, 0 }, { i[0], POLLIN, 0 } };
		if (poll(fds, 2, 15000) <= 0)
			break;
		if (fds[0].revents) {
			ssize_t got = read(e[0], data, sizeof data);
			if (got <= 0)
				break;
			all(i[0], data, got);
		}
		if (fds[1].revents) {
			uint32_t word[6];
			if (!take(i[0], header, sizeof header))
				break;
			memcpy(word, header, 24);
			uint32_t length = ntohl(*(uint32_t *)(header + 24));
			all(e[0], header, sizeof header);
			if (ntohl(word[0]) != 1)
				continue;
			if (ntohl(word[3]) == 0 && length) {
				if (length > sizeof data || !take(i[0], data, length))
					break;
				all(e[0], data, length);
			}
			if (ntohl(word[4]) != 0) {
				int what = length == 31 ? 0 : length == 13 ? 1 : 2;
				commands += what == 0;
				kept[what] += !memcmp(header + 40, "\xa1\xfe\0\0\0\0\1\0", 8);
				if (commands == 10) {
					printf("SEEN with the setup packet of GET MAX LUN: %u of 10 commands, %u of 9 statuses, %u of the data between\n", kept[0], kept[1], kept[2]);
					return 0;
				}
			}
		}
	}
	return 0;
}
END
cc -O2 -static -o tree/bin/between between.c || exit 1

cat >tree/init <<'END'
#!/bin/sh
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev; mount -t tmpfs tmp /tmp
export PATH=/bin
for module in /modules/*.ko; do insmod $module; done 2>/dev/null
mount -t configfs config /sys/kernel/config
dd if=/dev/zero of=/tmp/medium bs=1M count=4 2>/dev/null
g=/sys/kernel/config/usb_gadget/stick
mkdir $g; echo 0x1209 >$g/idVendor; echo 0x0001 >$g/idProduct
mkdir -p $g/strings/0x409 $g/configs/c.1 $g/functions/mass_storage.0
echo 1 >$g/strings/0x409/serialnumber
echo /tmp/medium >$g/functions/mass_storage.0/lun.0/file
ln -s $g/functions/mass_storage.0 $g/configs/c.1/
echo dummy_udc.0 >$g/UDC
n=0; until [ -e /sys/block/sda ] || [ $n = 300 ]; do n=$((n + 1)); usleep 100000; done
port=$(readlink /sys/block/sda | grep -o '/[0-9]*-[0-9]*/' | tr -d /)
d=/sys/bus/usb/devices/$port
echo "SEEN Linux $(uname -r), a stick of dummy_hcd, by usbip-host and vhci_hcd"
echo $port >$d/driver/unbind
printf 'add %s' $port >/sys/bus/usb/drivers/usbip-host/match_busid
echo $port >/sys/bus/usb/drivers/usbip-host/bind
between $d/usbip_sockfd /sys/devices/platform/vhci_hcd.0/attach $(($(cat $d/busnum) << 16 | $(cat $d/devnum))) | while read -r line; do echo "$line"; poweroff -f; done
sleep 60
poweroff -f
END
chmod 755 tree/init
(cd tree && find . -mindepth 1 | busybox cpio -o -H newc 2>/dev/null) >tree.cpio
timeout -k 5 400 qemu-system-x86_64 -nodefaults -machine pc -accel tcg,thread=multi -cpu max,-erms,-fsrm -smp 2 -m 1024 -display none \
	-no-reboot -serial stdio -kernel root/boot/vmlinuz-$release -initrd tree.cpio \
	-append "console=ttyS0 quiet loglevel=1 panic=-1 mitigations=off random.trust_cpu=1 no_timer_check" </dev/null 2>qemu.err |
	tr -d '\r' | grep -o 'SEEN .*' | sed 's/^SEEN //' >seen
echo "guess: none, as the kernel's documentation says"
cat seen
wanted="with the setup packet of GET MAX LUN: 10 of 10 commands, 9 of 9 statuses, 0 of the data between"
[ "$(tail -n 1 seen)" = "$wanted" ] || { echo "NOT AS RECORDED: $wanted"; tail -n 5 qemu.err; exit 1; }

# seen (2026-12-01, twice):
#   guess: none, as the kernel's documentation says
#   Linux 6.1.0-57-amd64, a stick of dummy_hcd, by usbip-host and vhci_hcd
#   with the setup packet of GET MAX LUN: 10 of 10 commands, 9 of 9 statuses, 0 of the data between
