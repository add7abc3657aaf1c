#![forbid(unsafe_code)]
//! The loop around the turns: which driver a call uses, and how long it sleeps when nothing moves.

use std::time::{Duration, Instant};

use super::driver::{Driver, Poll};
use super::ending::{Ending, Failure, Outcome};
use super::placement::Place;
use super::turn::{Pump, Turn};
use super::uring::Uring;

/// Which driver to use.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Engine {
    /// poll, and io_uring for calls that move much.
    Auto,
    Poll,
    Uring,
}

/// A call that has moved this much, both directions together, gets wider pipes and an io_uring instance. An ordinary
/// user may have 1,024 of these at a memlock limit of 8 MiB, so idle calls have none.
const LARGE: u64 = 1 << 20;

/// A call that has not moved anything for this long returns, once, what it does not need while it waits: its io_uring
/// instance, the memory of its empty ring, and unused heap of its start.
const IDLE: Duration = Duration::from_secs(1);

/// How often to look whether the reader of a closed pipe has taken the last pages lent to it, while more arrives for
/// stderr: no event tells.
const READER: Duration = Duration::from_millis(10);

/// How long a silent service may take to end when nobody reads its output any more and nothing is sent to it. It may
/// be about to end, and the caller may still want its exit code.
const UNHEARD: Duration = Duration::from_secs(2);

/// How a call gets an io_uring instance.
pub(super) enum Instance {
    /// It makes one when it has use for it.
    Later,
    /// It has one.
    Made(Box<Uring>),
    /// It does without.
    Never,
}

impl Instance {
    /// For a process that will not be able to make one later.
    pub(super) fn settled(engine: Engine) -> Instance {
        match engine {
            Engine::Auto | Engine::Poll => Instance::Never,
            Engine::Uring => {
                Uring::restricted().map_or(Instance::Never, |uring| Instance::Made(Box::new(uring)))
            }
        }
    }

    /// `None`: none can be made (limits, confinement, an old kernel), and poll does the same work.
    fn take(&mut self, syscalls: u64) -> Option<Box<Uring>> {
        match std::mem::replace(self, Instance::Never) {
            Instance::Later => {
                *self = Instance::Later;
                Uring::new(syscalls).ok().map(Box::new)
            }
            Instance::Made(uring) => Some(uring),
            Instance::Never => None,
        }
    }
}

/// The driver that the environment asks for.
pub(super) fn engine_from_env() -> Result<Engine, Failure> {
    let Some(name) = std::env::var_os("QREXEC_ENGINE") else { return Ok(Engine::Auto) };
    match name.to_str() {
        Some("auto" | "") => Ok(Engine::Auto),
        Some("poll") => Ok(Engine::Poll),
        Some("uring") => Ok(Engine::Uring),
        _ => Err(Failure::Engine(name)),
    }
}

/// Pumps until the call is over.
pub(super) fn drive(mut pump: Pump, engine: Engine, instance: Instance) -> Outcome {
    let mut gear = Gear::new(engine, instance);
    let ending = match gear.drive(&mut pump) {
        Ok(()) => Ending::Complete,
        Err(ending) => ending,
    };
    pump.finish(gear.driver, ending)
}

/// The resources of a call that depend on how much it moves.
struct Gear {
    engine: Engine,
    instance: Instance,
    driver: Box<dyn Driver>,
    /// How much the call must have moved to count as large (again).
    large_at: u64,
    is_large: bool,
    has_rested: bool,
}

impl Gear {
    fn new(engine: Engine, instance: Instance) -> Gear {
        let large_at = if engine == Engine::Uring { 0 } else { LARGE };
        let driver = Box::new(Poll::default());
        Gear { engine, instance, driver, large_at, is_large: false, has_rested: false }
    }

    fn drive(&mut self, pump: &mut Pump) -> Result<(), Ending> {
        let mut place = Place::new(Instant::now());
        pump.begin()?;
        loop {
            let (moved, sleeps) = (pump.moved(), pump.sleeps());
            if place.may_be_due(moved, sleeps) && place.is_due(moved, sleeps, Instant::now()) {
                pump.join_neighbour();
            }
            if !self.is_large && moved >= self.large_at {
                self.shift_up(pump);
            }
            match pump.turn(&mut *self.driver)? {
                Turn::Moved => {}
                Turn::Done => return Ok(()),
                Turn::Idle if pump.awaits_reader() => {
                    pump.sleep(&mut *self.driver, Some(READER))?;
                    pump.give_back()?;
                }
                Turn::Idle if pump.is_unheard() => {
                    if !pump.sleep(&mut *self.driver, Some(UNHEARD))? {
                        return Err(Ending::Unread);
                    }
                }
                Turn::Idle => {
                    if !pump.sleep(&mut *self.driver, (!self.has_rested).then_some(IDLE))? {
                        self.shift_down(pump)?;
                    }
                }
            }
        }
    }

    /// The call has become large.
    fn shift_up(&mut self, pump: &mut Pump) {
        self.is_large = true;
        self.has_rested = false;
        pump.grow();
        if self.engine != Engine::Poll
            && let Some(uring) = self.instance.take(self.driver.syscalls())
        {
            self.driver = uring;
        }
    }

    /// The call has become idle.
    fn shift_down(&mut self, pump: &mut Pump) -> Result<(), Ending> {
        self.has_rested = true;
        self.is_large = false;
        self.large_at = pump.moved() + LARGE;
        self.driver = Box::new(Poll::after(self.driver.syscalls()));
        pump.trim()
    }
}
