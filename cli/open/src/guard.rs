//! A qube that was asked to open something asks for another qube to do it: whoever sits in front decides.

use std::process::{Command, Stdio};

/// Services during whose calls nobody is asked to open anything without a question.
const SERVICES: [&str; 2] = ["qubes.OpenInVM", "qubes.OpenURL"];

/// Whether this process is part of a call of one of these services.
pub(crate) fn is_inside() -> bool {
    let name = std::env::var("QREXEC_SERVICE_FULL_NAME").unwrap_or_default();
    SERVICES.contains(&name.split('+').next().unwrap_or_default())
}

/// Asks in a window; `None` if there is no program that could.
pub(crate) fn confirmed(question: &str) -> Option<bool> {
    let mut command = if works("zenity") {
        let mut zenity = Command::new("zenity");
        // Its texts are markup.
        zenity.args(["--question", "--text", &markup(question)]);
        zenity
    } else if works("kdialog") {
        let mut kdialog = Command::new("kdialog");
        kdialog.args(["--yesno", question]);
        kdialog
    } else {
        return None;
    };
    let status = command.stdin(Stdio::null()).stdout(Stdio::null()).status();
    Some(status.is_ok_and(|status| status.success()))
}

/// Whether a program is there and can be started: one without a library of its own is as good as none.
fn works(program: &str) -> bool {
    let mut command = Command::new(program);
    command.arg("--version").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

fn markup(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_no_markup() {
        assert_eq!(markup("<b>&amp;"), "&lt;b&gt;&amp;amp;");
    }
}
