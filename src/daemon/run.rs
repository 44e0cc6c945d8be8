//! The daemon's life: claim the socket, serve what is known, archive until told to stop.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::{JoinError, JoinSet};
use tokio::time::sleep;

use super::snapshot::{Desk, Place};
use super::socket::Socket;
use super::{http, ping, watchdog};
use crate::archive::Destination;
use crate::archiver::{self, Archiver, Outage};
use crate::error::{Error, Kind, Result};
use crate::status::Promises;

/// Between two pings of `notify.heartbeat_url`.
const PING: Duration = Duration::from_secs(30);
/// While there is nothing to ping for, look again after this long.
const UNWELL: Duration = Duration::from_secs(2);

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
}

/// Run until `shutdown` is ready.
pub async fn run(setup: Setup, shutdown: impl Future<Output = ()>) -> Result<()> {
    let socket = Socket::claim(&setup.socket)?;
    let listener = http::bind(setup.listen).await?;
    let cluster = setup.archiver.namespace.cluster().to_string();
    let (archiver, work) = Archiver::new(setup.archiver);
    let place = Place { cluster, repository: setup.repository, destination: setup.destination };
    let desk = Arc::new(Desk::new(Arc::clone(&archiver), place, setup.promises));
    tracing::info!(listen = %setup.listen, socket = %setup.socket.display(), "daemon started");

    let mut tasks = JoinSet::new();
    tasks.spawn(http::serve(listener, Arc::clone(&desk)));
    tasks.spawn(watchdog::run(Arc::clone(&desk)));
    if let Some(url) = setup.heartbeat_url {
        tasks.spawn(ping_while_well(Arc::clone(&desk), url));
    }
    tokio::select! {
        () = socket.serve(desk) => {}
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

/// Tell somebody else that all is well, while it is.
async fn ping_while_well(desk: Arc<Desk>, url: url::Url) {
    let client = loop {
        match ping::client() {
            Ok(client) => break client,
            Err(error) => tracing::error!(%error, "cannot ping notify.heartbeat_url"),
        }
        sleep(PING).await;
    };
    let mut outage = Outage::new("notify.heartbeat_url cannot be pinged");
    loop {
        if !desk.fresh_snapshot().await.is_healthy() {
            sleep(UNWELL).await;
            continue;
        }
        match ping::ping(&client, &url).await {
            Ok(()) => outage.succeeded(Instant::now()),
            Err(error) => outage.failed(Instant::now(), &error),
        }
        sleep(PING).await;
    }
}
