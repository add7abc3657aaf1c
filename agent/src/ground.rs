//! What the processes of all calls have in common, and how each reports its end.

use std::time::Instant;

use engine::call as steps;
use engine::confine::Confinement;
use engine::exec::{ExecError, Services};
use engine::pump::{EXIT_LOST, NoStreams, Outcome};
use engine::step;
use ring::{Channel, Transport};
use wire::stream::Role;
use wire::version::Version;

/// What the processes of all calls have in common.
#[derive(Clone, Copy)]
pub(crate) struct Ground<'a> {
    pub(crate) transport: &'a Transport,
    pub(crate) services: &'a Services,
    pub(crate) confinement: Confinement,
}

pub(crate) fn failed(label: &str, error: &ExecError) -> i32 {
    let code = error.code();
    tracing::error!("{label}: exit code {code}: {error}");
    code
}

impl Ground<'_> {
    pub(crate) fn report(self, channel: Channel, version: Version, code: i32, why: NoStreams) -> i32 {
        match steps::report(channel, version, code, why, self.confinement) {
            Ok(()) => code,
            Err(error) => {
                tracing::warn!("the caller did not hear exit code {code}: {error}");
                EXIT_LOST
            }
        }
    }
}

/// Logs how a call ended. Returns the exit status of its process.
pub(crate) fn ended(outcome: &Outcome, label: &str, port: u32, since: Instant) -> i32 {
    step::reached("pump: ends");
    let exit = outcome.exit(Role::Service);
    if let Some(trouble) = &exit.trouble {
        tracing::warn!("{label}: {trouble}");
    }
    let status = exit.status;
    let (in_, out, time) = (outcome.bytes_in, outcome.bytes_out, since.elapsed().as_secs_f64());
    tracing::info!("{label}: exit code {status}, {in_} bytes in, {out} bytes out, {time:.3} s, port {port}");
    status
}
