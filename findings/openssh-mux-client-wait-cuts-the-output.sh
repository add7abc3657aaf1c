#!/bin/bash
# Crate openssh-mux-client 0.17.9 with OpenSSH 9.2p1 (Debian 1:9.2p1-2+deb12u10).
#
# One would think: EstablishedSession::wait() is what Child::wait() is for a process: it gives the
# exit status, and what the command wrote can be read afterwards to its end.
#
# What happens: the master sends the exit status as soon as it has it, which may be before it has
# written the output to the descriptor that it was given; wait() takes the session by value and,
# with the status in hand, drops it, which closes the control connection; then the master throws the
# rest away and closes the descriptor. So a reader that is slower than the line gets an end of file
# after a part, beside a status that says the command went well. There is no call that gives the
# status and keeps the session. (The type's documentation says that dropping it ends the streams;
# wait() does the dropping.)
#
# For this project: this crate cannot carry calls, unless the whole output was read to its end
# before wait() is called, which a call that ends by itself in the other order does not allow. Our
# own client of the master keeps the connection until the end of both streams, and frames say where
# the data end. A test with 1.9 MB, which is below the window of a session, and a reader that begins
# after the status shows it each time.
set -u
. "$(dirname "$0")/common/sshd.sh"
mkdir -p client/src
cat >client/Cargo.toml <<'EOF'
[package]
name = "client"
version = "0.0.0"
edition = "2021"
[dependencies]
openssh-mux-client = "=0.17.9"
tokio = { version = "=1.54.1", features = ["rt", "macros"] }
[profile.dev]
debug = 0
EOF
cat >client/src/main.rs <<'EOF'
use openssh_mux_client::{Connection, Session, SessionStatus};
use std::{borrow::Cow, io::Read, os::fd::AsRawFd};

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let words: Vec<String> = std::env::args().collect();
    let bytes = words[1].as_str();
    let (mut read, write) = std::io::pipe().unwrap();
    let null = std::fs::OpenOptions::new().read(true).write(true).open("/dev/null").unwrap();
    let command = Session::builder().cmd(Cow::Borrowed(bytes.try_into().unwrap())).build();
    let files = [null.as_raw_fd(), write.as_raw_fd(), null.as_raw_fd()];
    let session = Connection::connect("m").await.unwrap().open_new_session(&command, &files).await.unwrap();
    drop(write);
    let mut data = Vec::new();
    if words[2] == "read-first" {
        read.read_to_end(&mut data).unwrap();
    }
    let Ok(SessionStatus::Exited { exit_value }) = session.wait().await else { panic!("no status") };
    read.read_to_end(&mut data).unwrap();
    let size: usize = bytes.parse().unwrap();
    println!("status {exit_value:?}, {}", if data.len() == size { "all of the output" } else { "a part of the output" });
    eprintln!("{} of {size} bytes", data.len());
}
EOF
(cd client && CARGO_TARGET_DIR=$work/target cargo build -q) || exit 1
echo "openssh-mux-client 0.17.9"
echo "guess: all of the output in both orders"
cat >far.sh <<'EOF'
#!/bin/sh
head -c "$SSH_ORIGINAL_COMMAND" /dev/zero
EOF
cat >case.sh <<'EOF'
$ssh -F ssh.conf -S m -M -N -f -E log far || exit 1
same "read to the end, then wait()" "$(timeout 20 target/debug/client 1900000 read-first 2>/dev/null)" "status Some(0), all of the output"
for try in 1 2 3; do
	same "wait(), then read, try $try" "$(timeout 20 target/debug/client 1900000 wait-first 2>/dev/null)" "status Some(0), a part of the output"
done
exit $changed
EOF
export -f same
in_lab case.sh

# seen (2026-11-30), twice:
#   openssh 1:9.2p1-2+deb12u10
#   openssh-mux-client 0.17.9
#   guess: all of the output in both orders
#   read to the end, then wait(): status Some(0), all of the output
#   wait(), then read, try 1: status Some(0), a part of the output
#   wait(), then read, try 2: status Some(0), a part of the output
#   wait(), then read, try 3: status Some(0), a part of the output
