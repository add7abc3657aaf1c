//! The program `qrexec-lab`, and the processes that it starts for itself.

use std::ffi::OsString;
use std::path::Path;

use engine::say;

use super::{args, commands, keeper, relay, role, supervisor};

/// The program: `args` begins with its name. Returns the exit code: the command's, 125 for trouble of the lab itself, 2
/// for a command line that makes no sense.
pub fn main(args: impl IntoIterator<Item = OsString>) -> i32 {
    let args: Vec<OsString> = args.into_iter().collect();
    if let [_, role, root] = args.as_slice() {
        match role.to_str() {
            Some(role::KEEPER) => return keeper::main(Path::new(root)),
            Some(role::NAMESPACE) => return keeper::enter_namespace(Path::new(root)),
            Some(role::SUPERVISOR) => return supervisor::main(Path::new(root)),
            _ => {}
        }
    }
    if let [_, role, root, vm] = args.as_slice()
        && let (Some(role::WINDOWS), Some(vm)) = (role.to_str(), vm.to_str())
    {
        return relay::main(Path::new(root), vm);
    }
    let action = match args::read(args) {
        Ok(action) => action,
        Err(status) => return status,
    };
    commands::act(action).unwrap_or_else(|error| {
        say::error(format_args!("qrexec-lab: {error}"));
        125
    })
}
