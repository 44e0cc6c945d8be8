//! `daemon`: archive continuously.

use tracing_subscriber::filter::LevelFilter;

use super::args::Global;
use super::start;
use crate::config::Config;
use crate::daemon::{self, Setup};
use crate::error::Result;
use crate::store::Policy;

pub(super) fn daemon(global: &Global) -> Result<u8> {
    let config = start::configure(global, LevelFilter::INFO)?;
    let setup = setup(&config)?;
    start::run_large(daemon::run(setup))?;
    Ok(0)
}

fn setup(config: &Config) -> Result<Setup> {
    let archive = &config.archive;
    Ok(Setup {
        namespace: config.namespace(Policy::within(archive.timeout))?,
        repository: config.repository.url.clone(),
        data_dir: config.data_dir()?.to_owned(),
        conninfo: config.conninfo()?.to_owned(),
        tail_interval: archive.tail_interval,
        heartbeat_interval: archive.heartbeat_interval,
        concurrency: archive.concurrency,
        archive_timeout: archive.timeout,
        socket: archive.socket.clone(),
        listen: config.metrics_listen,
        heartbeat_url: config.heartbeat_url.clone(),
        rpo_objective: config.rpo_objective,
        rto_objective: config.rto_objective,
        retention_window: config.retention_window,
    })
}
