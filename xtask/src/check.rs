//! `cargo xtask check`: what has to hold for every commit.

use crate::metadata::Metadata;
use crate::steps::{Failure, cargo, findings, is_there, root, step};
use crate::{circles, conformance, documented, fuzz, layering, licences, sources};

pub(crate) fn run() -> Result<(), Failure> {
    step("format", &mut cargo(["fmt", "--all", "--check"]))?;
    step("format of the fuzz targets", cargo(["fmt", "--check"]).current_dir(root().join("tests/fuzz")))?;
    let metadata = Metadata::read()?;
    findings("layering", Ok(layering::check(&metadata)))?;
    findings("layers as documented", layering::check_documented())?;
    findings("what is shipped", Ok(layering::check_shipped(&metadata)))?;
    findings("licences", licences::check(&metadata))?;
    findings("sources", sources::check())?;
    findings("circles of files", circles::check())?;
    findings("conformance", conformance::check())?;
    findings("names of fuzz inputs", fuzz::corpus::nameless())?;
    findings("configuration", documented::check())?;
    step("clippy", &mut cargo(["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]))?;
    fuzz::check()?;
    let mut docs = cargo(["doc", "--workspace", "--no-deps", "--document-private-items", "--lib"]);
    // The documentation is for those who work here, so it contains private items and may link to them.
    docs.env("RUSTDOCFLAGS", "-D warnings -A rustdoc::private_intra_doc_links");
    step("documentation", &mut docs)?;
    if is_there("cargo", &["deny", "--version"]) {
        step("deny", &mut cargo(["deny", "check", "licenses", "bans", "sources"]))?;
    } else {
        eprintln!("== deny (not installed; licences were checked above)");
    }
    eprintln!("all checks passed");
    Ok(())
}
