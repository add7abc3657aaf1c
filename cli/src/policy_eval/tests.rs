//! Questions as lines, and one question to folders on disk.

use serde_json::{Value, json};

use super::*;

fn system() -> Value {
    let qube = |kind: &str| json!({"type": kind, "tags": [], "template_for_dispvms": false, "power_state": "Running", "uuid": "u", "guivm": "vault"});
    json!({"domains": {"dom0": qube("AdminVM"), "work": qube("AppVM"), "vault": qube("AppVM")}})
}

fn question(policy: &str) -> Value {
    json!({
        "policy": {"30-user.policy": policy}, "compat": {"old.Service": "$anyvm $anyvm allow"},
        "include": {"include/more": "demo.Add * work vault allow user=root\n"}, "system_info": system(),
        "source": "work", "target": "vault", "service": "demo.Add", "argument": "+1", "requested_source": null,
    })
}

fn answers(lines: &str, explain: bool) -> Vec<Value> {
    let mut out = Vec::new();
    answer_lines(&mut lines.as_bytes(), &mut out, explain).unwrap();
    out.split(|&byte| byte == b'\n')
        .filter(|line| !line.is_empty())
        .map(|line| serde_json::from_slice(line).unwrap())
        .collect()
}

#[test]
fn each_line_has_its_answer() {
    let mut old = question("!compat-4.0");
    old["service"] = json!("old.Service");
    let lines = [
        question("!include include/more").to_string(),
        String::new(),
        question("* * * * ask default_target=vault").to_string(),
        old.to_string(),
        question("* * * * deny notify=no").to_string(),
        question("nonsense").to_string(),
        "{".to_owned(),
    ]
    .join("\n");
    let answers = answers(&lines, false);
    let results: Vec<_> = answers.iter().map(|answer| answer["result"].as_str().unwrap()).collect();
    assert_eq!(results, ["allow", "ask", "allow", "deny", "error", "error"]);
    assert_eq!(answers[0]["rule"], "include/more:1");
    assert_eq!(
        answers[0]["answer"],
        "user=root\nresult=allow\ntarget=vault\ntarget_uuid=uuid:u\nautostart=True\nrequested_target=vault"
    );
    assert_eq!(answers[1]["targets_for_ask"], json!(["dom0", "vault"]));
    assert_eq!(answers[1]["default_target"], "vault");
    assert_eq!(answers[1]["answer"], Value::Null);
    assert_eq!(answers[3]["notify"], false);
    assert_eq!(answers[3]["answer"], "result=deny");
    assert!(answers[4]["reason"].as_str().unwrap().starts_with("30-user.policy:1:"));
}

#[test]
fn explanations_are_given_when_wanted() {
    let lines = question("other.X * * * deny\n* * home * deny\n* * work vault allow").to_string();
    assert_eq!(answers(&lines, false)[0].get("explanation"), None);
    let text = answers(&lines, true)[0]["explanation"].as_str().unwrap().to_owned();
    assert!(text.contains("30-user.policy:2") && text.contains("=> 30-user.policy:3"), "{text}");
}

#[test]
fn one_question_is_decided_by_the_folders() {
    let root = tempfile::tempdir().unwrap();
    let folder = root.path().join("policy.d");
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("30-user.policy"), "demo.Add * work vault allow\ndemo.Sub * * * ask\n")
        .unwrap();
    let system_info = root.path().join("system.json");
    std::fs::write(&system_info, system().to_string()).unwrap();
    let ask = |words: &[&str]| {
        let mut line = vec![PROGRAM.to_owned(), format!("--policy-dir={}", folder.display())];
        line.push(format!("--system-info={}", system_info.display()));
        line.extend(words.iter().map(|&word| word.to_owned()));
        let args = PolicyEvalArgs::try_parse_from(line).unwrap();
        let (source, target, service) =
            (args.source.as_ref().unwrap(), args.target.as_ref().unwrap(), args.service.as_ref().unwrap());
        let mut out = Vec::new();
        let status = ask_this_machine(&args, &Request::new(source, target, service), &mut out).unwrap();
        (status, String::from_utf8(out).unwrap())
    };
    assert_eq!(ask(&["work", "vault", "demo.Add+1"]).0, 0);
    assert_eq!(ask(&["work", "dom0", "demo.Add+1"]).0, DENIED);
    assert_eq!(ask(&["work", "dom0", "demo.Sub"]).0, ASKED);
    let (_, text) = ask(&["--explain", "work", "vault", "demo.Add+1"]);
    assert!(text.contains("30-user.policy:1: demo.Add * work vault allow"), "{text}");
}

#[test]
fn half_a_question_is_a_mistake() {
    for words in [&["work"][..], &["work", "vault"], &["--requested-source=far"]] {
        let line = [&[PROGRAM][..], words].concat();
        assert!(PolicyEvalArgs::try_parse_from(line).is_err(), "{words:?}");
    }
}
