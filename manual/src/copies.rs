//! Command lines of the programs of bulk file copy, for their pages and completions: the programs read upstream's words
//! themselves, as these were read.

use clap::{Arg, ArgAction, Command, ValueHint};

/// Section, name and command line of each.
pub(crate) const PAGES: [(u8, &str); 10] = [
    (8, "qfile-agent"),
    (8, "qfile-dom0-agent"),
    (8, "qfile-dom0-unpacker"),
    (8, "qfile-unpacker"),
    (8, "qubes-fs-tree-check"),
    (1, "qvm-copy"),
    (1, "qvm-copy-to-vm"),
    (1, "qvm-move"),
    (1, "qvm-move-to-vm"),
    (8, "tar2qfile"),
];

/// The command line of one of them.
pub(crate) fn command(name: &'static str) -> Command {
    let command = Command::new(name).disable_version_flag(true);
    match name {
        "qvm-copy" => {
            people(command.about("Copies files to another qube, into ~/QubesIncoming/ there"), false)
        }
        "qvm-move" => {
            people(command.about("Moves files to another qube: what arrived is removed here"), false)
        }
        "qvm-copy-to-vm" => people(command.about("Copies files to a named qube"), true),
        "qvm-move-to-vm" => people(command.about("Moves files to a named qube"), true),
        "qfile-agent" => {
            links(bare(command.about("Sends files on stdout, reads the answer on stdin"))).arg(files())
        }
        "qfile-dom0-agent" => bare(command.about("The same in dom0: every word is a file")).arg(files()),
        "tar2qfile" => bare(command.about("Sends what a tar archive holds"))
            .arg(
                Arg::new("FILE")
                    .required(true)
                    .value_hint(ValueHint::FilePath)
                    .help("The archive, or - for stdin"),
            )
            .arg(Arg::new("PREFIX").num_args(0..).help("Only what begins so")),
        "qubes-fs-tree-check" => {
            links(bare(command.about("Whether files can be sent, and how much they are")))
                .arg(flag("machine-readable", "Print the sum of the sizes"))
                .arg(flag("allow-symlinks", "Symbolic links may be among the files"))
                .arg(flag("allow-directories", "So may folders"))
                .arg(flag("allow-all-names", "And names with any characters"))
                .arg(files())
        }
        "qfile-unpacker" => unpacker(bare(command.about("Receives files on stdin, answers on stdout")))
            .arg(flag("allow-all-names", "Take names with any characters"))
            .arg(flag("allow-unsafe-symlinks", "Take links that lead elsewhere"))
            .arg(
                Arg::new("existing")
                    .long("existing")
                    .value_name("RULE")
                    .help("What to do about a file that is there"),
            )
            .arg(Arg::new("UID").help("The user, if not the caller; only for root"))
            .arg(
                Arg::new("DIR")
                    .value_hint(ValueHint::DirPath)
                    .help("Where to, instead of ~/QubesIncoming/QUBE"),
            ),
        _ => unpacker(bare(command.about("Receives files in dom0: updates and backups")))
            .arg(flag("only-regular-files", "Take nothing but files"))
            .arg(Arg::new("USER").required(true).help("Whose they will be, a name or a number"))
            .arg(Arg::new("DIR").required(true).value_hint(ValueHint::DirPath).help("Where to")),
    }
}

fn bare(command: Command) -> Command {
    command.disable_help_flag(true)
}

fn flag(name: &'static str, help: &'static str) -> Arg {
    Arg::new(name).long(name).action(ArgAction::SetTrue).help(help)
}

fn files() -> Arg {
    Arg::new("FILE").num_args(1..).value_hint(ValueHint::AnyPath).help("Files and folders")
}

fn links(command: Command) -> Command {
    command
        .arg(flag("ignore-symlinks", "Leave symbolic links out"))
        .arg(flag("no-ignore-symlinks", "Send them as links, which is the default"))
}

fn unpacker(command: Command) -> Command {
    command
        .arg(
            Arg::new("verbose")
                .long("verbose")
                .short('v')
                .action(ArgAction::SetTrue)
                .help("Name each file on stderr"),
        )
        .arg(
            Arg::new("wait-for-space")
                .long("wait-for-space")
                .short('w')
                .value_name("BYTES")
                .help("Wait until so much is free"),
        )
}

fn people(command: Command, named: bool) -> Command {
    let command = links(command)
        .arg(flag("with-progress", "Show how far it is, which is the default"))
        .arg(flag("without-progress", "Do not"))
        .arg(flag("dereference", "Copy the files that links lead to"));
    let command = if named {
        command.arg(Arg::new("QUBE").required(true).help("Where to; the policy decides whatever it is"))
    } else {
        let to = Arg::new("to").long("to").value_name("QUBE");
        command.arg(to.help("Ask for this qube; else the policy or its question decides"))
    };
    command.arg(files()).after_help(
        "Exit status: 0 all arrived; 126 refused; 1 trouble of the sender; else what the receiver says, an errno. A move \
         that left something here says what, and ends with 1.",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_program_of_copies_has_a_page() {
        assert!(copy::PROGRAMS.iter().map(|program| program.name).eq(PAGES.iter().map(|(_, name)| *name)));
        for (_, name) in PAGES {
            command(name).debug_assert();
        }
    }

    /// Each option of a page is one that the program's source reads.
    #[test]
    fn pages_name_what_programs_read() {
        let read = concat!(
            include_str!("../../cli/copy/src/qvm.rs"),
            include_str!("../../cli/copy/src/agent.rs"),
            include_str!("../../cli/copy/src/unpacker.rs"),
            include_str!("../../cli/copy/src/tree_check.rs")
        );
        for (_, name) in PAGES {
            for argument in command(name).get_arguments().filter_map(Arg::get_long) {
                assert!(read.contains(argument), "{name} --{argument}");
            }
        }
    }
}
