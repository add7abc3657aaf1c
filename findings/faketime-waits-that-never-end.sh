#!/bin/bash
# libfaketime 0.9.10 (Debian 0.9.10-2.1) under Rust's standard library, Python 3 and the C
# library.
#
# One would think: a faked clock changes what a program reads, not how long it waits: a limit of
# 0.3 seconds stays 0.3 seconds (manual: "sleep" and "alarm" are looked after).
#
# What happens: the faked CLOCK_MONOTONIC starts at the faked wall time, so some 1.8 thousand
# million seconds. std adds the limit to it and hands the sum to the kernel by a futex call that
# no preload library sees: recv_timeout, wait_timeout and park_timeout wait for decades.
# thread::sleep is right. Python's Event.wait() does the same by sem_clockwait; only
# pthread_cond_timedwait is mended. rustix asks the kernel itself: one program has two clocks,
# std's faked and rustix's true. With DONT_FAKE_MONOTONIC=1 all waits are right.
#
# For this project: tests of dates (GetDate, SetDateTime, the age of logs and disposables) get the
# time as a value, not by faketime; a test that runs one of our programs under faketime sets
# DONT_FAKE_MONOTONIC=1 and knows that times read through rustix are the true ones. A program that
# stands still under it is not a lost wake-up of ours.
#
# Source: README of libfaketime: its own test of pthread_cond_timedwait may hang on some platforms
# and FAKETIME_FORCE_MONOTONIC_FIX=1 mends that; it does nothing for these waits.
set -u
version=0.9.10-2.1
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
cd "$work" || exit 1
apt-get download -qq libfaketime=$version >apt.log 2>&1 || { echo "libfaketime $version: not to be had here (other version: N/A)"; exit 1; }
for package in *.deb; do dpkg -x "$package" tree || exit 1; done
library=$(find "$work/tree" -name libfaketimeMT.so.1)
mkdir -p waits/src
cat >waits/Cargo.toml <<'END'
[package]
name = "waits"
version = "0.0.0"
edition = "2021"
[dependencies]
rustix = { version = "=1.1.2", features = ["time"] }
[profile.dev]
debug = 0
END
cat >waits/src/main.rs <<'END'
use std::sync::{mpsc, Condvar, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
fn main() {
    let limit = Duration::from_millis(300);
    match std::env::args().nth(1).unwrap().as_str() {
        "sleep" => std::thread::sleep(limit),
        "recv_timeout" => {
            let (_sender, receiver) = mpsc::channel::<()>();
            receiver.recv_timeout(limit).unwrap_err();
        }
        "wait_timeout" => {
            let lock = Mutex::new(());
            drop(Condvar::new().wait_timeout(lock.lock().unwrap(), limit).unwrap());
        }
        "park_timeout" => std::thread::park_timeout(limit),
        _ => {
            let std = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
            let rustix = rustix::time::clock_gettime(rustix::time::ClockId::Realtime).tv_sec as u64;
            println!("{}", (std - rustix + 3600) / 86400);
        }
    }
}
END
cat >wait.c <<'END'
#include <pthread.h>
#include <time.h>
int main(void) {
    pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    pthread_condattr_t kind;
    pthread_cond_t never;
    struct timespec end;
    pthread_condattr_init(&kind);
    pthread_condattr_setclock(&kind, CLOCK_MONOTONIC);
    pthread_cond_init(&never, &kind);
    clock_gettime(CLOCK_MONOTONIC, &end);
    end.tv_sec += 1;
    pthread_mutex_lock(&lock);
    while (pthread_cond_timedwait(&never, &lock, &end) == 0) {}
    return 0;
}
END
cc -o wait wait.c -pthread || exit 1
(cd waits && CARGO_TARGET_DIR=$work/target cargo build -q) || exit 1
faked() { LD_PRELOAD=$library FAKETIME=+365d "$@"; }
ends() { # within 4 s, for a limit of 0.3 s or 1 s
	timeout 4 "$@" >/dev/null 2>&1
	case $? in 0) echo "in time" ;; 124) echo "not within 4 s" ;; *) echo "failed" ;; esac
}
changed=0
same() {
	if test "$2" = "$3"; then echo "$1: $2"; else
		echo "$1: $2   NOT AS RECORDED: $3"
		changed=1
	fi
}
unset LD_PRELOAD FAKETIME
python="import threading; threading.Event().wait(0.3)"
waits=$work/target/debug/waits
echo "libfaketime $version, $(rustc --version | cut -d' ' -f1,2), $(python3 --version)"
echo "guess: in time each time"
same "not faked, recv_timeout" "$(ends "$waits" recv_timeout)" "in time"
for kind in sleep recv_timeout wait_timeout park_timeout; do
	recorded="not within 4 s"
	test $kind != sleep || recorded="in time"
	same "a year ahead, std $kind" "$(faked ends "$waits" $kind)" "$recorded"
done
export FAKETIME_FORCE_MONOTONIC_FIX=1
same "FAKETIME_FORCE_MONOTONIC_FIX=1, recv_timeout" "$(faked ends "$waits" recv_timeout)" "not within 4 s"
unset FAKETIME_FORCE_MONOTONIC_FIX
same "a year ahead, Python's Event.wait" "$(faked ends python3 -c "$python")" "not within 4 s"
same "a year ahead, pthread_cond_timedwait" "$(faked ends ./wait)" "in time"
export DONT_FAKE_MONOTONIC=1
same "DONT_FAKE_MONOTONIC=1, recv_timeout" "$(faked ends "$waits" recv_timeout)" "in time"
same "DONT_FAKE_MONOTONIC=1, Python's Event.wait" "$(faked ends python3 -c "$python")" "in time"
same "days between std's clock and rustix's" "$(faked "$waits" clocks)" "365"
exit $changed

# seen (2026-11-30):
#   libfaketime 0.9.10-2.1, rustc 1.95.0, Python 3.11.7
#   guess: in time each time
#   not faked, recv_timeout: in time
#   a year ahead, std sleep: in time
#   a year ahead, std recv_timeout: not within 4 s
#   a year ahead, std wait_timeout: not within 4 s
#   a year ahead, std park_timeout: not within 4 s
#   FAKETIME_FORCE_MONOTONIC_FIX=1, recv_timeout: not within 4 s
#   a year ahead, Python's Event.wait: not within 4 s
#   a year ahead, pthread_cond_timedwait: in time
#   DONT_FAKE_MONOTONIC=1, recv_timeout: in time
#   DONT_FAKE_MONOTONIC=1, Python's Event.wait: in time
#   days between std's clock and rustix's: 365
