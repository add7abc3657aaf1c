//! `--report`: everything that was measured on one page that needs nothing but a browser.

mod plot;

use std::fmt::Write;
use std::fs;
use std::path::Path;

use super::results::{Chapter, Measured, Recording};
use super::table;
use cli::failure::Failure;
use plot::{Plot, Point};

const STYLE: &str = "body{font:15px/1.5 sans-serif;max-width:60em;margin:2em auto;padding:0 1em;color:#222}\
    h1{font-size:1.5em}h2{font-size:1.2em;margin-top:2em;border-top:1px solid #ccc;padding-top:1em}\
    svg{display:block;max-width:100%;height:auto;margin:1em 0}table{border-collapse:collapse;font-size:.85em}\
    td{padding:.1em .7em;text-align:right;white-space:nowrap}td:first-child{text-align:left}\
    tr:nth-child(even){background:#f4f4f4}code{background:#f4f4f4}details{margin:.5em 0}";

/// Writes `index.html` and, with every single run, `results.json` into a folder.
pub(super) fn write(recording: &Recording, folder: &Path) -> Result<(), Failure> {
    let during = || format!("writing {}", folder.display());
    fs::create_dir_all(folder).map_err(Failure::during(during()))?;
    recording.write(&folder.join("results.json"))?;
    fs::write(folder.join("index.html"), html(recording)?).map_err(Failure::during(during()))
}

/// The whole page.
fn html(recording: &Recording) -> Result<String, Failure> {
    let machine = &recording.machine;
    let mut text = String::from("<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n");
    let _ =
        writeln!(text, "<title>qrexec-bench, {}</title><style>{STYLE}</style></head><body>", recording.date);
    let _ = write!(
        text,
        "<h1>qrexec-bench {}</h1>\n<p>{}<br>{} × {}, {}, {} MiB of memory<br><code>qrexec-bench {}</code></p>\n\
         <p>Bars and lines are medians; dots are single runs. A factor above 1 is for the first build.</p>\n",
        recording.version,
        recording.date,
        machine.cores,
        escaped(&machine.cpu),
        escaped(&machine.kernel),
        machine.memory >> 20,
        escaped(&recording.command.join(" ")),
    );
    for chapter in &recording.scenarios {
        let _ = writeln!(text, "<h2>{}: {}</h2>", escaped(&chapter.name), escaped(&chapter.title));
        for plot in plots(chapter, &recording.builds)? {
            text.push_str(&plot);
        }
        text.push_str("<details open><summary>Figures</summary>\n<table>\n");
        for row in table::chapter_table(chapter, &recording.builds).rows() {
            let cells: String = row.iter().map(|cell| format!("<td>{}</td>", escaped(cell))).collect();
            let _ = writeln!(text, "<tr>{cells}</tr>");
        }
        text.push_str("</table></details>\n");
    }
    text.push_str(
        "<p>Every single run is in <a href=\"results.json\">results.json</a>.</p>\n</body></html>\n",
    );
    Ok(text)
}

/// The plots of a chapter.
fn plots(chapter: &Chapter, builds: &[String]) -> Result<Vec<String>, Failure> {
    match chapter.name.as_str() {
        "throughput" | "cpu" => by_ring(chapter, builds),
        "latency" => quantiles(chapter, builds),
        "calls" => by_number(chapter, builds),
        "profile" => downward(chapter),
        _ => Ok(Vec::new()),
    }
}

/// Ways with the sizes of rings behind them: `client sends, file, 64K`. A plot for each way and metric.
fn by_ring(chapter: &Chapter, builds: &[String]) -> Result<Vec<String>, Failure> {
    let through = || chapter.results.iter().filter_map(|one| Some((one, one.case.rsplit_once(", ")?)));
    let mut plots = Vec::new();
    for way in distinct(through().map(|(_, (way, _))| way)) {
        let own: Vec<_> = through().filter(|(_, (other, _))| *other == way).collect();
        let sizes: Vec<String> =
            distinct(own.iter().map(|(_, (_, size))| *size)).into_iter().map(str::to_owned).collect();
        let named = |name: &'static str| {
            let points = own.iter().filter_map(|(one, (_, size))| {
                let x = sizes.iter().position(|other| other == size)? as f64;
                let numbers = one.metrics.iter().find(|numbers| numbers.name == name)?;
                Some(Point { series: series(one, builds), x, numbers })
            });
            Plot { title: format!("{way}: {name}"), series: builds.to_vec(), points: points.collect() }
        };
        let shown = ["bandwidth", "CPU"].map(named).into_iter().filter(|plot| !plot.points.is_empty());
        for plot in shown.take(if chapter.name == "cpu" { 1 } else { 2 }) {
            plots.push(plot.bars(&sizes)?);
        }
    }
    Ok(plots)
}

/// The distribution: a bar for each quantile. The last one is for the table: it would hide the others.
fn quantiles(chapter: &Chapter, builds: &[String]) -> Result<Vec<String>, Failure> {
    const SHOWN: [&str; 4] = ["p10", "p50", "p90", "p99"];
    let names: Vec<String> = chapter.results.iter().map(|one| name_of(one, builds)).collect();
    let points = chapter.results.iter().enumerate().flat_map(|(series, one)| {
        one.metrics.iter().filter_map(move |numbers| {
            let x = SHOWN.iter().position(|name| *name == numbers.name)? as f64;
            Some(Point { series, x, numbers })
        })
    });
    let plot = Plot { title: "there and back".to_owned(), series: names, points: points.collect() };
    Ok(vec![plot.bars(&SHOWN.map(str::to_owned))?])
}

/// Kinds of calls with their number behind them: `call of a program, 16`. Rate and median over the number.
fn by_number(chapter: &Chapter, builds: &[String]) -> Result<Vec<String>, Failure> {
    let split = |one: &Measured| {
        let (kind, number) = one.case.rsplit_once(", ")?;
        let build = one.build.as_ref().filter(|_| builds.len() > 1);
        Some((
            build.map_or_else(|| kind.to_owned(), |build| format!("{kind}: {build}")),
            number.parse::<f64>().ok()?,
        ))
    };
    let known: Vec<_> = chapter.results.iter().filter_map(|one| Some((one, split(one)?))).collect();
    let mut names: Vec<String> = Vec::new();
    for (_, (name, _)) in &known {
        if !names.contains(name) {
            names.push(name.clone());
        }
    }
    let named = |metric: &str| {
        let points = known.iter().filter_map(|(one, (name, x))| {
            let series = names.iter().position(|other| other == name)?;
            let numbers = one.metrics.iter().find(|numbers| numbers.name == metric)?;
            Some(Point { series, x: *x, numbers })
        });
        Plot { title: metric.to_owned(), series: names.clone(), points: points.collect() }
    };
    ["rate", "p50", "p99"].iter().map(|metric| named(metric).lines("calls at a time")).collect()
}

/// A bar for each metric of the only case, numbered as in the table.
fn downward(chapter: &Chapter) -> Result<Vec<String>, Failure> {
    let Some(one) = chapter.results.first() else { return Ok(Vec::new()) };
    let points = one.metrics.iter().enumerate();
    let points = points.map(|(x, numbers)| Point { series: 0, x: x as f64, numbers }).collect();
    let groups: Vec<String> = (1..=one.metrics.len()).map(|line| line.to_string()).collect();
    let plot = Plot { title: "in the order of the table".to_owned(), series: vec![one.case.clone()], points };
    Ok(vec![plot.bars(&groups)?])
}

fn series(one: &Measured, builds: &[String]) -> usize {
    builds.iter().position(|build| one.build.as_ref() == Some(build)).unwrap_or(0)
}

fn name_of(one: &Measured, builds: &[String]) -> String {
    match &one.build {
        Some(build) if builds.len() > 1 => format!("{}: {build}", one.case),
        _ => one.case.clone(),
    }
}

fn distinct<'a>(all: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    let mut seen = Vec::new();
    for one in all {
        if !seen.contains(&one) {
            seen.push(one);
        }
    }
    seen
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::super::results::tests::recording;
    use super::super::scenario::Metric;
    use super::*;

    fn measured(case: &str, build: Option<&str>, metrics: &[Metric]) -> Measured {
        let mut measured = Measured {
            case: case.into(),
            build: build.map(Into::into),
            failed: 0,
            yardstick: None,
            metrics: Vec::new(),
        };
        for value in [1.0, 3.0, 2.0] {
            measured.add(metrics.iter().map(|metric| (*metric, value)).collect());
        }
        measured
    }

    #[test]
    fn every_chapter_has_its_plots_and_its_figures() {
        let chapter = |name: &str, cases: &[&str], metrics: &[Metric]| Chapter {
            name: name.into(),
            title: "a <title>".into(),
            results: cases
                .iter()
                .flat_map(|case| {
                    [measured(case, Some("new"), metrics), measured(case, Some("old & slow"), metrics)]
                })
                .collect(),
        };
        let metric = |name| Metric::higher(name, "u");
        let chapters = vec![
            chapter(
                "throughput",
                &["client sends, 64K", "client sends, 1M"],
                &[metric("bandwidth"), metric("CPU")],
            ),
            chapter("latency", &["through a call"], &[metric("p50"), metric("p99")]),
            chapter(
                "calls",
                &["call of a program, 1", "call of a program, 16"],
                &["rate", "p50", "p99"].map(metric),
            ),
            chapter("scale", &["3 calls"], &[metric("USS")]),
        ];
        let page = html(&recording(vec!["new".into(), "old & slow".into()], chapters)).unwrap();
        assert_eq!(page.matches("<svg").count(), 2 + 1 + 3, "{page}");
        assert_eq!(page.matches("<table>").count(), 4);
        assert!(page.contains("a &lt;title&gt;") && page.contains("client sends: bandwidth"));
        assert!(!page.contains("old & slow"), "everything is escaped");
        assert!(
            !page.contains("http://")
                || page.matches("http://").count() == page.matches("http://www.w3.org/2000/svg").count()
        );
    }
}
