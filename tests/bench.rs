//! `qrexec-bench` as a program: whether its figures are there, not whether they are good.

use std::path::Path;
use std::process::Stdio;

use crate::common::machines::has_sshd;
use crate::common::{self, within_deadline};
use serde_json::Value;

const EVERYTHING: [&str; 5] = ["throughput", "cpu", "latency", "calls", "scale"];

/// Runs the program quickly; its standard output.
fn bench(args: &[&str]) -> String {
    let mut command = common::called("qrexec-bench");
    let output = command.args(args).stdin(Stdio::null()).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{args:?}: {}\n{errors}", output.status);
    String::from_utf8(output.stdout).unwrap()
}

fn recording(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn list<'a>(value: &'a Value, name: &str) -> &'a Vec<Value> {
    value[name].as_array().unwrap_or_else(|| panic!("no {name} in {value}"))
}

/// Every metric has a number of each run, and they make sense.
fn check_numbers(metric: &Value, runs: usize) {
    let number = |name: &str| metric[name].as_f64().unwrap_or_else(|| panic!("no {name} in {metric}"));
    let (min, median, max) = (number("min"), number("median"), number("max"));
    assert!(0.0 <= min && min <= median && median <= max && max.is_finite(), "{metric}");
    assert_eq!(list(metric, "runs").len(), runs, "{metric}");
}

/// Real programs at both ends, the other user's pipe only where that can't be opened anyway.
#[test]
fn ordinary_programs_give_figures() {
    within_deadline(|| {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("results.json");
        let path = file.to_str().unwrap();
        bench(&["--quick", "--runs=2", "--scenario=life", "--case=head to cat,tar to tar", "--json", path]);
        let recording = recording(&file);
        let results = list(&list(&recording, "scenarios")[0], "results");
        let cases: Vec<_> = results.iter().map(|result| result["case"].as_str().unwrap()).collect();
        for case in [
            "send, head to cat",
            "receive, head to cat",
            "send, tar to tar",
            "receive, head to cat, a socket",
        ] {
            assert!(cases.contains(&case), "{cases:?}");
        }
        let foreign = cases.contains(&"receive, head to cat, another user's pipe");
        assert_eq!(foreign, !rustix::process::geteuid().is_root());
        for result in results {
            let metrics = list(result, "metrics");
            assert_eq!(metrics.len(), 2, "bandwidth and processor time: {result}");
            metrics.iter().for_each(|metric| check_numbers(metric, 2));
        }
    });
}

#[test]
fn every_scenario_gives_figures() {
    within_deadline(|| {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("results.json");
        let path = file.to_str().unwrap();
        let mut args = vec![
            "--quick",
            "--runs=2",
            "--buffer-size=default,4096",
            "--ends=pipe,file,socket",
            "--counters",
            "--json",
            path,
            "--scenario",
        ];
        args.extend(EVERYTHING);
        let text = bench(&args);
        let recording = recording(&file);
        assert!(recording["machine"]["cores"].as_u64() > Some(0), "{recording}");
        let scenarios = list(&recording, "scenarios");
        assert_eq!(scenarios.iter().map(|one| one["name"].as_str().unwrap()).collect::<Vec<_>>(), EVERYTHING);
        for scenario in scenarios {
            let results = list(scenario, "results");
            assert!(!results.is_empty(), "{scenario}");
            for result in results {
                assert!(text.contains(result["case"].as_str().unwrap()), "{text}");
                let metrics = list(result, "metrics");
                assert!(!metrics.is_empty(), "{result}");
                metrics.iter().for_each(|metric| check_numbers(metric, 2));
            }
        }
        let names = |result: &Value| {
            list(result, "metrics")
                .iter()
                .map(|metric| format!("{} {};", metric["name"], metric["unit"]))
                .collect::<String>()
        };
        let sending =
            list(&scenarios[0], "results").iter().find(|result| result["case"] == "client sends, default");
        let sending = names(sending.unwrap());
        for counter in ["\"syscalls\" \"client/MiB\"", "\"syscalls\" \"agent/MiB\""] {
            assert!(sending.contains(counter), "{sending}");
        }
    });
}

#[test]
fn a_profile_says_where_the_time_goes_and_a_report_shows_it() {
    within_deadline(|| {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().to_str().unwrap();
        let text = bench(&["--scenario=profile", "--runs=1", "--report", path]);
        for step in ["client: exec", "policy", "agent: fork", "service: runs"] {
            assert!(text.contains(step), "{step}: {text}");
        }
        let page = std::fs::read_to_string(folder.path().join("index.html")).unwrap();
        assert!(page.contains("<svg") && page.contains("agent: fork"), "{page}");
        let recording = recording(&folder.path().join("results.json"));
        let whole = &list(&list(&recording, "scenarios")[0], "results")[0];
        let names = list(whole, "metrics").iter().map(|metric| metric["name"].as_str().unwrap());
        assert_eq!(names.clone().next(), Some("the whole call"));
        assert!(names.count() > 10);
    });
}

#[test]
fn two_builds_are_measured_in_turn_and_compared() {
    within_deadline(|| {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("results.json");
        let path = file.to_str().unwrap();
        let other = folder.path().join("other");
        std::fs::create_dir(&other).unwrap();
        for program in ["qrexec-agent", "qrexec-client-vm", "qrexec-daemon"] {
            std::os::unix::fs::symlink(common::EXE, other.join(program)).unwrap();
        }
        let vs = other.to_str().unwrap();
        let text = bench(&[
            "--quick",
            "--scenario=latency",
            "--transport=socket",
            "--engine=poll",
            "--vs",
            vs,
            "--json",
            path,
        ]);
        assert!(text.contains(vs) && text.contains("gain"), "{text}");
        assert_eq!(list(&recording(&file), "builds").len(), 2);
        let comparison = bench(&["compare", path, path]);
        assert!(comparison.contains("1.00 ×"), "{comparison}");
    });
}

#[test]
fn a_copy_is_measured_beside_cp_and_tar() {
    within_deadline(|| {
        let folder = tempfile::tempdir().unwrap();
        let tree = folder.path().join("tree");
        std::fs::create_dir_all(tree.join("a/b")).unwrap();
        std::fs::write(tree.join("a/b/c"), "x").unwrap();
        let file = folder.path().join("results.json");
        let (path, place) = (file.to_str().unwrap(), folder.path().to_str().unwrap());
        let tree = tree.to_str().unwrap();
        bench(&["--quick", "--runs=2", "--scenario=copy", "--tree", tree, "--folder", place, "--json", path]);
        let recording = recording(&file);
        let scenario = &list(&recording, "scenarios")[0];
        let results = list(scenario, "results");
        assert_eq!(results.len(), 10, "{scenario}");
        for result in results {
            let metrics = list(result, "metrics");
            metrics.iter().for_each(|metric| check_numbers(metric, 2));
            assert!(metrics[0]["median"].as_f64() > Some(0.0), "{result}");
        }
        for case in ["one file of 1 MiB, copied", "30 files of 1 KiB, tar | tar", tree] {
            assert!(results.iter().any(|one| one["case"].as_str().unwrap().starts_with(case)), "{case}");
        }
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2, "its own folder is gone");
    });
}

#[test]
fn calls_to_another_machine_are_measured_beside_others() {
    within_deadline(|| {
        if !has_sshd() {
            return common::skipped("measuring calls to another machine: no sshd");
        }
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("results.json");
        bench(&["--quick", "--runs=1", "--size=1M", "--scenario=remote", "--json", file.to_str().unwrap()]);
        let recording = recording(&file);
        let results = list(&list(&recording, "scenarios")[0], "results");
        assert_eq!(results.len(), 8, "{results:?}");
        for result in results {
            list(result, "metrics").iter().for_each(|metric| check_numbers(metric, 1));
        }
        let line = results.iter().find(|one| one["case"] == "a call over a line of 50 ms").unwrap();
        assert!(list(line, "metrics")[0]["median"].as_f64() > Some(50.0), "{line}");
    });
}

#[test]
fn nonsense_is_refused_before_anything_starts() {
    within_deadline(|| {
        for args in [["--scenario", "nothing"], ["--size", "much"], ["--runs", "0"], ["__nothing", "1"]] {
            let output = common::called("qrexec-bench").args(args).output().unwrap();
            assert_eq!((output.status.code(), output.stdout.len()), (Some(2), 0), "{args:?}");
        }
    });
}
