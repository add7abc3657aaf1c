//! Names of qubes, labs and services in completions of bash, which clap knows nothing of.

/// Programs whose first word is a qube.
const TAKE_A_QUBE: [&str; 5] =
    ["qrexec-client-vm", "qvm-get-image", "qvm-open-in-vm", "qvm-run", "qvm-run-vm"];

/// The completion of a program, mended and with the names that this machine knows. dom0 knows its qubes by the sockets of
/// their daemons, a qube only the words that stand for one; services are guessed by those that are here; labs and their
/// machines are folders.
pub(crate) fn bash(program: &str, generated: Vec<u8>) -> Vec<u8> {
    let Ok(mut text) = String::from_utf8(generated) else { return Vec::new() };
    // clap_complete writes a program's hyphen as `__` where it sets the subcommand, and as `__subcmd__` where it looks.
    let (set, looked_for) = (program.replace('-', "__"), program.replace('-', "__subcmd__"));
    text = text.replace(&format!("{looked_for}__subcmd__"), &format!("{set}__subcmd__"));
    let more = match program {
        "qrexec-lab" => LAB,
        name if TAKE_A_QUBE.contains(&name) => QUBE,
        _ => return text.into_bytes(),
    };
    // Its name is the program's in a form of clap's own.
    let Some(function) = text.lines().find_map(|line| line.strip_suffix("() {")) else {
        return text.into_bytes();
    };
    let more = more.replace("FUNCTION", function).replace("PROGRAM", program);
    (text + &more).into_bytes()
}

const QUBE: &str = r#"
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

/// A lab's machines are the folders below `vm`, its services the files of theirs.
const LAB: &str = r#"
_PROGRAM_folder() {
    if [ -d "${XDG_RUNTIME_DIR:-}" ]; then
        printf '%s' "$XDG_RUNTIME_DIR/qrexec-lab"
    else
        printf '%s' "${TMPDIR:-/tmp}/qrexec-lab-$(id -u)"
    fi
}
_PROGRAM_names() {
    local word action="" lab=lab machine="" called="" before=0 index skip="" wanted="" names="" path
    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD - 1]}
    local labs; labs=$(_PROGRAM_folder)
    FUNCTION "$@"
    for ((index = 1; index < COMP_CWORD; index++)); do
        word=${COMP_WORDS[index]}
        if [ -n "$skip" ]; then
            [ "$skip" != --name ] || lab=$word
            skip=""
            continue
        fi
        case $word in
        --name | --vm | --policy | --service | --config | --bin-dir | --transport | --age | --log-level) [ "$before" -gt 1 ] || skip=$word ;;
        --relay | --from | --sshd-option | --qube | --to) skip=$word ;;
        -*) ;;
        *)
            if [ -z "$action" ]; then action=$word; else
                before=$((before + 1))
                case $before in 1) machine=$word ;; 2) called=$word ;; esac
            fi
            ;;
        esac
    done
    case $prev in --name | --to) wanted=lab ;; --relay) wanted=machine ;; esac
    case $cur in -*) return ;; esac
    if [ -z "$wanted" ] && [ -n "$skip" ]; then return; fi
    case $wanted,$action,$before in
    ,down,0) wanted=lab ;;
    ,exec,0 | ,logs,0 | ,restart,0) wanted=machine ;;
    ,exec,1) wanted=program ;;
    ,exec,2) case $called in qrexec-client-vm | qvm-run | qvm-run-vm | qvm-open-in-vm) wanted=machine ;; esac ;;
    ,exec,3) [ "$called" != qrexec-client-vm ] || { wanted=service; machine=$prev; } ;;
    esac
    case $wanted in
    lab) for path in "$labs"/*/lock; do path=${path%/lock}; [ ! -d "$path" ] || names="$names ${path##*/}"; done ;;
    machine) for path in "$labs/$lab"/vm/*/; do path=${path%/}; [ ! -d "$path" ] || names="$names ${path##*/}"; done ;;
    program) names=$(compgen -c -- "$cur"; cd "$labs/$lab/bin" 2>/dev/null && compgen -f -- "$cur") ;;
    service) for path in "$labs/$lab/vm/$machine"/rpc/*; do [ ! -e "$path" ] || names="$names ${path##*/}"; done ;;
    *) return ;;
    esac
    COMPREPLY=($(compgen -W "$names" -- "$cur"))
}
complete -F _PROGRAM_names -o bashdefault -o default PROGRAM
"#;

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;
    use std::path::Path;
    use std::process::Command;

    /// What bash offers for the last of these words, by what it has been told about the program: the function that
    /// `complete` names is called as readline calls it.
    fn offered(folder: &Path, words: &[&str]) -> Vec<String> {
        let program = words[0];
        let mut text = Vec::new();
        let page = crate::pages().find(|(name, _)| *name == program).unwrap().1;
        clap_complete::generate(clap_complete::Shell::Bash, &mut page.command(), program, &mut text);
        let text = String::from_utf8(super::bash(program, text)).unwrap();
        let script = format!(
            "{text}\nCOMP_WORDS=(\"$@\"); COMP_CWORD=$(($# - 1)); \
             eval \"set -- $(complete -p {program})\"; \
             while [ \"$1\" != -F ]; do shift; done; function=$2; \
             compopt() {{ :; }}; \
             \"$function\" {program} \"${{COMP_WORDS[COMP_CWORD]}}\" \"${{COMP_WORDS[COMP_CWORD - 1]}}\"; \
             printf '%s\\n' \"${{COMPREPLY[@]}}\""
        );
        let mut command = Command::new("bash");
        command.args(["--norc", "-c", &script, "bash"]).args(words);
        command
            .env("QREXEC_SOCKET_DIR", folder)
            .env("QREXEC_SERVICE_PATH", folder)
            .env("XDG_RUNTIME_DIR", folder);
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

    #[test]
    fn bash_offers_words_labs_machines_and_services_behind_subcommands() {
        let folder = tempfile::tempdir().unwrap();
        for (lab, machine) in [("lab", "work"), ("lab", "vault"), ("two", "alpha")] {
            let lab = folder.path().join("qrexec-lab").join(lab);
            std::fs::create_dir_all(lab.join("vm").join(machine).join("rpc")).unwrap();
            std::fs::create_dir_all(lab.join("bin")).unwrap();
            std::fs::write(lab.join("bin/qrexec-client-vm"), "").unwrap();
            std::fs::write(lab.join("lock"), "").unwrap();
        }
        std::fs::write(folder.path().join("qrexec-lab/lab/vm/vault/rpc/test.Add"), "").unwrap();
        let folder = folder.path();
        let lab = |words: &[&str]| offered(folder, &[&["qrexec-lab"], words].concat());
        assert_eq!(lab(&["up", "--tr"]), ["--transport"]);
        assert!(lab(&["sta"]).contains(&"status".to_owned()));
        assert_eq!(lab(&["exec", ""]), ["vault", "work"]);
        assert_eq!(lab(&["exec", "--name", "two", ""]), ["alpha"]);
        assert_eq!(lab(&["down", ""]), ["lab", "two"]);
        assert_eq!(lab(&["logs", "-f", "w"]), ["work"]);
        assert_eq!(lab(&["exec", "--name", "t"]), ["two"]);
        assert!(lab(&["exec", "work", "qrexec-cl"]).contains(&"qrexec-client-vm".to_owned()));
        assert_eq!(lab(&["exec", "work", "qrexec-client-vm", "v"]), ["vault"]);
        assert_eq!(lab(&["exec", "work", "qrexec-client-vm", "vault", "test"]), ["test.Add"]);
        assert!(offered(folder, &["qrexec-bench", "compare", "--fail"]).contains(&"--fail-below".to_owned()));
    }
}
