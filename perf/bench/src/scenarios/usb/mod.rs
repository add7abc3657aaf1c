//! USB devices over a call: a simulated device as the service, and this program in place of the kernel that imports it.
//!
//! Mass storage has one command in flight, each of three round trips, so this is where latency shows. The yardstick is the
//! same device behind two relays that only copy.

mod road;

use std::time::Duration;

use usb_sim::host::{Class, Content, Disk, Host, Stream, Way, control_transfers, describe, stream};

use super::super::scenario::{Case, Metric, Sample, Scenario};
use super::super::settings::Settings;
use super::super::stage::Stage;
use cli::failure::Failure;
use road::{Ends, Road};

const RATE: Metric = Metric::higher("rate", "MB/s");
const P50: Metric = Metric::lower("p50", "µs");
const P99: Metric = Metric::lower("p99", "µs");
const LATEST: Metric = Metric::lower("latest", "µs");
const LATE: Metric = Metric::lower("late", "answers");
const STARVED: Metric = Metric::lower("starved", "requests");
const ANSWERS: Metric = Metric::higher("answers", "requests");
/// Of `qrexec-client-vm` and the agent's process.
const CPU: Metric = Metric::lower("CPU", "ms/MiB");

/// Lengths of commands that read, and of those that write: what Linux sends to disks at 480 Mbit/s and faster ones.
const READS: [usize; 4] = [4 << 10, 120 << 10, 128 << 10, 1 << 20];
const WRITES: [usize; 2] = [120 << 10, 128 << 10];

/// Most bytes of one run; commands of a few KiB move less in the same time.
const MOST: u64 = 64 << 20;
const MOST_SMALL: u64 = 8 << 20;
const SMALL: usize = 16 << 10;

/// Commands and their data.
pub(in super::super) struct Commands;

/// Transfers without any data to speak of.
pub(in super::super) struct Control;

/// Requests that have to be there in time.
pub(in super::super) struct Isochronous;

impl Scenario for Commands {
    fn name(&self) -> &'static str {
        "usb"
    }

    fn title(&self) -> &'static str {
        "a simulated USB stick over a call, one command at a time"
    }

    fn cases(&self, settings: &Settings) -> Vec<Box<dyn Case>> {
        let lengths = READS
            .map(|length| (Way::Read, length))
            .into_iter()
            .chain(WRITES.map(|length| (Way::Write, length)));
        let commands = lengths.map(|(way, length)| {
            let most = if length < SMALL { MOST_SMALL } else { MOST };
            let total = usize::try_from(settings.size.min(most)).unwrap_or(length).max(length);
            Work::Commands { way, length, total }
        });
        commands.flat_map(on_each_road).collect()
    }
}

impl Scenario for Control {
    fn name(&self) -> &'static str {
        "usb-control"
    }

    fn title(&self) -> &'static str {
        "control transfers to it"
    }

    fn cases(&self, settings: &Settings) -> Vec<Box<dyn Case>> {
        on_each_road(Work::Control(settings.rounds as usize)).collect()
    }
}

impl Scenario for Isochronous {
    fn name(&self) -> &'static str {
        "usb-camera"
    }

    fn title(&self) -> &'static str {
        "a simulated camera over a call: five requests of 4 ms in flight, three of 1 ms"
    }

    fn cases(&self, settings: &Settings) -> Vec<Box<dyn Case>> {
        let time = settings.camera;
        [("camera", Stream::webcam(time)), ("1 ms requests", Stream::millisecond(time))]
            .into_iter()
            .flat_map(|(name, how)| on_each_road(Work::Stream(name, how)))
            .collect()
    }
}

fn on_each_road(work: Work) -> impl Iterator<Item = Box<dyn Case>> {
    Road::ALL.into_iter().map(move |road| Box::new(Use { work, road }) as Box<dyn Case>)
}

/// What is done with a device.
#[derive(Debug, Clone, Copy)]
enum Work {
    Commands { way: Way, length: usize, total: usize },
    Control(usize),
    Stream(&'static str, Stream),
}

impl Work {
    fn name(self) -> String {
        match self {
            Self::Commands { way, length, .. } => {
                let way = if way == Way::Read { "read" } else { "write" };
                format!("{way} {} KiB", length >> 10)
            }
            Self::Control(_) => "control".to_owned(),
            Self::Stream(name, _) => name.to_owned(),
        }
    }

    fn device(self) -> &'static str {
        if matches!(self, Self::Stream(..)) { "camera" } else { "stick" }
    }

    /// A little of it, with every byte compared.
    fn rehearsed(self) -> Self {
        match self {
            Self::Commands { way, length, .. } => Self::Commands { way, length, total: length.max(4 << 20) },
            Self::Control(_) => Self::Control(20),
            Self::Stream(name, how) => Self::Stream(name, Stream { time: Duration::from_millis(50), ..how }),
        }
    }
}

struct Use {
    work: Work,
    road: Road,
}

impl Use {
    /// Attaches a device, uses it, and detaches it.
    fn play(&self, stage: &Stage, work: Work, content: Content) -> Result<Vec<Sample>, Failure> {
        let mut ends = Ends::open(stage, self.road, work.device())?;
        let samples = (|| {
            let class = describe(&mut ends.host).map_err(trouble)?.class;
            match (class, work) {
                (Class::Disk, Work::Commands { .. } | Work::Control(_))
                | (Class::Camera, Work::Stream(..)) => {}
                _ => return Err(Failure::trouble("this is another device")),
            }
            self.measure(&mut ends, work, content)
        })();
        match samples {
            Ok(samples) => ends.close().map(|()| samples),
            Err(failure) => Err(ends.blame(failure)),
        }
    }

    fn measure(&self, ends: &mut Ends<'_>, work: Work, content: Content) -> Result<Vec<Sample>, Failure> {
        let before = ends.cpu();
        let host: &mut Host = &mut ends.host;
        let (mut samples, bytes) = match work {
            Work::Commands { way, length, total } => {
                let mut disk = Disk::open(host, content).map_err(trouble)?;
                let measured = disk.measure(way, length, total).map_err(trouble)?;
                if content == Content::Pattern && way == Way::Write {
                    disk.measure(Way::Read, length, total).map_err(trouble)?;
                }
                let waits = measured.waits;
                (vec![(RATE, measured.rate()), (P50, waits.p50), (P99, waits.p99)], measured.bytes)
            }
            Work::Control(count) => {
                let measured = control_transfers(host, count).map_err(trouble)?;
                (vec![(P50, measured.waits.p50), (P99, measured.waits.p99)], 0)
            }
            Work::Stream(_, how) => {
                let seen = stream(host, how).map_err(trouble)?;
                if seen.wrong > 0 {
                    return Err(Failure::trouble(format!("{} packets are wrong", seen.wrong)));
                }
                let counts = [(LATE, seen.late), (STARVED, seen.starved), (ANSWERS, seen.answers)];
                let counts = counts.map(|(metric, count)| (metric, f64::from(count)));
                (std::iter::once((LATEST, seen.worst)).chain(counts).collect(), seen.bytes)
            }
        };
        if let (Some(before), Some(after), true) = (before, ends.cpu(), bytes > 0) {
            samples.push((CPU, (after - before) * 1e3 / (bytes as f64 / f64::from(1 << 20))));
        }
        Ok(samples)
    }
}

impl Case for Use {
    fn label(&self) -> String {
        self.road.label(&self.work.name())
    }

    fn yardstick(&self) -> Option<String> {
        (self.road != Road::Relays).then(|| Road::Relays.label(&self.work.name()))
    }

    fn is_yardstick(&self) -> bool {
        self.road == Road::Relays
    }

    fn suits(&self, stage: &Stage) -> bool {
        self.road != Road::Filtered || stage.has_usb_filter()
    }

    fn patience(&self) -> Duration {
        let time = if let Work::Stream(_, how) = self.work { how.time } else { Duration::ZERO };
        Duration::from_secs(15) + time
    }

    fn rehearse(&self, stage: &Stage) -> Result<(), Failure> {
        self.play(stage, self.work.rehearsed(), Content::Pattern).map(drop)
    }

    fn run(&self, stage: &Stage) -> Result<Vec<Sample>, Failure> {
        self.play(stage, self.work, Content::Unknown)
    }
}

fn trouble(trouble: usb_sim::host::Trouble) -> Failure {
    Failure::trouble(trouble.to_string())
}
