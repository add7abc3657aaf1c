//! `qrexec-top`: who talks to whom right now.
//!
//! Every daemon and every agent has a socket on which it says what it knows ([`wire::top`]); this program reads those that it
//! finds and shows them together. What a reader may see is decided there, not here.

use std::ffi::OsString;
use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;

use crate::failure::Failure;
use crate::usage;

mod export;
mod sockets;
mod table;
mod view;

use sockets::Sample;
use view::View;

const PROGRAM: &str = "qrexec-top";

/// From one look to the next, on a terminal.
const REFRESH: f64 = 1.0;
/// The same where there is one table only: rates are those of so long.
const GLANCE: f64 = 0.25;
/// Lines and columns of a terminal that does not say.
const SCREEN: (usize, usize) = (24, 80);

/// Show who talks to whom right now: calls by source, target and service, with bytes, rates and the last exit code
#[derive(Debug, Parser)]
#[command(name = "qrexec-top", infer_long_args = true)]
#[command(
    after_help = "In dom0, members of the daemons' group see the calls of all qubes, with the rule that allowed them; \
bytes only of services in dom0 itself, since the bytes of other calls do not pass through it. In a qube, root sees all of \
its calls and everybody else their own. The bytes of a call that a program of the qube makes are known when it has ended.\n\n\
TO-SERVICE and TO-CALLER are bytes, each with its rate; NOW is how many calls run; AGE is that of the oldest of them; EXIT is \
the exit code of the last one that ended. `-` is what nobody here knows.\n\n\
Examples:\n  qrexec-top                     refreshed in place, until ^C\n  qrexec-top --once | head\n  \
qrexec-top --json | jq '.calls[] | select(.running > 0)'\n  qrexec-top --metrics > /var/lib/prometheus/node-exporter/qrexec.prom"
)]
struct TopArgs {
    /// One table, and end; as ever where standard output is no terminal
    #[arg(long)]
    once: bool,
    /// One JSON object, and end
    #[arg(long, conflicts_with_all = ["once", "metrics"])]
    json: bool,
    /// The sums in the text format of Prometheus, and end
    #[arg(long, conflicts_with = "once")]
    metrics: bool,
    /// Only what runs now
    #[arg(short, long)]
    running: bool,
    /// Seconds from one look to the next [default: 1, with --once and --json 0.25]
    #[arg(short, long, value_name = "SECONDS", value_parser = delay)]
    delay: Option<f64>,
    /// Read this socket of a daemon or an agent (may be given several times) [default: those of this machine]
    #[arg(long = "socket", value_name = "PATH")]
    sockets: Vec<PathBuf>,
}

/// What is no time to wait.
#[derive(Debug, thiserror::Error)]
#[error("expected seconds, from 0.1 to 3600")]
struct BadDelay;

fn delay(text: &str) -> Result<f64, BadDelay> {
    let seconds: f64 = text.parse().map_err(|_| BadDelay)?;
    if (0.1..=3600.0).contains(&seconds) { Ok(seconds) } else { Err(BadDelay) }
}

/// The command line, for manual pages and completions.
#[must_use]
pub fn command() -> clap::Command {
    <TopArgs as clap::CommandFactory>::command()
}

/// Runs the program with these arguments, its name first, and gives its exit status.
#[must_use]
pub fn main(args: Vec<OsString>) -> i32 {
    usage::run(PROGRAM, args, run)
}

fn run(args: &TopArgs) -> Result<(), Failure> {
    let places = sockets::places(&args.sockets);
    let look = || Sample::take(&places);
    let stays = !args.once && !args.json && !args.metrics && io::stdout().is_terminal();
    let delay = Duration::from_secs_f64(args.delay.unwrap_or(if stays { REFRESH } else { GLANCE }));
    let mut before = look()?;
    if args.metrics {
        return say(&export::metrics(&before.answers));
    }
    loop {
        std::thread::sleep(delay); // a rate is what two looks with time between them differ by
        let after = look()?;
        let view = View::new(&before, &after, &own_name(), args.running);
        if args.json {
            return say(&export::json(&view));
        }
        if !stays {
            return say(&table::whole(&view));
        }
        say(&table::screen(&view, size()))?;
        before = after;
    }
}

/// Somebody who has seen enough is no trouble.
fn say(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(Failure::during("stdout")(error)),
        _ => Ok(()),
    }
}

/// Lines and columns of the terminal.
fn size() -> (usize, usize) {
    match rustix::termios::tcgetwinsize(rustix::stdio::stdout()) {
        Ok(size) if size.ws_row > 0 && size.ws_col > 0 => (size.ws_row.into(), size.ws_col.into()),
        _ => SCREEN,
    }
}

/// What this machine is called: in a lab by the lab, else by itself.
fn own_name() -> String {
    let of_lab = std::env::var("QUBES_LAB_VM").ok().filter(|name| !name.is_empty());
    of_lab.unwrap_or_else(|| rustix::system::uname().nodename().to_string_lossy().into_owned())
}
