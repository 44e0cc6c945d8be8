//! The daemon's life: claim the socket, serve what is known, archive until told to stop.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::task::{JoinError, JoinSet};

use super::early_backup::BackupCommand;
use super::snapshot::{Desk, Place};
use super::socket::Socket;
use super::{http, journal, ping, watchdog};
use crate::archive::Destination;
use crate::archiver::{self, Archiver};
use crate::error::{Error, Kind, Result};
use crate::status::Promises;

/// What the daemon is to do, from the configuration.
#[derive(Debug)]
pub struct Setup {
    /// The cluster and its repository.
    pub archiver: archiver::Setup,
    /// `repository.url`.
    pub repository: String,
    /// The repository that the configuration means.
    pub destination: Destination,
    /// What was promised.
    pub promises: Promises,
    /// Where `wal-push` asks.
    pub socket: PathBuf,
    /// Where metrics, health and the status page are.
    pub listen: SocketAddr,
    /// Pinged while healthy.
    pub heartbeat_url: Option<url::Url>,
    /// Takes a backup ahead of the timer; `None`: that is left to the timer.
    pub early_backup: Option<BackupCommand>,
}

/// Run until `shutdown` is ready.
pub async fn run(setup: Setup, shutdown: impl Future<Output = ()>) -> Result<()> {
    let socket = Socket::claim(&setup.socket)?;
    let listener = http::bind(setup.listen).await?;
    let cluster = setup.archiver.namespace.cluster().to_string();
    let pg_wal = setup.archiver.data_dir.join("pg_wal");
    let (archiver, work) = Archiver::new(setup.archiver);
    let place = Place { cluster, repository: setup.repository, destination: setup.destination, pg_wal };
    let desk = Arc::new(Desk::new(Arc::clone(&archiver), place, setup.promises));
    tracing::info!(listen = %setup.listen, socket = %setup.socket.display(), "daemon started");

    let mut tasks = JoinSet::new();
    // A task, too: here each call would wake a second thread, and that one a third.
    tasks.spawn(socket.serve(Arc::clone(&desk)));
    tasks.spawn(http::serve(listener, Arc::clone(&desk)));
    tasks.spawn(watchdog::run(Arc::clone(&desk)));
    tasks.spawn(journal::run(Arc::clone(&desk)));
    tasks.spawn(desk.drills_handle().clone().run(Arc::clone(&archiver)));
    tasks.spawn(desk.verifications_handle().clone().run(Arc::clone(&archiver)));
    if let Some(command) = setup.early_backup {
        let (handle, desk) = (desk.early_handle().clone(), Arc::clone(&desk));
        tasks.spawn(handle.run(move || desk.snapshot(), command));
    }
    if let Some(url) = setup.heartbeat_url {
        tasks.spawn(ping::run(Arc::clone(&desk), url));
    }
    tokio::select! {
        error = work => return Err(error),
        () = shutdown => {}
        // None of them ends unless it panicked.
        ended = tasks.join_next() => return Err(task_ended(ended.as_ref())),
    }
    watchdog::stopping();
    archiver.finish().await;
    tasks.abort_all();
    tracing::info!("daemon stopped");
    Ok(())
}

fn task_ended(ended: Option<&Result<(), JoinError>>) -> Error {
    Error::new(Kind::Other, format!("a task of the daemon ended: {ended:?}"))
}
