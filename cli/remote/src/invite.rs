//! How two machines are joined: the near one shows its key, the far one admits it and shows an invitation, the near one
//! joins. Nothing here changes what dom0 allows: both sides say what is to be done there.

use std::fmt;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::str::FromStr;

use cli::failure::Failure;
use wire::remote::frames::{Parser, Piece};
use wire::remote::names::{Remotes, check_name};
use wire::remote::request;
use wire::stream::Role;

use crate::link::Link;
use crate::{bytes, log, master};

/// The service by which dom0 sends calls for remote qubes to a relay.
pub const TRANSPORT: &str = "qubesair.SSHProxy";

/// A public key, without a comment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    kind: String,
    data: String,
}

/// Why something is no key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BadKey;

impl fmt::Display for BadKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "a public key is its kind, as ssh-ed25519, and its data, as `qrexec-remote key` shows them",
        )
    }
}

impl std::error::Error for BadKey {}

impl FromStr for Key {
    type Err = BadKey;

    /// Takes the first line of a `.pub` file; what stands behind the data is a comment.
    fn from_str(text: &str) -> Result<Self, BadKey> {
        let mut words = text.trim().split(' ');
        let (Some(kind), Some(data)) = (words.next(), words.next()) else {
            return Err(BadKey);
        };
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'@' | b'.');
        let base64 = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/' | b'=');
        let sound =
            !kind.is_empty() && kind.bytes().all(plain) && data.len() > 40 && data.bytes().all(base64);
        match sound && !text.trim().contains(['\n', '\r']) {
            true => Ok(Self { kind: kind.to_owned(), data: data.to_owned() }),
            false => Err(BadKey),
        }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind, self.data)
    }
}

/// What the near side has to know of the far one, as one word.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invitation {
    /// What the link is called on the near side.
    pub name: String,
    /// Who logs in there.
    pub user: String,
    /// Where.
    pub address: String,
    /// At which port.
    pub port: u16,
    /// The host's key.
    pub key: Key,
}

/// Why something is no invitation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BadInvitation;

impl fmt::Display for BadInvitation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "an invitation is one word that begins with qrexec-remote,1, as `qrexec-remote admit` shows it",
        )
    }
}

impl std::error::Error for BadInvitation {}

impl fmt::Display for Invitation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, user, address, port, key } = self;
        write!(f, "qrexec-remote,1,{name},{user},{address},{port},{},{}", key.kind, key.data)
    }
}

impl FromStr for Invitation {
    type Err = BadInvitation;

    fn from_str(text: &str) -> Result<Self, BadInvitation> {
        let parts: Vec<&str> = text.trim().split(',').collect();
        let ["qrexec-remote", "1", name, user, address, port, kind, data] = parts.as_slice() else {
            return Err(BadInvitation);
        };
        Ok(Self {
            name: check_name(name.as_bytes()).map_err(|_| BadInvitation)?,
            user: account(user).ok_or(BadInvitation)?,
            address: host(address).ok_or(BadInvitation)?,
            port: port.parse().map_err(|_| BadInvitation)?,
            key: format!("{kind} {data}").parse().map_err(|_| BadInvitation)?,
        })
    }
}

/// An account's name, if nothing in it means something to `ssh`.
pub fn account(name: &str) -> Option<String> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.');
    (!name.is_empty() && !name.starts_with('-') && name.bytes().all(plain)).then(|| name.to_owned())
}

/// A host's name or address, if nothing in it means something to `ssh`.
pub fn host(name: &str) -> Option<String> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b':');
    (!name.is_empty() && !name.starts_with('-') && name.bytes().all(plain)).then(|| name.to_owned())
}

/// This machine's key for links, made if there is none.
///
/// # Errors
/// It can be neither read nor made.
pub fn own_key(folder: &Path) -> Result<Key, Failure> {
    let private = folder.join("key");
    make_folder(folder)?;
    if !private.exists() {
        let mut command = Command::new("ssh-keygen");
        command.args(["-q", "-t", "ed25519", "-N", "", "-C", "", "-f"]).arg(&private);
        let status = command.stdin(Stdio::null()).status();
        let made = status.map_err(Failure::during("starting ssh-keygen"))?.success();
        if !made {
            return Err(Failure::trouble(format!("ssh-keygen made no key in {}", folder.display())));
        }
    }
    let public = folder.join("key.pub");
    let text = fs::read_to_string(&public).map_err(Failure::during(public.display()))?;
    text.parse().map_err(Failure::during(public.display()))
}

fn make_folder(folder: &Path) -> Result<(), Failure> {
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(folder);
    made.map_err(Failure::during(format!("making {}", folder.display())))
}

/// What an admission needs besides the near machine's key.
#[derive(Debug, Clone)]
pub struct Admission {
    /// The link's file of keys.
    pub authorized_keys: PathBuf,
    /// This program's path.
    pub program: PathBuf,
}

/// Lets a near machine in, by its key: the link's folder, with the rule that all its qubes are called `LINK-NAME` here, and
/// the line that ties the key to this link and to nothing else.
///
/// # Errors
/// The key belongs to another link or the link has another key; a file cannot be written.
pub fn admit(folder: &Path, link: &str, key: &Key, how: &Admission) -> Result<Link, Failure> {
    let link = Link::named(folder, link)?;
    let line = key_line(folder, &link, key, how)?;
    let file = &how.authorized_keys;
    let text = match fs::read_to_string(file) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        text => text.map_err(Failure::during(file.display()))?,
    };
    let mark = mark(&link);
    let said = |there: &str| there.split(' ').next_back() == Some(mark.as_str()) || there.contains(&key.data);
    match text.lines().filter(|there| said(there)).collect::<Vec<_>>().as_slice() {
        [] => {}
        [there] if *there == line => return Ok(link),
        _ => {
            let name = link.name();
            let message = format!(
                "{name} or this key is in {} already, in another line: remove that first",
                file.display()
            );
            return Err(Failure::trouble(message));
        }
    }
    make_folder(link.folder())?;
    let sources = link.file("sources");
    if !sources.exists() {
        write_whole(&sources, format!("* {}-\n", link.name()).as_bytes())?;
    }
    let separator = if text.is_empty() || text.ends_with('\n') { "" } else { "\n" };
    if let Some(parent) = file.parent() {
        make_folder(parent)?;
    }
    write_whole(file, format!("{text}{separator}{line}\n").as_bytes())?;
    Ok(link)
}

/// What stands at the end of a link's line.
fn mark(link: &Link) -> String {
    format!("qrexec-remote:{}", link.name())
}

fn key_line(folder: &Path, link: &Link, key: &Key, how: &Admission) -> Result<String, Failure> {
    // sshd gives the command to the login shell, inside double quotes in this file.
    let sound = |path: &Path| {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/._+-@".contains(&byte);
        path.to_str().filter(|text| text.bytes().all(plain) && path.is_absolute()).map(str::to_owned)
    };
    let path = |path: &Path| {
        let message = format!("{}: a path for sshd is absolute and has no blanks or quotes", path.display());
        sound(path).ok_or_else(|| Failure::trouble(message))
    };
    let command = format!("{} --dir {} far {}", path(&how.program)?, path(folder)?, link.name());
    Ok(format!("restrict,command=\"{command}\" {key} {}", mark(link)))
}

/// Writes a file that only its owner reads, whole or not at all.
fn write_whole(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    let during = || Failure::during(format!("writing {}", path.display()));
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let new = path.with_file_name(name);
    let file = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&new);
    let written = file.and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_all()));
    written.map_err(during())?;
    fs::rename(&new, path).map_err(during())
}

/// Joins a far machine: writes the link, connects, and keeps what was written only if the far side answers.
///
/// # Errors
/// The far side cannot be reached or is another; a file cannot be written.
pub fn join(folder: &Path, invitation: &Invitation, qubes: &Remotes, text: &str) -> Result<Link, Failure> {
    own_key(folder)?;
    let link = Link::named(folder, &invitation.name)?;
    let new = link.folder().is_dir();
    if new && !same(&link, folder, invitation)? {
        return Err(Failure::trouble(format!("a link {} to another place is there already", link.name())));
    }
    make_folder(link.folder())?;
    let joined = (|| {
        write_whole(&link.file("known_hosts"), format!("{} {}\n", link.name(), invitation.key).as_bytes())?;
        write_whole(&link.file("config"), config(folder, &link, invitation)?.as_bytes())?;
        check(&link)?;
        add_qubes(&link, qubes, text)
    })();
    if joined.is_err() && !new {
        master::close(&link);
        // What was made here is all that is in it.
        let _ = fs::remove_dir_all(link.folder());
    }
    joined.map(|()| link)
}

/// Whether a link that is there leads where the invitation does.
fn same(link: &Link, folder: &Path, invitation: &Invitation) -> Result<bool, Failure> {
    let text = fs::read_to_string(link.file("config")).unwrap_or_default();
    Ok(text == config(folder, link, invitation)?)
}

/// Adds lines for qubes that have none yet.
fn add_qubes(link: &Link, qubes: &Remotes, text: &str) -> Result<(), Failure> {
    let there = link.remotes()?;
    let path = link.file("qubes");
    let mut lines = fs::read_to_string(&path).unwrap_or_default();
    for (local, remote) in text.lines().filter_map(|line| line.split_once(' ')) {
        match there.remote(local) {
            Some(known) if Some(known) == qubes.remote(local) => {}
            Some(known) => {
                return Err(Failure::trouble(format!("{local} is {known} by this link already")));
            }
            None => lines.push_str(&format!("{local} {remote}\n")),
        }
    }
    write_whole(&path, lines.as_bytes())
}

/// Whether the far side answers as it must.
fn check(link: &Link) -> Result<(), Failure> {
    let session = master::open(link, request::CHECK)?;
    log::follow(link, session.stderr)?;
    let mut parser = Parser::new(Role::Client);
    let mut buffer = [0; 4096];
    loop {
        let len = bytes::read(&session.from, &mut buffer).unwrap_or(0);
        let mut rest = buffer.get(..len).unwrap_or_default();
        if rest.is_empty() {
            return Err(master::gone(link.name()));
        }
        while let Some(piece) = parser
            .next(&mut rest)
            .map_err(|violation| master::lost(format!("{}: {violation}", link.name())))?
        {
            match piece {
                Piece::Exit(0) => return Ok(()),
                Piece::Exit(_) => {
                    let message =
                        format!("{}: the far side cannot read its link; its word is in the log", link.name());
                    return Err(Failure::trouble(message));
                }
                Piece::Hello | Piece::Data(..) | Piece::End(_) => {}
            }
        }
    }
}

/// What `ssh` is told: the host's key is the one of the invitation, and nothing else of this account's configuration
/// matters.
fn config(folder: &Path, link: &Link, invitation: &Invitation) -> Result<String, Failure> {
    let Invitation { user, address, port, .. } = invitation;
    let name = link.name();
    let (key, hosts) = (quoted(&folder.join("key"))?, quoted(&link.file("known_hosts"))?);
    let cipher = if has_aes() { "Ciphers ^aes128-gcm@openssh.com\n" } else { "" };
    Ok(format!(
        "HostName {address}\nPort {port}\nUser {user}\nHostKeyAlias {name}\nIdentityFile {key}\nIdentitiesOnly yes\n\
         UserKnownHostsFile {hosts}\nGlobalKnownHostsFile none\nStrictHostKeyChecking yes\nUpdateHostKeys no\nIPQoS none\n\
         BatchMode yes\nClearAllForwardings yes\nControlMaster no\nConnectTimeout 8\nServerAliveInterval 15\n\
         ServerAliveCountMax 3\nLogLevel ERROR\n{cipher}"
    ))
}

/// A path in a configuration of `ssh`, where a percent sign begins a word of its own.
fn quoted(path: &Path) -> Result<String, Failure> {
    let text = path.to_str().filter(|text| !text.contains(['"', '\n', '\\']));
    let message = || Failure::trouble(format!("{}: ssh cannot be told this path", path.display()));
    Ok(format!("\"{}\"", text.ok_or_else(message)?.replace('%', "%%")))
}

/// Whether the processor has instructions for AES: the cipher decides how fast a link is.
fn has_aes() -> bool {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let flags = info.lines().find(|line| line.starts_with("flags") || line.starts_with("Features"));
    flags.is_some_and(|flags| flags.split_ascii_whitespace().any(|flag| flag == "aes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DATA: &str = "AAAAC3NzaC1lZDI1NTE5AAAAIAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

    fn key() -> Key {
        format!("ssh-ed25519 {DATA} somebody@somewhere").parse().unwrap()
    }

    #[test]
    fn an_invitation_is_one_word_and_comes_back() {
        let invitation = Invitation {
            name: "attic".into(),
            user: "user".into(),
            address: "fd00::1".into(),
            port: 2222,
            key: key(),
        };
        let text = invitation.to_string();
        assert!(!text.contains(' '));
        assert_eq!(text.parse(), Ok(invitation));
        for (from, to) in [("attic", "-o"), ("user", "-l"), ("fd00::1", "a b"), ("2222", "x"), (",1,", ",2,")]
        {
            assert_eq!(text.replacen(from, to, 1).parse::<Invitation>(), Err(BadInvitation), "{to}");
        }
    }

    #[test]
    fn a_key_has_no_options_and_one_line() {
        for text in ["", "ssh-ed25519", "ssh-ed25519 x", &format!("command=\"x\" ssh-ed25519 {DATA}")] {
            assert_eq!(text.parse::<Key>(), Err(BadKey), "{text}");
        }
        assert_eq!(format!("ssh-ed25519 {DATA}\nssh-ed25519 {DATA}").parse::<Key>(), Err(BadKey));
    }

    #[test]
    fn admitting_twice_changes_nothing_and_another_key_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let how = Admission {
            authorized_keys: folder.path().join("ssh/authorized_keys"),
            program: "/usr/bin/qrexec-remote".into(),
        };
        let links = folder.path().join("links");
        admit(&links, "laptop", &key(), &how).unwrap();
        let text = fs::read_to_string(&how.authorized_keys).unwrap();
        let command =
            format!("restrict,command=\"/usr/bin/qrexec-remote --dir {} far laptop\"", links.display());
        assert_eq!(text, format!("{command} ssh-ed25519 {DATA} qrexec-remote:laptop\n"));
        assert_eq!(fs::read_to_string(links.join("laptop/sources")).unwrap(), "* laptop-\n");
        admit(&links, "laptop", &key(), &how).unwrap();
        assert_eq!(fs::read_to_string(&how.authorized_keys).unwrap(), text);
        let other: Key = format!("ssh-ed25519 {}", DATA.replace('I', "J")).parse().unwrap();
        assert!(admit(&links, "laptop", &other, &how).is_err());
        assert!(admit(&links, "desktop", &key(), &how).is_err());
        assert_eq!(fs::read_to_string(&how.authorized_keys).unwrap(), text);
        let spaced = Admission { program: "/opt/my programs/x".into(), ..how };
        assert!(admit(&links, "third", &other, &spaced).is_err());
    }
}
