#!/bin/bash
# xdg-open 1.1.3 (Debian xdg-utils 1.1.3-4.1) with DE=generic or no desktop, and run-mailcap
# (mailcap 3.70+nmu1).
#
# One would think: xdg-open finds the program for a file or an address, starts it once and ends
# with its status, or with a code of its own.
#
# What happens: each way that it knows is tried until one ends with 0. A program that did open the
# file and ended with another status, an editor left by ":cq" or one that crashed after an hour,
# is taken for missing: the same file goes to the next one (here the list in BROWSER), and
# xdg-open ends with that one's status; the last may be tried twice. Where none is left it says
# "no method available" and ends 3, whatever the program's own status was. For addresses it is the
# same with the browsers of the list.
#
# For this project: qubes.OpenInVM and qubes.OpenURL with xdg-open as opener (the last resort, and
# what upstream's opener calls with DE=generic): a status is no word of the program's, a file may
# be edited twice, a page shown twice. Find the program once (xdg-mime query default), start it
# ourselves, and pass its status; or say in docs/ that QUBES_OPEN names one program.
#
# Source: xdg-open(1) has codes 1 to 4 and no word of this.
set -u
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
cd "$work" || exit 1
apt-get download -qq xdg-utils=1.1.3-4.1 mailcap=3.70+nmu1 >apt.log 2>&1 || { echo "these versions are not to be had here (other version: N/A)"; exit 1; }
for package in *.deb; do dpkg -x "$package" tree || exit 1; done
mkdir home
export HOME=$work/home PATH=$work/tree/usr/bin:$PATH DE=generic MAILCAPS=$work/mailcap
unset DISPLAY WAYLAND_DISPLAY XDG_CURRENT_DESKTOP XDG_DATA_HOME XDG_CONFIG_HOME
echo 'text/plain txt' >home/.mime.types
echo "text/plain; $work/first %s" >mailcap
for name in first second; do
	cat >$name <<END
#!/bin/sh
printf '$name ' >>$work/seen
exit \$${name}_code
END
	chmod +x $name
done
echo data >a.txt
opened() { # codes of the two programs, what to open
	rm -f seen
	first_code=$1 second_code=$2 BROWSER=$3 xdg-open "$4" >xdg.log 2>&1 </dev/null
	echo "status $?, opened by $(cat seen)"
}
changed=0
same() {
	if test "$2" = "$3"; then echo "$1: $2"; else
		echo "$1: $2   NOT AS RECORDED: $3"
		changed=1
	fi
}
echo "xdg-open 1.1.3"
echo "guess: opened by the first each time, and its status"
same "a file, the program ends 0" "$(opened 0 0 "$work/second" "$work/a.txt")" "status 0, opened by first "
same "a file, the program ends 7" "$(opened 7 0 "$work/second" "$work/a.txt")" "status 0, opened by first second "
same "a file, both end 7" "$(opened 7 7 "$work/second" "$work/a.txt")" "status 3, opened by first second second "
same "an address, the browser ends 0" "$(opened 0 0 "$work/first:$work/second" https://host/)" "status 0, opened by first "
same "an address, the browser ends 7" "$(opened 7 0 "$work/first:$work/second" https://host/)" "status 0, opened by first second "
exit $changed

# seen (2026-11-30):
#   xdg-open 1.1.3
#   guess: opened by the first each time, and its status
#   a file, the program ends 0: status 0, opened by first 
#   a file, the program ends 7: status 0, opened by first second 
#   a file, both end 7: status 3, opened by first second second 
#   an address, the browser ends 0: status 0, opened by first 
#   an address, the browser ends 7: status 0, opened by first second 
