//! `policy.RegisterArgument`: a backend lets one frontend use a service with one argument.
//!
//! The caller is the backend, the requested target the frontend, the argument of the call the service, and
//! the input the argument that is registered. What comes of it is one rule. Nothing is ever changed or taken
//! back: an argument that any rule names is taken.

use std::ffi::OsString;
use std::io::{self, Read};
use std::path::Path;

use daemon::policy_source::read_file;
use wire::names::Target;

use super::admin::{Admin, MAX_FILE, Name, write};

/// Longest argument, in bytes.
const MAX_ARGUMENT: u64 = 64;
/// The file that the rules go to.
const FILE: &str = "60-registered-arguments";

/// Runs the service by its environment; the arguments do not matter. Gives the exit status.
pub fn main(_: Vec<OsString>) -> i32 {
    let variable = |name: &str| std::env::var(name).unwrap_or_default();
    let call = Call {
        backend: variable("QREXEC_REMOTE_DOMAIN"),
        frontend: variable("QREXEC_REQUESTED_TARGET"),
        service: variable("QREXEC_SERVICE_ARGUMENT"),
    };
    let mut input = Vec::new();
    let read = io::stdin().lock().take(MAX_ARGUMENT.saturating_add(1)).read_to_end(&mut input);
    let done = match read {
        Ok(_) => call.register(&Admin::of_this_machine(), &input),
        Err(error) => Err(error.into()),
    };
    let Call { backend, frontend, service } = &call;
    let what = format!("{service:?}: {frontend:?} -> {backend:?}");
    match done {
        Ok(argument) => {
            tracing::warn!("{what}: argument {argument} allowed");
            0
        }
        Err(why) => {
            tracing::error!("{what}: refused: {why}");
            1
        }
    }
}

/// Why an argument is not registered.
#[derive(Debug, thiserror::Error)]
enum Refused {
    #[error("the argument has characters that none may have")]
    Characters,
    #[error("the argument is empty or longer than {MAX_ARGUMENT}")]
    Length,
    #[error("the service is none")]
    Service,
    #[error("caller and target must be qubes, named")]
    Qubes,
    #[error("{0:?} is registered already")]
    Taken(String),
    #[error("{0}")]
    Policy(#[from] super::admin::Error),
    #[error("{0}")]
    Io(#[from] io::Error),
}

struct Call {
    backend: String,
    frontend: String,
    service: String,
}

impl Call {
    fn register(&self, admin: &Admin, input: &[u8]) -> Result<String, Refused> {
        let Self { backend, frontend, service } = self;
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
        let argument = std::str::from_utf8(input).ok().filter(|text| text.chars().all(plain));
        let argument = argument.ok_or(Refused::Characters)?;
        if argument.is_empty() || argument.len() as u64 > MAX_ARGUMENT {
            return Err(Refused::Length);
        }
        if service.is_empty() || !service.chars().all(plain) {
            return Err(Refused::Service);
        }
        let qube =
            |name: &str| Target::new(name).is_ok_and(|name| name.keyword().is_none() && !name.is_dom0());
        if !qube(backend) || !qube(frontend) {
            return Err(Refused::Qubes);
        }
        let _lock = admin.lock()?;
        let policy = admin.compile(None)?;
        let full = format!("+{argument}");
        let taken = policy.rules().iter().any(|rule| {
            rule.service.as_deref() == Some(service) && rule.argument.as_deref() == Some(full.as_str())
        });
        if taken {
            return Err(Refused::Taken(argument.to_owned()));
        }
        let path = admin.path(&Name::parse(FILE))?;
        append(admin, &path, &format!("{service} +{argument} {frontend} {backend} allow\n"))?;
        Ok(argument.to_owned())
    }
}

fn append(admin: &Admin, path: &Path, rule: &str) -> Result<(), Refused> {
    let mut text = match read_file(path, MAX_FILE) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(error.into()),
    };
    if !text.is_empty() && !text.ends_with(b"\n") {
        text.push(b'\n');
    }
    text.extend_from_slice(rule.as_bytes());
    admin.compile(Some((path, Some(&text))))?;
    Ok(write(path, &text)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_argument_is_registered_once_and_for_one() {
        let root = tempfile::tempdir().unwrap();
        let admin = Admin::new(root.path().to_owned(), root.path().join("old"));
        let call = |service: &str, frontend: &str, input: &[u8]| {
            let call = Call { backend: "sys-u2f".into(), frontend: frontend.into(), service: service.into() };
            call.register(&admin, input)
        };
        assert_eq!(call("u2f.Authenticate", "work", b"aA0").unwrap(), "aA0");
        assert!(call("u2f.Authenticate", "mail", b"aA0").unwrap_err().to_string().contains("already"));
        assert!(call("u2f.Authenticate", "mail", b"bB").is_ok());
        for (frontend, input) in [
            ("work", &b""[..]),
            ("work", b"a b"),
            ("work", b"a\nb"),
            ("work", b"a+b"),
            ("work", &[b'x'; 65]),
            ("@anyvm", b"c"),
            ("dom0", b"c"),
            ("", b"c"),
        ] {
            assert!(call("u2f.Authenticate", frontend, input).is_err(), "{frontend} {input:?}");
        }
        assert!(call("u2f.*", "work", b"c").is_err() && call("", "work", b"c").is_err());
        let text = std::fs::read_to_string(root.path().join("60-registered-arguments.policy")).unwrap();
        assert_eq!(
            text,
            "u2f.Authenticate +aA0 work sys-u2f allow\nu2f.Authenticate +bB mail sys-u2f allow\n"
        );
    }
}
