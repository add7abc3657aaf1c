//! Transfers whose end at the caller is a file.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::process::Stdio;

use engine::step::now;

use super::super::process::Running;
use super::super::report::Span;
use super::super::roles::{Load, Role};
use super::super::stage::Stage;
use super::{Moved, go, new_pipe, reports_of};
use cli::failure::Failure;

/// From a file to the service. The time begins with the first byte at the service: the client begins when it likes.
pub(super) fn send(stage: &Stage, buffer: Option<u64>, load: Load) -> Result<Moved, Failure> {
    let path = stage.folder().join("to-send");
    fill(&path, load).map_err(Failure::during("a file to send"))?;
    let file = File::open(&path).map_err(Failure::during("a file to send"))?;
    let mut command = stage.call_role(buffer, Role::Sink(load))?;
    command.stdin(file).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut client = Running::start(&mut command, "qrexec-client-vm")?;
    let mut remote = reports_of(&mut client)?;
    remote.ready()?;
    let arrived = remote.sink()?;
    let mut moved = Moved::new(&[arrived], &[arrived], load.bytes)?;
    moved.said.0 = remote.rest();
    client.finish()?;
    Ok(moved)
}

/// From the service to a file. The time ends when the client has ended: only then all is written.
pub(super) fn receive(stage: &Stage, buffer: Option<u64>, load: Load) -> Result<Moved, Failure> {
    let path = stage.folder().join("received");
    let file = File::create(&path).map_err(Failure::during("a file to receive"))?;
    let (start, starter) = new_pipe()?;
    let mut command = stage.call_role(buffer, Role::Source(load))?;
    command.stdin(start).stdout(file).stderr(Stdio::piped());
    let mut client = Running::start(&mut command, "qrexec-client-vm")?;
    let mut remote = reports_of(&mut client)?;
    remote.ready()?;
    go(&starter)?;
    let sent = remote.source()?;
    drop(starter);
    let said = remote.rest();
    client.finish()?;
    let end = now();
    let bytes = check(stage, &path, load)?;
    let mut moved = Moved::new(&[sent], &[Span { start: sent.start, end, bytes }], load.bytes)?;
    moved.said.0 = said;
    Ok(moved)
}

/// Makes the file unless it is there already.
fn fill(path: &Path, load: Load) -> std::io::Result<()> {
    let Load { bytes, .. } = load;
    let checked = path.with_extension(if load.checked { "checked" } else { "plain" });
    // One file for both kinds of load, whose blocks differ; the marker says which one it is for.
    if checked.exists() && fs::metadata(path).is_ok_and(|meta| meta.len() == bytes) {
        return Ok(());
    }
    for extension in ["checked", "plain"] {
        let _ = fs::remove_file(path.with_extension(extension));
    }
    load.write_to(&mut File::create(path)?)?;
    File::create(checked)?.flush()
}

/// How many bytes the file has; with a checked load, each of them is looked at.
fn check(stage: &Stage, path: &Path, load: Load) -> Result<u64, Failure> {
    let file = File::open(path).map_err(Failure::during("the file received"))?;
    let length = file.metadata().map_err(Failure::during("the file received"))?.len();
    if load.checked {
        let mut command = stage.role(Role::Sink(load))?;
        command.stdin(file).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut sink = Running::start(&mut command, "a local role")?;
        reports_of(&mut sink)?.sink()?;
        sink.finish()?;
    }
    Ok(length)
}
