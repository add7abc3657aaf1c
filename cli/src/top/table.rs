//! The table for people: pure.

use wire::top::Last;

use super::view::{Line, View};

/// What is not known.
const UNKNOWN: &str = "-";
/// Heads of the columns, and whether each is aligned to the right.
const HEADS: [(&str, bool); 12] = [
    ("SOURCE", false),
    ("TARGET", false),
    ("SERVICE", false),
    ("NOW", true),
    ("CALLS", true),
    ("TO-SERVICE", true),
    ("/s", true),
    ("TO-CALLER", true),
    ("/s", true),
    ("AGE", true),
    ("EXIT", false),
    ("RULE", false),
];
/// No column is wider.
const WIDEST: usize = 32;

/// The whole table, with its lines as long as they are.
pub(super) fn whole(view: &View) -> String {
    let mut text = String::new();
    for line in lines(view) {
        text.push_str(&line);
        text.push('\n');
    }
    text
}

/// A screen of so many lines and columns, which takes the place of the one before.
pub(super) fn screen(view: &View, (rows, columns): (usize, usize)) -> String {
    let mut text = String::from("\x1b[H");
    // The last line stays empty, so that nothing scrolls.
    for line in lines(view).iter().take(rows.saturating_sub(1)) {
        let shown: String = line.chars().take(columns).collect();
        text.push_str(&shown);
        text.push_str("\x1b[K\r\n");
    }
    text.push_str("\x1b[J");
    text
}

fn lines(view: &View) -> Vec<String> {
    let (running, rate) = view.sums();
    let calls = if running == 1 { "call runs" } else { "calls run" };
    let mut lines = vec![format!("{running} {calls}, {}/s", bytes(rate as u64))];
    if view.left_out > 0 {
        lines.push(format!("{} more are not shown", view.left_out));
    }
    lines.extend(view.unread.iter().map(|why| format!("not read: {why}")));
    let heads = HEADS.map(|(head, _)| head.to_owned());
    let table: Vec<[String; HEADS.len()]> =
        std::iter::once(heads).chain(view.lines.iter().map(cells)).collect();
    let width = |column: usize| {
        table.iter().filter_map(|row| row.get(column)).map(String::len).max().unwrap_or_default().min(WIDEST)
    };
    let widths: Vec<usize> = (0..HEADS.len()).map(width).collect();
    for row in &table {
        let padded = row.iter().zip(&widths).zip(HEADS).map(|((cell, width), (_, right))| {
            let cell: String = cell.chars().take(WIDEST).collect();
            if right { format!("{cell:>width$}") } else { format!("{cell:<width$}") }
        });
        let line = padded.collect::<Vec<_>>().join("  ");
        lines.push(line.trim_end().to_owned());
    }
    lines
}

fn cells(line: &Line) -> [String; HEADS.len()] {
    let target = match &line.to {
        Some(to) => format!("{} ({to})", line.target),
        None => line.target.clone(),
    };
    let size = |bytes: Option<u64>| bytes.map_or_else(|| UNKNOWN.to_owned(), self::bytes);
    let moved = |pick: fn(&wire::top::Moved) -> u64| size(line.moved.as_ref().map(pick));
    let rate = |pick: fn((f64, f64)) -> f64| size(line.rate.map(|rate| pick(rate) as u64));
    [
        line.source.clone(),
        target,
        line.service.clone(),
        line.running.to_string(),
        line.begun.to_string(),
        moved(|moved| moved.to_service),
        rate(|rate| rate.0),
        moved(|moved| moved.to_caller),
        rate(|rate| rate.1),
        line.age.map_or_else(|| UNKNOWN.to_owned(), time),
        line.last.map_or_else(|| UNKNOWN.to_owned(), exit),
        line.rule.as_deref().map_or_else(|| UNKNOWN.to_owned(), file_and_line),
    ]
}

fn exit(last: Last) -> String {
    let code = last.exit.map_or_else(|| "ended".to_owned(), |code| code.to_string());
    format!("{code}, {} ago", time(last.ago as f64 / 1e3))
}

/// A rule without the folders of its file.
fn file_and_line(rule: &str) -> String {
    rule.rsplit('/').next().unwrap_or(rule).to_owned()
}

/// Bytes in at most six characters.
fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["K", "M", "G", "T", "P", "E"];
    if bytes < 1024 {
        return format!("{bytes}B");
    }
    let mut value = bytes as f64 / 1024.0;
    let mut units = UNITS.iter();
    let mut unit = units.next();
    while value >= 999.95 {
        value /= 1024.0;
        unit = units.next();
    }
    format!("{value:.1}{}", unit.unwrap_or(&"E"))
}

/// A time in at most six characters, for some centuries.
fn time(seconds: f64) -> String {
    let whole = seconds as u64;
    match whole {
        0..10 => format!("{seconds:.1}s"),
        10..60 => format!("{whole}s"),
        60..3600 => format!("{}m{:02}s", whole / 60, whole % 60),
        3600..86_400 => format!("{}h{:02}m", whole / 3600, whole % 3600 / 60),
        _ => format!("{}d{:02}h", whole / 86_400, whole % 86_400 / 3600),
    }
}

#[cfg(test)]
mod tests {
    use super::super::view::tests::{row, view};
    use super::*;

    #[test]
    fn a_table() {
        let view = view(
            vec![row("test.Count", 1, Some((0, 0)))],
            vec![row("test.Count", 1, Some((3 << 30, 12))), row("test.Other", 0, None)],
        );
        assert_eq!(
            whole(&view),
            "1 call runs, 1.5G/s\n\
             SOURCE  TARGET  SERVICE     NOW  CALLS  TO-SERVICE    /s  TO-CALLER  /s    AGE  EXIT         RULE\n\
             work    vault   test.Count    1      3        3.0G  1.5G        12B  6B  1m01s  7, 2.0s ago  30-user.policy:1\n\
             work    vault   test.Other    0      3           -     -          -   -      -  7, 2.0s ago  30-user.policy:1\n"
        );
    }

    #[test]
    fn a_screen_is_never_wider_or_higher_than_the_terminal() {
        let rows = (0..100).map(|n| row(&format!("test.A{n}"), 1, None)).collect();
        let text = screen(&view(Vec::new(), rows), (10, 20));
        let lines: Vec<&str> = text.strip_prefix("\x1b[H").unwrap().split("\x1b[K\r\n").collect();
        assert_eq!((lines.len(), *lines.last().unwrap()), (10, "\x1b[J"));
        assert!(lines[..9].iter().all(|line| line.len() <= 20));
        assert!(screen(&view(Vec::new(), Vec::new()), (0, 0)).ends_with("\x1b[J"));
    }

    #[test]
    fn long_names_do_not_push_the_others_away() {
        let text = whole(&view(Vec::new(), vec![row(&"x".repeat(160), 1, None)]));
        assert!(text.lines().all(|line| line.len() < 150), "{text}");
    }

    #[test]
    fn numbers_are_short() {
        let sizes = [0, 1023, 1024, 1536, 1 << 20, (1 << 30) - 1, 1 << 40, u64::MAX].map(bytes);
        assert_eq!(sizes, ["0B", "1023B", "1.0K", "1.5K", "1.0M", "1.0G", "1.0T", "16.0E"]);
        let times = [0.0, 9.94, 10.0, 59.9, 60.0, 3661.0, 90_000.0, 86_400.0 * 400.0].map(time);
        assert_eq!(times, ["0.0s", "9.9s", "10s", "59s", "1m00s", "1h01m", "1d01h", "400d00h"]);
        assert!(sizes.iter().chain(&times).all(|text| text.len() <= 7));
    }
}
