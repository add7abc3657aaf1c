//! The command line of `qrexec-usb-sim`.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use clap::{CommandFactory, Parser, ValueEnum};
use cli::failure::Failure;
use cli::usage;
use engine::say;
use rustix::io::fcntl_dupfd_cloexec;
use serde::Serialize;
use wire::usbip::Speed;

use crate::driver::listener;
use crate::host::{
    Class, Content, Disk, Host, Measured, Stream, Streamed, Trouble, Way, control_transfers, describe, keys,
    stream,
};
use crate::kernel::{Kernel, Plugged};
use crate::{Counts, Kind, Machine, Medium, hand_over, pattern, run_controller, run_controllers};

/// The program's name.
pub const PROGRAM: &str = "qrexec-usb-sim";
/// How long a driver of mass storage waits for an answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// What a stand-in for a kernel has of virtual controllers, and of ports of each speed at each.
const CONTROLLERS: u32 = 2;
const PORTS: u32 = 8;

/// A USB device that is a program: it speaks USB/IP on its standard input, which is a socket.
///
/// As a service of qrexec it is a device that another VM imports; see usb-import(8). `host` is the other end: it does
/// what a kernel would with the device at the other end of the socket, and reports what it measured.
#[derive(Debug, Parser)]
#[command(name = PROGRAM, version, max_term_width = 100)]
struct Cli {
    /// What it is
    #[arg(value_enum, default_value = "stick")]
    role: Role,
    /// stick: the file that has its content; without it, it is in memory, with a pattern
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// stick: its size; of a file: its own size, unless this is more
    #[arg(long, value_name = "MIB", value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    size: Option<u32>,
    /// How fast the device says it is, in Mbit/s [default: 5000, a camera 480, a keyboard 12]
    #[arg(long, value_name = "SPEED", value_parser = speed)]
    speed: Option<Speed>,
    /// keyboard: types a letter in this interval; without it, never
    #[arg(long, value_name = "MS")]
    keys: Option<u32>,
    /// Listens on this socket and gives each connection a device of its own; for a service that is a socket
    #[arg(long, value_name = "PATH", conflicts_with = "report")]
    listen: Option<PathBuf>,
    /// host: where the report goes, as JSON [default: stderr, for people]
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// host: how much is read and written of a disk, for each length of a command; a camera: seconds
    #[arg(long, value_name = "MIB", default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    amount: u32,
    /// kernel: the folder that stands for the root of the system
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,
    /// kernel: a device that is plugged in there; may be given several times
    #[arg(long, value_name = "PORT=KIND", value_parser = plug)]
    plug: Vec<Plugged>,
    /// host: nothing is written, and what is read is not compared: for a disk with content of its own
    #[arg(long)]
    read_only: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Role {
    /// A mass-storage stick
    Stick,
    /// A device that sends isochronous packets in real time
    Camera,
    /// A keyboard
    Keyboard,
    /// The kernel at the other end
    Host,
    /// A stand-in for the kernel's files and drivers, for the programs that export and import, in a lab
    Kernel,
}

/// A word that is no speed.
#[derive(Debug, thiserror::Error)]
#[error("a speed is one of {}", Speed::ALL.iter().map(|speed| speed.text()).collect::<Vec<_>>().join(", "))]
struct NoSpeed;

fn speed(text: &str) -> Result<Speed, NoSpeed> {
    Speed::from_text(text.as_bytes()).ok_or(NoSpeed)
}

/// `PORT=KIND` of `--plug`, which is neither.
#[derive(Debug, thiserror::Error)]
#[error("PORT=KIND is wanted, where KIND is stick, camera or keyboard")]
struct NoPlug;

fn plug(text: &str) -> Result<Plugged, NoPlug> {
    let (port, kind) = text.split_once('=').ok_or(NoPlug)?;
    Plugged::new(port, kind).ok_or(NoPlug)
}

/// Its command line.
#[must_use]
pub fn command() -> clap::Command {
    Cli::command()
}

/// The program; gives the exit status.
#[must_use]
pub fn main(args: Vec<OsString>) -> i32 {
    usage::run::<Cli>(PROGRAM, args, |cli| match (&cli.listen, cli.role) {
        (Some(_), Role::Host | Role::Kernel) => Err(Failure::usage("a device listens, nothing else does")),
        (Some(path), _) => listen(cli, path),
        (None, Role::Host) => host(cli),
        (None, Role::Kernel) => kernel(cli),
        (None, _) => device(cli),
    })
}

impl Cli {
    fn machine(&self) -> io::Result<Machine> {
        let kind = match self.role {
            Role::Camera => Kind::Camera,
            Role::Keyboard => Kind::Keyboard(self.keys.map(|every| Duration::from_millis(every.into()))),
            Role::Stick | Role::Host | Role::Kernel => Kind::Stick(self.medium()?),
        };
        Ok(Machine::new(kind, self.speed))
    }

    fn medium(&self) -> io::Result<Medium> {
        let Some(path) = &self.file else {
            return Ok(Medium::Memory(pattern(self.size.unwrap_or(16) as usize * (1 << 20))));
        };
        let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        let wanted = u64::from(self.size.unwrap_or(0)) << 20;
        let has = file.seek(SeekFrom::End(0))?;
        if has < wanted {
            file.set_len(wanted)?;
        }
        let length = has.max(wanted);
        if length < 512 {
            return Err(io::Error::other("a stick has at least one block of 512 bytes: say --size"));
        }
        Ok(Medium::File(file, length))
    }
}

/// The socket of the call.
fn standard_input() -> Result<OwnedFd, Failure> {
    fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3).map_err(Failure::during("stdin"))
}

fn device(cli: &Cli) -> Result<(), Failure> {
    let mut machine = cli.machine().map_err(Failure::during("device"))?;
    let socket = standard_input()?;
    hand_over().map_err(Failure::during("one socket"))?;
    let served = run_controller(&mut machine, &socket);
    said(machine.counts());
    served.map_err(|failure| Failure::trouble(failure.to_string()))
}

fn listen(cli: &Cli, path: &Path) -> Result<(), Failure> {
    let listener = listener(path).map_err(Failure::during(path.display()))?;
    let served = run_controllers(
        &listener,
        || cli.machine(),
        |ended| match ended {
            Ok(machine) => said(machine.counts()),
            Err(failure) => say::error(format_args!("{PROGRAM}: {failure}")),
        },
    );
    let _ = fs::remove_file(path);
    served.map_err(Failure::during("listen"))
}

/// The system is there as long as this program.
fn kernel(cli: &Cli) -> Result<(), Failure> {
    let root = cli.root.as_deref().ok_or_else(|| Failure::usage("a kernel has a --root"))?;
    let _kernel =
        Kernel::start(root, cli.plug.clone(), CONTROLLERS, PORTS).map_err(Failure::during("kernel"))?;
    loop {
        thread::park();
    }
}

fn said(counts: Counts) {
    if counts.starved > 0 {
        say::error(format_args!(
            "{PROGRAM}: {} of {} requests came too late, the worst by {} µs",
            counts.starved,
            counts.requests,
            counts.worst.as_micros()
        ));
    }
}

/// Everything that a host has to say.
#[derive(Debug, Default, Serialize)]
struct Report {
    control: Measured,
    /// Way and length of a command.
    disk: Vec<(&'static str, usize, Measured)>,
    camera: Vec<(&'static str, Streamed)>,
    keys: usize,
}

fn host(cli: &Cli) -> Result<(), Failure> {
    let socket = standard_input()?;
    hand_over().map_err(Failure::during("one socket"))?;
    let report = drive(cli, socket).map_err(|trouble| Failure::trouble(trouble.to_string()))?;
    match &cli.report {
        Some(path) => File::create(path)
            .and_then(|file| serde_json::to_writer_pretty(file, &report).map_err(io::Error::other))
            .map_err(Failure::during(path.display())),
        None => {
            say::error(format_args!("{}", for_people(&report)));
            Ok(())
        }
    }
}

fn drive(cli: &Cli, socket: OwnedFd) -> Result<Report, Trouble> {
    let mut host = Host::attach(socket, PATIENCE)?;
    let described = describe(&mut host)?;
    let mut report = Report { control: control_transfers(&mut host, 200)?, ..Report::default() };
    match described.class {
        Class::Disk => {
            let content = if cli.read_only { Content::Unknown } else { Content::Pattern };
            let mut disk = Disk::open(&mut host, content)?;
            let amount = cli.amount as usize * (1 << 20);
            let mut run = |way, name, length, amount| {
                disk.measure(way, length, amount).map(|measured| report.disk.push((name, length, measured)))
            };
            for length in [120 << 10, 128 << 10, 1 << 20] {
                run(Way::Read, "read", length, amount)?;
            }
            run(Way::Read, "read", 4 << 10, amount / 16)?;
            if !cli.read_only {
                run(Way::Write, "write", 120 << 10, amount)?;
                run(Way::Read, "read", 120 << 10, amount)?;
                disk.sync()?;
            }
        }
        Class::Camera => {
            let time = Duration::from_secs(cli.amount.into()) / 16;
            report.camera.push(("webcam", stream(&mut host, Stream::webcam(time))?));
            report.camera.push(("1 ms", stream(&mut host, Stream::millisecond(time))?));
        }
        Class::Keyboard => report.keys = keys(&mut host, 2)?.len(),
        Class::Other => return Err(Trouble::Wrong("a device of a class that has no driver here")),
    }
    Ok(report)
}

fn for_people(report: &Report) -> String {
    let mut text = String::new();
    let mut line = |what: &str, measured: &Measured| {
        let _ = writeln!(
            text,
            "{what:>16}: {:8.1} MB/s, p50 {:7.1} µs, p99 {:7.1} µs, worst {:7.1} µs",
            measured.rate(),
            measured.waits.p50,
            measured.waits.p99,
            measured.waits.worst
        );
    };
    line("control", &report.control);
    for (way, length, measured) in &report.disk {
        line(&format!("{way} {} KiB", length >> 10), measured);
    }
    for (what, seen) in &report.camera {
        let _ = writeln!(
            text,
            "{what:>16}: {} answers, {} late, worst {:.0} µs, {} starved, {} packets wrong",
            seen.answers, seen.late, seen.worst, seen.starved, seen.wrong
        );
    }
    if report.keys > 0 {
        let _ = writeln!(text, "{:>16}: {}", "keys", report.keys);
    }
    text.truncate(text.trim_end().len());
    text
}
