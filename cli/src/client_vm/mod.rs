//! `qrexec-client-vm`: asks for a service in another qube.
//!
//! It is the server of the data link: the agent says on which port the service will be met, this side
//! listens there, and the pump carries the data. With a local program, that program's stdin and stdout
//! are the service's; without one, the caller's own.

use std::ffi::OsString;
use std::io::IsTerminal;
use std::os::fd::AsFd;

use engine::pump::Call;
use engine::{datalink, localfd, say, step};
use ring::Transport;
use wire::stream::Role;

use crate::failure::Failure;
use crate::local_program::{LocalEnd, SavedStreams};
use crate::status;
use crate::stdio::{self, Streams};
use crate::why::Called;

mod args;
mod old;
pub mod own;
mod request;

pub use args::LINE;
use args::{ClientVmArgs, Plan};

const PROGRAM: &str = "qrexec-client-vm";
/// What callers look for on stderr when a call was refused, alone on its line.
const REFUSED: &str = "Request refused";

/// The command line, for manual pages and completions.
pub fn command() -> clap::Command {
    <ClientVmArgs as clap::CommandFactory>::command()
}

/// Runs the program with these arguments, its name first, and gives its exit status.
pub fn main(args: Vec<OsString>) -> i32 {
    step::reached("begins");
    let plan = match ClientVmArgs::read(args).map(ClientVmArgs::plan) {
        Ok(Ok(plan)) => plan,
        Ok(Err(failure)) => return report(&failure),
        Err(status) => return status,
    };
    call(plan).unwrap_or_else(|failure| report(&failure))
}

fn report(failure: &Failure) -> i32 {
    if failure.status != status::REFUSED {
        return failure.report(PROGRAM);
    }
    failure.report(PROGRAM);
    say::error(REFUSED);
    failure.status
}

fn call(plan: Plan) -> Result<i32, Failure> {
    if plan.stdin_is_both {
        stdio::check_stdin_socket()?;
    }
    if let Some(program) = &plan.program {
        program.check()?;
    }
    let socket = match old::place(&plan.agent_socket) {
        old::Place::Socket(socket) => socket,
        old::Place::Fifo(fifo) => match &plan.program {
            Some(program) => return old::become_program(&fifo, &plan.request, program),
            None => return Err(Failure::usage("this qube's agent is of R2: a PROGRAM is needed")),
        },
    };
    let saved = match &plan.program {
        Some(_) => SavedStreams::take().map_err(Failure::during("stdin and stdout"))?,
        None => SavedStreams::default(),
    };
    let transport = Transport::from_env().map_err(Failure::during("no transport"))?;
    step::reached("asks");
    let called = Called::now(&plan.request.target, &plan.request.service);
    let asked = request::ask(&socket, &plan.request, &called)?;
    // Policy decides meanwhile.
    let rings = transport.data_rings(plan.buffer).map_err(Failure::during("making rings"))?;
    let allowed = asked.answer()?;
    step::reached("allowed");

    let (domain, port) = (allowed.endpoint.domain.0, allowed.endpoint.port.0);
    let promise = datalink::Promise::Silent(allowed.agent.as_fd());
    let (channel, version) =
        datalink::serve_while(&transport, domain, port, rings, datalink::WAIT_VM, promise)
            .map_err(Failure::during(format_args!("waiting for the service of domain {domain}")))?;

    let is_text = plan.program.is_none() && plan.usbip.is_none();
    let filter_sink = plan.filter_stdout.unwrap_or_else(|| is_text && std::io::stdout().is_terminal());
    let filter_stderr = plan.filter_stderr.unwrap_or_else(|| std::io::stderr().is_terminal());
    let stderr = localfd::copy_stderr().map_err(Failure::during("stderr"))?;
    let LocalEnd { child, streams, one_socket, .. } = match &plan.program {
        Some(program) => program.start(&saved)?,
        None => Streams::take(plan.stdin_is_both).map_err(Failure::during("stdin and stdout"))?.into(),
    };
    drop(saved);
    if plan.stdin_is_both
        && let Some(socket) = &streams.sink
    {
        localfd::widen_for_urbs(socket);
    }
    let outcome = engine::call::run(
        channel,
        Call {
            sink: streams.sink,
            source: Some(streams.source),
            stderr: Some(stderr),
            child,
            filter_sink,
            filter_stderr,
            prefix: plan.prefix,
            splice: plan.splice,
            one_socket,
            usbip: plan.usbip,
            ..Call::new(Role::Client, version)
        },
        plan.confinement,
    );
    step::reached("ends");
    let status = crate::failure::status_of_call(&outcome);
    allowed.tell_end(&status, &outcome);
    called.ended(&outcome).iter().for_each(|why| say::error(format_args!("{PROGRAM}: {why}")));
    status
}
