//! Files and addresses opened in other qubes, and images fetched from them.
//!
//! | module | one job |
//! |---|---|
//! | [`client`] | `qvm-open-in-vm`, `qvm-open-in-dvm`: a file or an address, opened elsewhere |
//! | [`replace`] | what came back takes the place of the original, or is kept beside it |
//! | [`service`] | `qubes.OpenInVM`, `qubes.OpenURL` |
//! | [`opener`] | the program that opens, and when it is done |
//! | [`image`] | `qvm-get-image`: an image of another qube, checked |
//! | [`exchange`] | one call of this process: send, end, receive |
#![forbid(unsafe_code)]
#![deny(clippy::print_stdout, clippy::print_stderr)] // they end a program whose output nobody takes

use cli::programs::{Page, Program};

pub mod client;
pub mod exchange;
mod guard;
pub mod image;
pub mod opener;
pub mod replace;
pub mod service;

/// All programs, sorted by name. Services go by their own names, so that a link is all that installs them.
pub const PROGRAMS: &[Program] = &[
    Program::bare("qubes.OpenInVM", service::file_main),
    Program::bare("qubes.OpenURL", service::url_main),
    Program::new("qvm-get-image", image::main, Page::new(1, image::command)),
    Program::new("qvm-open-in-dvm", client::main, Page::new(1, client::dvm_command)),
    Program::new("qvm-open-in-vm", client::main, Page::new(1, client::command)),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_sorted_and_pages_named_as_their_program() {
        cli::programs::check(PROGRAMS);
    }
}
