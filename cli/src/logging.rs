//! Log lines on stderr.

use tracing_subscriber::EnvFilter;

/// Names the environment variable that chooses what is logged, in `tracing`'s own syntax.
pub const VARIABLE: &str = "QREXEC_LOG";

/// Lets log lines go to stderr: from daemons what happens, from what people type only what went wrong.
/// Called twice, the first call holds.
pub fn init(program: &str) {
    let default = match program {
        "qrexec-agent"
        | "qrexec-daemon"
        | "qrexec-fork-server"
        | "qrexec-policy-agent"
        | "qrexec-policy-daemon" => "info",
        _ => "warn",
    };
    let filter = EnvFilter::try_from_env(VARIABLE).unwrap_or_else(|_| EnvFilter::new(default));
    // A log that is read by a person or goes to a journal has a clock of its own.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .with_target(false)
        .without_time()
        .try_init();
}
