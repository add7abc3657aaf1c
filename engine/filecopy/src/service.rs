//! `qubes.Filecopy` in the call's own process, which is connected to the ring and one folder only.

use std::os::fd::AsFd;
use std::path::PathBuf;

use engine::confine::{Confinement, Files, May, Place};
use engine::direct::DirectService;
use engine::exec::{Account, Existing};
use rustix::process::getuid;
use wire::filecopy::NameRules;

use crate::incoming::{NoFolder, incoming};
use crate::receiver::{Settings, receive};
use crate::shown::Name;

/// A call of the service.
#[derive(Debug)]
pub struct Request<'a> {
    /// The calling qube.
    pub source: &'a str,
    /// The service's argument.
    pub argument: Option<&'a str>,
    /// The user who receives; `None` for the user of this process.
    pub account: Option<&'a Account>,
    /// What to do about names that exist already.
    pub existing: Existing,
    /// Whether this process is confined to the call and to the folder.
    pub confinement: Confinement,
}

/// Serves a call to its end. Returns its exit code. This process becomes the user who receives, and can do nothing
/// else afterwards.
pub fn receive_files(call: &mut DirectService, request: &Request<'_>) -> i32 {
    let prepared = prepare(request).and_then(|(root, settings)| {
        // Before a file is opened: one that was opened with other credentials cannot be given a name by
        // `AT_EMPTY_PATH`.
        let places = [Place { at: root.as_fd(), may: May::Make }];
        call.confine(request.confinement, Files::Make, &places).map_err(CannotReceive::Unconfined)?;
        Ok((root, settings))
    });
    match prepared {
        Ok((root, settings)) => i32::from(receive(root, call, &settings).exit_status()),
        Err(reason) => {
            let _ = call.say(&format!("qubes.Filecopy: {reason}"));
            1
        }
    }
}

/// Why a call of the service cannot be served.
#[derive(Debug, thiserror::Error)]
enum CannotReceive {
    #[error("unknown argument {}", Name(.0.as_bytes()))]
    Argument(String),
    #[error("cannot become {name}: {error}")]
    User { name: String, error: std::io::Error },
    #[error("the user has no home")]
    NoHome,
    #[error("this process cannot be confined: {0}")]
    Unconfined(std::io::Error),
    #[error("{0}")]
    Folder(#[from] NoFolder),
}

fn prepare(request: &Request<'_>) -> Result<(std::os::fd::OwnedFd, Settings), CannotReceive> {
    let mut settings = Settings { existing: request.existing, ..Settings::default() };
    match request.argument {
        None | Some("") => {}
        Some("allow-all-names") => settings.limits.names = NameRules::All,
        Some(other) => return Err(CannotReceive::Argument(other.to_owned())),
    }
    let home = match request.account {
        Some(account) => {
            let failed = |error| CannotReceive::User { name: account.name.clone(), error };
            account.become_it().map_err(failed)?;
            account.home.clone()
        }
        None => own_home().ok_or(CannotReceive::NoHome)?,
    };
    Ok((incoming(request.source.as_bytes(), &home)?, settings))
}

/// Qubes of a lab have homes of their own.
fn own_home() -> Option<PathBuf> {
    let told = std::env::var_os("HOME").map(PathBuf::from).filter(|home| home.is_absolute());
    told.or_else(|| Account::by_uid(getuid()).map(|account| account.home))
}
