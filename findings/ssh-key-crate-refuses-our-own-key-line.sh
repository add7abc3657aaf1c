#!/bin/bash
# Crate ssh-key 0.6.7 beside OpenSSH's ssh-keygen (Debian 1:9.2p1-2+deb12u10).
#
# One would think: ssh_key::authorized_keys::Entry reads every line that sshd reads: options, quoted
# texts with blanks in them, with or without a comment at the end.
#
# What happens: it looks for blanks without regard to quotes and takes the first word for options
# only if the line has four words. So a line with a blank inside quotes is refused ("character
# encoding invalid"), a line with options but *without a comment* is refused, whatever the options;
# a tab between the fields and blanks in front of the line are refused, too. sshd takes all of them.
#
# For this project: the line of every link is `restrict,command="qrexec-remote far LINK" ssh-ed25519
# …`, which has blanks inside quotes. `qrexec-remote admit` must find such lines again, to change
# nothing at the second call, and must leave lines of others alone: it needs a reader of its own for
# options (quotes, `\"`), or lets `ssh-keygen -lf` judge a line; with this crate it would call a
# good file broken, or add the key a second time. The crate is fine for the key itself (the words
# from `ssh-ed25519` on).
#
# Source: sshd(8), AUTHORIZED_KEYS FILE FORMAT: "No spaces are permitted, except within double
# quotes"; comments are optional.
set -u
ssh_version=1:9.2p1-2+deb12u10
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
cd "$work" || exit 1
apt-get download -qq openssh-client=$ssh_version >apt.log 2>&1 || { echo "openssh $ssh_version: not to be had here (other version: N/A)"; exit 1; }
dpkg -x openssh-client_*.deb tree || exit 1
mkdir -p reader/src
cat >reader/Cargo.toml <<'EOF'
[package]
name = "reader"
version = "0.0.0"
edition = "2021"
[dependencies]
ssh-key = { version = "=0.6.7", default-features = false, features = ["std"] }
[profile.dev]
debug = 0
EOF
cat >reader/src/main.rs <<'EOF'
fn main() {
    let line = std::env::args().nth(1).unwrap();
    match line.parse::<ssh_key::authorized_keys::Entry>() {
        Ok(entry) => println!("takes it, options [{}]", entry.config_opts()),
        Err(error) => println!("refuses it: {error}"),
    }
}
EOF
(cd reader && CARGO_TARGET_DIR=$work/target cargo build -q) || exit 1
tree/usr/bin/ssh-keygen -q -t ed25519 -N '' -C '' -f key
key=$(cut -d' ' -f1,2 key.pub)
echo "ssh-key 0.6.7, ssh-keygen 9.2p1"
echo "guess: both take every line"
changed=0
line() { # NAME LINE RECORDED
	printf '%s\n' "$2" >line
	theirs="ssh-keygen refuses it"
	tree/usr/bin/ssh-keygen -lf line >/dev/null 2>&1 && theirs="ssh-keygen takes it"
	seen="$theirs, ssh-key $(target/debug/reader "$2")"
	if test "$seen" = "ssh-keygen takes it, ssh-key $3"; then echo "$1: $seen"; else
		echo "$1: $seen   NOT AS RECORDED: $3"
		changed=1
	fi
}
bad="refuses it: character encoding invalid"
line "options, comment" "restrict,command=\"x\" $key near" 'takes it, options [restrict,command="x"]'
line "options, no comment" "restrict,command=\"x\" $key" "$bad"
line "a link's line" "restrict,command=\"qrexec-remote far laptop\" $key" "$bad"
line "a link's line, comment" "restrict,command=\"qrexec-remote far laptop\" $key near" "$bad"
line "a tab behind the options" "restrict	$key near" "$bad"
line "no options" "$key" "takes it, options []"
exit $changed

# seen (2026-11-30):
#   ssh-key 0.6.7, ssh-keygen 9.2p1
#   guess: both take every line
#   options, comment: ssh-keygen takes it, ssh-key takes it, options [restrict,command="x"]
#   options, no comment: ssh-keygen takes it, ssh-key refuses it: character encoding invalid
#   a link's line: ssh-keygen takes it, ssh-key refuses it: character encoding invalid
#   a link's line, comment: ssh-keygen takes it, ssh-key refuses it: character encoding invalid
#   a tab behind the options: ssh-keygen takes it, ssh-key refuses it: character encoding invalid
#   no options: ssh-keygen takes it, ssh-key takes it, options []
