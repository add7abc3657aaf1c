//! From files to rules: what is read, in which order, and within which limits.

use std::collections::HashSet;
use std::sync::Arc;

use crate::error::{LineError, PolicyError};
use crate::lex::{self, Word};
use crate::load::{Source, join};
use crate::names;
use crate::request::split_service;
use crate::rule::{self, Action, Rule, Scope};

/// Files that one policy may read, an included one counted each time. A policy could double the
/// work with every file it has; upstream's engine would never come to an end.
const MAX_FILES: usize = 16_384;
/// Bytes that one policy may have, counted likewise.
const MAX_BYTES: usize = 64 << 20;
/// Rules that one policy may have.
const MAX_RULES: usize = 1_000_000;
/// Files that may include one another in a row.
const MAX_DEPTH: usize = 100;

/// All rules of a source.
pub(crate) fn rules(source: &dyn Source) -> Result<Vec<Rule>, PolicyError> {
    let mut compiler = Compiler::new(source);
    for (folder, name) in top_level(source)? {
        compiler.base = folder.clone();
        compiler.read_new(join(&folder, &name), None)?;
    }
    Ok(compiler.rules)
}

/// The rules of one file of the old format, for any service, as the folder of before R4.1 has them.
pub(crate) fn old_rules(source: &dyn Source, name: &str) -> Result<Vec<Rule>, PolicyError> {
    let mut compiler = Compiler::new(source);
    compiler.base = source.old_folder();
    compiler.bare_keywords = true;
    let path = join(&compiler.base, name);
    compiler.read_old(path, &Scope::default(), None)?;
    Ok(compiler.rules)
}

/// The top-level files, folder and name, in the order of reading.
fn top_level(source: &dyn Source) -> Result<Vec<(String, String)>, PolicyError> {
    let mut seen = HashSet::new();
    let mut files = Vec::new();
    for folder in source.folders() {
        for name in policy_files(source, &folder)? {
            if seen.insert(name.clone()) {
                files.push((folder.clone(), name));
            }
        }
    }
    files.sort_by(|a, b| a.1.cmp(&b.1));
    Ok(files)
}

/// The policy files of a folder, sorted; one bad name is an error.
fn policy_files(source: &dyn Source, folder: &str) -> Result<Vec<String>, PolicyError> {
    let names = source.list(folder).map_err(|error| {
        PolicyError::load(format!("the policy folder {folder:?} cannot be read: {error}"), "make it")
    })?;
    let mut names: Vec<_> = names.into_iter().filter(|name| names::is_policy_file(name)).collect();
    names.sort_unstable();
    if let Some(bad) = names.iter().find(|name| !names::is_good_policy_name(name)) {
        let path = join(folder, bad);
        return Err(PolicyError::load(
            format!("the policy file {path:?} has a bad name"),
            "use digits, lower-case letters, `_`, `.` and `-`",
        ));
    }
    Ok(names)
}

/// A directive's place: its file and line, and the words for the column.
#[derive(Clone, Copy)]
struct At<'a> {
    file: &'a Arc<str>,
    line: u32,
    column: u32,
}

impl At<'_> {
    fn error(self, problem: impl Into<String>, advice: &str) -> PolicyError {
        LineError::new(self.column, problem, advice).at(self.file, self.line)
    }
}

struct Compiler<'s> {
    source: &'s dyn Source,
    rules: Vec<Rule>,
    /// The folder that includes are relative to: that of the top-level file.
    base: String,
    /// The files that are being read, outermost first.
    open: Vec<Arc<str>>,
    files: usize,
    bytes: usize,
    /// R1 and R2 wrote `anyvm` and `dispvm` without a sign before them.
    bare_keywords: bool,
    names: HashSet<Arc<str>>,
    actions: HashSet<Arc<Action>>,
}

impl<'s> Compiler<'s> {
    fn new(source: &'s dyn Source) -> Self {
        Self {
            source,
            rules: Vec::new(),
            base: String::new(),
            open: Vec::new(),
            files: 0,
            bytes: 0,
            bare_keywords: false,
            names: HashSet::new(),
            actions: HashSet::new(),
        }
    }

    /// Reads a file, checks the limits and hands each line that says something to `each`.
    fn read(
        &mut self,
        path: String,
        from: Option<At<'_>>,
        mut each: impl FnMut(&mut Self, &Arc<str>, u32, &str) -> Result<(), PolicyError>,
    ) -> Result<(), PolicyError> {
        let file: Arc<str> = path.into();
        let fail = |problem: String, advice: &str| match from {
            Some(at) => at.error(problem, advice),
            None => PolicyError { file: Some(file.clone()), ..PolicyError::load(problem, advice) },
        };
        if self.open.contains(&file) {
            let road: Vec<&str> = self.open.iter().map(|file| &**file).collect();
            return Err(fail(format!("include cycle: {} -> {file}", road.join(" -> ")), "break the circle"));
        }
        if self.open.len() >= MAX_DEPTH {
            return Err(fail(
                format!("more than {MAX_DEPTH} files include one another"),
                "include less deeply",
            ));
        }
        let bytes = self.source.read(&file, MAX_BYTES.saturating_sub(self.bytes)).map_err(|error| {
            fail(
                format!("{file:?} cannot be read: {error}"),
                "it must be a regular file of a sensible size, with the right permissions",
            )
        })?;
        self.files = self.files.saturating_add(1);
        self.bytes = self.bytes.saturating_add(bytes.len());
        if self.files > MAX_FILES || self.bytes > MAX_BYTES {
            let problem = format!("the policy is larger than {MAX_FILES} files or {MAX_BYTES} bytes");
            return Err(fail(problem, "include less"));
        }
        let text = lex::decode(&bytes).map_err(|(line, error)| error.at(&file, line))?;
        self.open.push(file.clone());
        for (number, line) in lex::lines(text) {
            let start = line.trim_start_matches(lex::is_blank);
            if !start.is_empty() && !start.starts_with('#') {
                each(self, &file, number, line)
                    .map_err(|error| hint_at_comment(error, &file, number, line))?;
            }
        }
        self.open.pop();
        Ok(())
    }

    /// A file of the new format.
    fn read_new(&mut self, path: String, from: Option<At<'_>>) -> Result<(), PolicyError> {
        self.read(path, from, |compiler, file, number, line| {
            let words = lex::words(line);
            match words.split_first() {
                Some((first, rest)) if first.text.starts_with('!') => {
                    compiler.directive(*first, rest, file, number)
                }
                _ => compiler.add(|intern| rule::parse_new(&words, file, number, intern), file, number),
            }
        })
    }

    /// A file of the old format, for one service.
    fn read_old(&mut self, path: String, scope: &Scope, from: Option<At<'_>>) -> Result<(), PolicyError> {
        self.read(path, from, |compiler, file, number, line| {
            // Each of the old spellings is as long as the new one, so columns stay right.
            let line = line.replace("$include:", "!include ").replace('$', "@").replace(',', " ");
            let mut words = lex::words(&line);
            match *words.as_slice() {
                [first, ref rest @ ..] if first.text.starts_with('!') => {
                    let at = At { file, line: number, column: first.column };
                    let [path] = rest else {
                        return Err(at.error("one file must be included", "write `$include:FILE`"));
                    };
                    if first.text != "!include" {
                        let problem = format!("{:?} is no directive of the old format", first.text);
                        return Err(at.error(problem, "only `$include:FILE` is"));
                    }
                    compiler.include_service(scope, *path, at)
                }
                _ => {
                    if compiler.bare_keywords {
                        sign_keywords(&mut words);
                    }
                    let parse =
                        |intern: rule::Intern<'_>| rule::parse_old(&words, scope, file, Some(number), intern);
                    compiler.add(parse, file, number)
                }
            }
        })
    }

    fn add(
        &mut self,
        parse: impl FnOnce(rule::Intern<'_>) -> Result<Rule, LineError>,
        file: &Arc<str>,
        line: u32,
    ) -> Result<(), PolicyError> {
        let names = &mut self.names;
        let mut rule = parse(&mut |text| intern(names, text)).map_err(|error| error.at(file, line))?;
        if self.rules.len() >= MAX_RULES {
            let problem = format!("the policy has more than {MAX_RULES} rules");
            return Err(LineError::new(1, problem, "merge some of them").at(file, line));
        }
        match self.actions.get(&rule.action) {
            Some(known) => rule.action = known.clone(),
            None => drop(self.actions.insert(rule.action.clone())),
        }
        self.rules.push(rule);
        Ok(())
    }

    fn directive(
        &mut self,
        name: Word<'_>,
        params: &[Word<'_>],
        file: &Arc<str>,
        line: u32,
    ) -> Result<(), PolicyError> {
        let at = At { file, line, column: name.column };
        match (name.text, params) {
            ("!include", [path]) => self.include(*path, at),
            ("!include-dir", [path]) => self.include_dir(*path, at),
            ("!include-service", [service, argument, path]) => {
                let (service, argument) =
                    names::service_and_argument(*service, *argument).map_err(|error| error.at(file, line))?;
                let mut name = |text: &str| intern(&mut self.names, text);
                let scope = Scope { service: service.map(&mut name), argument: argument.map(&mut name) };
                self.include_service(&scope, *path, at)
            }
            ("!compat-4.0", []) => self.compat(at),
            ("!include", _) => Err(at.error("one file must be included", "write `!include FILE`")),
            ("!include-dir", _) => {
                Err(at.error("one folder must be included", "write `!include-dir FOLDER`"))
            }
            ("!include-service", _) => {
                let advice = "write `!include-service SERVICE ARGUMENT FILE`";
                Err(at.error("a service, an argument and a file are needed", advice))
            }
            ("!compat-4.0", _) => Err(at.error("!compat-4.0 stands alone", "remove what follows it")),
            (other, _) => {
                let advice = "there are `!include`, `!include-dir`, `!include-service` and `!compat-4.0`";
                Err(at.error(format!("{other:?} is no directive"), advice))
            }
        }
    }

    fn resolve(&self, path: Word<'_>, at: At<'_>) -> Result<String, PolicyError> {
        self.source.resolve_file(&self.base, path.text).map_err(|error| {
            let at = At { column: path.column, ..at };
            at.error(error.0, "name a file, relative to the policy folder or absolute")
        })
    }

    fn include(&mut self, path: Word<'_>, at: At<'_>) -> Result<(), PolicyError> {
        let path = self.resolve(path, at)?;
        self.read_new(path, Some(at))
    }

    fn include_dir(&mut self, path: Word<'_>, at: At<'_>) -> Result<(), PolicyError> {
        let folder = self.source.resolve_folder(&self.base, path.text).map_err(|error| {
            let at = At { column: path.column, ..at };
            at.error(error.0, "name a folder, relative to the policy folder or absolute")
        })?;
        for name in policy_files(self.source, &folder)? {
            self.read_new(join(&folder, &name), Some(at))?;
        }
        Ok(())
    }

    fn include_service(&mut self, scope: &Scope, path: Word<'_>, at: At<'_>) -> Result<(), PolicyError> {
        let path = self.resolve(path, at)?;
        self.read_old(path, scope, Some(at))
    }

    /// `!compat-4.0`: the whole old folder, as if each file were included for its service.
    fn compat(&mut self, at: At<'_>) -> Result<(), PolicyError> {
        let folder = self.source.old_folder();
        let names = self.source.list(&folder).map_err(|error| {
            at.error(
                format!("the old policy folder {folder:?} cannot be read: {error}"),
                "make it, or remove this line",
            )
        })?;
        let outer = std::mem::replace(&mut self.base, folder);
        for name in in_old_order(names) {
            let (service, argument) = match name.contains('+') {
                true => split_service(&name),
                false => (name.as_str(), "*"),
            };
            let scope = Scope {
                service: Some(intern(&mut self.names, service)),
                argument: (argument != "*").then(|| intern(&mut self.names, argument)),
            };
            let path = join(&self.base, &name);
            self.read_old(path.clone(), &scope, Some(at))?;
            if scope.argument.is_some() {
                self.implied_denials(&scope, &path.into(), at)?;
            }
        }
        self.base = outer;
        Ok(())
    }

    /// In the old system a file for one argument was the last word on it.
    fn implied_denials(&mut self, scope: &Scope, file: &Arc<str>, at: At<'_>) -> Result<(), PolicyError> {
        for line in ["@anyvm @anyvm deny", "@anyvm @adminvm deny"] {
            let words = lex::words(line);
            let parse = |intern: rule::Intern<'_>| rule::parse_old(&words, scope, file, None, intern);
            self.add(parse, at.file, at.line)?;
        }
        Ok(())
    }
}

/// A line that is wrong and has a word that begins with `#`: most likely a comment was meant, wherever it stands.
fn hint_at_comment(error: PolicyError, file: &Arc<str>, number: u32, line: &str) -> PolicyError {
    const HINT: &str = "a comment needs a line of its own";
    let here = error.file.as_ref() == Some(file) && error.line == Some(number);
    let mut words = line.split(|c| lex::is_blank(c) || c == ',');
    if !here || error.advice.contains(HINT) || !words.any(|word| word.starts_with('#')) {
        return error;
    }
    let advice = if error.advice.is_empty() { HINT.to_owned() } else { format!("{}; {HINT}", error.advice) };
    PolicyError { advice, ..error }
}

fn intern(names: &mut HashSet<Arc<str>>, text: &str) -> Arc<str> {
    if let Some(known) = names.get(text) {
        return known.clone();
    }
    let new: Arc<str> = text.into();
    names.insert(new.clone());
    new
}

/// The files of the old folder that count, by service, specific arguments before the general file.
fn in_old_order(names: Vec<String>) -> Vec<String> {
    let mut names: Vec<String> = names.into_iter().filter(|name| names::is_old_policy_file(name)).collect();
    // `+` may be part of an argument, so the service ends at the first one.
    names.sort_by(|a, b| {
        let key = |name: &String| {
            let (service, argument) = split_service(name);
            (service.to_owned(), !name.contains('+'), argument.to_owned())
        };
        key(a).cmp(&key(b))
    });
    names
}

/// `anyvm` and `dispvm` of R1 and R2 in the source and target columns, as they are written today.
fn sign_keywords(words: &mut [Word<'_>]) {
    for word in words.iter_mut().take(2) {
        match word.text {
            "anyvm" => word.text = "@anyvm",
            "dispvm" => word.text = "@dispvm",
            _ => {}
        }
    }
}
