//! Where each rule of the old format goes, so that all decisions stay as they were.
//!
//! All old rules stood together in one place of the policy. The user's new file is read before that place, those of tools
//! after it: a rule may only go to a tool's file if nothing that came behind it, and could decide the same call otherwise,
//! is in front of it then.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use policy::{Policy, Rule, Token, Verb};

use super::super::lint::covers;
use super::{INPUT, LegacyConvertArgs, USER, file_for, fits_tool};

/// The old rules that are still needed, by the file that they go to. Those that the old format only implies are written out.
pub(super) fn sort<'a>(
    args: &LegacyConvertArgs,
    policy: &'a Policy,
) -> BTreeMap<&'static str, Vec<&'a Rule>> {
    let rules = policy.rules();
    let is_old = |rule: &Rule| Path::new(&*rule.file).starts_with(&args.old_dir);
    let mut kept: Vec<bool> = Vec::with_capacity(rules.len());
    let mut seen = BTreeSet::new();
    for (at, rule) in rules.iter().enumerate() {
        let old = is_old(rule);
        let earlier = rules.get(..at).unwrap_or_default();
        kept.push(old && !seen.contains(&rule.to_string()) && !is_hidden(earlier, rule));
        if !old {
            seen.insert(rule.to_string());
        }
    }
    // From the end: who is in front of a rule depends on where those behind it go.
    let mut written: Vec<Option<&'static str>> = vec![None; rules.len()];
    for (at, rule) in rules.iter().enumerate().rev() {
        let later = || rules.iter().zip(&written).skip(at.saturating_add(1));
        let counts = |rule: &Rule, file: &Option<_>| !is_old(rule) || file.is_some();
        let is_needless =
            || later().all(|(after, file)| !counts(after, file) || !allows_some_of(after, rule));
        if kept.get(at) != Some(&true) || (denies_the_rest(rule) && is_needless()) {
            continue;
        }
        let is_in_front = |after: &Rule, file: &Option<&str>, tool: &str| match file {
            Some(file) => *file == USER,
            None => !is_old(after) && is_read_before(args, after, tool),
        };
        let tool = rule.service.as_deref().and_then(file_for).filter(|_| fits_tool(rule)).filter(|tool| {
            // The tool for input devices knows one rule for each device and qube.
            (*tool != INPUT || is_first(rules.get(..at).unwrap_or_default(), &kept, rule))
                && later().all(|(after, file)| !is_in_front(after, file, tool) || agree(rule, after))
        });
        if let Some(place) = written.get_mut(at) {
            *place = Some(tool.unwrap_or(USER));
        }
    }
    let mut files: BTreeMap<&'static str, Vec<&Rule>> = BTreeMap::new();
    for (rule, file) in rules.iter().zip(written) {
        if let Some(file) = file {
            files.entry(file).or_default().push(rule);
        }
    }
    files
}

/// Whether an earlier rule decides whatever this one is about. What it offers to choose from counts where it is, so a rule
/// with a target of its own is kept, unless it is behind the line with which old files end.
fn is_hidden(earlier: &[Rule], rule: &Rule) -> bool {
    let hides = |first: &Rule| rule.action.target.is_none() || denies_the_rest(first);
    earlier.iter().any(|first| hides(first) && covers(first, rule))
}

/// Whether no rule that is kept before this one is for the same device and qube.
fn is_first(earlier: &[Rule], kept: &[bool], rule: &Rule) -> bool {
    let same =
        |first: &Rule| first.service == rule.service && first.source == rule.source && fits_tool(first);
    !earlier.iter().zip(kept).any(|(first, kept)| *kept && same(first))
}

/// The lines with which old files end; the new policy ends with one for all services.
fn denies_the_rest(rule: &Rule) -> bool {
    let rest = matches!(rule.target, Token::AnyVm | Token::AdminVm);
    rule.action.verb == Verb::Deny && rule.source == Token::AnyVm && rest && rule.argument.is_none()
}

/// Whether the file of a new rule is read before the one of a tool. What is included is taken for that.
fn is_read_before(args: &LegacyConvertArgs, rule: &Rule, tool: &str) -> bool {
    let path = Path::new(&*rule.file);
    let name = path.file_stem().unwrap_or_default();
    path.parent() != Some(&*args.policy_dir) || name.as_encoded_bytes() < tool.as_bytes()
}

/// Whether there may be a call about which both rules are, and which `after` does not deny.
fn allows_some_of(after: &Rule, rule: &Rule) -> bool {
    after.action.verb != Verb::Deny && may_meet(after, rule)
}

/// Whether it does not matter which of the two comes first.
fn agree(a: &Rule, b: &Rule) -> bool {
    a.action == b.action || !may_meet(a, b)
}

/// Whether there may be a call about which both rules are.
fn may_meet(a: &Rule, b: &Rule) -> bool {
    let meet = |a: &Option<_>, b: &Option<_>| a.is_none() || b.is_none() || a == b;
    meet(&a.service, &b.service)
        && meet(&a.argument, &b.argument)
        && !are_apart(&a.source, &b.source)
        && !are_apart(&a.target, &b.target)
}

/// Whether nothing is both, as far as can be told without looking at the qubes.
fn are_apart(a: &Token, b: &Token) -> bool {
    let is_dom0 = |token: &Token| matches!(token, Token::AdminVm | Token::Dom0(_));
    let is_disposable =
        |token: &Token| matches!(token, Token::DispVm | Token::DispVmOf(_) | Token::DispVmTag(_));
    let is_named = |token: &Token| matches!(token, Token::Name(_) | Token::Uuid(_));
    let never = |a: &Token, b: &Token| match a {
        _ if is_dom0(a) => *b == Token::AnyVm || *b == Token::Default || is_disposable(b) || is_named(b),
        Token::Default => is_disposable(b) || is_named(b),
        _ if is_disposable(a) => is_named(b),
        Token::Name(a) => matches!(b, Token::Name(b) if a != b),
        _ => false,
    };
    never(a, b) || never(b, a)
}
