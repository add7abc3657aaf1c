//! Services that the call's own process performs: no program is started for them.

use std::time::Instant;

use engine::direct::DirectService;
use engine::exec::{Builtin, Prepared, StderrLog};
use engine::meter::Meter;
use engine::pump::{EXIT_LOST, NoStreams, Outcome, StderrCopy};
use filecopy::service::{Request, receive_files};
use ring::Channel;
use wire::command::CommandKind;
use wire::version::Version;

use crate::ground::{self, Ground};
use crate::job::Task;

/// The service that is built in here, if there is one.
pub(crate) fn of(prepared: &Prepared) -> Option<Builtin> {
    match prepared {
        Prepared::Executable(executable) => executable.builtin,
        _ => None,
    }
}

/// Serves the call. Returns the process's exit status.
pub(crate) fn run(
    ground: Ground<'_>,
    (channel, version): (Channel, Version),
    (Builtin::Filecopy, task): (Builtin, &Task),
    (label, port): (&str, u32),
    meter: Option<Meter>,
) -> i32 {
    let since = Instant::now();
    let account = match ground.services.users.account(task.user.as_deref()) {
        Ok(account) => account,
        Err(error) => {
            let code = ground::failed(label, &error);
            return ground.report(channel, version, code, NoStreams::FailedInVm);
        }
    };
    let CommandKind::Service(called) = &task.kind else { return EXIT_LOST };
    let log = StderrLog::new(called, ground.services.installation);
    let log = StderrCopy::to(log.open());
    let mut service = DirectService::new(channel, version, Some(log)).metered(meter);
    let request = Request {
        source: called.source.as_str(),
        argument: called.service.argument(),
        account: account.as_ref(),
        existing: task.config.existing,
        confinement: ground.confinement,
    };
    let code = receive_files(&mut service, &request);
    let outcome: Outcome = service.finish(code);
    ground::ended(&outcome, label, port, since)
}
