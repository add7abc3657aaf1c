//! What is shown, of two looks at the same machines: pure.

use std::collections::BTreeMap;

use wire::top::{Last, Moved, Route, Way};

use super::sockets::Sample;

/// Calls of one route, fit to be shown.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Line {
    pub(super) way: Way,
    pub(super) user: u32,
    pub(super) source: String,
    pub(super) target: String,
    /// Where policy sent them, if that is not where they wanted to go.
    pub(super) to: Option<String>,
    pub(super) service: String,
    pub(super) rule: Option<String>,
    pub(super) running: u64,
    pub(super) begun: u64,
    pub(super) refused: u64,
    pub(super) moved: Option<Moved>,
    /// Bytes per second, each way.
    pub(super) rate: Option<(f64, f64)>,
    /// Seconds.
    pub(super) age: Option<f64>,
    pub(super) last: Option<Last>,
}

/// Everything that is shown.
#[derive(Debug)]
pub(super) struct View {
    pub(super) lines: Vec<Line>,
    pub(super) left_out: u64,
    pub(super) unread: Vec<String>,
}

impl View {
    /// What `after` says, with rates since `before`; of this machine, which is called so.
    pub(super) fn new(before: &Sample, after: &Sample, own: &str, running: bool) -> Self {
        let seconds = after.at.saturating_duration_since(before.at).as_secs_f64();
        let rows = |sample: &Sample| -> BTreeMap<(String, Route), Option<Moved>> {
            let answers = sample.answers.iter();
            let rows = answers.flat_map(|answer| answer.rows.iter().map(move |row| (answer, row)));
            rows.map(|(answer, row)| ((answer.machine.clone(), row.route.clone()), row.moved)).collect()
        };
        let earlier = rows(before);
        let name = |name: &String| if name.is_empty() { own.to_owned() } else { name.clone() };
        let mut lines = Vec::new();
        for answer in &after.answers {
            for row in answer.rows.iter().filter(|row| !running || row.running > 0) {
                // One that was not there before has moved all it has since.
                let then = earlier.get(&(answer.machine.clone(), row.route.clone()));
                let rate = match (row.moved, then) {
                    (Some(moved), Some(Some(then))) => Some(rate(*then, moved, seconds)),
                    (Some(moved), None | Some(None)) => Some(rate(Moved::default(), moved, seconds)),
                    (None, _) => None,
                };
                lines.push(Line {
                    way: row.route.way,
                    user: row.route.user,
                    source: name(&row.route.source),
                    target: name(&row.route.target),
                    to: row.to.clone(),
                    service: row.route.service.clone(),
                    rule: row.rule.clone(),
                    running: row.running,
                    begun: row.begun,
                    refused: row.refused,
                    moved: row.moved,
                    rate,
                    age: row.age.map(|millis| millis as f64 / 1e3),
                    last: row.last,
                });
            }
        }
        lines.sort_by(|a, b| busy(b).total_cmp(&busy(a)).then_with(|| names(a).cmp(&names(b))));
        // Stable: what runs is first, the busiest of that on top, and then what ended last.
        lines.sort_by_key(|line| (line.running == 0, if line.running == 0 { ago(line) } else { 0 }));
        let left_out = after.answers.iter().map(|answer| answer.left_out).sum();
        Self { lines, left_out, unread: after.unread.clone() }
    }

    /// Calls that run, and bytes per second of all.
    pub(super) fn sums(&self) -> (u64, f64) {
        let running = self.lines.iter().map(|line| line.running).sum();
        (running, self.lines.iter().map(busy).sum())
    }
}

fn rate(then: Moved, now: Moved, seconds: f64) -> (f64, f64) {
    // A route that was forgotten meanwhile begins anew.
    let of = |then: u64, now: u64| now.saturating_sub(then) as f64 / seconds.max(1e-3);
    (of(then.to_service, now.to_service), of(then.to_caller, now.to_caller))
}

fn busy(line: &Line) -> f64 {
    line.rate.map_or(0.0, |(to_service, to_caller)| to_service + to_caller)
}

fn ago(line: &Line) -> u64 {
    line.last.map_or(u64::MAX, |last| last.ago)
}

fn names(line: &Line) -> (&str, &str, &str, u32) {
    (&line.source, &line.target, &line.service, line.user)
}

#[cfg(test)]
pub(super) mod tests {
    use std::time::{Duration, Instant};

    use wire::top::{Answer, Row};

    use super::*;

    pub(in crate::top) fn row(service: &str, running: u64, moved: Option<(u64, u64)>) -> Row {
        Row {
            route: Route::new(Way::Asked, 0, "work", "vault", service),
            to: None,
            rule: Some("/etc/qubes/policy.d/30-user.policy:1".to_owned()),
            running,
            begun: 3,
            refused: 1,
            moved: moved.map(|(to_service, to_caller)| Moved { to_service, to_caller }),
            age: (running > 0).then_some(61_500),
            last: Some(Last { exit: Some(7), ago: 2_000 }),
        }
    }

    pub(in crate::top) fn view(before: Vec<Row>, after: Vec<Row>) -> View {
        let sample = |rows, at| Sample {
            at,
            answers: vec![Answer { machine: "work".to_owned(), rows, left_out: 0 }],
            unread: Vec::new(),
        };
        let now = Instant::now();
        View::new(&sample(before, now), &sample(after, now + Duration::from_secs(2)), "me", false)
    }

    #[test]
    fn rates_are_those_between_two_looks() {
        let before = vec![row("a", 1, Some((100, 1000))), row("b", 1, None), row("d", 1, Some((50, 50)))];
        let after = vec![
            row("a", 1, Some((300, 5000))),
            row("b", 1, Some((20, 40))),
            row("c", 1, Some((2, 4))),
            row("d", 1, Some((10, 60))),
            row("e", 1, None),
        ];
        let view = view(before, after);
        let rates: Vec<_> = view.lines.iter().map(|line| (line.service.as_str(), line.rate)).collect();
        let expected = [("a", 100.0, 2000.0), ("b", 10.0, 20.0), ("d", 0.0, 5.0), ("c", 1.0, 2.0)]
            .map(|(s, a, b)| (s, Some((a, b))));
        assert_eq!(rates[..4], expected);
        assert_eq!(rates[4], ("e", None));
        assert_eq!(view.sums(), (5, 2138.0));
    }

    #[test]
    fn what_runs_is_first_and_then_what_ended_last() {
        let ended = |service, ago| Row { last: Some(Last { exit: None, ago }), ..row(service, 0, None) };
        let after = vec![ended("old", 9), ended("new", 1), row("runs", 1, None)];
        let view = view(Vec::new(), after);
        let services: Vec<_> = view.lines.iter().map(|line| line.service.as_str()).collect();
        assert_eq!(services, ["runs", "new", "old"]);
    }

    #[test]
    fn a_machine_that_is_not_named_is_this_one_and_idle_rows_can_be_left_out() {
        let mut served = row("a", 1, None);
        served.route = Route::new(Way::Served, 1000, "work", "", "a");
        let sample = |rows| Sample {
            at: Instant::now(),
            answers: vec![Answer { machine: String::new(), rows, left_out: 2 }],
            unread: vec!["x".to_owned()],
        };
        let after = sample(vec![served, row("idle", 0, None)]);
        let view = View::new(&sample(Vec::new()), &after, "vault", true);
        assert_eq!(view.lines.len(), 1);
        assert_eq!((view.lines[0].source.as_str(), view.lines[0].target.as_str()), ("work", "vault"));
        assert_eq!((view.left_out, view.unread.len()), (2, 1));
    }
}
