//! What many numbers come to.

use hdrhistogram::Histogram;

use cli::failure::Failure;

/// Smallest, middle and largest of some numbers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Summary {
    pub(super) min: f64,
    pub(super) median: f64,
    pub(super) max: f64,
}

impl Summary {
    /// `None` without numbers.
    pub(super) fn of(samples: &[f64]) -> Option<Self> {
        let mut sorted = samples.to_vec();
        sorted.sort_by(f64::total_cmp);
        let middle = sorted.len() / 2;
        let upper = *sorted.get(middle)?;
        let lower = if sorted.len().is_multiple_of(2) { *sorted.get(middle.checked_sub(1)?)? } else { upper };
        Some(Self { min: *sorted.first()?, median: f64::midpoint(lower, upper), max: *sorted.last()? })
    }
}

/// Many durations: three digits of each are kept.
#[derive(Debug)]
pub(super) struct Durations(Histogram<u64>);

impl Durations {
    pub(super) fn new() -> Result<Self, Failure> {
        Histogram::new(3).map(Self).map_err(Failure::during("a histogram"))
    }

    pub(super) fn add(&mut self, duration: std::time::Duration) {
        // A histogram that resizes itself takes every number.
        let _ = self.0.record(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX));
    }

    pub(super) fn merge(&mut self, other: &Self) -> Result<(), Failure> {
        self.0.add(&other.0).map_err(Failure::during("a histogram"))
    }

    pub(super) fn count(&self) -> u64 {
        self.0.len()
    }

    /// The duration in seconds that this part of all, 0 to 1, does not exceed.
    pub(super) fn quantile(&self, part: f64) -> f64 {
        self.0.value_at_quantile(part) as f64 / 1e9
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn medians() {
        let median = |samples: &[f64]| Summary::of(samples).map(|summary| summary.median);
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3.0]), Some(3.0));
        assert_eq!(median(&[9.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 9.0]), Some(3.0));
        assert_eq!(Summary::of(&[2.0, 1.0]), Some(Summary { min: 1.0, median: 1.5, max: 2.0 }));
    }

    #[test]
    fn quantiles_are_in_seconds() {
        let mut durations = Durations::new().unwrap();
        (1..=100).for_each(|n| durations.add(Duration::from_millis(n)));
        assert_eq!(durations.count(), 100);
        assert!((durations.quantile(0.5) - 0.050).abs() < 0.001);
        assert!((durations.quantile(0.99) - 0.099).abs() < 0.001);
    }
}
