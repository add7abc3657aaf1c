//! A page of the manual from a command line: what `clap_mangen` makes of it, with a synopsis and sections of our own.
//!
//! Its synopsis loses `-- …` and the values of options, so the usage line is taken; what stands behind the options in
//! `--help` has headings, which become sections.

use std::io;

use clap::Command;
use clap_mangen::Man;

/// The pages of a program: its own and one for each of its subcommands, by name.
pub(crate) fn of(command: &Command, section: u8) -> io::Result<Vec<(String, Vec<u8>)>> {
    let mut command = command.clone().disable_help_subcommand(true);
    command.build();
    let name = command.get_name().to_owned();
    let mut pages = vec![(name.clone(), text(&command, &name, section)?)];
    for sub in command.get_subcommands().filter(|sub| !sub.is_hide_set()) {
        let own = format!("{name}-{}", sub.get_name());
        pages.push((own.clone(), text(sub, &own, section)?));
    }
    Ok(pages)
}

fn text(command: &Command, name: &str, section: u8) -> io::Result<Vec<u8>> {
    let mut command = command.clone();
    let usage = command.render_usage().to_string();
    let usage = usage.strip_prefix("Usage: ").unwrap_or(&usage).to_owned();
    let mut text = Vec::new();
    let number = section.to_string();
    // A date would make every build another one.
    let man = Man::new(command.clone()).title(name).section(number.as_str()).date("").manual("qrexec");
    man.render_title(&mut text)?;
    text.extend(name_section(&command, name).into_bytes());
    text.extend(b".SH SYNOPSIS\n.nf\n");
    text.extend(
        usage.lines().map(|line| format!("{}\n", escaped(line.trim()))).collect::<String>().into_bytes(),
    );
    text.extend(b".fi\n");
    man.render_description_section(&mut text)?;
    if command.get_arguments().any(|arg| !arg.is_hide_set()) {
        man.render_options_section(&mut text)?;
    }
    if command.has_subcommands() {
        man.render_subcommands_section(&mut text)?;
    }
    let behind = command.get_after_long_help().or_else(|| command.get_after_help());
    if let Some(behind) = behind {
        text.extend(sections(&behind.to_string()).into_bytes());
    }
    Ok(text)
}

/// A page is found by its name here, which has no blank in it.
fn name_section(command: &Command, name: &str) -> String {
    let about = command.get_about().map(ToString::to_string).unwrap_or_default();
    format!(".SH NAME\n{} \\- {}\n", escaped(name), escaped(&about))
}

/// What is behind the options. `Heading:` alone, or with the rest of a paragraph, begins a section; what is indented stays
/// as it is, everything else is a paragraph.
fn sections(text: &str) -> String {
    let mut page = String::from(".SH NOTES\n");
    let mut as_it_is = false;
    for line in text.lines() {
        let indented = line.starts_with(' ');
        if indented != as_it_is && !line.is_empty() {
            page.push_str(if indented { ".PP\n.nf\n" } else { ".fi\n" });
            as_it_is = indented;
        }
        match heading(line) {
            Some((heading, rest)) => {
                page.push_str(&format!(".SH {}\n", heading.to_uppercase()));
                page.push_str(format!("{}\n", escaped(rest)).trim_start_matches('\n'));
            }
            None if line.is_empty() => page.push_str(if as_it_is { "\n" } else { ".PP\n" }),
            None => page.push_str(&format!("{}\n", escaped(line))),
        }
    }
    if as_it_is {
        page.push_str(".fi\n");
    }
    page.strip_prefix(".SH NOTES\n.SH").map(|rest| format!(".SH{rest}")).unwrap_or(page)
}

/// `Exit status:` and `See also: NAME(1).` begin sections; a sentence with a colon somewhere does not.
fn heading(line: &str) -> Option<(&str, &str)> {
    const HEADINGS: [&str; 5] = ["Examples", "Exit status", "Environment", "Files", "See also"];
    let (heading, rest) = line.split_once(':')?;
    HEADINGS.contains(&heading).then_some((heading, rest.trim()))
}

/// Text that the formatter takes as it is.
fn escaped(text: &str) -> String {
    let text = text.replace('\\', "\\e").replace('-', "\\-").replace('\'', "\\(aq");
    if text.starts_with('.') { format!("\\&{text}") } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headings_become_sections_and_examples_stay_as_they_are() {
        let page = sections("Words.\n\nExamples:\n  a -b 'c'\n      .d\n\nSee also: x(1).\n");
        let wanted = ".SH NOTES\nWords.\n.PP\n.SH EXAMPLES\n.PP\n.nf\n  a \\-b \\(aqc\\(aq\n      .d\n\n.fi\n.SH SEE ALSO\nx(1).\n";
        assert_eq!(page, wanted);
        assert!(sections("Examples:\n  a\n").starts_with(".SH EXAMPLES\n"));
    }
}
