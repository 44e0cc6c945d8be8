//! The daemon's life: claim the socket, serve what is known, find the cluster and the repository, archive until told
//! to stop.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::counters::{Counters, StoreWatch};
use super::outage::Outage;
use super::pusher::Pusher;
use super::server::{self, ServerHandle};
use super::shared::{Setup, Shared};
use super::socket::Socket;
use super::{http, notify, survey, tail, watch, watchdog};
use crate::archive::PgWal;
use crate::cluster::DataDir;
use crate::error::{Error, Kind, Result};
use crate::postgres::ControlFile;
use crate::repository::{Namespace, Repository};

/// Between two tries to find the data directory or the repository.
const AGAIN: Duration = Duration::from_secs(2);
/// Between two pings of `notify.heartbeat_url`.
const PING: Duration = Duration::from_secs(30);
/// While there is nothing to ping for, look again after this long.
const UNWELL: Duration = Duration::from_secs(2);
/// What is flushed when the daemon is told to stop is shipped, if that takes no longer.
const GOODBYE: Duration = Duration::from_secs(5);

/// Run until SIGTERM or SIGINT.
pub async fn run(setup: Setup) -> Result<()> {
    let socket = Socket::claim(&setup.socket)?;
    let listener = http::bind(setup.listen).await?;
    let counters = Arc::new(Counters::default());
    let store = Arc::new(StoreWatch::new(Arc::clone(&counters)));
    let (handle, asks) = ServerHandle::new();
    let shared = Arc::new(Shared::new(setup, counters, store, handle));
    let mut stop = (listen_for(SignalKind::terminate())?, listen_for(SignalKind::interrupt())?);
    tracing::info!(listen = %shared.setup.listen, socket = %shared.setup.socket.display(), "daemon started");

    let mut tasks = JoinSet::new();
    let answers: Arc<dyn http::Answers> = Arc::clone(&shared) as Arc<dyn http::Answers>;
    tasks.spawn(http::serve(listener, answers));
    tasks.spawn(server::run(Arc::clone(&shared), asks));
    tasks.spawn(watchdog::run(Arc::clone(&shared)));
    tasks.spawn(ping(Arc::clone(&shared)));
    let serving = socket.serve(Arc::clone(&shared));
    tokio::select! {
        () = serving => {}
        error = archive(Arc::clone(&shared)) => return Err(error),
        _ = stop.0.recv() => {}
        _ = stop.1.recv() => {}
        // None of them ends unless it panicked.
        ended = tasks.join_next() => {
            return Err(task_ended(ended.as_ref()));
        }
    }
    watchdog::stopping();
    if let Some(pusher) = shared.pusher() {
        let _ = timeout(GOODBYE, tail::run_once(Arc::clone(&shared), pusher)).await;
    }
    tasks.abort_all();
    tracing::info!("daemon stopped");
    Ok(())
}

fn listen_for(kind: SignalKind) -> Result<tokio::signal::unix::Signal> {
    signal(kind).map_err(|cause| Error::new(Kind::Other, format!("listen for signals: {cause}")))
}

/// Find the cluster and its repository, however long that takes, then archive.
async fn archive(shared: Arc<Shared>) -> Error {
    let (data_dir, control) = until_found(&shared, || std::future::ready(find_cluster(&shared))).await;
    shared.set_system_identifier(control.system_identifier);
    let namespace =
        shared.setup.namespace.observed(Arc::clone(&shared.store) as Arc<dyn crate::store::Observe>);
    let ours = control.clone();
    let repository = until_found(&shared, move || find_repository(namespace.clone(), ours.clone())).await;
    let pusher = Arc::new(Pusher::new(repository, control, PgWal::of(&data_dir)));
    shared.set_pusher(Arc::clone(&pusher));
    let mut tasks = JoinSet::new();
    tasks.spawn(Arc::clone(&pusher).run(Arc::clone(&shared), shared.setup.concurrency));
    tasks.spawn(watch::run(Arc::clone(&shared), Arc::clone(&pusher)));
    tasks.spawn(tail::run(Arc::clone(&shared), Arc::clone(&pusher)));
    tokio::select! {
        () = survey::run(Arc::clone(&shared), pusher) => task_ended(None),
        ended = tasks.join_next() => task_ended(ended.as_ref()),
    }
}

fn task_ended(ended: Option<&Result<(), tokio::task::JoinError>>) -> Error {
    Error::new(Kind::Other, format!("a task of the daemon ended: {ended:?}"))
}

/// Try until it works; what stands in the way is shown meanwhile, and logged when it changes.
async fn until_found<T, F>(shared: &Shared, find: impl Fn() -> F) -> T
where
    F: Future<Output = Result<T>>,
{
    let mut said = String::new();
    loop {
        match find().await {
            Ok(found) => {
                shared.set_obstacle(None);
                return found;
            }
            Err(error) => {
                if said != error.to_string() {
                    said = error.to_string();
                    tracing::warn!(%error, hint = error.hint_text(), "waiting");
                }
                shared.set_obstacle(Some(&error));
            }
        }
        sleep(AGAIN).await;
    }
}

fn find_cluster(shared: &Shared) -> Result<(DataDir, ControlFile)> {
    let data_dir = DataDir::open(&shared.setup.data_dir)?;
    let control = data_dir.control()?;
    Ok((data_dir, control))
}

async fn find_repository(namespace: Namespace, control: ControlFile) -> Result<Repository> {
    let repository =
        namespace.open(control.system_identifier).await.map_err(Error::absence_proves_nothing)?;
    repository.check_segment_size(&control)?;
    Ok(repository)
}

/// Tell somebody else that all is well, while it is.
async fn ping(shared: Arc<Shared>) {
    let Some(url) = &shared.setup.heartbeat_url else { return std::future::pending().await };
    let client = loop {
        match notify::client() {
            Ok(client) => break client,
            Err(error) => tracing::error!(%error, "cannot ping notify.heartbeat_url"),
        }
        sleep(PING).await;
    };
    let mut outage = Outage::new("notify.heartbeat_url cannot be pinged");
    loop {
        if !shared.fresh_snapshot().await.is_healthy() {
            sleep(UNWELL).await;
            continue;
        }
        match notify::ping(&client, url).await {
            Ok(()) => outage.succeeded(Instant::now()),
            Err(error) => outage.failed(Instant::now(), &error),
        }
        sleep(PING).await;
    }
}
