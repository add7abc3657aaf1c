//! What a measurement is: a scenario has cases, a case is run several times, a run gives a number for each metric.

use std::time::Duration;

use super::settings::Settings;
use super::stage::Stage;
use cli::failure::Failure;

/// Which way a number is good.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Better {
    Higher,
    Lower,
}

/// What a number means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Metric {
    /// Its name in results.
    pub(super) name: &'static str,
    /// Its unit.
    pub(super) unit: &'static str,
    /// Which way it is good.
    pub(super) better: Better,
}

impl Metric {
    pub(super) const fn higher(name: &'static str, unit: &'static str) -> Self {
        Self { name, unit, better: Better::Higher }
    }

    pub(super) const fn lower(name: &'static str, unit: &'static str) -> Self {
        Self { name, unit, better: Better::Lower }
    }
}

/// A number of one run.
pub(super) type Sample = (Metric, f64);

/// A group of cases that are shown in one table.
pub(super) trait Scenario {
    /// The name by which it is chosen.
    fn name(&self) -> &'static str;

    /// What is measured, in a few words.
    fn title(&self) -> &'static str;

    /// Everything that is to be run, the yardsticks first.
    fn cases(&self, settings: &Settings) -> Vec<Box<dyn Case>>;
}

/// One way to use qrexec, or a yardstick for it.
pub(super) trait Case {
    /// Its name, unique in the scenario.
    fn label(&self) -> String;

    /// The label of the case that this one is compared with, by the first metric.
    fn yardstick(&self) -> Option<String> {
        None
    }

    /// Whether no qrexec is in it, so that one build's figures stand for all.
    fn is_yardstick(&self) -> bool {
        false
    }

    /// Whether the programs of this stage can do it.
    fn suits(&self, _stage: &Stage) -> bool {
        true
    }

    /// How long a run may take, far more than it does on any machine.
    fn patience(&self) -> Duration {
        Duration::from_secs(15)
    }

    /// Whatever must have gone well before a figure counts.
    fn rehearse(&self, _stage: &Stage) -> Result<(), Failure> {
        Ok(())
    }

    /// Measures once. The first sample is the one that matters most; every run gives the same metrics.
    fn run(&self, stage: &Stage) -> Result<Vec<Sample>, Failure>;
}
