//! Names of qubes and services in completions of bash, which clap knows nothing of.

/// Programs whose first word is a qube.
const TAKE_A_QUBE: [&str; 5] =
    ["qrexec-client-vm", "qvm-get-image", "qvm-open-in-vm", "qvm-run", "qvm-run-vm"];

/// What stands behind the completion of a program: the names that this machine knows. dom0 knows its qubes by the sockets of
/// their daemons, a qube only the words that stand for one; services are guessed by those that are here.
pub(crate) fn bash(program: &str, generated: &[u8]) -> Option<String> {
    let generated = std::str::from_utf8(generated).ok().filter(|_| TAKE_A_QUBE.contains(&program))?;
    // Its name is the program's in a form of clap's own.
    let function = generated.lines().find_map(|line| line.strip_suffix("() {"))?;
    Some(TEXT.replace("FUNCTION", function).replace("PROGRAM", program))
}

const TEXT: &str = r#"
_PROGRAM_names() {
    local word qube="" service="" before=0 index cur=${COMP_WORDS[COMP_CWORD]} names="" path folders
    FUNCTION "$@"
    for ((index = 1; index < COMP_CWORD; index++)); do
        word=${COMP_WORDS[index]}
        case $word in
        --service) service=1 ;;
        -*) ;;
        *) before=$((before + 1)) ;;
        esac
    done
    [ PROGRAM != qrexec-client-vm ] || service=1
    case $cur in -*) return ;; esac
    if [ "$before" = 0 ]; then
        names="@default @dispvm"
        for path in "${QREXEC_SOCKET_DIR:-/var/run/qubes}"/qrexec.[A-Za-z]*; do
            case $path in *qrexec.uuid:*) ;; *) [ ! -S "$path" ] || names="$names ${path##*/qrexec.}" ;; esac
        done
    elif [ "$before" = 1 ] && [ -n "$service" ]; then
        IFS=: read -r -a folders <<<"${QREXEC_SERVICE_PATH:-/usr/local/etc/qubes-rpc:/etc/qubes-rpc}"
        for path in "${folders[@]}"; do
            for path in "$path"/*.*; do
                [ ! -e "$path" ] || names="$names ${path##*/}"
            done
        done
    else
        return
    fi
    COMPREPLY=($(compgen -W "$names" -- "$cur"))
}
complete -F _PROGRAM_names -o bashdefault -o default PROGRAM
"#;

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;
    use std::process::Command;

    /// What bash offers for the last of these words.
    fn offered(folder: &std::path::Path, words: &[&str]) -> Vec<String> {
        let program = words[0];
        let mut text = Vec::new();
        let page = crate::pages().find(|(name, _)| *name == program).unwrap().1;
        clap_complete::generate(clap_complete::Shell::Bash, &mut page.command(), program, &mut text);
        text.extend(super::bash(program, &text).unwrap().into_bytes());
        let text = String::from_utf8(text).unwrap();
        let script = format!(
            "{text}\nCOMP_WORDS=(\"$@\"); COMP_CWORD=$(($# - 1)); \
             _{program}_names {program} \"${{@: -1}}\" \"${{@: -2:1}}\"; printf '%s\\n' \"${{COMPREPLY[@]}}\""
        );
        let mut command = Command::new("bash");
        command.args(["--norc", "-c", &script, "bash"]).args(words);
        command.env("QREXEC_SOCKET_DIR", folder).env("QREXEC_SERVICE_PATH", folder);
        let output = command.output().unwrap();
        assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
        let mut names: Vec<String> =
            String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect();
        names.sort();
        names
    }

    #[test]
    fn bash_offers_qubes_and_services() {
        let folder = tempfile::tempdir().unwrap();
        let daemons = ["qrexec.work", "qrexec.web", "qrexec.7", "qrexec.uuid:a"];
        let _daemons = daemons.map(|name| UnixListener::bind(folder.path().join(name)).unwrap());
        std::fs::write(folder.path().join("test.Add"), "").unwrap();
        let folder = folder.path();
        for program in ["qvm-run", "qvm-open-in-vm", "qrexec-client-vm"] {
            assert_eq!(offered(folder, &[program, "w"]), ["web", "work"], "{program}");
        }
        assert_eq!(offered(folder, &["qvm-run", "-p", "@d"]), ["@default", "@dispvm"]);
        assert_eq!(offered(folder, &["qvm-run", "--service", "work", "test"]), ["test.Add"]);
        assert_eq!(offered(folder, &["qrexec-client-vm", "work", "test"]), ["test.Add"]);
        assert!(offered(folder, &["qvm-run", "--serv"]).contains(&"--service".to_owned()));
    }
}
