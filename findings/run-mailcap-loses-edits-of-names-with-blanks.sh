#!/bin/bash
# run-mailcap (and edit, see, open) of Debian's mailcap 3.70+nmu1; xdg-open calls it, too.
#
# One would think: the program that the mailcap names is given the file, whatever it is called;
# what it saves is in the file afterwards.
#
# What happens: for a name with a blank, a quote, $, & or any other letter that a shell might take
# for its own, run-mailcap makes a link /tmp/tmp.XXXXXXXXXX to the file, without the suffix, gives
# the program that name, and removes it when the program has ended. A program that saves by
# writing a new file and renaming it (sed -i, many editors and converters) puts the new file in
# the place of the link: it is removed with the link, the old content stays, and the status is 0.
# A program that goes by the suffix does not know what the file is.
#
# For this project: qubes.OpenInVM keeps a file's name as the peer gave it, blanks included, so
# edits in such files are lost with run-mailcap or xdg-open as opener, and "unchanged" is what we
# would report. Give the opener a name of letters that need no care (as upstream does: others
# become _), suffix kept, and tell the peer's name in words only.
#
# Source: run-mailcap(1), SECURITY: it says that a link is made, not what that means for saving.
set -u
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
cd "$work" || exit 1
apt-get download -qq mailcap=3.70+nmu1 >apt.log 2>&1 || { echo "this version is not to be had here (other version: N/A)"; exit 1; }
dpkg -x mailcap_*.deb tree || exit 1
mkdir home
export HOME=$work/home MAILCAPS=$work/mailcap
echo 'text/plain txt' >home/.mime.types
echo "text/plain; $work/save %s; edit=$work/save %s" >mailcap
cat >save <<END
#!/bin/sh
echo "\$1" >$work/given
case \$HOW in
rename) echo new >"\$1.part" && mv "\$1.part" "\$1" ;;
in-place) echo new >"\$1" ;;
esac
END
chmod +x save
edited() { # how it is saved, name
	echo old >"$2"
	HOW=$1 tree/usr/bin/run-mailcap --action=edit "$work/$2" >mailcap.log 2>&1 </dev/null
	status=$?
	case $(cat given) in "$work/$2") given="its own name" ;; *.txt) given="another name" ;; *) given="a name without suffix" ;; esac
	echo "status $status, $(cat "$2"), $given"
}
changed=0
same() {
	if test "$2" = "$3"; then echo "$1: $2"; else
		echo "$1: $2   NOT AS RECORDED: $3"
		changed=1
	fi
}
echo "mailcap 3.70+nmu1"
echo "guess: new each time"
same "a-b.txt, saved by rename" "$(edited rename a-b.txt)" "status 0, new, its own name"
same "a-b.txt, saved in place" "$(edited in-place a-b.txt)" "status 0, new, its own name"
same "a b.txt, saved by rename" "$(edited rename 'a b.txt')" "status 0, old, a name without suffix"
same "a b.txt, saved in place" "$(edited in-place 'a b.txt')" "status 0, new, a name without suffix"
same "a&b.txt, saved by rename" "$(edited rename 'a&b.txt')" "status 0, old, a name without suffix"
exit $changed

# seen (2026-11-30):
#   mailcap 3.70+nmu1
#   guess: new each time
#   a-b.txt, saved by rename: status 0, new, its own name
#   a-b.txt, saved in place: status 0, new, its own name
#   a b.txt, saved by rename: status 0, old, a name without suffix
#   a b.txt, saved in place: status 0, new, a name without suffix
#   a&b.txt, saved by rename: status 0, old, a name without suffix
