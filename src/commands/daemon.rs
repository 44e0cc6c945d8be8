//! `daemon`: archive continuously.

use std::os::unix::process::CommandExt;
use std::process::Command;

use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::filter::LevelFilter;

use crate::archiver;
use crate::cli::{args::Global, start};
use crate::config::Config;
use crate::daemon::{self, BackupCommand, Setup};
use crate::error::{Error, Kind, Result};
use crate::status::Promises;
use crate::store::Policy;

/// glibc keeps what was freed, in an arena for each thread: fine for a command that ends, not for a daemon that is busy
/// for a minute and idle for an hour. mallopt(3) knows these by their environment variables, read before `main`.
const FRUGAL: [(&str, &str); 3] =
    [("MALLOC_ARENA_MAX", "2"), ("MALLOC_MMAP_THRESHOLD_", "131072"), ("MALLOC_TRIM_THRESHOLD_", "131072")];

/// Start over in the same process with an allocator that gives memory back, unless the environment
/// already has a setting for it. Continues with the usual one where that does not work.
fn be_frugal() {
    if FRUGAL.iter().any(|(name, _)| std::env::var_os(name).is_some()) {
        return;
    }
    if let Ok(program) = start::own_program() {
        // Returns only when it failed.
        let _ = Command::new(program).args(std::env::args_os().skip(1)).envs(FRUGAL).exec();
    }
}

pub(super) fn daemon(global: &Global) -> Result<u8> {
    be_frugal();
    let config = start::configure(global, LevelFilter::INFO)?;
    config.repository.refuse_root()?;
    let setup = setup(&config)?;
    if let Some(follower) = config.key_follower()? {
        let ring = setup.archiver.namespace.keys().clone();
        // It sleeps most of the time, and ends with the process.
        std::thread::spawn(move || follower.follow(&ring));
    }
    start::run_large(async {
        let shutdown = shutdown()?;
        daemon::run(setup, shutdown).await
    })?;
    Ok(0)
}

/// Ready when SIGTERM or SIGINT comes; from now on neither ends the process by itself.
fn shutdown() -> Result<impl Future<Output = ()>> {
    let listen =
        |kind| signal(kind).map_err(|cause| Error::new(Kind::Other, format!("listen for signals: {cause}")));
    let (mut terminate, mut interrupt) = (listen(SignalKind::terminate())?, listen(SignalKind::interrupt())?);
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

fn setup(config: &Config) -> Result<Setup> {
    let archive = &config.archive;
    Ok(Setup {
        archiver: archiver::Setup {
            namespace: config.namespace(Policy::within(archive.timeout))?,
            data_dir: config.data_dir()?.to_owned(),
            conninfo: config.conninfo()?.to_owned(),
            tail_interval: archive.tail_interval,
            heartbeat_interval: archive.heartbeat_interval,
            concurrency: archive.concurrency,
            archive_timeout: archive.timeout,
        },
        repository: config.repository.url.clone(),
        destination: config.destination(),
        promises: promises(config),
        socket: archive.socket.clone(),
        listen: config.metrics_listen,
        heartbeat_url: config.heartbeat_url.clone(),
        early_backup: config.backup_on_rto_threat.then(|| early_backup(config)).transpose()?,
    })
}

/// This program with its configuration.
fn early_backup(config: &Config) -> Result<BackupCommand> {
    let program = start::own_program();
    let program = program.map_err(|cause| Error::new(Kind::Other, format!("find this program: {cause}")))?;
    Ok(BackupCommand { program, config: config.path.clone() })
}

/// What the configuration promises.
pub(super) const fn promises(config: &Config) -> Promises {
    Promises {
        rpo_objective: config.rpo_objective,
        rto_objective: config.rto_objective,
        retention_window: config.retention_window,
        drill_every: config.drill.every,
    }
}
