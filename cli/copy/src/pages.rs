//! Command lines for the manual and for completions. What reads them are the programs themselves; a test holds the two
//! together.

use clap::{Arg, ArgAction, Command, ValueHint};

fn flag(name: &'static str, help: &'static str) -> Arg {
    Arg::new(name).long(name).help(help).action(ArgAction::SetTrue)
}

fn files(name: &'static str) -> Arg {
    Arg::new(name).help("Files and folders").required(true).num_args(1..).value_hint(ValueHint::AnyPath)
}

/// What `qvm-copy` and its three siblings know.
fn command(name: &'static str, about: &'static str, named: bool) -> Command {
    let target = if named {
        Arg::new("QUBE").help("The qube that gets them").required(true)
    } else {
        Arg::new("to")
            .long("to")
            .value_name("QUBE")
            .help("Ask for this qube; else the policy or its question decides")
    };
    Command::new(name)
        .about(about)
        .after_help(
            "What arrives is in ~/QubesIncoming/SOURCE of the other qube. The exit status is 0 once the other side has \
             confirmed everything; a move removes what was confirmed and is still the same, and ends with 1 if anything \
             stays.",
        )
        .arg(flag("with-progress", "Show how far it is (default)"))
        .arg(flag("without-progress", "Do not show how far it is"))
        .arg(flag("ignore-symlinks", "Leave symbolic links out"))
        .arg(flag("no-ignore-symlinks", "Copy symbolic links as links (default)"))
        .arg(flag("dereference", "Copy the files that symbolic links lead to"))
        .arg(target)
        .arg(files("FILE"))
}

pub(crate) fn copy() -> Command {
    command("qvm-copy", "Copies files to another qube", false)
}

pub(crate) fn move_files() -> Command {
    command("qvm-move", "Moves files to another qube", false)
}

pub(crate) fn copy_to_vm() -> Command {
    command("qvm-copy-to-vm", "Copies files to the qube that is named", true)
}

pub(crate) fn move_to_vm() -> Command {
    command("qvm-move-to-vm", "Moves files to the qube that is named", true)
}

pub(crate) fn agent() -> Command {
    Command::new("qfile-agent")
        .about("Sends files on stdout as qubes.Filecopy takes them, and reads the answer on stdin")
        .arg(flag("ignore-symlinks", "Leave symbolic links out"))
        .arg(flag("no-ignore-symlinks", "Send symbolic links as links (default)"))
        .arg(flag("dereference", "Send the files that symbolic links lead to"))
        .arg(files("PATH"))
}

pub(crate) fn dom0_agent() -> Command {
    Command::new("qfile-dom0-agent")
        .about("Sends files on stdout as qubes.Filecopy takes them; every word is a path")
        .arg(files("PATH"))
}

pub(crate) fn unpacker() -> Command {
    Command::new("qfile-unpacker")
        .about("Receives files on stdin as qubes.Filecopy brings them, and answers on stdout")
        .arg(flag("verbose", "Name each finished file and link on stderr").short('v'))
        .arg(
            Arg::new("wait-for-space")
                .short('w')
                .long("wait-for-space")
                .value_name("BYTES")
                .help("Wait until there is room for each file and so much more"),
        )
        .arg(flag("allow-all-names", "Take names with any character"))
        .arg(flag("no-allow-all-names", "Take names with the usual characters only (default)"))
        .arg(flag("allow-unsafe-symlinks", "Take symbolic links that lead anywhere"))
        .arg(flag("no-allow-unsafe-symlinks", "Take symbolic links that stay inside only (default)"))
        .arg(
            Arg::new("existing")
                .long("existing")
                .value_name("RULE")
                .require_equals(true)
                .value_parser(["fail", "rename", "new-folder", "skip-same"])
                .help("What to do about names that are there already"),
        )
        .arg(Arg::new("UID").help("Who receives; only root can name another than itself"))
        .arg(
            Arg::new("DIR")
                .help("Into which folder [default: ~/QubesIncoming/SOURCE]")
                .value_hint(ValueHint::DirPath),
        )
}

pub(crate) fn dom0_unpacker() -> Command {
    Command::new("qfile-dom0-unpacker")
        .about("Receives files for dom0, within limits: UPDATES_MAX_BYTES and UPDATES_MAX_FILES in the environment")
        .arg(Arg::new("USER").help("Who receives, by name or number").required(true))
        .arg(Arg::new("DIR").help("Into which folder").required(true).value_hint(ValueHint::DirPath))
        .arg(Arg::new("v").short('v').help("Name each finished file on stderr").action(ArgAction::SetTrue))
        .arg(
            Arg::new("w")
                .short('w')
                .value_name("BYTES")
                .num_args(0..=1)
                .help("Wait until there is room for each file and so much more"),
        )
        .arg(flag("only-regular-files", "Take neither folders nor links"))
}

pub(crate) fn tree_check() -> Command {
    Command::new("qubes-fs-tree-check")
        .about("Tells whether files can be sent, and how much they are")
        .after_help(
            "Exit status: 0 if everything can be sent, 2 if some names need +allow-all-names, 1 if something cannot be \
             sent; all of that is listed on stderr.",
        )
        .arg(flag("machine-readable", "Say on stdout how many bytes it is"))
        .arg(flag("ignore-symlinks", "Symbolic links are left out"))
        .arg(flag("no-ignore-symlinks", "Symbolic links are sent (default)"))
        .arg(flag("allow-symlinks", "There may be symbolic links"))
        .arg(flag("no-allow-symlinks", "There may be none (default)"))
        .arg(flag("allow-directories", "There may be folders"))
        .arg(flag("no-allow-directories", "There may be none (default)"))
        .arg(flag("allow-all-names", "Names may have any character"))
        .arg(flag("no-allow-all-names", "Names with unusual characters are exit status 2 (default)"))
        .arg(files("PATH"))
}

pub(crate) fn tar2qfile() -> Command {
    Command::new("tar2qfile")
        .about("Sends the files of a tar archive on stdout as qubes.Filecopy takes them")
        .arg(
            Arg::new("FILE")
                .help("The archive, or - for stdin")
                .required(true)
                .value_hint(ValueHint::FilePath),
        )
        .arg(Arg::new("PREFIX").help("Only what begins so").num_args(0..))
}

/// Each option of a page as somebody would type it.
#[cfg(test)]
pub(crate) fn options(command: &Command) -> Vec<Vec<std::ffi::OsString>> {
    let typed = |arg: &Arg| {
        let name = arg.get_long().map(|long| format!("--{long}"));
        let name = name.or_else(|| arg.get_short().map(|short| format!("-{short}")))?;
        let value =
            arg.get_possible_values().first().map_or("7".to_owned(), |value| value.get_name().to_owned());
        Some(match arg.get_action() {
            ArgAction::SetTrue => vec![name.into()],
            _ if arg.is_require_equals_set() => vec![format!("{name}={value}").into()],
            _ => vec![name.into(), value.into()],
        })
    };
    command.get_arguments().filter_map(typed).collect()
}
