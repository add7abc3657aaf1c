#!/bin/bash
# Linux-PAM 1.5.2 (Debian 1.5.2-6+deb12u3), pam_env with readenv=1.
#
# One would think: /etc/environment has NAME=VALUE lines; quotes protect what is in them, as in a
# shell; a `#` in the middle of a value belongs to it.
#
# What happens: pam_env ends a line at the first `#`, wherever it stands, then takes one quote off
# either end. So NAME="a#b" and NAME=a#b are both `a`, without a word. A blank in front of a comment
# stays in the value. A name with `-` or `.` is dropped, the rest of the file is read.
#
# For this project: a service that starts in a PAM session (pam.d/qrexec has readenv=1) sees another
# value than a script that reads the same file: a proxy's password or a URL with a fragment arrives
# cut. Say so in the documentation of a service's environment, and let no test compare the two for
# values with a `#`.
#
# Source: pam_env.conf(5) says of its own file that `#` at the start of a line makes a comment.
set -u
version=1.5.2-6+deb12u3
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
cd "$work" || exit 1
apt-get download -qq libpam-modules=$version libpam0g=$version >apt.log 2>&1 || { echo "Linux-PAM $version: not to be had here (other version: N/A)"; exit 1; }
for package in *.deb; do dpkg -x "$package" tree || exit 1; done
module=$(find "$work/tree" -name pam_env.so)
library=$(find "$work/tree" -name 'libpam.so.0')
cat >session.c <<'EOF'
#include <stdio.h>
#include <stdlib.h>
/* What is needed of libpam, so that no development package is. */
struct pam_conv { int (*ask)(int, const void **, void **, void *); void *data; };
int pam_start_confdir(const char *, const char *, const struct pam_conv *, const char *, void **);
int pam_open_session(void *, int);
char **pam_getenvlist(void *);
int pam_end(void *, int);
static int ask(int count, const void **messages, void **answers, void *data) { return 19; }
int main(int count, char **words) {
    struct pam_conv conversation = { ask, NULL };
    void *handle;
    if (pam_start_confdir("call", "root", &conversation, words[1], &handle)) return 1;
    int code = pam_open_session(handle, 0);
    for (char **line = pam_getenvlist(handle); line && *line; line++) printf("[%s]\n", *line);
    pam_end(handle, code);
    return code;
}
EOF
cc -o session session.c "$library" || exit 1
mkdir conf
echo "session required $module conffile=/dev/null readenv=1 envfile=$work/environment" >conf/call
cat >environment <<'EOF'
PLAIN=a#b
QUOTED="a#b c"
BEHIND=value # comment
WHOLE="two words"
A-DASH=x
A.DOT=x
EOF
echo "pam_env $version"
echo "guess: [PLAIN=a#b] [QUOTED=a#b c] [BEHIND=value] [WHOLE=two words]"
echo "sh reads: $(sed '/^A[-.]/d' environment >plain; . ./plain; echo "[$PLAIN] [$QUOTED] [$BEHIND] [$WHOLE]")"
LD_LIBRARY_PATH=$(dirname "$library") ./session conf | tee seen
cat >recorded <<'EOF'
[PLAIN=a]
[QUOTED=a]
[BEHIND=value ]
[WHOLE=two words]
EOF
cmp -s seen recorded || { echo "NOT AS RECORDED:"; cat recorded; exit 1; }

# seen (2026-11-30):
#   pam_env 1.5.2-6+deb12u3
#   guess: [PLAIN=a#b] [QUOTED=a#b c] [BEHIND=value] [WHOLE=two words]
#   sh reads: [a#b] [a#b c] [value] [two words]
#   [PLAIN=a]
#   [QUOTED=a]
#   [BEHIND=value ]
#   [WHOLE=two words]
