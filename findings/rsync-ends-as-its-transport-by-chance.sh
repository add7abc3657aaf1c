#!/bin/bash
# rsync 3.5.0 (Debian 3.5.0+ds1-0+deb12u1), with a call as its remote shell (-e).
#
# One would think, after rsync(1) and its list of codes: a transport that cannot run the far side
# shows in the status, always in the same way (124 to 127), and a transport's other codes are none
# of rsync's.
#
# What happens: when the far side goes away before or during the copy, rsync reports 12 (protocol
# data stream), and looks once, without waiting, whether the transport has ended: if it has and
# its code is larger than 12, that code is the status, else 12. So a refused call is 126 or 12, a
# missing service 127 or 12, a lost one 255 or 12: about half of the runs each for `exit 126`. A
# transport that closes its streams before it ends gives 12; one that ends first gives its code.
# After a good copy rsync waits, and takes any code as its own: 23 from the transport is "some
# files/attrs were not transferred", 125 is "remote shell killed".
#
# For this project: qrexec-client-vm and qvm-run as `rsync -e`: a script that tells refused from
# broken by rsync's status is wrong half of the time, and we cannot mend it (a process's streams
# are closed before its end can be seen). It reads the line that our client writes on stderr
# instead; the page of exit codes says so, and that 255 after a copy means "all is there, the call
# was lost at its end". Where end of file and exit code come together, our clients end without
# closing stdout first.
#
# Source: rsync(1), EXIT VALUES and --rsh; neither tells of the race.
set -u
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
cd "$work" || exit 1
apt-get download -qq rsync=3.5.0+ds1-0+deb12u1 libpopt0=1.19+dfsg-1 libxxhash0=0.8.1-1 >apt.log 2>&1 ||
	{ echo "these versions are not to be had here (other version: N/A)"; exit 1; }
for package in *.deb; do dpkg -x "$package" tree || exit 1; done
libraries=$(find "$work/tree" -name '*.so*' -printf '%h\n' | sort -u | tr '\n' ':')
rsync=$work/tree/usr/bin/rsync
echo data >file
# Refused before the copy: streams closed, then the end.
cat >closes-first <<'END'
#!/bin/sh
exec 0<&- 1>&- 2>&-
sleep 0.5
exit $CODE
END
# The same, but the process ends while its streams are still open somewhere.
cat >ends-first <<'END'
#!/bin/sh
sleep 0.5 &
exit $CODE
END
# A good copy, then a code.
cat >copies <<'END'
#!/bin/sh
shift
LD_LIBRARY_PATH=$LIBRARIES PATH=$TREE/usr/bin:$PATH "$@"
exit $CODE
END
chmod +x closes-first ends-first copies
status() {
	rm -rf to
	LD_LIBRARY_PATH=$libraries LIBRARIES=$libraries TREE=$work/tree CODE=$2 timeout 20 "$rsync" -e "$work/$1" file "far:$work/to" >rsync.log 2>&1
	echo "$?$(test ! -e to || echo ', copied')"
}
changed=0
same() {
	if test "$2" = "$3"; then echo "$1: $2"; else
		echo "$1: $2   NOT AS RECORDED: $3"
		changed=1
	fi
}
echo "rsync 3.5.0"
echo "guess: 126 and 127 as they are, 255 as 124; 23 after a good copy: 0"
for code in 126 127 255; do
	same "refused with $code, streams closed first" "$(status closes-first $code)" 12
	same "refused with $code, process ends first" "$(status ends-first $code)" $code
done
same "a good copy, then 0" "$(status copies 0)" "0, copied"
same "a good copy, then 23" "$(status copies 23)" "23, copied"
same "a good copy, then 125" "$(status copies 125)" "125, copied"
exit $changed

# seen (2026-11-30):
#   rsync 3.5.0
#   guess: 126 and 127 as they are, 255 as 124; 23 after a good copy: 0
#   refused with 126, streams closed first: 12
#   refused with 126, process ends first: 126
#   refused with 127, streams closed first: 12
#   refused with 127, process ends first: 127
#   refused with 255, streams closed first: 12
#   refused with 255, process ends first: 255
#   a good copy, then 0: 0, copied
#   a good copy, then 23: 23, copied
#   a good copy, then 125: 125, copied
