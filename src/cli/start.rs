//! What happens before a command: no core dumps, logs, the configuration.

use std::time::Duration;

use tracing_subscriber::filter::LevelFilter;

use super::args::Global;
use crate::config::Config;
use crate::error::{Error, Kind, Result};

/// Keys are in memory: no core dump may hold them, no process of the same user may read them (R24).
pub(super) fn forbid_core_dumps() {
    use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};
    // Neither can fail for a reason that the operator could act on.
    let _ = set_dumpable_behavior(DumpableBehavior::NotDumpable);
    let _ = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) });
}

/// Log to stderr.
pub(super) fn log(global: &Global, json: bool, usual: LevelFilter) {
    let level = match (global.quiet, global.verbose) {
        (true, _) => LevelFilter::ERROR,
        (false, 0) => usual,
        (false, 1) => usual.max(LevelFilter::DEBUG),
        (false, _) => LevelFilter::TRACE,
    };
    // Dependencies speak up only when asked twice.
    let others = if global.verbose > 1 { LevelFilter::DEBUG } else { LevelFilter::WARN };
    let filter = tracing_subscriber::filter::EnvFilter::default()
        .add_directive(others.into())
        .add_directive(format!("walproof={level}").parse().unwrap_or_else(|_| level.into()));
    let builder =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(false);
    // A second initialisation happens in tests only.
    let _ = if json {
        builder.json().flatten_event(true).try_init()
    } else {
        builder.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr())).try_init()
    };
}

/// Read the configuration, then log as it says.
pub(super) fn configure(global: &Global, usual: LevelFilter) -> Result<Config> {
    let config = Config::load(&global.config)?;
    log(global, config.log_json, usual);
    Ok(config)
}

/// Run a command that does one thing: one thread for the network, further ones where a room asks for them.
pub(super) fn run_small<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
    let result = runtime.block_on(work);
    // A request that hangs in a thread of its own must not keep the process.
    runtime.shutdown_timeout(Duration::ZERO);
    result
}

/// Run a command that moves much.
pub(super) fn run_large<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().map_err(failed)?;
    let result = runtime.block_on(work);
    runtime.shutdown_timeout(Duration::from_secs(1));
    result
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn failed(cause: std::io::Error) -> Error {
    Error::new(Kind::Other, format!("start: {cause}"))
}
