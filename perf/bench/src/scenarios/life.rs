//! Ordinary programs at both ends of a call: what writes 4 KiB at a time, what computes a sum, another user's pipes.
//!
//! A transfer is begun when both ends are there, and ends when the last program has read the end of its input. The service
//! then waits, so that the processes between can still be asked what they have used.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{ChildStderr, Command, Stdio};
use std::time::Duration;

use engine::step::now;
use rustix::fs::{FileType, Mode};

use super::super::agent_side::AgentSide;
use super::super::process::Running;
use super::super::procfs;
use super::super::scenario::{Case, Metric, Sample, Scenario};
use super::super::settings::Settings;
use super::super::stage::Stage;
use super::super::transfer::new_pipe;
use super::super::upstream::quoted;
use super::throughput::{GIB, time_limit};
use cli::failure::Failure;

const BANDWIDTH: Metric = Metric::higher("bandwidth", "GiB/s");
const CPU: Metric = Metric::lower("CPU", "s/GiB");

/// Bytes that a service says by stderr, at most.
const MOST_SAID: u64 = 64 << 10;

/// What most programs are measured against.
const CAT: (&str, &str) = ("cat", "cat >/dev/null");
const HEAD: (&str, &str) = ("head", "head -c $n /dev/zero");

/// Programs that write `$n` bytes, some of them from the sparse file `$f`.
const SOURCES: [(&str, &str); 7] = [
    HEAD,
    ("dd of 4 KiB", "dd if=/dev/zero bs=4k count=$((n/4096)) status=none"),
    ("dd of 64 KiB", "dd if=/dev/zero bs=64k count=$((n/65536)) status=none"),
    ("dd of 1 MiB", "dd if=/dev/zero bs=1M count=$((n/1048576)) status=none"),
    ("tar", TAR),
    ("python", PYTHON),
    FILE,
];
const FILE: (&str, &str) = ("a file", "cat \"$f\"");
const TAR: &str = "tar -c -f - -C \"${f%/*}\" \"${f##*/}\"";
const PYTHON: &str = "python3 -c 'import sys\nw = sys.stdout.buffer.write\nb = b\"x\" * 1024\nfor i in range(int(sys.argv[1]) // 1024): w(b)' $n";

/// Programs that read to the end.
const SINKS: [(&str, &str); 5] = [
    ("wc", "wc -c >/dev/null"),
    ("a reader of 4 KiB", "dd bs=4k of=/dev/null status=none"),
    ("sha256sum", "sha256sum >/dev/null"),
    ("pv", "pv -q >/dev/null"),
    ("tar", "tar -x -f - -O >/dev/null"),
];

/// The scenario.
pub(in super::super) struct Life;

impl Scenario for Life {
    fn name(&self) -> &'static str {
        "life"
    }

    fn title(&self) -> &'static str {
        "ordinary programs at both ends of one call"
    }

    fn cases(&self, settings: &Settings) -> Vec<Box<dyn Case>> {
        let with_head = |sink: &(_, _)| (if sink.0 == "tar" { ("tar", TAR) } else { HEAD }, *sink);
        let plain = SOURCES.map(|source| (source, CAT)).into_iter().chain(SINKS.iter().map(with_head));
        let plain = plain.map(|pair| (pair, Ends::Pipe));
        let special = [Ends::Foreign, Ends::Socket].map(|ends| ((HEAD, CAT), ends));
        let pairs = plain.chain(special).filter(|((source, sink), _)| is_there(source.1) && is_there(sink.1));
        let cases = pairs.flat_map(|((source, sink), ends)| {
            [true, false].map(|sends| Lively { source, sink, ends, sends, bytes: settings.size })
        });
        // Its owner's privileges open every pipe.
        let opens_all = rustix::process::geteuid().is_root();
        let cases = cases.filter(|case| case.ends != Ends::Foreign || !opens_all);
        cases.map(|case| Box::new(case) as Box<dyn Case>).collect()
    }
}

/// Whether the program of a command is installed.
fn is_there(command: &str) -> bool {
    let program = command.split_ascii_whitespace().next().unwrap_or_default();
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
}

/// The caller's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ends {
    Pipe,
    /// A pipe that the client may not open anew, as one that another user has made.
    Foreign,
    Socket,
}

impl Ends {
    /// What is read at one end and written at the other.
    fn joint(self) -> Result<(OwnedFd, OwnedFd), Failure> {
        if self == Self::Socket {
            let (a, b) = UnixStream::pair().map_err(Failure::during("a socket"))?;
            return Ok((a.into(), b.into()));
        }
        let (from, to) = new_pipe()?;
        if self == Self::Foreign {
            rustix::fs::fchmod(&to, Mode::empty()).map_err(Failure::during("a pipe"))?;
        }
        Ok((from.into(), to.into()))
    }
}

/// One transfer.
#[derive(Clone, Copy, Debug)]
struct Lively {
    source: (&'static str, &'static str),
    sink: (&'static str, &'static str),
    ends: Ends,
    sends: bool,
    bytes: u64,
}

/// Files of a transfer.
struct Files {
    zeros: PathBuf,
    service: PathBuf,
    /// The service waits here once all has been moved.
    gate: PathBuf,
}

impl Files {
    fn make(stage: &Stage, bytes: u64) -> Result<Files, Failure> {
        let during = || Failure::during("files for a transfer");
        let (zeros, gate) = (stage.folder().join("zeros"), stage.folder().join("gate"));
        File::create(&zeros).and_then(|file| file.set_len(bytes)).map_err(during())?;
        if !gate.exists() {
            rustix::fs::mknodat(rustix::fs::CWD, &gate, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0)
                .map_err(|error| during()(error.into()))?;
        }
        Ok(Files { zeros, service: stage.life_text(), gate })
    }

    fn write_service(&self, bytes: u64, text: &str) -> Result<(), Failure> {
        fs::write(&self.service, self.script(bytes, text)).map_err(Failure::during("a service"))
    }

    /// A text for the shell, with what the commands name.
    fn script(&self, bytes: u64, text: &str) -> String {
        format!("n={bytes}\nf={}\ng={}\n{text}\n", quoted(&self.zeros), quoted(&self.gate))
    }
}

impl Lively {
    /// What the service does. Its words go by stderr; nothing of the transfer stays open behind its end.
    fn service(&self) -> String {
        let done = "exec <&- >&-\necho moved >&2\nread x <\"$g\"";
        if self.sends {
            format!("echo ready >&2\n{}\n{done}", self.sink.1)
        } else {
            format!("echo ready >&2\nread x\n{}\n{done}", self.source.1)
        }
    }

    fn moved(&self, stage: &Stage) -> Result<Vec<Sample>, Failure> {
        let files = Files::make(stage, self.bytes)?;
        files.write_service(self.bytes, &self.service())?;
        let (read, written) = self.ends.joint()?;
        let (go, goes) = new_pipe()?;
        let mut command = stage.call_life()?;
        command.stderr(Stdio::piped());
        let local = if self.sends {
            command.stdin(read).stdout(Stdio::null());
            Local { text: self.source.1, stdin: Stdio::null(), stdout: written.into() }
        } else {
            command.stdin(go).stdout(written);
            Local { text: self.sink.1, stdin: read.into(), stdout: Stdio::null() }
        };
        let mut client = Running::start(&mut command, "qrexec-client-vm")?;
        drop(command);
        let mut said = Said::of(&mut client)?;
        said.wait_for("ready")?;
        let (began, local) = if self.sends {
            let began = now();
            (began, local.start(&files, self.bytes)?)
        } else {
            let local = local.start(&files, self.bytes)?;
            let began = now();
            (&goes).write_all(b"\n").map_err(Failure::during("starting the service"))?;
            (began, local)
        };
        if self.sends {
            said.wait_for("moved")?;
            self.ended(stage, &files, began, client, said, local)
        } else {
            let client = local.finish().map(|()| client)?;
            self.ended(stage, &files, began, client, said, goes)
        }
    }

    /// All has been moved: asks what it has cost, and lets the call end. `rest` ends with it.
    fn ended(
        &self,
        stage: &Stage,
        files: &Files,
        began: u64,
        client: Running,
        said: Said,
        rest: impl Sized,
    ) -> Result<Vec<Sample>, Failure> {
        let seconds = now().saturating_sub(began) as f64 / 1e9;
        let agent = AgentSide::of_call(stage);
        let of_client = client.pid().and_then(procfs::cpu_seconds);
        let of_agent = agent.pumps().iter().map(|pid| procfs::cpu_seconds(*pid)).sum::<Option<f64>>();
        let cpu = of_client.zip(of_agent.filter(|seconds| *seconds > 0.0));
        // Open both ways, so that nobody has to be there yet, or at all.
        let gate = File::options().read(true).write(true).open(&files.gate);
        let opened = gate.and_then(|mut gate| gate.write_all(b"\n").map(|()| gate));
        let gate = opened.map_err(Failure::during("ending a service"))?;
        drop(rest);
        client.finish().map_err(|mut failure| {
            failure.message = format!("{}: {}", failure.message, said.rest().trim());
            failure
        })?;
        drop(gate);
        agent.finish();
        let gib = self.bytes as f64 / GIB;
        let cpu = cpu.map(|(client, agent)| (CPU, (client + agent) / gib));
        Ok(std::iter::once((BANDWIDTH, gib / seconds)).chain(cpu).collect())
    }
}

impl Case for Lively {
    fn label(&self) -> String {
        let way = if self.sends { "send" } else { "receive" };
        let ends = match self.ends {
            Ends::Pipe => "",
            Ends::Foreign => ", another user's pipe",
            Ends::Socket => ", a socket",
        };
        format!("{way}, {} to {}{ends}", self.source.0, self.sink.0)
    }

    fn patience(&self) -> Duration {
        time_limit(self.bytes)
    }

    fn run(&self, stage: &Stage) -> Result<Vec<Sample>, Failure> {
        self.moved(stage)
    }
}

/// A program at our side that is to be started.
struct Local {
    text: &'static str,
    stdin: Stdio,
    stdout: Stdio,
}

impl Local {
    fn start(self, files: &Files, bytes: u64) -> Result<Running, Failure> {
        let mut shell = Command::new("/bin/sh");
        shell.arg("-c").arg(files.script(bytes, self.text)).stdin(self.stdin).stdout(self.stdout);
        Running::start(&mut shell, "a local program")
    }
}

/// What the service says by stderr, among other lines.
struct Said(BufReader<ChildStderr>);

impl Said {
    fn of(client: &mut Running) -> Result<Said, Failure> {
        let stderr = client.child().stderr.take();
        let stderr = stderr.ok_or_else(|| Failure::trouble("a process without a standard error"))?;
        Ok(Said(BufReader::new(stderr)))
    }

    fn wait_for(&mut self, word: &str) -> Result<(), Failure> {
        let mut all = String::new();
        for line in self.0.by_ref().take(MOST_SAID).lines() {
            let line = line.map_err(Failure::during("hearing the service"))?;
            if line == word {
                return Ok(());
            }
            all = all + &line + "\n";
        }
        Err(Failure::trouble(format!("the service never said {word}: {}", all.trim())))
    }

    fn rest(self) -> String {
        let mut text = String::new();
        let _ = self.0.take(MOST_SAID).read_to_string(&mut text);
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_installed_is_left_out() {
        assert!(is_there("cat >/dev/null"));
        assert!(!is_there("no-such-program -x"));
    }
}
