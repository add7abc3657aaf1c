//! Old folders at random: what the conversion may not do is change a decision unseen, or be undone where it need not.

use std::fs;
use std::path::Path;

use super::*;

const SYSTEM: &str = r#"{"domains": {
    "dom0": {"type": "AdminVM", "tags": [], "template_for_dispvms": false},
    "work": {"type": "AppVM", "tags": ["t"], "template_for_dispvms": false, "default_dispvm": "vault"},
    "mail": {"type": "AppVM", "tags": [], "template_for_dispvms": false},
    "vault": {"type": "AppVM", "tags": ["t"], "template_for_dispvms": true}}}"#;

struct Dice(u64);

impl Dice {
    fn pick<'a>(&mut self, from: &[&'a str]) -> &'a str {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        from[usize::try_from(self.0 >> 40).unwrap() % from.len()]
    }

    fn line(&mut self, old: bool) -> String {
        let any = if old { "$anyvm" } else { "@anyvm" };
        let tag = if old { "$tag:t" } else { "@tag:t" };
        let from = self.pick(&["work", "mail", "vault", any, tag]);
        let to = self.pick(&["work", "mail", "vault", "dom0", any, if old { "$dispvm" } else { "@dispvm" }]);
        format!("{from} {to} {}\n", self.pick(&["allow", "ask", "deny", "deny"]))
    }

    fn lines(&mut self, old: bool, front: &str) -> String {
        let count = self.pick(&["", ".", "..", "...", "....."]).len();
        (0..count).map(|_| format!("{front}{}", self.line(old))).collect()
    }
}

const SERVICES: [&str; 5] =
    ["qubes.Filecopy", "qubes.ClipboardPaste", "qubes.InputMouse", "qubes.OpenURL", "a.B"];

/// Whether old rules had a rule of a later file behind them that is in front of them now: what is read between
/// `30-user.policy` and the old rules cannot stay there.
fn folder(root: &Path, dice: &mut Dice, between: bool) -> LegacyConvertArgs {
    let path = |name: &str| root.join(name);
    fs::create_dir_all(path("policy.d")).unwrap();
    fs::create_dir_all(path("old")).unwrap();
    let new = |name: &str, dice: &mut Dice| {
        let service = dice.pick(&SERVICES);
        let text = dice.lines(false, &format!("{service} * "));
        fs::write(root.join("policy.d").join(name), text).unwrap();
    };
    new("30-user.policy", dice);
    if between {
        new("31-between.policy", dice);
    }
    fs::write(path("policy.d/35-compat.policy"), "!compat-4.0\n").unwrap();
    new("40-later.policy", dice);
    new("90-default.policy", dice);
    for service in SERVICES {
        let text = dice.lines(true, "");
        let end = dice.pick(&["", "$anyvm $anyvm deny\n"]);
        if dice.pick(&["", "x"]) == "x" {
            fs::write(path("old").join(service), text + end).unwrap();
        }
    }
    fs::write(path("system.json"), SYSTEM).unwrap();
    LegacyConvertArgs {
        policy_dir: path("policy.d"),
        old_dir: path("old"),
        system_info: Some(path("system.json")),
    }
}

/// Those of 400 conversions that would be undone: all files before, and what would be different.
fn undone(between: bool) -> Vec<String> {
    let mut dice = Dice(7);
    let differs = |dice: &mut Dice| {
        let root = tempfile::tempdir().unwrap();
        let args = folder(root.path(), dice, between);
        let system = SystemSource::new(args.system_info.clone()).current().unwrap();
        let policy = compile(&args).unwrap();
        let rules: String = policy.rules().iter().map(|rule| format!("{}: {rule}\n", rule.file)).collect();
        let before = graph::full(&policy, &system);
        convert(&args, &policy, &mut Undo::default()).unwrap();
        let after = drawn(&args, &system).unwrap();
        (before != after).then(|| rules + &difference(&before, &after))
    };
    (0..400).filter_map(|_| differs(&mut dice)).collect()
}

/// What is read behind the old rules and in front of a tool's file does not come in front of them, nor do they change places.
#[test]
fn rules_that_overlap_in_part_keep_their_order() {
    let undone = undone(false);
    assert_eq!(undone.len(), 0, "{}", undone[0]);
}

/// Rules between the user's file and the old ones are behind these now. Where that changes something it is seen.
#[test]
fn what_stands_between_the_users_rules_and_the_old_ones_may_undo_it() {
    let undone = undone(true).len();
    assert!(undone > 0 && undone < 40, "{undone}");
}
