//! Command lines, `user:[nogui:]command` and `QUBESRPC …`: what is understood is said again, and a service
//! is never taken for a text that a shell would see, or the other way round.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wire::command::{Command, CommandKind};
use wire::control::MAX_CMDLINE;

fuzz_target!(|data: &[u8]| {
    let (by, bytes) = fuzz::split(data);
    let line = fuzz::stretched(bytes, by);
    if let Ok(command) = Command::parse(&line) {
        let user = command.user.as_deref().expect("a user is named");
        assert!(!user.is_empty() && user.len() <= 255 && !user.contains(['/', ':', '\n']));
        assert!(line.starts_with(user.as_bytes()) && line[user.len()] == b':');
        check(&line, &command, Command::parse);
    }
    if let Ok(command) = Command::parse_without_user(&line) {
        assert_eq!(command.user, None);
        check(&line, &command, Command::parse_without_user);
    }
});

fn check<E: std::fmt::Debug>(line: &[u8], command: &Command, parse: fn(&[u8]) -> Result<Command, E>) {
    assert!(line.len() <= MAX_CMDLINE && !line.contains(&0));
    let said = command.to_cmdline();
    match &command.kind {
        CommandKind::Shell(text) => {
            assert!(!text.is_empty() && !text.starts_with(b"QUBESRPC"));
            assert_eq!(said, line);
        }
        CommandKind::Service(call) => {
            let descriptor = call.descriptor();
            assert!(fuzz::is_plain(descriptor) && line.ends_with(descriptor.as_bytes()));
            let words = descriptor.split(' ').filter(|word| !word.is_empty()).count();
            assert_eq!(words, if call.requested.is_some() { 4 } else { 2 });
        }
    }
    // A call is passed on in the words in which it came.
    assert_eq!(said, line);
    let again = parse(&said).expect("what was said is understood");
    assert_eq!(again.to_cmdline(), said);
    assert_eq!((&again.user, again.nogui), (&command.user, command.nogui));
}
