//! One archiver serves one repository: it finds the cluster and the repository, however long that
//! takes, and archives until it is dropped.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::task::{JoinError, JoinSet};
use tokio::time::{sleep, timeout};

use super::handle::LedgerHandle;
use super::pusher::Pusher;
use super::sampler::{self, Asks, Canaries, ServerHandle};
use super::setup::Setup;
use super::{survey, tail, watch};
use crate::archive::PgWal;
use crate::cluster::DataDir;
use crate::error::{Error, Kind, Result};
use crate::ledger::{Event, Now, Obstacle, Stage};
use crate::postgres::ControlFile;
use crate::repository::{Namespace, Repository};

/// Between two tries to find the data directory or the repository.
const AGAIN: Duration = Duration::from_secs(2);
/// Between two looks whether the cluster is still the same.
const LOOK: Duration = Duration::from_secs(5);
/// Between two questions whether the repository is; every push asks, too.
const ASK: Duration = Duration::from_secs(30);
/// What is flushed when the archiver is told to stop is shipped, if that takes no longer.
const GOODBYE: Duration = Duration::from_secs(5);
/// How long a caller that shows what is known waits for a fresh flush LSN from the server.
const FRESH: Duration = Duration::from_millis(500);

/// Archives one cluster into one repository.
#[derive(Debug)]
pub struct Archiver {
    setup: Arc<Setup>,
    ledger: LedgerHandle,
    server: ServerHandle,
    pusher: Mutex<Option<Arc<Pusher>>>,
    /// Whose canaries the sampler writes, once it is found.
    canaries: Canaries,
}

impl Archiver {
    /// An archiver, and its work: a future that ends only when a task did, which none does unless it panicked.
    pub fn new(setup: Setup) -> (Arc<Self>, impl Future<Output = Error>) {
        let (server, asks) = ServerHandle::new();
        let ledger = LedgerHandle::new(Now::read());
        let archiver = Arc::new(Self {
            setup: Arc::new(setup),
            ledger,
            server,
            pusher: Mutex::default(),
            canaries: Canaries::default(),
        });
        let work = Arc::clone(&archiver).run(asks);
        (archiver, work)
    }

    /// What is known.
    pub const fn ledger(&self) -> &LedgerHandle {
        &self.ledger
    }

    /// The same after asking the server how far WAL is flushed; the store is not asked.
    pub async fn fresh_ledger(&self) -> &LedgerHandle {
        self.server.fresh(FRESH).await;
        &self.ledger
    }

    /// What pushes files, once cluster and repository are found.
    pub fn pusher(&self) -> Option<Arc<Pusher>> {
        self.pusher.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Ship what is flushed now, before the end.
    pub async fn finish(&self) {
        let Some(pusher) = self.pusher().filter(|_| !self.setup.tail_interval.is_zero()) else { return };
        let last = tail::run_once(self.ledger.clone(), self.server.clone(), &pusher);
        let _ = timeout(GOODBYE, last).await;
    }

    async fn run(self: Arc<Self>, asks: Asks) -> Error {
        let mut sampler = JoinSet::new();
        sampler.spawn(sampler::run(
            Arc::clone(&self.setup),
            self.ledger.clone(),
            asks,
            self.canaries.clone(),
        ));
        loop {
            let what = tokio::select! {
                what = self.archive() => what,
                ended = sampler.join_next() => return task_ended(ended.as_ref()),
            };
            match what {
                Ok(what) => tracing::warn!("{what}: starting over with it"),
                Err(error) => return error,
            }
        }
    }

    /// Archive until the cluster or its repository is another one: which.
    async fn archive(&self) -> Result<&'static str> {
        let pusher = self.find().await;
        *self.pusher.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&pusher));
        let mut tasks = JoinSet::new();
        let ledger = || self.ledger.clone();
        tasks.spawn(Arc::clone(&pusher).run());
        tasks.spawn(watch::run(ledger(), Arc::clone(&pusher)));
        let interval = self.setup.tail_interval;
        tasks.spawn(tail::run(interval, ledger(), self.server.clone(), Arc::clone(&pusher)));
        tasks.spawn(survey::run(ledger(), Arc::clone(&pusher)));
        let what = tokio::select! {
            ended = tasks.join_next() => return Err(task_ended(ended.as_ref())),
            what = self.replaced(&pusher) => what,
        };
        pusher.retire();
        *self.pusher.lock().unwrap_or_else(PoisonError::into_inner) = None;
        tasks.shutdown().await;
        self.ledger.apply(Event::BeganAnew, Now::read());
        Ok(what)
    }

    /// Wait until the cluster at this path or the repository at that place is another one than we archive from and to.
    async fn replaced(&self, pusher: &Pusher) -> &'static str {
        let mut asked = Instant::now();
        loop {
            sleep(LOOK).await;
            let ours = pusher.system_identifier();
            if find_cluster(&self.setup.data_dir).is_ok_and(|(_, found)| found.system_identifier != ours) {
                return "the cluster was recreated";
            }
            if asked.elapsed() >= ASK {
                asked = Instant::now();
                // What cannot be read shows when something is to be stored there.
                if let Ok(Some(_)) = pusher.repository.replaced_by().await {
                    return "the repository was recreated";
                }
            }
        }
    }

    /// Find the cluster and its repository, however long that takes.
    async fn find(&self) -> Arc<Pusher> {
        let data_dir = &self.setup.data_dir;
        let (data_dir, control) =
            self.until_found(Stage::DataDirectory, || std::future::ready(find_cluster(data_dir))).await;
        let system_identifier = control.system_identifier;
        self.ledger.apply(Event::ClusterFound { system_identifier }, Now::read());
        let namespace = self.setup.namespace.observed(Arc::new(self.ledger.clone()));
        let ours = control.clone();
        let find = move || find_repository(namespace.clone(), ours.clone());
        let repository = self.until_found(Stage::Repository, find).await;
        self.canaries.are_of(repository.identity());
        let pg_wal = PgWal::of(&data_dir);
        let setup = Arc::clone(&self.setup);
        Arc::new(Pusher::new(repository, control, pg_wal, setup, self.ledger.clone()))
    }

    /// Try until it works; what stands in the way is shown meanwhile, and logged when it changes.
    async fn until_found<T, F>(&self, stage: Stage, find: impl Fn() -> F) -> T
    where
        F: Future<Output = Result<T>>,
    {
        let mut said = String::new();
        loop {
            match find().await {
                Ok(found) => {
                    self.ledger.apply(Event::Unobstructed, Now::read());
                    return found;
                }
                Err(error) => {
                    if said != error.to_string() {
                        said = error.to_string();
                        tracing::warn!(%error, hint = error.hint_text(), "waiting");
                    }
                    self.ledger.apply(Event::Obstructed(Obstacle { stage, error }), Now::read());
                }
            }
            sleep(AGAIN).await;
        }
    }
}

fn task_ended(ended: Option<&Result<(), JoinError>>) -> Error {
    Error::new(Kind::Other, format!("a task of the archiver ended: {ended:?}"))
}

fn find_cluster(path: &std::path::Path) -> Result<(DataDir, ControlFile)> {
    let data_dir = DataDir::open(path)?;
    let control = data_dir.control()?;
    Ok((data_dir, control))
}

async fn find_repository(namespace: Namespace, control: ControlFile) -> Result<Repository> {
    let repository =
        namespace.open(control.system_identifier).await.map_err(Error::absence_proves_nothing)?;
    repository.check_segment_size(&control)?;
    Ok(repository)
}
