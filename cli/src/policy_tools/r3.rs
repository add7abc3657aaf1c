//! A machine of R3 and before: one policy file for each service and no policy folder. A file that is missing is
//! made if the user wants it, and their "yes to all" becomes the first line of the file that asked.

use std::fs;
use std::io;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use daemon::policy_source::{Disk, read_file};
use policy::legacy::{LegacyPolicy, always_allow, default_text, file_name};
use policy::{Ask, Decision, Policy, PolicyError, SystemInfo, split_service};

use super::admin::{MAX_FILE, Overlay, dress, lock, write};
use super::judge::{Case, Closed, Question};
use super::people::{NewPolicy, People};

/// The folder with the files.
#[derive(Debug)]
pub struct OldFolder<'a> {
    path: &'a Path,
}

/// Why there is no policy for a call, which is denied then.
#[derive(Debug, thiserror::Error)]
pub enum NoPolicy {
    /// The folder has an error.
    #[error("{0}")]
    Policy(#[from] PolicyError),
    /// No file can be called so.
    #[error("{0:?} is no service")]
    Service(String),
    /// There is none, and none was made.
    #[error("there is no policy for {service:?}; make {file:?} with the line `$anyvm $anyvm ask`")]
    Missing {
        /// The service.
        service: String,
        /// Where its policy would be.
        file: PathBuf,
    },
    /// There is none, and the user could not be asked for one.
    #[error("{none}; the user could not be asked: {error}")]
    NotAsked {
        /// That there is none.
        none: Box<NoPolicy>,
        /// Why not.
        error: io::Error,
    },
    /// The user wanted one, and it could not be made.
    #[error("making a policy for {service:?}: {error}")]
    NotMade {
        /// The service.
        service: String,
        /// Why not.
        error: io::Error,
    },
}

/// Why "yes to all" holds for one call only.
#[derive(Debug, thiserror::Error)]
enum NotKept {
    #[error("{0}")]
    Policy(#[from] PolicyError),
    #[error("it is not read")]
    NotRead,
    #[error("it was changed meanwhile")]
    Changed,
    #[error("no line can say that")]
    NoLine,
    #[error("a line would not say the same")]
    Differs,
    #[error("it is a link")]
    Link,
    #[error("{0}")]
    Folder(#[from] super::admin::Error),
    #[error("{0}")]
    Io(#[from] io::Error),
}

/// A file and what it said when it was read.
struct Seen {
    path: PathBuf,
    text: String,
}

impl<'a> OldFolder<'a> {
    /// The folder at this path.
    #[must_use]
    pub fn new(path: &'a Path) -> Self {
        Self { path }
    }

    /// Decides. `caller` is whoever waits for the answer: nobody is asked any longer once they are gone.
    ///
    /// # Errors
    /// Why there is no policy for this; the call is denied.
    pub fn close(
        &self,
        question: Question,
        system: Arc<SystemInfo>,
        people: &People,
        caller: Option<BorrowedFd<'_>>,
    ) -> Result<Closed, NoPolicy> {
        let policy = match self.policy(&question.service)? {
            Some(policy) => policy,
            None => self.new_policy(&question, &system, people, caller)?,
        };
        let case = Case::new(&policy, Arc::clone(&system), question.clone());
        let seen = case.asks().and_then(|ask| self.offer(&question, &system, ask));
        let closed = case.of_r3(seen.is_some()).close(people, caller);
        if let (Some((ask, target)), Some(seen)) = (&closed.always, seen) {
            match self.always(&question, &system, ask, target, &seen) {
                Ok(()) => tracing::warn!("{}: such calls are allowed from now on", seen.path.display()),
                Err(why) => tracing::error!("only this call is allowed: {}: {why}", seen.path.display()),
            }
        }
        Ok(closed)
    }

    fn compile(&self, change: Option<(&Path, Option<&[u8]>)>) -> Result<LegacyPolicy, PolicyError> {
        let source = Overlay::new(&[], self.path, change);
        LegacyPolicy::compile(&source)
    }

    /// The policy of the file for a service, if there is one.
    fn policy(&self, service: &str) -> Result<Option<Policy>, PolicyError> {
        let (name, argument) = split_service(service);
        let folder = LegacyPolicy::compile(&Disk::new(&[]).with_old_folder(self.path));
        Ok(folder?.for_service(name, argument).cloned())
    }

    /// Asks whether a file is to be made, and makes it. One that somebody made meanwhile counts, whatever the
    /// answer was.
    fn new_policy(
        &self,
        question: &Question,
        system: &SystemInfo,
        people: &People,
        caller: Option<BorrowedFd<'_>>,
    ) -> Result<Policy, NoPolicy> {
        let (service, _) = split_service(&question.service);
        let none = || NoPolicy::Missing { service: service.to_owned(), file: self.path.join(service) };
        let name = file_name(service).ok_or_else(|| NoPolicy::Service(service.to_owned()))?;
        let caller_known = system.get(&question.source).is_some();
        if question.just_evaluate || question.assume_yes || !caller_known {
            return Err(none());
        }
        let guivm = system.get(&question.source).and_then(|source| source.guivm.as_deref());
        let new = NewPolicy { source: question.source.clone(), service: service.to_owned() };
        let wanted = people.ask_for_new(guivm.unwrap_or("dom0"), &new, caller);
        if wanted.map_err(|error| NoPolicy::NotAsked { none: Box::new(none()), error })? {
            let failed = |error| NoPolicy::NotMade { service: service.to_owned(), error };
            self.make(name).map_err(failed)?;
        }
        self.policy(&question.service)?.ok_or_else(none)
    }

    /// Makes the file of a service. One that is there is left as it is.
    fn make(&self, name: &str) -> io::Result<()> {
        // Hidden files are no policy.
        let mut file = tempfile::Builder::new().prefix(".").tempfile_in(self.path)?;
        dress(file.as_file())?;
        io::Write::write_all(&mut file, default_text().as_bytes())?;
        match file.persist_noclobber(self.path.join(name)) {
            Err(error) if error.error.kind() != io::ErrorKind::AlreadyExists => Err(error.error),
            _ => Ok(()),
        }
    }

    /// The file that asks, if "yes to all" can be written into it: if it is about exactly this call.
    fn offer(&self, question: &Question, system: &SystemInfo, ask: &Ask) -> Option<Seen> {
        let (service, argument) = split_service(&question.service);
        // A line in the general file would allow other arguments than the one that the user sees.
        let exact = if argument == "+" { service } else { &question.service };
        let folder = self.compile(None).ok()?;
        if folder.file_for(service, argument) != Some(exact) {
            return None;
        }
        let path = self.path.join(exact);
        let seen = Seen { text: String::from_utf8(read_file(&path, MAX_FILE).ok()?).ok()?, path };
        let first = ask.choices.first()?;
        self.changed(question, system, ask, first, &seen).ok().map(|_| seen)
    }

    /// The text of the file after "yes to all", tried out.
    fn changed(
        &self,
        question: &Question,
        system: &SystemInfo,
        ask: &Ask,
        target: &str,
        seen: &Seen,
    ) -> Result<String, NotKept> {
        let request = question.request();
        let decide = |text: &str| -> Result<Decision, NotKept> {
            let folder = self.compile(Some((&seen.path, Some(text.as_bytes()))))?;
            let policy = folder.for_service(request.service, request.argument).ok_or(NotKept::NotRead)?;
            Ok(policy.decide(system, &request))
        };
        if decide(&seen.text)? != Decision::Ask(ask.clone()) {
            return Err(NotKept::Changed);
        }
        let text = always_allow(&seen.text, &request, ask, target);
        let text = text.ok_or(NotKept::NoLine)?;
        match decide(&text)?.answer() == ask.choose(system, target).answer() {
            true => Ok(text),
            false => Err(NotKept::Differs),
        }
    }

    /// Writes "yes to all" into the file, if it is still as the user's question found it.
    fn always(
        &self,
        question: &Question,
        system: &SystemInfo,
        ask: &Ask,
        target: &str,
        seen: &Seen,
    ) -> Result<(), NotKept> {
        let _lock = lock(self.path)?;
        let meta = fs::symlink_metadata(&seen.path)?;
        if !meta.is_file() {
            return Err(NotKept::Link);
        }
        if read_file(&seen.path, MAX_FILE)? != seen.text.as_bytes() {
            return Err(NotKept::Changed);
        }
        let text = self.changed(question, system, ask, target, seen)?;
        Ok(write(&seen.path, text.as_bytes())?)
    }
}
