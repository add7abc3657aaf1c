//! What was measured, as it is kept in a file.

use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::facts::Facts;
use super::machine::{Machine, date};
use super::options::Options;
use super::scenario::{Better, Sample};
use super::settings::Settings;
use super::stats::Summary;
use cli::failure::Failure;

/// Version of the file's format.
const FORMAT: u32 = 1;

/// Everything of one call of the program.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Recording {
    pub(super) format: u32,
    pub(super) version: String,
    pub(super) date: String,
    pub(super) machine: Machine,
    /// What the machine did for itself before the measurements.
    #[serde(default)]
    pub(super) facts: Option<Facts>,
    /// The arguments of the program.
    pub(super) command: Vec<String>,
    /// Bytes of one transfer.
    pub(super) size: u64,
    /// Of a lab; between VMs it is what there is.
    pub(super) transport: Option<lab::Transport>,
    /// Names of the builds.
    pub(super) builds: Vec<String>,
    pub(super) scenarios: Vec<Chapter>,
}

/// The results of a scenario.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Chapter {
    pub(super) name: String,
    pub(super) title: String,
    pub(super) results: Vec<Measured>,
}

/// The results of a case with one build.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Measured {
    pub(super) case: String,
    /// `None` for a yardstick without any qrexec.
    pub(super) build: Option<String>,
    /// How many runs failed, with programs that are only there for comparison.
    #[serde(default)]
    pub(super) failed: u32,
    /// The case in the same scenario that it is compared with.
    pub(super) yardstick: Option<String>,
    pub(super) metrics: Vec<Numbers>,
}

/// A metric's number of every run, in order.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Numbers {
    pub(super) name: String,
    pub(super) unit: String,
    pub(super) better: Better,
    pub(super) min: f64,
    pub(super) median: f64,
    pub(super) max: f64,
    pub(super) runs: Vec<f64>,
}

impl Recording {
    pub(super) fn new(settings: &Settings, builds: Vec<String>) -> Self {
        Self {
            format: FORMAT,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            date: date(),
            machine: Machine::here(),
            facts: None,
            command: Options::command(),
            size: settings.size,
            transport: settings.transport,
            builds,
            scenarios: Vec::new(),
        }
    }

    /// Reads a file.
    pub(super) fn read(path: &Path) -> Result<Self, Failure> {
        let during = || format!("reading {}", path.display());
        let text = fs::read(path).map_err(Failure::during(during()))?;
        let recording: Self = serde_json::from_slice(&text).map_err(Failure::during(during()))?;
        match recording.format {
            FORMAT => Ok(recording),
            other => Err(Failure::trouble(format!("{} has format {other}", path.display()))),
        }
    }

    /// Writes a file.
    pub(super) fn write(&self, path: &Path) -> Result<(), Failure> {
        let mut text = serde_json::to_vec_pretty(self).map_err(Failure::during("the results"))?;
        text.push(b'\n');
        fs::write(path, text).map_err(Failure::during(format_args!("writing {}", path.display())))
    }
}

impl Measured {
    /// Takes in the samples of another run.
    pub(super) fn add(&mut self, samples: Vec<Sample>) {
        for (metric, value) in samples {
            match self.metrics.iter_mut().find(|numbers| numbers.is(metric.name, metric.unit)) {
                Some(numbers) => numbers.add(value),
                None => self.metrics.push(Numbers {
                    name: metric.name.to_owned(),
                    unit: metric.unit.to_owned(),
                    better: metric.better,
                    min: value,
                    median: value,
                    max: value,
                    runs: vec![value],
                }),
            }
        }
    }

    /// The metric that matters most.
    pub(super) fn first(&self) -> Option<&Numbers> {
        self.metrics.first()
    }
}

impl Numbers {
    fn add(&mut self, value: f64) {
        self.runs.push(value);
        if let Some(Summary { min, median, max }) = Summary::of(&self.runs) {
            (self.min, self.median, self.max) = (min, median, max);
        }
    }

    /// Whether these are the numbers of the metric with this name and unit.
    pub(super) fn is(&self, name: &str, unit: &str) -> bool {
        self.name == name && self.unit == unit
    }

    /// Whether the runs of both lie in one range: each has some that are better than some of the other's.
    pub(super) fn overlaps(&self, other: &Self) -> bool {
        self.min <= other.max && other.min <= self.max
    }

    /// The best of all runs.
    pub(super) fn best(&self) -> f64 {
        match self.better {
            Better::Higher => self.max,
            Better::Lower => self.min,
        }
    }

    /// By which factor these medians are better than the others': above 1 is better. `None` if one is zero.
    pub(super) fn gain_over(&self, other: &Self) -> Option<f64> {
        let (better, worse) = match self.better {
            Better::Higher => (self.median, other.median),
            Better::Lower => (other.median, self.median),
        };
        (worse > 0.0 && better > 0.0).then(|| better / worse)
    }

    /// The same for runs that were made in pairs: the median of what each pair says. What changes on the machine meanwhile,
    /// and who went first, counts for both.
    pub(super) fn gain_in_pairs(&self, other: &Self) -> Option<f64> {
        if self.runs.len() != other.runs.len() {
            return self.gain_over(other);
        }
        let ratio = |(own, other): (&f64, &f64)| match self.better {
            Better::Higher => own / other,
            Better::Lower => other / own,
        };
        let ratios: Vec<f64> = self.runs.iter().zip(&other.runs).map(ratio).collect();
        Summary::of(&ratios).map(|ratios| ratios.median).filter(|ratio| ratio.is_finite() && *ratio > 0.0)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::scenario::Metric;
    use super::*;

    /// A recording of this machine with these builds and chapters.
    pub(in super::super) fn recording(builds: Vec<String>, scenarios: Vec<Chapter>) -> Recording {
        Recording {
            format: FORMAT,
            version: String::new(),
            date: date(),
            machine: Machine::here(),
            facts: None,
            command: Vec::new(),
            size: 1,
            transport: Some(lab::Transport::Shm),
            builds,
            scenarios,
        }
    }

    #[test]
    fn runs_are_summed_up_and_compared() {
        let measured = |values: [f64; 3]| {
            let mut measured =
                Measured { case: "c".into(), build: None, failed: 0, yardstick: None, metrics: Vec::new() };
            for value in values {
                measured.add(vec![
                    (Metric::higher("rate", "1/s"), value),
                    (Metric::lower("time", "s"), 1.0 / value),
                ]);
            }
            measured
        };
        let (slow, fast) = (measured([1.0, 3.0, 2.0]), measured([4.0, 8.0, 2.0]));
        assert_eq!(slow.first().map(|rate| (rate.min, rate.median, rate.max)), Some((1.0, 2.0, 3.0)));
        for (slow, fast) in slow.metrics.iter().zip(&fast.metrics) {
            assert_eq!(fast.gain_over(slow), Some(2.0), "{}", slow.name);
        }
        assert_eq!(fast.metrics.iter().map(Numbers::best).collect::<Vec<_>>(), [8.0, 0.125]);
    }
}
