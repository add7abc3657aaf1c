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
        table.row(["", "", "old", "new", "gain"]);
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

fn rows(table: &mut Table, old: &Measured, new: &Measured) {
    let mut case = new.case.as_str();
    for numbers in &new.metrics {
        let Some(before) = old.metrics.iter().find(|other| other.is(&numbers.name, &numbers.unit)) else {
            continue;
        };
        let gain = numbers.gain_over(before).map(factor).unwrap_or_default();
        table.row([case.to_owned(), named(numbers), number(before.median), number(numbers.median), gain]);
        case = "";
    }
}
