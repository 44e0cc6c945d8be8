//! `status`: how safe the cluster is now. The daemon knows; where none runs, the repository tells what it can.

use std::time::Duration;

use tracing_subscriber::filter::LevelFilter;

use super::args::Global;
use super::{output, start, wal};
use crate::archive::{Request, ask_for_line};
use crate::config::Config;
use crate::daemon::{Promises, Snapshot, repository_snapshot, text};
use crate::error::Result;
use crate::store::Policy;

/// The daemon asks the server for half a second at most.
const PATIENCE: Duration = Duration::from_secs(5);

pub(super) fn status(global: &Global) -> Result<u8> {
    let config = start::configure(global, LevelFilter::WARN)?;
    let snapshot = match ask_daemon(&config) {
        Ok(snapshot) => snapshot,
        Err(why) => ask_repository(&config, &why)?,
    };
    if global.json {
        output::json(&text::json(&snapshot))?;
    } else {
        output::line(text::render(&snapshot).trim_end())?;
    }
    Ok(u8::from(!snapshot.is_healthy()))
}

fn ask_daemon(config: &Config) -> Result<Snapshot, String> {
    let line = ask_for_line(&config.archive.socket, &Request::Status, PATIENCE)?;
    serde_json::from_str(&line).map_err(|_| "it is of another version".to_owned())
}

fn ask_repository(config: &Config, why: &str) -> Result<Snapshot> {
    let namespace = config.namespace(Policy::within(Duration::from_secs(30)))?;
    let promises = Promises {
        rpo: config.rpo_objective,
        rto: config.rto_objective,
        retention_window: config.retention_window,
    };
    start::run_large(async {
        let repository = wal::open(config, &namespace).await?;
        let mut snapshot =
            repository_snapshot(&repository, promises, config.data_dir_if_set().is_some(), why).await?;
        snapshot.repository.clone_from(&config.repository.url);
        Ok(snapshot)
    })
}
