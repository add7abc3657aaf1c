//! The folder of a link: who is reached by it, and under which names.
//!
//! | file | side | what |
//! |---|---|---|
//! | `config`, `known_hosts` | near | how `ssh` reaches the far relay, and the far relay's key |
//! | `qubes` | near | `LOCAL REMOTE` for each remote qube of this link |
//! | `sources` | far | `NEAR LOCAL` or `* PREFIX`: what the near machine's qubes are called here |
//! | `environment` | far | `NAME=VALUE` lines for the calls that are made for this link |
//! | `settings` | both | [`Settings`], as `key = value` |
//! | `log` | near | what `ssh` and the far command have to say |
//! | `lock`, `m0`, `m1`, … | near | made by the programs: who may start an `ssh`, and where each listens |
//! | `pool`, `pool.lock` | near | the same for the process that keeps sessions ready |

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use cli::failure::Failure;
use wire::remote::names::{Remotes, Sources, check_name};

/// Names another folder than `~/.config/qrexec-remote`.
pub(crate) const FOLDER_VAR: &str = "QREXEC_REMOTE_DIR";

/// The file `settings` of a link.
#[derive(Debug, Clone, PartialEq, Eq, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Near: whether the far side has `qrexec-remote`. `false` for one with upstream's programs only.
    pub frames: bool,
    /// Far: what may be called besides qubes by name. `@dispvm` is the only word that means something.
    pub targets: Vec<String>,
}

impl Default for Settings {
    fn default() -> Self {
        Self { frames: true, targets: Vec::new() }
    }
}

/// One link.
#[derive(Debug, Clone)]
pub struct Link {
    name: String,
    folder: PathBuf,
}

/// The folder of all links.
///
/// # Errors
/// There is no home folder to look in.
pub(crate) fn folder() -> Result<PathBuf, Failure> {
    if let Some(folder) = std::env::var_os(FOLDER_VAR).filter(|folder| !folder.is_empty()) {
        return Ok(folder.into());
    }
    let base = std::env::var_os("XDG_CONFIG_HOME").map(PathBuf::from).filter(|base| base.is_absolute());
    let base = base.or_else(|| Some(Path::new(&std::env::var_os("HOME")?).join(".config")));
    let none = || Failure::trouble(format!("no folder for links: neither {FOLDER_VAR} nor HOME is set"));
    Ok(base.ok_or_else(none)?.join("qrexec-remote"))
}

impl Link {
    /// A link by its name, whether it is there or not.
    ///
    /// # Errors
    /// That is no name.
    pub fn named(folder: &Path, name: &str) -> Result<Self, Failure> {
        let name = check_name(name.as_bytes())
            .map_err(|error| Failure::usage(format!("{name:?} is no name of a link: {error}")))?;
        Ok(Self { folder: folder.join(&name), name })
    }

    /// A link that is there.
    ///
    /// # Errors
    /// It is not.
    pub fn open(folder: &Path, name: &str) -> Result<Self, Failure> {
        let link = Self::named(folder, name)?;
        match link.folder.is_dir() {
            true => Ok(link),
            false => Err(Failure::trouble(format!("there is no link {name} in {}", folder.display()))),
        }
    }

    /// Every link that is there, by name.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub fn all(folder: &Path) -> Result<Vec<Self>, Failure> {
        let entries = match fs::read_dir(folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(Failure::during(format!("reading {}", folder.display())))?,
        };
        let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        let mut links: Vec<Self> = names.filter_map(|name| Self::open(folder, &name).ok()).collect();
        links.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(links)
    }

    /// The link by which a remote qube is reached, and the qube's name on its own machine.
    ///
    /// # Errors
    /// No link has it, or a link's file cannot be read.
    pub fn of_qube(folder: &Path, qube: &str) -> Result<(Self, String), Failure> {
        let links = Self::all(folder)?;
        for link in &links {
            if let Some(remote) = link.remotes()?.remote(qube) {
                return Ok((link.clone(), remote.to_owned()));
            }
        }
        // dom0 tells the relay what a remote qube is called on its own machine; with one link there is no choice.
        match (links.as_slice(), qubesdb_remote(qube)) {
            ([only], Some(remote)) if only.has_connection() => Ok((only.clone(), remote)),
            _ => Err(Failure::trouble(format!(
                "no link reaches {qube}: its line is missing in a file {}",
                folder.join("LINK/qubes").display()
            ))),
        }
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// A file in it.
    #[must_use]
    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Whether calls can go out by it.
    #[must_use]
    pub fn has_connection(&self) -> bool {
        self.file("config").exists()
    }

    /// The file `qubes`; a link for calls from the other side only has none.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn remotes(&self) -> Result<Remotes, Failure> {
        Remotes::parse(&self.text("qubes")?).map_err(Failure::during(self.file("qubes").display()))
    }

    /// The file `sources`; without it no source is known.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn sources(&self) -> Result<Sources, Failure> {
        Sources::parse(&self.text("sources")?).map_err(Failure::during(self.file("sources").display()))
    }

    /// The file `settings`.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn settings(&self) -> Result<Settings, Failure> {
        let path = self.file("settings");
        toml::from_str(&self.text("settings")?)
            .map_err(|error| Failure::trouble(format!("{}: {}", path.display(), error.message())))
    }

    /// What calls for this link have in their environment, and nothing else.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn environment(&self) -> Result<Vec<(String, String)>, Failure> {
        let text = self.text("environment")?;
        let pairs = text.lines().filter_map(|line| line.split_once('='));
        let own = pairs.map(|(name, value)| (name.to_owned(), value.to_owned()));
        Ok(std::iter::once(("PATH".to_owned(), SEARCH_PATH.to_owned())).chain(own).collect())
    }

    /// A file's text, empty where there is none.
    fn text(&self, name: &str) -> Result<String, Failure> {
        let path = self.file(name);
        match fs::read_to_string(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
            text => text.map_err(Failure::during(path.display())),
        }
    }
}

const SEARCH_PATH: &str = "/usr/local/bin:/usr/bin:/bin";

/// What dom0 has written about a remote qube into the relay's database.
fn qubesdb_remote(qube: &str) -> Option<String> {
    let output = std::process::Command::new("qubesdb-read").arg(format!("/remote/{qube}")).output().ok()?;
    let text = String::from_utf8(output.stdout).ok().filter(|_| output.status.success())?;
    check_name(text.trim_end_matches('\n').as_bytes()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn links() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("attic")).unwrap();
        fs::create_dir(folder.path().join("cellar")).unwrap();
        fs::write(folder.path().join("cellar/qubes"), "far work\n").unwrap();
        folder
    }

    #[test]
    fn a_qube_is_found_by_the_link_that_has_it() {
        let folder = links();
        let (link, remote) = Link::of_qube(folder.path(), "far").unwrap();
        assert_eq!((link.name(), remote.as_str()), ("cellar", "work"));
        let failure = Link::of_qube(folder.path(), "farther").unwrap_err();
        assert!(failure.message.starts_with("no link reaches farther"), "{}", failure.message);
        fs::write(folder.path().join("attic/qubes"), "far\n").unwrap();
        let failure = Link::of_qube(folder.path(), "far").unwrap_err();
        assert!(failure.message.ends_with("qubes: line 1: two words are wanted"), "{}", failure.message);
    }

    #[test]
    fn settings_have_defaults_and_known_keys() {
        let folder = links();
        let link = Link::open(folder.path(), "attic").unwrap();
        assert_eq!(link.settings().unwrap(), Settings::default());
        fs::write(link.file("settings"), "frames = false\ntargets = [\"@dispvm\"]\n").unwrap();
        assert!(!link.settings().unwrap().frames);
        fs::write(link.file("settings"), "frame = false\n").unwrap();
        assert!(link.settings().unwrap_err().message.contains("unknown field `frame`"));
        assert!(Link::open(folder.path(), "../attic").is_err());
    }

    #[test]
    fn a_link_s_environment_is_its_own() {
        let folder = links();
        let link = Link::open(folder.path(), "attic").unwrap();
        assert_eq!(link.environment().unwrap(), [("PATH".to_owned(), SEARCH_PATH.to_owned())]);
        fs::write(link.file("environment"), "QREXEC_SHM_DIR=/x=y\n").unwrap();
        assert_eq!(link.environment().unwrap().pop().unwrap(), ("QREXEC_SHM_DIR".into(), "/x=y".into()));
    }
}
