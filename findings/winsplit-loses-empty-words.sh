#!/bin/bash
# Crates winsplit 0.1.0 and windows-args 0.2.0, and Python 3's subprocess.list2cmdline as the
# writer.
#
# One would think: all three follow the one set of rules for command lines of Windows, so what one
# of them writes another reads back.
#
# What happens: winsplit drops every empty word (""), and reads the first word, the program, like
# the others: a backslash in front of a quote there, as in "C:\tools\" -x, takes the quote for
# text and swallows what follows; and a quote that ends within a word goes on. windows-args has
# the rule of CommandLineToArgvW: the program ends at its closing quote, whatever follows, and an
# empty line or a leading blank is an empty program. list2cmdline doubles backslashes in the
# program, too, so for a program whose name ends in one it writes what only winsplit reads back.
#
# For this project: the Windows agent takes the first word of a service file as the program and
# the rest as written (no splitting, no joining), and qrexec-client-vm.exe hands on the rest of
# its own command line. The first word is found by its own small rule (in quotes up to the next
# quote, else up to a blank); a table of these lines is its test. winsplit is no oracle for it.
#
# Source: "Parsing C command-line arguments" and CommandLineToArgvW in Microsoft's documentation.
set -u
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
cd "$work" || exit 1
mkdir -p words/src
cat >words/Cargo.toml <<'END'
[package]
name = "words"
version = "0.0.0"
edition = "2021"
[dependencies]
winsplit = "=0.1.0"
windows-args = "=0.2.0"
[profile.dev]
debug = 0
END
cat >words/src/main.rs <<'END'
fn main() {
    let line = std::env::args().nth(1).unwrap();
    let show = |words: Vec<String>| words.iter().map(|word| format!("[{word}]")).collect::<String>();
    let first = show(winsplit::split(&line));
    println!("winsplit {first}, windows-args {}", show(windows_args::Args::parse_cmd(&line).collect()));
}
END
(cd words && CARGO_TARGET_DIR=$work/target cargo build -q) || exit 1
changed=0
same() {
	if test "$2" = "$3"; then echo "$1: $2"; else
		echo "$1: $2   NOT AS RECORDED: $3"
		changed=1
	fi
}
read_line() { target/debug/words "$1"; }
joined() { python3 -c 'import subprocess, sys; print(subprocess.list2cmdline(sys.argv[1:]))' "$@"; }
line() { same "$1" "$(read_line "$1")" "$2"; }
echo "winsplit 0.1.0, windows-args 0.2.0"
echo "guess: the same words from both"
line 'copy "a b" c' 'winsplit [copy][a b][c], windows-args [copy][a b][c]'
line "$(joined copy '' c '')" 'winsplit [copy][c], windows-args [copy][][c][]'
line "$(joined copy 'a b\' 'c"d')" 'winsplit [copy][a b\][c"d], windows-args [copy][a b\][c"d]'
line '"C:\my tools\" -x' 'winsplit [C:\my tools" -x], windows-args [C:\my tools\][-x]'
line '"C:\my tools\t.exe"more a' 'winsplit [C:\my tools\t.exemore][a], windows-args [C:\my tools\t.exe][more][a]'
line ' copy a' 'winsplit [copy][a], windows-args [][copy][a]'
line "$(joined 'C:\my tools\' a)" 'winsplit [C:\my tools\][a], windows-args [C:\my tools\\][a]'
exit $changed

# seen (2026-11-30):
#   winsplit 0.1.0, windows-args 0.2.0
#   guess: the same words from both
#   copy "a b" c: winsplit [copy][a b][c], windows-args [copy][a b][c]
#   copy "" c "": winsplit [copy][c], windows-args [copy][][c][]
#   copy "a b\\" c\"d: winsplit [copy][a b\][c"d], windows-args [copy][a b\][c"d]
#   "C:\my tools\" -x: winsplit [C:\my tools" -x], windows-args [C:\my tools\][-x]
#   "C:\my tools\t.exe"more a: winsplit [C:\my tools\t.exemore][a], windows-args [C:\my tools\t.exe][more][a]
#    copy a: winsplit [copy][a], windows-args [][copy][a]
#   "C:\my tools\\" a: winsplit [C:\my tools\][a], windows-args [C:\my tools\\][a]
