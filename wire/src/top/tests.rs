use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::time::Duration;

use super::*;

fn route(user: u32, service: &str) -> Route {
    Route::new(Way::Asked, user, "work", "vault", service)
}

fn at(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn moved(to_service: u64, to_caller: u64) -> Option<Moved> {
    Some(Moved { to_service, to_caller })
}

fn all(ledger: &Ledger<u64>, now: Duration) -> Vec<Row> {
    ledger.rows(now, Viewer::Everything, |_| None).0
}

#[test]
fn calls_of_one_route_are_one_row() {
    let mut ledger = Ledger::default();
    ledger.begins(at(1), 1, route(0, "test.Add"));
    ledger.begins(at(2), 2, route(0, "test.Add"));
    ledger.begins(at(2), 3, route(0, "test.Other"));
    ledger.allowed(1, "vault", Some("30-user.policy:1"));
    let (rows, _) = ledger.rows(at(5), Viewer::Everything, |id| moved(id, id * 10));
    let row = rows.iter().find(|row| row.route.service == "test.Add").unwrap();
    assert_eq!((row.running, row.begun, row.age, row.moved), (2, 2, Some(4000), moved(3, 30)));
    assert_eq!((row.rule.as_deref(), row.to.as_deref()), (Some("30-user.policy:1"), None));

    ledger.ended(at(6), 1, Some(7), moved(100, 1000));
    let (rows, _) = ledger.rows(at(8), Viewer::Everything, |id| moved(id, id * 10));
    let row = rows.iter().find(|row| row.route.service == "test.Add").unwrap();
    // A call that has ended still counts, together with those that run.
    assert_eq!((row.running, row.begun, row.age, row.moved), (1, 2, Some(6000), moved(102, 1020)));
    assert_eq!(row.last, Some(Last { exit: Some(7), ago: 2000 }));
}

#[test]
fn a_refused_call_is_counted_and_another_target_is_named() {
    let mut ledger = Ledger::default();
    ledger.begins(at(1), 1, route(0, "test.Add"));
    ledger.refused(at(2), 1, 126);
    ledger.refused(at(2), 1, 126);
    ledger.begins(at(3), 2, route(0, "test.Add"));
    ledger.allowed(2, "other", None);
    ledger.ended(at(4), 2, None, None);
    let row = &all(&ledger, at(5))[0];
    assert_eq!((row.running, row.begun, row.refused, row.age, row.moved), (0, 2, 1, None, None));
    assert_eq!((row.to.as_deref(), row.last), (Some("other"), Some(Last { exit: None, ago: 1000 })));
}

#[test]
fn a_user_sees_their_own_calls_only() {
    let mut ledger = Ledger::default();
    for (id, user) in [(1, 0), (2, 1000), (3, 1001)] {
        ledger.begins(at(1), id, route(user, "test.Add"));
    }
    let (rows, _) = ledger.rows(at(2), Viewer::User(1000), |id| {
        assert_eq!(id, 2, "nobody else's bytes are looked at");
        moved(5, 6)
    });
    assert_eq!(rows.iter().map(|row| row.route.user).collect::<Vec<_>>(), [1000]);
    assert_eq!(rows[0].moved, moved(5, 6));
}

#[test]
fn any_number_of_services_has_so_many_rows() {
    let mut ledger = Ledger::default();
    ledger.begins(at(0), 0, route(0, "test.Runs"));
    for id in 1..=1000 {
        ledger.begins(at(id), id, route(0, &format!("test.Add+{id}")));
        ledger.ended(at(id), id, Some(0), None);
    }
    let rows = all(&ledger, at(2000));
    assert_eq!(rows.len(), MAX_ROUTES);
    let has = |name: &str| rows.iter().any(|row| row.route.service == name);
    assert!(has("test.Runs") && has("test.Add+1000") && !has("test.Add+1"));
    // If all routes have running calls, another one has no room and does no harm.
    for id in 2000..3000 {
        ledger.begins(at(id), id, route(0, &format!("test.Runs+{id}")));
    }
    let (rows, left_out) = ledger.rows(at(3000), Viewer::Everything, |_| None);
    assert_eq!((rows.len(), left_out), (MAX_ROUTES, 1000 - (MAX_ROUTES as u64 - 1)));
    ledger.ended(at(3001), 2999, Some(0), None);
    (2000..3000).for_each(|id| ledger.ended(at(3002), id, Some(0), None));
    assert!(
        ledger.running.len() == 1 && all(&ledger, at(3003)).iter().map(|row| row.running).sum::<u64>() == 1
    );
}

fn row() -> Row {
    Row {
        route: Route::new(Way::Served, 1000, "work", "", "test.Add+a b"),
        to: Some("other".to_string()),
        rule: Some("30-user.policy:1".to_string()),
        running: 1,
        begun: 2,
        refused: 3,
        moved: moved(4, 5),
        age: Some(6),
        last: Some(Last { exit: Some(-7), ago: 8 }),
    }
}

#[test]
fn an_answer_comes_back_as_it_was() {
    let bare = Row { to: None, rule: None, moved: None, age: None, last: None, ..row() };
    let lost = Row { last: Some(Last { exit: None, ago: 9 }), ..row() };
    let answer = Answer { machine: "work".to_string(), rows: [row(), bare, lost].into(), left_out: 11 };
    assert_eq!(Answer::decode(answer.encode().as_bytes()), Ok(answer));
    let empty = Answer { machine: String::new(), rows: Vec::new(), left_out: 0 };
    assert_eq!(empty.encode(), "qrexec-top 1 -\nend 0\n");
    assert_eq!(Answer::decode(empty.encode().as_bytes()), Ok(empty));
}

#[test]
fn nothing_that_steers_a_terminal_and_nothing_long_is_said_or_taken() {
    let service = format!("a\tb\n\x1b[31m\u{e9}{}", "x".repeat(1000));
    let row = Row { route: Route::new(Way::Asked, 0, "work", "vault", &service), ..row() };
    let answer = Answer { machine: "work".to_string(), rows: [row].into(), left_out: 0 };
    let back = Answer::decode(answer.encode().as_bytes()).unwrap();
    assert!(
        back.rows[0].route.service.starts_with("a?b??[31m??xxx")
            && back.rows[0].route.service.len() == MAX_TEXT
    );

    let good = answer.encode();
    let broken = |from: &str, to: &str| Answer::decode(good.replace(from, to).as_bytes());
    assert_eq!(broken("asked", "told"), Err(BadAnswer::Row(2)));
    assert_eq!(broken("work\tvault", "w\x1b\tvault"), Err(BadAnswer::Row(2)));
    assert_eq!(
        broken("work\tvault", &format!("{}\tvault", "w".repeat(MAX_TEXT + 1))),
        Err(BadAnswer::Row(2))
    );
    assert_eq!(broken("\t4\t5", "\t4\t-"), Err(BadAnswer::Row(2)));
    assert_eq!(broken("end 0\n", "end 0"), Err(BadAnswer::Cut));
    assert_eq!(broken("end 0\n", ""), Err(BadAnswer::Cut));
    assert_eq!(broken("end 0\n", "end 0\nmore\n"), Err(BadAnswer::Row(4)));
    assert_eq!(broken("qrexec-top 1", "qrexec-top 2"), Err(BadAnswer::Greeting));
    assert_eq!(Answer::decode(&[b'x'; MAX_ANSWER + 1]), Err(BadAnswer::TooLong));
    assert_eq!(Answer::decode(b"\xff"), Err(BadAnswer::Greeting));
    // An answer that is cut anywhere is refused.
    (0..good.len()).for_each(|len| assert!(Answer::decode(&good.as_bytes()[..len]).is_err(), "{len}"));
}

#[test]
fn an_answer_never_exceeds_its_limit() {
    let long = "x".repeat(MAX_TEXT);
    let row = Row {
        route: Route::new(Way::Asked, u32::MAX, &long, &long, &long),
        to: Some(long.clone()),
        rule: Some(long),
        ..row()
    };
    let rows: Vec<Row> = core::iter::repeat_n(row, 1000).collect();
    let text = Answer { machine: "work".to_string(), rows, left_out: 0 }.encode();
    assert!(text.len() <= MAX_ANSWER);
    let back = Answer::decode(text.as_bytes()).unwrap();
    assert_eq!(back.rows.len() as u64 + back.left_out, 1000);
    assert!(back.left_out > 0);
}

#[test]
fn a_last_word_comes_back_as_it_was_and_nothing_else_is_one() {
    let last = LastWord { exit: -3, moved: Moved { to_service: 1, to_caller: u64::MAX } };
    let bytes = last.to_bytes();
    assert_eq!(LastWord::from_bytes(&bytes), Some(last));
    (0..bytes.len()).for_each(|len| assert_eq!(LastWord::from_bytes(&bytes[..len]), None));
    assert_eq!(LastWord::from_bytes(&[bytes.as_slice(), b"x"].concat()), None);
    assert_eq!(LastWord::from_bytes(&[0; LastWord::LEN]), None);
}
