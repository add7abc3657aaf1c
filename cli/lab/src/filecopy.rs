//! The service `qubes.Filecopy` of a lab's VMs: files go into the VM's own home.

/// Its name.
pub(super) const NAME: &str = "qubes.Filecopy";

/// Its configuration: the process of the call is the service, and the script only stands for it.
pub(super) const CONFIG: &str = "builtin='filecopy'\n";

/// The service, as a script: the argument chooses the names that are taken, as at upstream's.
pub(super) const SCRIPT: &str = r#"#!/bin/sh
case "$1" in
'') names=--no-allow-all-names ;;
allow-all-names) names=--allow-all-names ;;
*) echo "qubes.Filecopy: unknown argument $1" >&2; exit 1 ;;
esac
umask 077
mkdir -p "$HOME/QubesIncoming/$QREXEC_REMOTE_DOMAIN" || exit
exec qfile-unpacker "$names" -- '' "$HOME/QubesIncoming/$QREXEC_REMOTE_DOMAIN"
"#;
