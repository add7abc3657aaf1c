//! The same for programs: one JSON object, and the text format of Prometheus. Pure.

use serde_json::{Value, json};
use wire::top::{Answer, Moved, Row, Way};

use super::view::{Line, View};

/// What is counted, with its kind, its meaning, and where it stands in a row.
type Metric = (&'static str, &'static str, &'static str, fn(&Row) -> Vec<(&'static str, String)>);

const METRICS: [Metric; 6] = [
    ("qrexec_calls_running", "gauge", "Calls that run now.", |row| one(Some(row.running))),
    ("qrexec_calls_total", "counter", "Calls that were asked for.", |row| one(Some(row.begun))),
    ("qrexec_calls_refused_total", "counter", "Calls that were refused.", |row| one(Some(row.refused))),
    ("qrexec_bytes_total", "counter", "Payload bytes of calls, as far as they are known here.", |row| {
        row.moved.map_or_else(Vec::new, |Moved { to_service, to_caller }| {
            vec![("to_service", to_service.to_string()), ("to_caller", to_caller.to_string())]
        })
    }),
    ("qrexec_oldest_call_seconds", "gauge", "Age of the oldest call that runs.", |row| {
        one(row.age.map(|millis| millis as f64 / 1e3))
    }),
    ("qrexec_last_exit_code", "gauge", "Exit code of the last call that ended.", |row| {
        one(row.last.and_then(|last| last.exit))
    }),
];

fn one<T: ToString>(value: Option<T>) -> Vec<(&'static str, String)> {
    value.map(|value| ("", value.to_string())).into_iter().collect()
}

const fn word(way: Way) -> &'static str {
    match way {
        Way::Asked => "asked",
        Way::Served => "served",
    }
}

/// Everything, for a scrape. A machine that is not named is the scraped one itself, whose name Prometheus knows.
pub(super) fn metrics(answers: &[Answer]) -> String {
    let mut text = String::from(
        "# HELP qrexec_up Whether this machine's agent, or its daemon in dom0, was asked.\n# TYPE qrexec_up gauge\n",
    );
    for answer in answers {
        text.push_str(&format!("qrexec_up{{machine={}}} 1\n", quoted(&answer.machine)));
    }
    for (name, kind, help, values) in METRICS {
        text.push_str(&format!("# HELP {name} {help}\n# TYPE {name} {kind}\n"));
        for answer in answers {
            for row in &answer.rows {
                for (direction, value) in values(row) {
                    let labels = labels(&answer.machine, row, direction);
                    text.push_str(&format!("{name}{{{labels}}} {value}\n"));
                }
            }
        }
    }
    text
}

fn labels(machine: &str, row: &Row, direction: &str) -> String {
    let route = &row.route;
    let user = route.user.to_string();
    let labels = [
        ("machine", machine),
        ("way", word(route.way)),
        ("user", &user),
        ("source", &route.source),
        ("target", &route.target),
        ("service", &route.service),
        ("direction", direction),
    ];
    let said = labels.iter().filter(|(label, value)| *label != "direction" || !value.is_empty());
    said.map(|(label, value)| format!("{label}={}", quoted(value))).collect::<Vec<_>>().join(",")
}

fn quoted(text: &str) -> String {
    let escaped = text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
    format!("\"{escaped}\"")
}

/// One object, on one line.
pub(super) fn json(view: &View) -> String {
    let calls: Vec<Value> = view.lines.iter().map(line).collect();
    let (running, _) = view.sums();
    format!(
        "{}\n",
        json!({ "running": running, "calls": calls, "left_out": view.left_out, "unread": view.unread })
    )
}

fn line(line: &Line) -> Value {
    json!({
        "way": word(line.way),
        "user": line.user,
        "source": line.source,
        "target": line.target,
        "to": line.to,
        "service": line.service,
        "rule": line.rule,
        "running": line.running,
        "calls": line.begun,
        "refused": line.refused,
        "bytes_to_service": line.moved.map(|moved| moved.to_service),
        "bytes_to_caller": line.moved.map(|moved| moved.to_caller),
        "bytes_per_second_to_service": line.rate.map(|rate| rate.0.round()),
        "bytes_per_second_to_caller": line.rate.map(|rate| rate.1.round()),
        "age_seconds": line.age,
        "last_exit_code": line.last.and_then(|last| last.exit),
        "last_ended_seconds_ago": line.last.map(|last| last.ago as f64 / 1e3),
    })
}

#[cfg(test)]
mod tests {
    use super::super::view::tests::{row, view};
    use super::*;

    #[test]
    fn the_text_format_of_prometheus() {
        let rows = vec![row("test.A+\\\"", 1, Some((5, 6))), row("test.B", 0, None)];
        let text = metrics(&[Answer { machine: "work".to_owned(), rows, left_out: 0 }]);
        let labels =
            r#"machine="work",way="asked",user="0",source="work",target="vault",service="test.A+\\\"""#;
        for line in [
            "qrexec_up{machine=\"work\"} 1".to_owned(),
            "# TYPE qrexec_bytes_total counter".to_owned(),
            format!("qrexec_calls_running{{{labels}}} 1"),
            format!("qrexec_bytes_total{{{labels},direction=\"to_caller\"}} 6"),
            format!("qrexec_oldest_call_seconds{{{labels}}} 61.5"),
        ] {
            assert!(text.lines().any(|said| said == line), "{line}\n{text}");
        }
        // What is not known is not said.
        assert!(!text.lines().any(|line| line.starts_with("qrexec_bytes_total") && line.contains("test.B")));
        // Each series once.
        let mut series: Vec<&str> = text
            .lines()
            .filter(|line| !line.starts_with('#'))
            .filter_map(|line| line.rsplit_once(' '))
            .map(|(s, _)| s)
            .collect();
        let all = series.len();
        series.sort_unstable();
        series.dedup();
        assert_eq!(series.len(), all);
    }

    #[test]
    fn one_json_object() {
        let text =
            json(&view(vec![row("a", 1, Some((0, 0)))], vec![row("a", 1, Some((2, 4))), row("b", 0, None)]));
        let value: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["running"], 1);
        assert_eq!(value["calls"][0]["bytes_per_second_to_caller"], 2.0);
        assert_eq!(value["calls"][0]["rule"], "/etc/qubes/policy.d/30-user.policy:1");
        assert!(value["calls"][1]["bytes_to_service"].is_null());
        assert_eq!(value["calls"][1]["last_exit_code"], 7);
    }
}
