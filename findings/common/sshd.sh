# Sourced by the findings about OpenSSH: Debian's ssh and sshd of one version, unpacked into the
# temporary folder, and an account "far" that exists in a namespace of our own only. sshd runs as
# that account, by `sshd -i` at the end of a ProxyCommand: no port, no listener, and when the
# namespace ends every process in it ends.
#
# After `. common/sshd.sh`: $work is the temporary folder and the working directory. `in_lab FILE`
# runs FILE in the namespace, with $ssh, $sshd and $keygen set, files hk, uk (keys), sshd.conf,
# ssh.conf (host "far", HostKeyAlias "link"), and far.sh as the key's forced command: the caller
# writes far.sh before.
set -u
ssh_version=1:9.2p1-2+deb12u10
common=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
cd "$work" || exit 1
apt-get download -qq openssh-client=$ssh_version openssh-server=$ssh_version libwrap0=7.6.q-32 >apt.log 2>&1 ||
	{ echo "openssh $ssh_version: not to be had here (other version: N/A)"; exit 1; }
for package in *.deb; do dpkg -x "$package" tree || exit 1; done
echo "openssh $ssh_version"

in_lab() {
	mkdir -p home etc
	cp /etc/passwd passwd
	echo "far:x:4242:4242::$work/home:/bin/sh" >>passwd
	test -d /etc/ssh || { echo "no /etc/ssh to lay a folder over: install openssh-client"; return 1; }
	chmod +x far.sh
	cat >sshd.conf <<EOF
HostKey $work/hk
AuthorizedKeysFile $work/keys
StrictModes no
UsePAM no
PidFile none
Subsystem sftp /usr/lib/openssh/sftp-server -f AUTH
EOF
	cat >ssh.conf <<EOF
Host *
ProxyCommand $work/tree/usr/sbin/sshd -i -f $work/sshd.conf
User far
IdentityFile $work/uk
IdentitiesOnly yes
BatchMode yes
HostKeyAlias link
UserKnownHostsFile $work/known
GlobalKnownHostsFile none
StrictHostKeyChecking yes
EOF
	cat >enter.sh <<EOF
mount --bind passwd /etc/passwd && mount --bind etc /etc/ssh || exit 99
exec unshare -U --map-user=4242 --map-group=4242 bash "\$1"
EOF
	cat >inside.sh <<EOF
set -u
export HOME=$work/home PYTHONPATH=$common PYTHONDONTWRITEBYTECODE=1
export LD_LIBRARY_PATH=$work/tree/lib/x86_64-linux-gnu:$work/tree/usr/lib/x86_64-linux-gnu
ssh=$work/tree/usr/bin/ssh sshd=$work/tree/usr/sbin/sshd keygen=$work/tree/usr/bin/ssh-keygen
\$keygen -q -t ed25519 -N '' -C host -f hk && \$keygen -q -t ed25519 -N '' -C user -f uk || exit 98
echo "restrict,command=\"$work/far.sh\" \$(cat uk.pub)" >keys
echo "link \$(cut -d' ' -f1,2 hk.pub)" >known
changed=0
. ./$1
EOF
	timeout 120 unshare -Urm -pf --kill-child bash enter.sh inside.sh
}

# `same NAME SEEN RECORDED` prints what was seen; a difference is counted in $changed.
changed=0
same() {
	if test "$2" = "$3"; then echo "$1: $2"; else
		echo "$1: $2   NOT AS RECORDED: $3"
		changed=1
	fi
}
