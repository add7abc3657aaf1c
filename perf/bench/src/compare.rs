//! Two recordings side by side.

use super::results::{Measured, Numbers, Recording};
use super::table::{Table, factor, named, number};

/// What both recordings have.
pub(super) struct Comparison {
    /// A table: medians, by which factor the new ones are better, and whether that is more than one run differs from the next.
    pub(super) text: String,
    /// The least gain that is more than that, and where.
    pub(super) worst: Option<(f64, String)>,
}

/// Puts side by side what both have.
pub(super) fn of(old: &Recording, new: &Recording) -> Comparison {
    let mut worst: Option<(f64, String)> = None;
    let text = text(old, new, &mut |gain, what| {
        if worst.as_ref().is_none_or(|(least, _)| gain < *least) {
            worst = Some((gain, what));
        }
    });
    Comparison { text, worst }
}

fn text(old: &Recording, new: &Recording, differs: &mut dyn FnMut(f64, String)) -> String {
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
        table.row(["", "", "old", "new", "gain", ""]);
        for measured in &chapter.results {
            if let Some(other) = before.results.iter().find(|other| same(other, measured, old, new)) {
                let case = named_case(other, measured, new.builds.len() > 1);
                rows(&mut table, &case, other, measured, differs);
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

/// The case, and whose figures they are where a recording has several builds.
fn named_case(old: &Measured, new: &Measured, several: bool) -> String {
    match (&old.build, &new.build) {
        (Some(before), Some(build)) if several && before == build => format!("{}, {build}", new.case),
        (Some(before), Some(build)) if several => format!("{}, {before} and {build}", new.case),
        _ => new.case.clone(),
    }
}

/// Whether each median is among the other recording's runs: then the next recording may say the opposite.
fn is_within_the_spread(old: &Numbers, new: &Numbers) -> bool {
    let among = |value: f64, runs: &Numbers| runs.min <= value && value <= runs.max;
    among(old.median, new) && among(new.median, old)
}

fn rows(table: &mut Table, case: &str, old: &Measured, new: &Measured, differs: &mut dyn FnMut(f64, String)) {
    let mut shown = case;
    for numbers in &new.metrics {
        let Some(before) = old.metrics.iter().find(|other| other.is(&numbers.name, &numbers.unit)) else {
            continue;
        };
        let gain = numbers.gain_over(before);
        let within = is_within_the_spread(before, numbers);
        if let Some(gain) = gain.filter(|_| !within) {
            differs(gain, format!("{case}, {}", named(numbers)));
        }
        let (gain, note) =
            (gain.map(factor).unwrap_or_default(), if within { "within the spread" } else { "" });
        let medians = [number(before.median), number(numbers.median)];
        let [before, after] = medians;
        table.row([shown.to_owned(), named(numbers), before, after, gain, note.to_owned()]);
        shown = "";
    }
}
