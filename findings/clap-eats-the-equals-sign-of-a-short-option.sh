#!/bin/bash
# Crate clap 4.6.7, beside getopt_long of the C library (any version).
#
# One would think: `-pDATA` gives DATA to a short option in both, so the word is split behind the
# letter and nothing of it is lost; only long options have a `=`.
#
# What happens: getopt_long gives `-p=x` the value `=x`, clap the value `x`. `-p==x` is `==x` there
# and `=x` here; also at the end of a cluster. As a word of its own (`-p =x`) the value is whole in
# both. We found no setting that turns it off.
#
# For this project: `-p DATA` (bytes in front of a call's data), `-l COMMAND`, `-d`, `-c`, `-w` of
# programs with a C namesake. A script that builds `-p"$data"` loses the first byte of its data
# without a word when that is `=`. Our programs must look at the words before clap does (put the
# value of a short option into a word of its own, or one more `=` in front of it), with a table test
# against getopt_long that has values beginning with `=`.
#
# Source: seen here; getopt_long(3) for the other side.
set -u
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
cd "$work" || exit 1
mkdir -p words/src
cat >words/Cargo.toml <<'EOF'
[package]
name = "words"
version = "0.0.0"
edition = "2021"
[dependencies]
clap = { version = "=4.6.7", default-features = false, features = ["std"] }
[profile.dev]
debug = 0
EOF
cat >words/src/main.rs <<'EOF'
use clap::{Arg, ArgAction, Command};
fn main() {
    let seen = Command::new("words")
        .arg(Arg::new("p").short('p').num_args(1).allow_hyphen_values(true))
        .arg(Arg::new("W").short('W').action(ArgAction::SetTrue))
        .get_matches();
    println!("[{}]", seen.get_one::<String>("p").unwrap());
}
EOF
cat >words.c <<'EOF'
#include <getopt.h>
#include <stdio.h>
int main(int count, char **words) {
    static const struct option none[] = {{0, 0, 0, 0}};
    int letter;
    while ((letter = getopt_long(count, words, "p:W", none, NULL)) != -1)
        if (letter == 'p') printf("[%s]\n", optarg);
    return 0;
}
EOF
cc -o c words.c || exit 1
(cd words && CARGO_TARGET_DIR=$work/target cargo build -q) || exit 1
echo "clap 4.6.7"
echo "guess: the same value from both"
changed=0
same() {
	if test "$2" = "$3"; then echo "$1: $2"; else
		echo "$1: $2   NOT AS RECORDED: $3"
		changed=1
	fi
}
both() { echo "getopt_long $(./c "$@"), clap $(target/debug/words "$@")"; }
same "-px" "$(both -px)" "getopt_long [x], clap [x]"
same "-p=x" "$(both -p=x)" "getopt_long [=x], clap [x]"
same "-p==x" "$(both -p==x)" "getopt_long [==x], clap [=x]"
same "-Wp=x" "$(both -Wp=x)" "getopt_long [=x], clap [x]"
same "-p =x" "$(both -p =x)" "getopt_long [=x], clap [=x]"
same "-p-x" "$(both -p-x)" "getopt_long [-x], clap [-x]"
exit $changed

# seen (2026-11-30):
#   clap 4.6.7
#   guess: the same value from both
#   -px: getopt_long [x], clap [x]
#   -p=x: getopt_long [=x], clap [x]
#   -p==x: getopt_long [==x], clap [=x]
#   -Wp=x: getopt_long [=x], clap [x]
#   -p =x: getopt_long [=x], clap [=x]
#   -p-x: getopt_long [-x], clap [-x]
