//! Command lines as `getopt_long` takes them, for the programs that have a C namesake; clap reads the result.
//!
//! clap differs in small things that scripts rely on: it cuts a `=` off in front of a short option's value, takes what
//! begins with `-` for an option where a value has to come, and every long option that only ours have makes an
//! abbreviation ambiguous that was none.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use clap::{Arg, ArgMatches, Command};

/// How the C program of a name reads its command line.
struct Style {
    program: &'static str,
    /// Options end at the first word that is none.
    stops_at_a_word: bool,
    /// The long options of the C program: an abbreviation that means one of these and no other means that one,
    /// whatever else ours has.
    theirs: &'static [&'static str],
}

const STYLES: &[Style] = &[
    Style {
        program: "qrexec-agent",
        stops_at_a_word: false,
        theirs: &["help", "agent-socket", "fork-server-socket", "no-fork-server"],
    },
    Style {
        program: "qrexec-client",
        stops_at_a_word: false,
        theirs: &["help", "socket-dir", "no-exit-code", "prefix-data", "use-stdin-socket"],
    },
    Style {
        program: "qrexec-client-vm",
        stops_at_a_word: true,
        theirs: &[
            "buffer-size",
            "filter-escape-chars-stdout",
            "filter-escape-chars-stderr",
            "no-filter-escape-chars-stdout",
            "no-filter-escape-chars-stderr",
            "agent-socket",
            "prefix-data",
            "use-stdin-socket",
            "source-qube",
            "help",
        ],
    },
    Style {
        program: "qrexec-daemon",
        stops_at_a_word: false,
        theirs: &["help", "quiet", "socket-dir", "policy-program", "direct", "uuid"],
    },
    Style { program: "qrexec-fork-server", stops_at_a_word: false, theirs: &[] },
];

/// Reads a program's arguments, its own name first.
///
/// # Errors
/// Those of clap; help and version are among them.
pub fn matches(command: Command, args: Vec<OsString>) -> Result<ArgMatches, clap::Error> {
    let Some(style) = STYLES.iter().find(|style| style.program == command.get_name()) else {
        return command.try_get_matches_from(args);
    };
    // A value may look like an option.
    let with_any_value = |arg: Arg| if takes_value(&arg) { arg.allow_hyphen_values(true) } else { arg };
    let mut command = command.mut_args(with_any_value);
    command.build();
    let args = canonical(&command, style, args);
    command.try_get_matches_from(args)
}

/// The same command line in a form that leaves nothing to guess: each option a word of its own with its whole name, its
/// value the next one, then `--` and everything else. What is wrong is left as it is, for clap to say so.
fn canonical(command: &Command, style: &Style, args: Vec<OsString>) -> Vec<OsString> {
    let mut args = args.into_iter();
    let mut options: Vec<OsString> = args.next().into_iter().collect();
    let mut words = Vec::new();
    while let Some(arg) = args.next() {
        match arg.as_bytes() {
            b"--" => break,
            [b'-', b'-', name @ ..] => options.extend(long(command, style, name, &mut args)),
            [b'-', cluster @ ..] if !cluster.is_empty() => options.extend(short(command, cluster, &mut args)),
            _ => {
                words.push(arg);
                if style.stops_at_a_word {
                    break;
                }
            }
        }
    }
    words.extend(args);
    if !words.is_empty() {
        options.push("--".into());
    }
    options.append(&mut words);
    options
}

/// `name` or `name=value`, without the dashes.
fn long(
    command: &Command,
    style: &Style,
    said: &[u8],
    rest: &mut impl Iterator<Item = OsString>,
) -> Vec<OsString> {
    let mut parts = said.splitn(2, |&byte| byte == b'=');
    let (name, value) = (parts.next().unwrap_or_default(), parts.next().map(OsStr::from_bytes));
    let whole = || vec![word(b"--", said)];
    let Some((name, arg)) = find(command, style, name) else { return whole() };
    let option = word(b"--", name.as_bytes());
    if arg.is_require_equals_set() {
        // Its value may be left out: the next word is none.
        let value = value.map(|value| word(b"=", value.as_bytes())).unwrap_or_default();
        return vec![word(option.as_bytes(), value.as_bytes())];
    }
    match (takes_value(arg), value) {
        (true, Some(value)) => vec![option, value.to_owned()],
        (true, None) => std::iter::once(option).chain(rest.next()).collect(),
        (false, None) => vec![option],
        (false, Some(_)) => whole(),
    }
}

/// The long option that these letters mean, if there is one and only one.
fn find<'a>(command: &'a Command, style: &Style, said: &[u8]) -> Option<(&'a str, &'a Arg)> {
    let options = || command.get_arguments().filter_map(|arg| Some((arg.get_long()?, arg)));
    if let Some(exact) = options().find(|(name, _)| name.as_bytes() == said) {
        return Some(exact);
    }
    let begun: Vec<_> = options().filter(|(name, _)| name.as_bytes().starts_with(said)).collect();
    let theirs = begun.iter().filter(|(name, _)| style.theirs.contains(name)).collect::<Vec<_>>();
    match (theirs.as_slice(), begun.as_slice()) {
        ([one], _) => Some(**one),
        ([], [one]) => Some(*one),
        _ => None,
    }
}

/// Letters, each an option, up to the one that takes the rest for its value.
fn short(command: &Command, cluster: &[u8], rest: &mut impl Iterator<Item = OsString>) -> Vec<OsString> {
    let mut options = Vec::new();
    for (place, &letter) in cluster.iter().enumerate() {
        let value = cluster.get(place.saturating_add(1)..).unwrap_or_default();
        let known = command.get_arguments().find(|arg| arg.get_short() == Some(char::from(letter)));
        let Some(arg) = known.filter(|_| letter.is_ascii()) else {
            options.push(word(b"-", cluster.get(place..).unwrap_or_default()));
            break;
        };
        options.push(word(b"-", &[letter]));
        if takes_value(arg) {
            options.extend(if value.is_empty() { rest.next() } else { Some(word(b"", value)) });
            break;
        }
    }
    options
}

fn takes_value(arg: &Arg) -> bool {
    !arg.is_positional() && arg.get_action().takes_values()
}

fn word(dashes: &[u8], text: &[u8]) -> OsString {
    OsString::from_vec([dashes, text].concat())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::ArgAction;

    fn command(name: &'static str) -> Command {
        Command::new(name)
            .arg(Arg::new("d").short('d'))
            .arg(Arg::new("w").short('w'))
            .arg(Arg::new("E").short('E').long("no-exit-code").action(ArgAction::SetTrue))
            .arg(Arg::new("W").short('W').action(ArgAction::SetTrue))
            .arg(Arg::new("prefix").short('p').long("prefix-data"))
            .arg(Arg::new("socket").long("socket-dir"))
            .arg(Arg::new("splice").long("splice").action(ArgAction::SetTrue))
            .arg(Arg::new("speed").long("speed").action(ArgAction::SetTrue))
            .arg(Arg::new("words").num_args(0..).action(ArgAction::Append))
    }

    /// What is set, in the order of the definition, and the words behind it.
    fn read(name: &'static str, args: &[&str]) -> Option<String> {
        let args = std::iter::once(&name).chain(args).map(OsString::from).collect();
        let found = matches(command(name), args).ok()?;
        let value = |id: &str| found.get_one::<String>(id).map(|value| format!("{id}=<{value}>"));
        let flag = |id: &str| found.get_flag(id).then(|| id.to_owned());
        let mut said: Vec<String> = ["d", "w"].into_iter().filter_map(value).collect();
        said.extend(["E", "W", "splice", "speed"].into_iter().filter_map(flag));
        said.extend(["prefix", "socket"].into_iter().filter_map(value));
        said.extend(found.get_many::<String>("words").into_iter().flatten().map(|word| format!("[{word}]")));
        Some(said.join(" "))
    }

    #[test]
    fn short_options_take_their_values_as_in_c() {
        for (args, said) in [
            (&["-w0"][..], "w=<0>"),
            (&["-w", "0"], "w=<0>"),
            (&["-dwork", "-pDATA"], "d=<work> prefix=<DATA>"),
            (&["-EWd", "work"], "d=<work> E W"),
            (&["-EWdwork"], "d=<work> E W"),
            (&["-d=work"], "d=<=work>"),
            (&["-p", "-E"], "prefix=<-E>"),
            (&["-p--"], "prefix=<-->"),
            (&["-p", "--", "x"], "prefix=<--> [x]"),
            (&["-p", "", "-E"], "E prefix=<>"),
            (&["-"], "[-]"),
        ] {
            assert_eq!(read("qrexec-client", args).as_deref(), Some(said), "{args:?}");
        }
    }

    #[test]
    fn long_options_may_be_abbreviated() {
        for (args, said) in [
            (&["--no"][..], "E"),
            (&["--prefix-data=-x=y"], "prefix=<-x=y>"),
            (&["--pre", "--no"], "prefix=<--no>"),
            (&["--prefix="], "prefix=<>"),
            // The C program has one option that begins with an s, ours three.
            (&["--s", "/x"], "socket=</x>"),
            (&["--spl"], "splice"),
        ] {
            assert_eq!(read("qrexec-client", args).as_deref(), Some(said), "{args:?}");
        }
        for wrong in
            [&["--sp"][..], &["--bogus"], &["--no=1"], &["-z"], &["-Ez"], &["-d"], &["--socket"], &["-ß"]]
        {
            assert_eq!(read("qrexec-client", wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn options_stand_where_the_program_takes_them() {
        assert_eq!(read("qrexec-client", &["a", "-E", "b"]).as_deref(), Some("E [a] [b]"));
        assert_eq!(read("qrexec-client", &["a", "--", "-E"]).as_deref(), Some("[a] [-E]"));
        assert_eq!(read("qrexec-client-vm", &["-W", "a", "-E", "--"]).as_deref(), Some("W [a] [-E] [--]"));
        assert_eq!(read("qrexec-client-vm", &["--", "-E"]).as_deref(), Some("[-E]"));
    }

    #[test]
    fn other_programs_are_left_to_clap() {
        assert_eq!(read("qubes-policy", &["-d=work", "a"]).as_deref(), Some("d=<work> [a]"));
    }

    #[test]
    fn no_bytes_stop_it() {
        use proptest::prelude::*;
        let word = prop_oneof![
            Just(b"--".to_vec()),
            "-{0,2}[a-z=ßWEdp]{0,4}".prop_map(String::into_bytes),
            any::<Vec<u8>>()
        ];
        let line = prop::collection::vec(word, 0..6);
        let mut runner = proptest::test_runner::TestRunner::deterministic();
        let judge = |line: Vec<Vec<u8>>| {
            let args =
                std::iter::once(b"qrexec-client".to_vec()).chain(line).map(OsString::from_vec).collect();
            let _ = matches(command("qrexec-client"), args);
            Ok(())
        };
        runner.run(&line, judge).expect("any line is judged");
    }
}
