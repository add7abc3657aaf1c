//! The policy of before R4.1: a folder with one file per service and nothing else.
//!
//! A call to `SERVICE+ARGUMENT` is decided by the file of that name, or by the file `SERVICE`
//! where there is none; the other file is not looked at. Nothing matches: denied. No file at all:
//! dom0 asks whether one is to be made, with [`default_text`].

use crate::compile;
use crate::decide::Policy;
use crate::error::PolicyError;
use crate::load::Source;
use crate::names;

/// A folder of the old format, each file compiled on its own: an error in one of them denies the
/// calls that it is about, and no others.
#[derive(Clone, Debug)]
pub struct LegacyPolicy {
    files: std::collections::HashMap<String, Policy>,
}

impl LegacyPolicy {
    /// Compiles the old folder of a source.
    ///
    /// # Errors
    ///
    /// The folder cannot be read.
    pub fn compile(source: &dyn Source) -> Result<Self, PolicyError> {
        let folder = source.old_folder();
        let names = source.list(&folder).map_err(|error| {
            PolicyError::load(format!("the policy folder {folder:?} cannot be read: {error}"), "make it")
        })?;
        let files = names
            .into_iter()
            .filter(|name| names::is_old_policy_file(name))
            .map(|name| {
                let policy = match compile::old_rules(source, &name) {
                    Ok(rules) => Policy::from_rules(rules),
                    Err(error) => Policy::broken(error),
                };
                (name, policy)
            })
            .collect();
        Ok(Self { files })
    }

    /// The policy that decides about this service; `argument` begins with `+`. `None` if there is
    /// no file for it: deny, and ask whether to make one.
    pub fn for_service(&self, service: &str, argument: &str) -> Option<&Policy> {
        self.files.get(&format!("{service}{argument}")).or_else(|| self.files.get(service))
    }
}

/// The text of a file that dom0 makes for a service without one: ask about everything.
pub fn default_text() -> &'static str {
    "## Made when the service was called for the first time; edit freely.\n\
     ## The first line that matches decides, so more special lines go before the last one.\n\
     \n\
     ## Begin comments of your own with a single #.\n\
     \n\
     $anyvm\t$anyvm\task\n"
}

/// A policy text after "Yes to All": calls from `source` to `target` are allowed by its first line,
/// which stands before the first `##` line and every rule. Both are names, checked by the caller.
pub fn always_allow(text: &str, source: &str, target: &str) -> String {
    format!("{source}\t{target}\tallow\n{text}")
}
