//! Runs what is to be run, the builds in turn.

use std::time::{Duration, Instant};

use engine::say;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::guard::{Guard, Run};
use super::results::{Chapter, Measured};
use super::scenario::{Case, Sample, Scenario};
use super::settings::Settings;
use super::stage::Stage;
use cli::failure::Failure;

/// Runs every scenario on every stage.
pub(super) fn run(
    scenarios: &[&dyn Scenario],
    settings: &Settings,
    stages: &[Stage],
    guard: &Guard,
) -> Result<Vec<Chapter>, Failure> {
    let mut chapters = Vec::new();
    let mut plan = Vec::new();
    for scenario in scenarios {
        chapters.push(Chapter {
            name: scenario.name().to_owned(),
            title: scenario.title().to_owned(),
            results: Vec::new(),
        });
        let chapter = chapters.len() - 1;
        let wanted = |case: &dyn Case| {
            let label = case.label();
            settings.case.is_empty() || settings.case.iter().any(|word| label.contains(word))
        };
        let cases = scenario.cases(settings).into_iter().filter(|case| wanted(&**case));
        plan.extend(cases.map(|case| (chapter, case)));
    }
    if plan.is_empty() {
        return Err(Failure::usage("there is no such case here"));
    }
    let mut runner = Runner::new(settings, stages, guard, plan.len());
    for (chapter, case) in &plan {
        let results = runner.case(&**case).map_err(|mut failure| {
            let scenario = chapters.get(*chapter).map_or("", |chapter| &chapter.name);
            failure.message = format!("{scenario}: {}: {}", case.label(), failure.message);
            failure
        });
        let results = results?;
        if let Some(chapter) = chapters.get_mut(*chapter) {
            chapter.results.extend(results);
        }
    }
    runner.bar.finish_and_clear();
    Ok(chapters)
}

/// A hang of the programs that are to be measured ends everything, so it must be certain: so many times as long.
const PATIENCE: u32 = 3;

/// How many runs of a case may fail with programs that are only there for comparison.
const MOST_FAILURES: u32 = 5;

struct Runner<'a> {
    settings: &'a Settings,
    stages: &'a [Stage],
    guard: &'a Guard,
    bar: ProgressBar,
    started: Instant,
    /// How long one case may take if all are to fit.
    share: Option<Duration>,
    cases: u32,
}

impl<'a> Runner<'a> {
    fn new(settings: &'a Settings, stages: &'a [Stage], guard: &'a Guard, cases: usize) -> Self {
        let runs = cases as u64 * u64::from(settings.runs);
        // Draws on standard error, and only if that is a terminal.
        let bar = ProgressBar::with_draw_target(Some(runs), ProgressDrawTarget::stderr());
        if let Ok(style) = ProgressStyle::with_template("{bar:24} {percent:>3} %  {elapsed}  {wide_msg}") {
            bar.set_style(style);
        }
        let share = settings.budget.map(|budget| budget / u32::try_from(cases.max(1)).unwrap_or(u32::MAX));
        Self { settings, stages, guard, bar, started: Instant::now(), share, cases: 0 }
    }

    /// Runs one case as often as it is wanted and time allows.
    fn case(&mut self, case: &dyn Case) -> Result<Vec<Measured>, Failure> {
        // What is without qrexec is the same on every stage.
        let stages = if case.is_yardstick() { self.stages.get(..1).unwrap_or_default() } else { self.stages };
        self.bar.set_message(case.label());
        let stages: Vec<&Stage> = stages.iter().filter(|stage| case.suits(stage)).collect();
        let mut results: Vec<Measured> = stages.iter().map(|stage| empty(case, stage)).collect();
        for (measured, stage) in results.iter_mut().zip(&stages) {
            self.attempt(case, stage, measured, |stage| case.rehearse(stage).map(|()| Vec::new()))?;
        }
        self.cases += 1;
        for run in 0..runs(self.settings.runs, stages.len()) {
            // Not in the middle of two that belong together.
            let may_end = stages.len() < 2 || run.is_multiple_of(2);
            if may_end && !self.in_time() && run >= Settings::FEWEST {
                break;
            }
            for (measured, stage) in in_order(results.iter_mut().zip(&stages).collect(), run) {
                self.attempt(case, stage, measured, |stage| case.run(stage))?;
            }
            self.bar.inc(1);
        }
        self.bar.set_position(u64::from(self.cases) * u64::from(self.settings.runs));
        Ok(results)
    }

    /// Runs once. What is measured for comparison may fail sometimes, which is counted; what is measured for its own
    /// sake may not.
    fn attempt(
        &self,
        case: &dyn Case,
        stage: &Stage,
        measured: &mut Measured,
        run: impl Fn(&Stage) -> Result<Vec<Sample>, Failure>,
    ) -> Result<(), Failure> {
        let other = stage.is_compared();
        loop {
            self.guard.begin(Run {
                what: format!("{}, {}", case.label(), stage.name),
                limit: if other { case.patience() } else { PATIENCE * case.patience() },
                expendable: other.then(|| stage.token().to_owned()),
            });
            match run(stage) {
                Ok(samples) => {
                    measured.add(samples);
                    return Ok(());
                }
                Err(failure) if other && measured.failed < MOST_FAILURES => {
                    measured.failed += 1;
                    self.bar.suspend(|| {
                        say::error(format_args!("{}: {}: {}", stage.name, case.label(), failure.message))
                    });
                }
                Err(failure) => return Err(failure),
            }
        }
    }

    /// Whether the cases so far have not used up more than their share of the time.
    fn in_time(&self) -> bool {
        self.share.is_none_or(|share| self.started.elapsed() < share * self.cases)
    }
}

/// Of several builds each goes first equally often.
fn runs(wanted: u32, builds: usize) -> u32 {
    if builds > 1 { wanted.next_multiple_of(2) } else { wanted }
}

/// The builds of one run, in turn from both ends: what comes second may find the machine warmer, or busier.
fn in_order<T>(mut builds: Vec<T>, run: u32) -> Vec<T> {
    if !run.is_multiple_of(2) {
        builds.reverse();
    }
    builds
}

fn empty(case: &dyn Case, stage: &Stage) -> Measured {
    Measured {
        case: case.label(),
        build: (!case.is_yardstick()).then(|| stage.name.clone()),
        yardstick: case.yardstick(),
        failed: 0,
        metrics: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_build_goes_first_equally_often() {
        for wanted in 1..8 {
            let runs = runs(wanted, 2);
            assert!(runs >= wanted);
            let first = (0..runs).filter(|run| in_order(vec!['a', 'b'], *run) == ['a', 'b']).count();
            assert_eq!(first * 2, runs as usize, "{wanted}");
        }
        assert_eq!(runs(7, 1), 7);
    }
}
