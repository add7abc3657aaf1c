//! The command line of `qvm-run`.

use std::ffi::OsString;
use std::io::IsTerminal;
use std::path::PathBuf;

use clap::{ArgAction, Parser};
use cli::failure::Failure;

use super::payload::What;

/// Run a command in a qube.
#[derive(Debug, Parser)]
#[command(
    name = "qvm-run",
    override_usage = "qvm-run [OPTIONS] QUBE COMMAND [ARG…]\n       \
                      qvm-run [OPTIONS] --all [--exclude QUBE]… COMMAND [ARG…]\n       \
                      qvm-run [OPTIONS] --dispvm[=TEMPLATE] -- COMMAND [ARG…]",
    args_override_self = true,
    after_help = super::HELP
)]
pub(super) struct QvmRunArgs {
    /// Run it as this user (dom0 only) [default: the qube's]
    #[arg(short, long, value_name = "USER")]
    user: Option<String>,
    /// Start the qube if it does not run (default)
    #[arg(short, long, overrides_with = "no_autostart")]
    autostart: bool,
    /// Pass over a qube that does not run: status 1
    #[arg(short, long, alias = "no-auto")]
    no_autostart: bool,
    /// Its stdin, stdout and stderr are ours; else they are /dev/null
    #[arg(short, long)]
    pass_io: bool,
    /// With --pass-io: its stdin is /dev/null, so that a loop around us keeps its own
    #[arg(short = 'N', long)]
    no_stdin: bool,
    /// With --pass-io: connect it to CMD, which a shell here runs, in place of our stdin and stdout
    #[arg(long, value_name = "CMD")]
    localcmd: Option<OsString>,
    /// Wait for the user's graphical session first
    #[arg(long, overrides_with = "no_gui")]
    gui: bool,
    /// Do not
    #[arg(long)]
    no_gui: bool,
    /// Replace what could steer a terminal by '_' (default where stdout is a terminal)
    #[arg(long, overrides_with = "no_filter_escape_chars")]
    filter_escape_chars: bool,
    /// Do not
    #[arg(long)]
    no_filter_escape_chars: bool,
    /// With --pass-io: the colour of the output, a number of ECMA-48 [default: 31 where it is filtered]
    #[arg(long, visible_alias = "color-output", value_name = "N", overrides_with = "no_colour_output")]
    colour_output: Option<u8>,
    /// No colour for it
    #[arg(long, visible_alias = "no-color-output")]
    no_colour_output: bool,
    /// With --pass-io: the colour of the error output [default: 31 on a terminal]
    #[arg(long, visible_alias = "color-stderr", value_name = "N", overrides_with = "no_colour_stderr")]
    colour_stderr: Option<u8>,
    /// No colour for it
    #[arg(long, visible_alias = "no-color-stderr")]
    no_colour_stderr: bool,
    /// COMMAND is the name of a service
    #[arg(long)]
    service: bool,
    /// COMMAND is the name of a program, whatever is in it
    #[arg(long)]
    no_shell: bool,
    /// Run FILE, a script of this machine, with the words as its arguments
    #[arg(long, value_name = "FILE", conflicts_with_all = ["service", "no_shell"])]
    script: Option<PathBuf>,
    /// In a new disposable qube, which is removed afterwards
    #[arg(long, value_name = "TEMPLATE", num_args = 0..=1, default_missing_value = "")]
    dispvm: Option<String>,
    /// In every qube that runs
    #[arg(long, conflicts_with = "dispvm")]
    all: bool,
    /// But not in this one
    #[arg(long, value_name = "QUBE", action = ArgAction::Append, conflicts_with = "dispvm")]
    exclude: Vec<String>,
    /// With --all --pass-io: the qube's name in front of each line; stdin is /dev/null
    #[arg(long)]
    prefix: bool,
    /// Say more
    #[arg(short, long, action = ArgAction::Count)]
    verbose: u8,
    /// Say nothing but errors
    #[arg(short, long, action = ArgAction::Count)]
    quiet: u8,
    /// The qube, and the command with its arguments
    #[arg(num_args = 0.., trailing_var_arg = true, value_names = ["QUBE", "COMMAND"])]
    words: Vec<OsString>,
}

/// Where it runs.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Goal {
    Qube(String),
    All { but: Vec<String> },
    Disposable { template: String },
}

/// What becomes of the three streams.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Streams {
    Null,
    Ours { stdin: bool },
    Command(OsString),
    Prefixed,
}

/// What is to be done.
#[derive(Debug)]
pub(super) struct Task {
    pub(super) goal: Goal,
    pub(super) what: What,
    pub(super) user: Option<String>,
    pub(super) autostart: bool,
    pub(super) streams: Streams,
    /// `None`: as the place decides.
    pub(super) gui: Option<bool>,
    pub(super) filter: bool,
    pub(super) filter_stderr: bool,
    pub(super) leave_unfiltered: bool,
    pub(super) colours: [Option<u8>; 2],
    /// Say what is run.
    pub(super) told: bool,
}

impl QvmRunArgs {
    /// How many words stand behind the options.
    pub(super) fn words(&self) -> usize {
        self.words.len()
    }

    /// Checks what can be checked before anything runs. `escaped`: a `--` stood in front of the words.
    pub(super) fn task(self, escaped: bool) -> Result<Task, Failure> {
        self.check()?;
        let mut words = self.words.into_iter();
        let goal = match (self.dispvm, self.all) {
            (Some(template), _) => Goal::Disposable { template },
            (_, true) => Goal::All { but: self.exclude },
            _ => {
                let name = words.next().ok_or_else(|| Failure::usage("a qube and a command are needed"))?;
                Goal::Qube(name.into_string().map_err(|_| Failure::usage("the qube's name is not text"))?)
            }
        };
        let mut words: Vec<OsString> = words.collect();
        let separated = words.first().is_some_and(|word| word == "--") && !escaped;
        if separated {
            words.remove(0);
        }
        let what = What::of(words, self.service, self.no_shell, self.script)?;
        let (out, err) = (std::io::stdout().is_terminal(), std::io::stderr().is_terminal());
        let filter = choice(self.filter_escape_chars, self.no_filter_escape_chars).unwrap_or(out);
        let default = Some(31).filter(|_| self.pass_io);
        let output = self.colour_output.or(default.filter(|_| filter && !self.no_colour_output));
        let errors = self.colour_stderr.or(default.filter(|_| err && !self.no_colour_stderr));
        let streams = match (self.pass_io, self.localcmd) {
            (false, _) => Streams::Null,
            (true, Some(command)) => Streams::Command(command),
            (true, None) if self.prefix => Streams::Prefixed,
            (true, None) => Streams::Ours { stdin: !self.no_stdin && what.script().is_none() },
        };
        Ok(Task {
            goal,
            what,
            user: self.user,
            autostart: !self.no_autostart || self.autostart,
            gui: choice(self.gui, self.no_gui),
            filter,
            filter_stderr: filter || err,
            leave_unfiltered: self.no_filter_escape_chars,
            colours: if self.pass_io { [output, errors] } else { [None, None] },
            told: match streams {
                Streams::Null => self.quiet == 0,
                _ => self.verbose > 0,
            },
            streams,
        })
    }

    fn check(&self) -> Result<(), Failure> {
        let wrong = |what: &str| Err(Failure::usage(what));
        let colours = self.colour_output.is_some() || self.colour_stderr.is_some();
        if !self.pass_io && (self.localcmd.is_some() || self.no_stdin || self.prefix || colours) {
            return wrong("--localcmd, --no-stdin, --prefix and colours go with --pass-io only");
        }
        if self.colour_output.is_some() && self.no_filter_escape_chars {
            return wrong("a colour for output that is not filtered would be the qube's to change");
        }
        if self.pass_io && self.all && !self.prefix && self.localcmd.is_none() {
            return wrong("--all does not go with --pass-io, but with --prefix it does");
        }
        if self.prefix && !self.all {
            return wrong("--prefix goes with --all");
        }
        if self.localcmd.is_some() && (self.all || self.no_stdin || self.script.is_some()) {
            return wrong("--localcmd does not go with --all, --no-stdin or --script");
        }
        if !self.exclude.is_empty() && !self.all {
            return wrong("--exclude goes with --all");
        }
        if self.service && self.no_shell {
            return wrong("--no-shell does not go with --service: no service is started by a shell");
        }
        Ok(())
    }
}

const fn choice(on: bool, off: bool) -> Option<bool> {
    match (on, off) {
        (true, _) => Some(true),
        (false, true) => Some(false),
        (false, false) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task(line: &[&str]) -> Result<Task, i32> {
        let args: Vec<OsString> = std::iter::once(&"qvm-run").chain(line).map(OsString::from).collect();
        super::super::parse(args)
    }

    fn words(task: &Task) -> String {
        format!("{:?}", task.what)
    }

    #[test]
    fn options_end_at_the_qube_and_the_first_dashes_are_dropped_once() {
        for line in [
            &["-p", "vault", "--", "ls", "-p"][..],
            &["-p", "vault", "ls", "-p"],
            &["-p", "--", "vault", "ls", "-p"],
        ] {
            let task = task(line).unwrap();
            assert_eq!(task.goal, Goal::Qube("vault".into()));
            assert_eq!(words(&task), r#"Words(["ls", "-p"])"#, "{line:?}");
        }
        let task = task(&["--", "vault", "--", "ls"]).unwrap();
        assert_eq!(words(&task), r#"Words(["--", "ls"])"#);
    }

    #[test]
    fn disposables_have_three_spellings() {
        let of = |line: &[&str]| match task(line).unwrap() {
            Task { goal: Goal::Disposable { template }, what, .. } => (template, format!("{what:?}")),
            other => panic!("{other:?}"),
        };
        let ls = r#"Words(["ls", "/"])"#.to_owned();
        assert_eq!(of(&["--dispvm=t", "ls", "/"]), ("t".into(), ls.clone()));
        assert_eq!(of(&["--dispvm", "t", "ls", "/"]), ("t".into(), ls.clone()));
        assert_eq!(of(&["--dispvm", "--", "ls", "/"]), (String::new(), ls));
    }

    #[test]
    fn what_makes_no_sense_is_a_usage_error() {
        for wrong in [
            &["vault"][..],
            &[],
            &["--exclude", "vault", "work", "true"],
            &["-p", "--all", "true"],
            &["--localcmd", "true", "vault", "true"],
            &["--service", "--no-shell", "vault", "x"],
            &["-p", "--color-output", "32", "--no-filter-escape-chars", "vault", "x"],
            &["--dispvm", "--all", "true"],
            &["--bogus", "vault", "x"],
            &["-N", "vault", "x"],
        ] {
            assert_eq!(task(wrong).map(|_| ()), Err(2), "{wrong:?}");
        }
        assert_eq!(task(&["--help"]).map(|_| ()), Err(0));
    }

    #[test]
    fn streams_are_ours_only_if_asked_for() {
        assert_eq!(task(&["vault", "x"]).unwrap().streams, Streams::Null);
        assert_eq!(task(&["-p", "vault", "x"]).unwrap().streams, Streams::Ours { stdin: true });
        assert_eq!(task(&["-p", "-N", "vault", "x"]).unwrap().streams, Streams::Ours { stdin: false });
    }
}
