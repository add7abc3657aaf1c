//! What the user is asked, and what they may say.

use std::io;

use crate::policy_tools::people::{NewPolicy, Prompt};

/// Characters of a service and its argument that are shown; nobody reads more, and more could push the
/// rest of a question off the screen.
const MAX_SHOWN: usize = 120;
/// What stands for a refusal among the choices. No qube can be called so.
pub(super) const REFUSE: &str = "(refuse)";
/// What stands before a target that is chosen for all further calls, too. Likewise.
const ALWAYS: &str = "(always) ";
/// What stands for making a policy.
const MAKE: &str = "(make)";

/// What the user is asked, whatever it is about.
#[derive(Debug)]
pub(super) struct Question {
    /// What the user is told.
    pub(super) text: String,
    /// What they are asked then.
    pub(super) ask: &'static str,
    /// What they may choose: what stands for it, and how it is shown.
    pub(super) choices: Vec<(String, String)>,
    /// Whether the first choice is what policy proposes.
    pub(super) proposed: bool,
    /// What a program gets: its first argument, and what it may read.
    pub(super) for_program: (&'static str, Vec<u8>),
}

/// What the user said.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Chosen {
    Target(String),
    Always(String),
    Make,
}

impl Chosen {
    /// By what stands for it; `None` refuses.
    pub(super) fn read(text: &str) -> Option<Self> {
        match text {
            REFUSE => None,
            MAKE => Some(Self::Make),
            _ => Some(match text.strip_prefix(ALWAYS) {
                Some(target) => Self::Always(target.to_owned()),
                None => Self::Target(text.to_owned()),
            }),
        }
    }

    /// By the output of a program.
    pub(super) fn said(text: &str) -> Option<Self> {
        match text.split_once(':') {
            Some(("allow", target)) => Some(Self::Target(target.to_owned())),
            Some(("always", target)) => Some(Self::Always(target.to_owned())),
            _ => (text == "make").then_some(Self::Make),
        }
    }
}

impl Question {
    /// May this call be made, and where to?
    pub(super) fn call(prompt: &Prompt) -> io::Result<Self> {
        let mut choices: Vec<_> = ordered(prompt).map(|target| (target.to_owned(), shown(target))).collect();
        if prompt.always {
            let always = |target| (format!("{ALWAYS}{target}"), format!("{}, now and always", shown(target)));
            choices.extend(ordered(prompt).map(always));
        }
        Ok(Self {
            text: format!("{} wants to use {}", prompt.source, called(&prompt.service, &prompt.argument)),
            ask: "Where?",
            choices,
            proposed: !prompt.default_target.is_empty(),
            for_program: ("ask", serde_json::to_vec(prompt)?),
        })
    }

    /// Is a policy to be made?
    pub(super) fn new_policy(new: &NewPolicy) -> io::Result<Self> {
        let service = called(&new.service, "+");
        Ok(Self {
            text: format!("{} wants to use {service}, for which there is no policy", new.source),
            ask: "What now?",
            choices: vec![(MAKE.to_owned(), "make a policy that asks about every call".to_owned())],
            proposed: false,
            for_program: ("new", serde_json::to_vec(new)?),
        })
    }
}

/// The service and its argument, as much as is good to look at.
pub(super) fn called(service: &str, argument: &str) -> String {
    let full = if argument == "+" { service.to_owned() } else { format!("{service}{argument}") };
    if full.len() <= MAX_SHOWN {
        return full;
    }
    let shown: String = full.chars().take(MAX_SHOWN).collect();
    format!("{shown}... ({} characters)", full.len())
}

/// A choice in words.
fn shown(target: &str) -> String {
    match target.strip_prefix("@dispvm:") {
        Some(template) => format!("new disposable of {template}"),
        None => target.to_owned(),
    }
}

/// The choices, the default first.
fn ordered(prompt: &Prompt) -> impl Iterator<Item = &str> {
    let default = Some(prompt.default_target.as_str()).filter(|target| !target.is_empty());
    let others = prompt.targets.iter().map(String::as_str).filter(move |target| Some(*target) != default);
    default.into_iter().chain(others)
}
