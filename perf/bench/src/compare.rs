//! Two recordings side by side.

use super::results::{Measured, Recording};
use super::table::{Table, factor, named, number};

/// A table of what both have: medians, and by which factor the new ones are better.
pub(super) fn text(old: &Recording, new: &Recording) -> String {
    let mut text = format!("old: {}, {}\nnew: {}, {}\n", old.date, place(old), new.date, place(new));
    if old.machine != new.machine {
        text.push_str("The machines differ.\n");
    }
    if (old.size, old.transport) != (new.size, new.transport) {
        text.push_str("The settings differ.\n");
    }
    for chapter in &new.scenarios {
        let Some(before) = old.scenarios.iter().find(|other| other.name == chapter.name) else { continue };
        let mut table = Table::default();
        table.row(["", "build", "", "old", "new", "gain", ""]);
        for measured in &chapter.results {
            if let Some(other) = before.results.iter().find(|other| same(other, measured, old, new)) {
                rows(&mut table, other, measured);
            }
        }
        text.push_str(&format!("\n{}: {}\n{}", chapter.name, chapter.title, table.text()));
    }
    text
}

fn place(recording: &Recording) -> String {
    let machine = &recording.machine;
    format!("{} × {}, {}", machine.cores, machine.cpu, machine.kernel)
}

/// The same case with the build of the same place.
fn same(a: &Measured, b: &Measured, old: &Recording, new: &Recording) -> bool {
    let place = |measured: &Measured, recording: &Recording| {
        measured.build.as_ref().and_then(|build| recording.builds.iter().position(|name| name == build))
    };
    a.case == b.case && place(a, old) == place(b, new)
}

/// Whose figures these are; both names, where a build has moved.
fn builds(old: &Measured, new: &Measured) -> String {
    match (old.build.as_deref(), new.build.as_deref()) {
        (Some(old), Some(new)) if old != new => format!("{old}, now {new}"),
        (_, new) => new.unwrap_or("none").to_owned(),
    }
}

/// What is worse than `least` times what it was, beyond the spread of the runs.
pub(super) fn below(old: &Recording, new: &Recording, least: f64) -> Vec<String> {
    let mut worse = Vec::new();
    for chapter in &new.scenarios {
        let Some(before) = old.scenarios.iter().find(|other| other.name == chapter.name) else { continue };
        for measured in &chapter.results {
            let Some(other) = before.results.iter().find(|other| same(other, measured, old, new)) else {
                continue;
            };
            for numbers in &measured.metrics {
                let was = other.metrics.iter().find(|other| other.is(&numbers.name, &numbers.unit));
                let gain = was.and_then(|was| numbers.gain_over(was).filter(|_| !numbers.overlaps(was)));
                if let Some(gain) = gain.filter(|gain| *gain < least) {
                    worse.push(format!("{}, {}, {}", measured.case, numbers.name, factor(gain)));
                }
            }
        }
    }
    worse
}

fn rows(table: &mut Table, old: &Measured, new: &Measured) {
    let mut case = new.case.as_str();
    let mut build = builds(old, new);
    for numbers in &new.metrics {
        let Some(before) = old.metrics.iter().find(|other| other.is(&numbers.name, &numbers.unit)) else {
            continue;
        };
        let gain = numbers.gain_over(before).map(factor).unwrap_or_default();
        let spread = if numbers.overlaps(before) { "within the spread" } else { "" };
        let [before, after] = [before, numbers].map(|numbers| number(numbers.median));
        table.row([case.to_owned(), build, named(numbers), before, after, gain, spread.to_owned()]);
        (case, build) = ("", String::new());
    }
}

#[cfg(test)]
mod tests {
    use super::super::results::Chapter;
    use super::super::results::tests::recording;
    use super::super::scenario::Metric;
    use super::*;

    fn measured(runs: [f64; 3]) -> Recording {
        let build = "this build".to_owned();
        let mut measured = Measured {
            case: "sends".into(),
            build: Some(build.clone()),
            failed: 0,
            yardstick: None,
            metrics: Vec::new(),
        };
        runs.iter().for_each(|rate| measured.add(vec![(Metric::higher("rate", "GiB/s"), *rate)]));
        let chapter = Chapter { name: "throughput".into(), title: "t".into(), results: vec![measured] };
        recording(vec![build], vec![chapter])
    }

    #[test]
    fn a_loss_counts_beyond_the_spread_only() {
        let (old, near, far) =
            (measured([2.0, 3.0, 4.0]), measured([1.0, 1.5, 2.1]), measured([1.0, 1.5, 1.9]));
        let line = |new| text(&old, new).lines().last().map(str::to_owned).unwrap();
        assert!(line(&near).ends_with("within the spread") && line(&near).contains("this build"));
        assert!(!line(&far).contains("spread"));
        assert_eq!(below(&old, &near, 0.97), Vec::<String>::new());
        assert_eq!(below(&old, &far, 0.97).len(), 1);
        assert_eq!(below(&old, &far, 0.4), Vec::<String>::new());
    }
}
