//! Real daemons as processes, over shared memory, with agents and callers that are scripts.
#![allow(missing_docs)]

mod agent;
mod client;
#[path = "../../../tests/common/eventually.rs"]
mod eventually;
mod scenarios;
mod world;

use std::ffi::OsString;
use std::panic::catch_unwind;
use std::time::Instant;

use ring::Kind;

/// As its first argument, this makes the suite a daemon.
pub(crate) const DAEMON: &str = "be-a-daemon";

fn main() {
    let mut args: Vec<OsString> = std::env::args_os().skip(1).collect();
    if args.first().is_some_and(|first| first == DAEMON) {
        tracing_subscriber::fmt()
            .with_writer(std::io::stderr)
            .with_ansi(false)
            .with_max_level(tracing_subscriber::filter::LevelFilter::DEBUG)
            .without_time()
            .init();
        args[0] = "qrexec-daemon".into();
        std::process::exit(daemon::main(args));
    }
    let filters: Vec<String> = args.into_iter().filter_map(|arg| arg.into_string().ok()).collect();
    if filters.iter().any(|filter| filter == "--list") {
        scenarios::ALL.iter().for_each(|(name, _)| println!("{name}: test"));
        return;
    }
    let filters: Vec<&String> = filters.iter().filter(|filter| !filter.starts_with('-')).collect();
    let wanted = |name: &str| filters.is_empty() || filters.iter().any(|filter| name.contains(*filter));
    let names = scenarios::ALL.iter().filter(|(name, _)| wanted(name));
    let on_shm = names.clone().map(|(name, run)| (Kind::Shm, *name, *run));
    // Start-up and local clients are no matter of the transport.
    let both = |name: &str| name.starts_with("agents::") || name.starts_with("calls::");
    let on_socket = names.filter(|(name, _)| both(name)).map(|(name, run)| (Kind::Socket, *name, *run));
    let failed = on_shm.chain(on_socket).filter(|(kind, name, run)| {
        world::KIND.set(*kind);
        let begun = Instant::now();
        let ok = catch_unwind(run).is_ok();
        let time = begun.elapsed().as_secs_f64();
        println!("{name} on {kind:?} … {} ({time:.2} s)", if ok { "ok" } else { "FAILED" });
        !ok
    });
    if failed.count() > 0 {
        std::process::exit(1);
    }
}
