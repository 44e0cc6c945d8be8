//! `status`: how safe the cluster is now. The daemon knows; where none runs, the repository tells what it can.

use std::path::Path;
use std::time::Duration;

use tracing_subscriber::filter::LevelFilter;

use super::daemon::promises;
use crate::archive::{Request, ask_for_line};
use crate::cli::{args::Global, args::Which, context, output, start};
use crate::config::Config;
use crate::daemon::{Host, repository_snapshot};
use crate::error::Result;
use crate::status::{Snapshot, text};
use crate::store::Policy;

/// The daemon asks the server for half a second at most.
const PATIENCE: Duration = Duration::from_secs(5);

pub(super) fn status(global: &Global, which: Which) -> Result<u8> {
    let config = start::configure(global, LevelFilter::WARN)?;
    // The daemon knows one cluster, its own.
    let asked = match which.system_identifier {
        None => ask_daemon(&config),
        Some(_) => Err("not asked: --system-identifier".to_owned()),
    };
    let snapshot = match asked {
        Ok(snapshot) => snapshot,
        Err(why) => ask_repository(&config, which, why)?,
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
    serde_json::from_str(&line).map_err(|_| "it is a different version".to_owned())
}

/// A daemon that served its socket here must go on; on a host with the data directory one could run.
pub(super) fn host(config: &Config, why: String) -> Host {
    let socket = &config.archive.socket;
    let was_here = [socket.clone(), socket.with_extension("lock")].iter().any(|path| path.exists());
    let data_dir = config.data_dir_if_set().is_some_and(Path::exists);
    match (was_here && data_dir, data_dir) {
        (true, _) => Host::DaemonMissing(why),
        (false, true) => Host::WithoutDaemon,
        (false, false) => Host::Elsewhere,
    }
}

fn ask_repository(config: &Config, which: Which, why: String) -> Result<Snapshot> {
    let namespace = config.namespace(Policy::interactive())?;
    let host = host(config, why);
    start::run_large(async {
        let repository = context::open(config, &namespace, which.system_identifier).await?;
        let mut snapshot = repository_snapshot(&repository, promises(config), host).await?;
        snapshot.store.repository.clone_from(&config.repository.url);
        Ok(snapshot)
    })
}
