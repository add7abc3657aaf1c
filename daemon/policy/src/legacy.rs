//! The policy of before R4.1: a folder with one file per service and nothing else.
//!
//! A call to `SERVICE+ARGUMENT` is decided by the file of that name, or by the file `SERVICE`
//! where there is none; the other file is not looked at. Nothing matches: denied. No file at all:
//! dom0 asks whether one is to be made, with [`default_text`].

use crate::compile;
use crate::decide::Policy;
use crate::decision::Ask;
use crate::error::PolicyError;
use crate::load::Source;
use crate::names;
use crate::request::Request;
use crate::rule::{Action, Verb};
use crate::token::{Place, Token};

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
        self.files.get(self.file_for(service, argument)?)
    }

    /// The name of that file.
    pub fn file_for(&self, service: &str, argument: &str) -> Option<&str> {
        let known = |name: &str| self.files.get_key_value(name).map(|(name, _)| name.as_str());
        known(&format!("{service}{argument}")).or_else(|| known(service))
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

/// The name of the file that dom0 makes for a service without one; `None` if no file may be called so.
pub fn file_name(service: &str) -> Option<&str> {
    (!service.is_empty() && !service.contains('+') && names::is_old_policy_file(service)).then_some(service)
}

/// A policy text after "Yes to All": its first line, before the first `##` line and every rule, allows the
/// calls of this source to this target to go where the user said, with everything else as the rule that
/// asked had it.
///
/// `None` if one line cannot say that: source and target must be names, or the target `@default` or
/// `@dispvm`.
pub fn always_allow(text: &str, request: &Request<'_>, ask: &Ask, chosen: &str) -> Option<String> {
    let asked = if request.target.is_empty() { "@default" } else { request.target };
    let read = |word: &str, place| Token::parse(word, place, &mut |part| part.into()).ok();
    let source = read(request.source, Place::Source)?;
    let target = read(asked, Place::Target)?;
    let plain = |text: &str| text.chars().all(names::is_service_char);
    let sayable = match target {
        Token::Name(_) | Token::Dom0(_) => plain(asked),
        Token::AdminVm | Token::Default | Token::DispVm => true,
        _ => false,
    };
    if !sayable
        || !matches!(source, Token::Name(_))
        || !plain(request.source)
        || ask.source() != request.source
    {
        return None;
    }
    let redirect = match chosen == asked {
        true => None,
        false => Some(read(chosen, Place::Redirect)?),
    };
    let action = Action {
        verb: Verb::Allow,
        target: redirect,
        default_target: None,
        user: ask.user.as_deref().map(Into::into),
        notify: ask.notify,
        autostart: ask.autostart,
    };
    let action = action.to_string().replace(' ', ",");
    let line = format!("{}\t{asked}\t{action}\n", request.source).replace('@', "$");
    Some(line + text)
}
