//! Results as a person reads them.

use std::fmt::Write;

use super::facts::Facts;
use super::results::{Chapter, Measured, Numbers, Recording};
use super::scenario::Better;

/// Blanks between columns.
const GAP: usize = 2;

/// The whole text; `bold` marks titles for a terminal.
pub(super) fn text(recording: &Recording, bold: bool) -> String {
    let mut text = head(recording);
    for chapter in &recording.scenarios {
        let title = format!("{}: {}", chapter.name, chapter.title);
        let title = if bold { format!("\x1b[1m{title}\x1b[0m") } else { title };
        let _ = write!(text, "\n{title}\n{}", chapter_table(chapter, &recording.builds).text());
    }
    text
}

fn head(recording: &Recording) -> String {
    let machine = &recording.machine;
    let transport =
        recording.transport.map_or("of the VMs".to_owned(), |one| format!("{one:?}").to_lowercase());
    let mut text = format!(
        "qrexec-bench {} on {} × {}, {}, {}\n",
        recording.version, machine.cores, machine.cpu, machine.kernel, recording.date
    );
    if let Some(facts) = recording.facts.as_ref().map(Facts::text).filter(|text| !text.is_empty()) {
        let _ = writeln!(text, "{facts}");
    }
    let _ = write!(text, "transport {transport}, {} MiB a transfer", recording.size >> 20);
    if recording.builds.len() > 1 {
        let _ = write!(text, ", {} against the others", recording.builds.first().map_or("", String::as_str));
    }
    text.push('\n');
    text
}

/// Text in columns: the first one to the left, all others to the right.
#[derive(Debug, Default)]
pub(super) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(super) fn row(&mut self, cells: impl IntoIterator<Item = impl Into<String>>) {
        self.rows.push(cells.into_iter().map(Into::into).collect());
    }

    pub(super) fn rows(&self) -> &[Vec<String>] {
        &self.rows
    }

    pub(super) fn text(&self) -> String {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        let mut text = String::new();
        for row in &self.rows {
            let mut line = String::new();
            for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
                match column {
                    0 => line.push_str(&format!("  {cell:<width$}")),
                    _ => line.push_str(&format!("{:GAP$}{cell:>width$}", "")),
                }
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

/// More metrics than this do not stand beside each other.
const MOST_COLUMNS: usize = 9;

pub(super) fn chapter_table(chapter: &Chapter, builds: &[String]) -> Table {
    let mut table = Table::default();
    if let [measured] = chapter.results.as_slice()
        && measured.metrics.len() > MOST_COLUMNS
    {
        return downward(measured);
    }
    // A case may lack a metric that others have.
    let Some(fullest) = chapter.results.iter().max_by_key(|measured| measured.metrics.len()) else {
        return table;
    };
    let columns = Columns {
        chapter,
        builds,
        metrics: &fullest.metrics,
        has_yardstick: chapter.results.iter().any(|measured| measured.yardstick.is_some()),
    };
    columns.heads().into_iter().for_each(|row| table.row(row));
    chapter.results.iter().filter_map(|measured| columns.row(measured)).for_each(|row| table.row(row));
    table
}

/// A table of one case that has many metrics.
fn downward(measured: &Measured) -> Table {
    let mut table = Table::default();
    table.row([measured.case.as_str(), "min", "median", "max", ""]);
    for Numbers { name, unit, min, median, max, .. } in &measured.metrics {
        table.row([name.clone(), number(*min), number(*median), number(*max), unit.clone()]);
    }
    table
}

/// The columns of a chapter: the case, the metric that matters most with all its figures, what it is compared with, and
/// the medians of the other metrics.
struct Columns<'a> {
    chapter: &'a Chapter,
    builds: &'a [String],
    metrics: &'a [Numbers],
    has_yardstick: bool,
}

impl Columns<'_> {
    fn has_builds(&self) -> bool {
        self.builds.len() > 1
    }

    fn others(&self) -> impl Iterator<Item = &Numbers> {
        self.metrics.iter().skip(1)
    }

    /// Two lines above everything else.
    fn heads(&self) -> [Vec<String>; 2] {
        let first = self.metrics.first();
        let (name, unit) = first.map_or(("", ""), |numbers| (numbers.name.as_str(), numbers.unit.as_str()));
        let mut upper = vec!["", name, unit, ""];
        let mut lower = vec!["", "min", "median", "max"];
        for (shown, above, below) in
            [(self.has_builds(), "gain", "factor"), (self.has_yardstick, "against", "yardstick")]
        {
            if shown {
                upper.push(above);
                lower.push(below);
            }
        }
        upper.extend(self.others().map(|numbers| numbers.name.as_str()));
        lower.extend(self.others().map(|numbers| numbers.unit.as_str()));
        [upper, lower].map(|line| line.into_iter().map(str::to_owned).collect())
    }

    /// The line of one result. `None` if it has no figures.
    fn row(&self, measured: &Measured) -> Option<Vec<String>> {
        let Numbers { min, median, max, .. } = measured.first()?;
        let mut cells = vec![label(measured, self.builds)];
        cells.extend([min, median, max].map(|value| number(*value)));
        if self.has_builds() {
            cells.push(gain(self.chapter, measured, self.builds).unwrap_or_default());
        }
        if self.has_yardstick {
            cells.push(against(self.chapter, measured).unwrap_or_default());
        }
        let own = |wanted: &Numbers| measured.metrics.iter().find(|own| own.is(&wanted.name, &wanted.unit));
        cells.extend(
            self.others().map(|wanted| own(wanted).map_or_else(String::new, |own| number(own.median))),
        );
        Some(cells)
    }
}

/// The case; for all but the first build, its name below it.
fn label(measured: &Measured, builds: &[String]) -> String {
    match &measured.build {
        Some(build) if builds.first() != Some(build) => match measured.failed {
            0 => format!("  {build}"),
            failed => format!("  {build} ({failed} failed)"),
        },
        _ => measured.case.clone(),
    }
}

/// By how much the first build is better than this one.
fn gain(chapter: &Chapter, measured: &Measured, builds: &[String]) -> Option<String> {
    let first = builds.first()?;
    if measured.build.as_ref()? == first {
        return None;
    }
    let same = |other: &&Measured| other.case == measured.case && other.build.as_ref() == Some(first);
    let reference = chapter.results.iter().find(same)?.first()?;
    reference.gain_in_pairs(measured.first()?).map(factor)
}

/// How the median relates to the yardstick's best run.
fn against(chapter: &Chapter, measured: &Measured) -> Option<String> {
    let wanted = measured.yardstick.as_ref()?;
    let same =
        |other: &&Measured| other.case == *wanted && (other.build.is_none() || other.build == measured.build);
    let best = chapter.results.iter().find(same)?.first()?.best();
    let numbers = measured.first()?;
    (best > 0.0).then(|| match numbers.better {
        Better::Higher => format!("{:.0} %", 100.0 * numbers.median / best),
        Better::Lower => factor(numbers.median / best),
    })
}

/// A factor, as it is shown.
pub(super) fn factor(value: f64) -> String {
    format!("{} ×", number(value))
}

/// Three digits.
pub(super) fn number(value: f64) -> String {
    match value.abs() {
        size if size >= 99.95 => format!("{value:.0}"),
        size if size >= 9.995 => format!("{value:.1}"),
        size if size >= 0.0995 || size == 0.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

/// Name and unit of a metric.
pub(super) fn named(numbers: &Numbers) -> String {
    format!("{}, {}", numbers.name, numbers.unit)
}

#[cfg(test)]
mod tests {
    use super::super::scenario::Metric;
    use super::*;

    fn measured(case: &str, build: Option<&str>, yardstick: Option<&str>, values: &[f64]) -> Measured {
        let mut measured = Measured {
            case: case.into(),
            build: build.map(Into::into),
            failed: 0,
            yardstick: yardstick.map(Into::into),
            metrics: Vec::new(),
        };
        for value in values {
            measured.add(vec![(Metric::higher("speed", "m/s"), *value), (Metric::lower("cost", "s"), 1.0)]);
        }
        measured
    }

    #[test]
    fn three_digits() {
        let texts = [1234.0, 99.96, 99.9, 9.999, 1.0, 0.1, 0.012, 0.0].map(number);
        assert_eq!(texts, ["1234", "100", "99.9", "10.0", "1.00", "0.10", "0.012", "0.00"]);
    }

    /// Whatever comes second is a tenth faster, and the machine half as fast in the last pair.
    #[test]
    fn a_build_is_as_good_as_itself() {
        let chapter = Chapter {
            name: "race".into(),
            title: String::new(),
            results: vec![
                measured("run", Some("a"), None, &[100.0, 110.0, 100.0, 55.0]),
                measured("run", Some("b"), None, &[110.0, 100.0, 110.0, 50.0]),
            ],
        };
        let text = chapter_table(&chapter, &["a".into(), "b".into()]).text();
        assert!(text.contains("1.00 ×"), "{text}");
    }

    #[test]
    fn builds_and_yardsticks_are_compared() {
        let chapter = Chapter {
            name: "race".into(),
            title: String::new(),
            results: vec![
                measured("walk", None, None, &[1.0, 4.0]),
                measured("run", Some("new"), Some("walk"), &[2.0]),
                measured("run", Some("old"), Some("walk"), &[1.0]),
            ],
        };
        let text = chapter_table(&chapter, &["new".into(), "old".into()]).text();
        let rows: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(rows[0], ["speed", "m/s", "gain", "against", "cost"]);
        assert_eq!(rows[1], ["min", "median", "max", "factor", "yardstick", "s"]);
        assert_eq!(rows[2], ["walk", "1.00", "2.50", "4.00", "1.00"]);
        assert_eq!(rows[3], ["run", "2.00", "2.00", "2.00", "50", "%", "1.00"]);
        assert_eq!(rows[4], ["old", "1.00", "1.00", "1.00", "2.00", "×", "25", "%", "1.00"]);
    }
}
