//! Many calls: none lost, none hung, nothing left.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::common::{call, full, lab, leftovers, meeting_places, within_deadline};
use lab::Lab;

/// How many at a time.
const ABREAST: usize = 16;

/// How long the last processes may take to go.
const GONE: Duration = Duration::from_secs(10);

const CAT: &str = "#!/bin/sh\nread word; echo \"$word back\"; exit 3\n";

fn calls() -> usize {
    if full() { 1000 } else { 150 }
}

/// One call that says what only it can say.
fn one(lab: &Lab, number: usize) {
    let said = call(lab, "work", "vault", "test.Back", format!("word{number}\n").as_bytes());
    assert_eq!((said.text(), said.code), (format!("word{number} back\n"), 3), "call {number}: {said:?}");
}

#[test]
fn calls_in_sequence() {
    within_deadline(|| {
        let lab = lab().script("vault", "test.Back", CAT).start().unwrap();
        let before = meeting_places(&lab);
        for number in 0..calls() {
            one(&lab, number);
        }
        assert_eq!(leftovers(&lab, GONE), []);
        assert_eq!(meeting_places(&lab), before);
        lab.down().unwrap();
    });
}

#[test]
fn calls_abreast() {
    within_deadline(|| {
        let lab = lab().script("vault", "test.Back", CAT).start().unwrap();
        let before = meeting_places(&lab);
        let next = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..ABREAST {
                scope.spawn(|| {
                    while let Some(number) =
                        Some(next.fetch_add(1, Ordering::Relaxed)).filter(|n| *n < calls())
                    {
                        one(&lab, number);
                    }
                });
            }
        });
        assert_eq!(leftovers(&lab, GONE), []);
        assert_eq!(meeting_places(&lab), before);
        lab.down().unwrap();
    });
}

/// Calls in both directions and to dom0 at the same time: every daemon is source and target at once.
#[test]
fn calls_crosswise() {
    within_deadline(|| {
        let lab = lab()
            .policy("* * @anyvm @anyvm allow\n* * @anyvm @adminvm allow\n")
            .script("vault", "test.Back", CAT)
            .script("work", "test.Back", CAT)
            .script("dom0", "test.Back", CAT)
            .start()
            .unwrap();
        let before = meeting_places(&lab);
        std::thread::scope(|scope| {
            for (source, target) in
                [("work", "vault"), ("vault", "work"), ("work", "dom0"), ("vault", "dom0")]
            {
                let lab = &lab;
                scope.spawn(move || {
                    for _ in 0..calls() / 4 {
                        let said = call(lab, source, target, "test.Back", b"x\n");
                        assert_eq!(
                            (said.text().as_str(), said.code),
                            ("x back\n", 3),
                            "{source} {target} {said:?}"
                        );
                    }
                });
            }
        });
        assert_eq!(leftovers(&lab, GONE), []);
        assert_eq!(meeting_places(&lab), before);
    });
}
