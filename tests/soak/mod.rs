//! The soak: calls of every kind, sixteen at a time, while clients and services are killed at random. Every call ends
//! as it should or as the victim of a kill, and afterwards everything is as it was before.
//!
//! `QREXEC_TEST_FULL=1` makes 100,000 calls, `QREXEC_TEST_CALLS=n` so many. `QREXEC_TEST_SEED=n` repeats the choices
//! of a run; which process a kill meets is up to the scheduler.

mod books;
mod calls;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::common::{self, Pattern, alone, call, eventually, eventually_within, full, leftovers, run};
use lab::{DOM0, Lab, Process};
use rustix::process::{Pid, Signal, kill_process};

use books::Books;
use calls::{End, Kind};

/// How many at a time.
const ABREAST: usize = 16;

/// Calls before the first look at the books, so that what is kept for good is there already.
const WARM_UP: usize = 64;

/// One in so many turns begins with a kill.
const KILL_ONE_IN: usize = 20;

/// How long any single call may take, killed or not, on a machine that does other work as well.
const CALL_LIMIT: Duration = Duration::from_secs(60);

/// How long the last processes may take to go, where no client was killed before its data link was there. Else a service
/// side waits for that link as long as qrexec says, 120 s: nothing could tell it that its caller is gone.
const GONE: [Duration; 2] = [Duration::from_secs(20), Duration::from_secs(130)];

/// From so many calls on, clients are killed too.
const LARGE: usize = 2000;

/// How much an agent or a daemon may grow, in KiB: the slack of an allocator, not something for each call.
const MAX_GROWTH: u64 = 512;

fn number_from(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

fn wanted_calls() -> usize {
    let asked = number_from("QREXEC_TEST_CALLS").and_then(|count| usize::try_from(count).ok());
    asked.unwrap_or(if full() { 100_000 } else { 300 })
}

/// What became of the calls.
#[derive(Default)]
struct Tally {
    begun: usize,
    kills: usize,
    /// By kind: calls that ended as they should, and victims.
    ends: BTreeMap<&'static str, [usize; 2]>,
    slowest: Duration,
}

impl Tally {
    fn victims(&self) -> usize {
        self.ends.values().map(|[_, victims]| victims).sum()
    }

    fn report(&self, since: Instant) {
        let ends: Vec<String> =
            self.ends.iter().map(|(kind, [well, victims])| format!("{kind} {well}+{victims}")).collect();
        eprintln!(
            "soak: {} calls in {:.0} s, {} kills, {} victims, slowest {:.1} s ({})",
            self.begun,
            since.elapsed().as_secs_f64(),
            self.kills,
            self.victims(),
            self.slowest.as_secs_f64(),
            ends.join(", "),
        );
    }
}

/// How to soak.
#[derive(Clone, Copy)]
struct Plan {
    total: usize,
    /// Whether clients are killed at any moment, rather than services only.
    kill_clients: bool,
}

impl Plan {
    fn gone(self) -> Duration {
        GONE[usize::from(self.kill_clients)]
    }
}

/// Kills a service, or a client, that runs at this moment, if there is one.
fn kill_somebody(lab: &Lab, clients: bool, chance: &mut Pattern) -> bool {
    let may_die = |process: &Process| match process.program.as_str() {
        // Their processes of a call: the chaos test kills those.
        "qrexec-agent" | "qrexec-daemon" => false,
        "qrexec-client-vm" | "qrexec-client" => clients,
        _ => true,
    };
    let mut candidates = common::extras(lab);
    candidates.retain(may_die);
    let victim = candidates.get(chance.below(candidates.len().max(1)));
    let pid = victim.and_then(|process| Pid::from_raw(process.pid));
    pid.is_some_and(|pid| kill_process(pid, Signal::KILL).is_ok())
}

/// Makes calls until so many were begun.
fn work(lab: &Lab, mut chance: Pattern, plan: Plan, tally: &Mutex<Tally>, since: Instant) {
    loop {
        let number = {
            let mut tally = tally.lock().unwrap();
            if tally.begun == plan.total {
                return;
            }
            tally.begun += 1;
            if tally.begun.is_multiple_of(5000) {
                tally.report(since);
            }
            tally.begun
        };
        // Counted before: its victim may end before this thread goes on.
        if chance.below(KILL_ONE_IN) == 0 {
            tally.lock().unwrap().kills += 1;
            if !kill_somebody(lab, plan.kill_clients, &mut chance) {
                tally.lock().unwrap().kills -= 1;
            }
        }
        let kind = Kind::choose(&mut chance);
        let begun = Instant::now();
        let end = kind.make(lab, &mut chance);
        let took = begun.elapsed();
        assert!(took < CALL_LIMIT, "call {number}, {kind:?}: {took:?}");
        let mut tally = tally.lock().unwrap();
        let victim = match end {
            End::Well => 0,
            End::Victim => 1,
            End::Wrong(said) => {
                // Nobody begins another.
                tally.begun = plan.total;
                drop(tally);
                panic!("call {number}, {kind:?}: {said}");
            }
        };
        tally.ends.entry(kind.name()).or_default()[victim] += 1;
        tally.slowest = tally.slowest.max(took);
    }
}

/// So many calls; returns when all their processes are gone.
fn soak(lab: &Lab, chance: &mut Pattern, plan: Plan) {
    let (tally, since) = (Mutex::new(Tally::default()), Instant::now());
    std::thread::scope(|scope| {
        for _ in 0..ABREAST {
            let chance = chance.branch();
            scope.spawn(|| work(lab, chance, plan, &tally, since));
        }
    });
    let tally = tally.into_inner().unwrap();
    tally.report(since);
    // A kill costs one call, and nothing else does.
    assert!(tally.victims() <= tally.kills, "{} victims of {} kills", tally.victims(), tally.kills);
    assert_eq!(leftovers(lab, plan.gone()), []);
}

/// Uses every port of calls to `vault` again, and with it whatever a killed client has left in its place.
fn use_all_ports(lab: &Lab) {
    for _ in 513..=768 {
        let said = run(lab, DOM0, &["qrexec-client", "-d", "vault", "DEFAULT:true"], b"");
        assert_eq!(said.code, 0, "{said:?}");
    }
    for _ in (513..=768).step_by(2) {
        assert_eq!(call(lab, "work", "vault", "test.Word", b"free?\n").code, 3);
    }
}

/// In this time the log of a daemon, which after a flood takes 100 lines a second about one VM and counts the others, becomes
/// able to take a line for each of 256 calls, however fast they are.
const LOG_RECOVERS: Duration = Duration::from_secs(4);

/// Makes calls until each port that upstream knows has been taken once: a call that waits for a killed client has its port
/// as long as it waits.
fn assert_all_ports_free(lab: &Lab, vm: &str, plan: Plan) {
    if !plan.kill_clients {
        assert_eq!(ports_in_a_row(lab, vm), ports_of_upstream());
        return;
    }
    eventually_within(plan.gone(), "each port of the VM's calls", || {
        // Time itself is what has to pass, for the log and for the calls that wait.
        std::thread::sleep(LOG_RECOVERS);
        ports_in_a_row(lab, vm) == ports_of_upstream()
    });
}

fn ports_of_upstream() -> BTreeSet<u32> {
    (513..=768).collect()
}

/// The ports of as many calls as upstream knows ports. A daemon hands out the port freed longest ago, so these calls take each of
/// them once, unless one is still reserved.
fn ports_in_a_row(lab: &Lab, vm: &str) -> BTreeSet<u32> {
    let log = lab.layout().log(DOM0).join(format!("daemon-{vm}.log"));
    let skip = std::fs::read_to_string(&log).unwrap().len();
    let calls = ports_of_upstream().len();
    for _ in 0..calls {
        assert_eq!(call(lab, vm, DOM0, "test.Word+free", b"free?\n").code, 3);
    }
    // Calls of before may get their lines now.
    let port = |line: &str| -> Option<u32> {
        line.contains("test.Word+free").then(|| line.rsplit_once(", port ")?.1.parse().ok())?
    };
    let mut ports = Vec::new();
    // A call has its line when the daemon sees its end, which may be after its caller did.
    eventually("a line for each call", || {
        ports = std::fs::read_to_string(&log).unwrap()[skip..].lines().filter_map(port).collect();
        ports.len() == calls
    });
    ports.into_iter().collect()
}

#[test]
fn everything_is_as_before_after_mixed_calls_and_random_kills() {
    let (total, seed) = (wanted_calls(), number_from("QREXEC_TEST_SEED").unwrap_or(20_261_120));
    eprintln!("soak: {total} calls, QREXEC_TEST_SEED={seed}");
    let plan = Plan { total, kill_clients: total >= LARGE };
    let limit = common::DEADLINE + plan.gone() + Duration::from_millis(100) * u32::try_from(total).unwrap();
    alone(limit, move || {
        let lab = calls::lab();
        let mut chance = Pattern::new(seed);
        soak(&lab, &mut chance, Plan { total: WARM_UP, kill_clients: false });
        let before = Books::at_rest(&lab);
        soak(&lab, &mut chance, plan);
        std::thread::scope(|scope| {
            for vm in ["work", "vault"] {
                let lab = &lab;
                scope.spawn(move || assert_all_ports_free(lab, vm, plan));
            }
        });
        use_all_ports(&lab);
        assert_eq!(leftovers(&lab, GONE[0]), []);
        let after = Books::at_rest(&lab);
        eprintln!("soak: before {before}");
        eprintln!("soak: after  {after}");
        after.assert_like(&before, MAX_GROWTH);
        lab.down().unwrap();
    });
}
