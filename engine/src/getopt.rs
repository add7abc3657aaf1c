//! Command lines as `getopt_long` reads them, for the programs that upstream has as C programs. clap reads the result,
//! except in the two programs that every call starts or forks: see [`Program`].
//!
//! clap differs in details that scripts rely on: it removes a `=` before a short option's value, it takes a word that
//! begins with `-` for an option where a value must come, and an abbreviation becomes ambiguous by any long option
//! that only this project's programs have.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;

use clap::{Arg, ArgMatches, Command};

mod cut;
mod plain;

pub use cut::Opt;
use cut::{Cut, Said, Style, Value, cut, word};
pub use plain::{Line, Program, Wrong};

/// Reads a program's arguments, its own name first.
///
/// # Errors
/// Those of clap; help and version are among them.
pub fn matches(command: Command, args: Vec<OsString>) -> Result<ArgMatches, clap::Error> {
    let Some(style) = Style::of(command.get_name()) else {
        return command.try_get_matches_from(args);
    };
    // A value may begin with a dash.
    let takes_value = |arg: &Arg| !arg.is_positional() && arg.get_action().takes_values();
    let with_any_value = |arg: Arg| if takes_value(&arg) { arg.allow_hyphen_values(true) } else { arg };
    let mut command = command.mut_args(with_any_value);
    command.build();
    let args = canonical(&command, style, args);
    command.try_get_matches_from(args)
}

/// Brings the command line into a form that is read in one way only: each option is a word with its whole name, its
/// value the next word, then `--` and all other words. Errors are left as they are, for clap to report.
fn canonical(command: &Command, style: &Style, args: Vec<OsString>) -> Vec<OsString> {
    let mut args = args.into_iter();
    let mut line: Vec<OsString> = args.next().into_iter().collect();
    let options: Vec<_> = command.get_arguments().filter_map(option_of).collect();
    let Cut { options, mut words } = cut(&options, style, args);
    for said in options {
        match said {
            // Without a value behind `=` there is none: the next word is another one.
            Said::Known(option @ Opt { value: Value::Optional, .. }, Some(value)) => {
                line.push(word(&[option.word().as_bytes(), b"=", value.as_bytes()]));
            }
            Said::Known(option, value) => line.extend(std::iter::once(option.word()).chain(value)),
            Said::Strange(said) => line.push(said),
        }
    }
    if !words.is_empty() {
        line.push("--".into());
    }
    line.append(&mut words);
    line
}

/// The option as the cutting needs it; `None` for a positional argument.
fn option_of(arg: &Arg) -> Option<Opt<'_>> {
    let value = match arg.get_action().takes_values() {
        false => Value::Nothing,
        true if arg.is_require_equals_set() => Value::Optional,
        true => Value::Needed(""),
    };
    (!arg.is_positional()).then(|| Opt { short: arg.get_short(), long: arg.get_long(), value })
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStringExt;

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

    /// The options that are set, in the order of the definition, and then the words.
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
            // The C program has one long option that begins with s, this project's has three.
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
