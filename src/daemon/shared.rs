//! What all tasks of the daemon share: each says here what it found out, and a snapshot is made of it.

use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use super::counters::{Counters, StoreWatch};
use super::outage::{Outage, StoreOutage, Task};
use super::pusher::Pusher;
use super::server::{Sample, ServerFacts, ServerHandle};
use super::snapshot::Snapshot;
use super::state::{State, Survey};
use super::survey::{LeftBehind, left_behind};
use crate::archive::Pushed;
use crate::cluster::ServerInfo;
use crate::error::{Error, Result};
use crate::postgres::{Lsn, PgTime, SegmentName, WalName};
use crate::repository::Namespace;

/// What the daemon is to do, from the configuration.
#[derive(Debug)]
pub struct Setup {
    /// The cluster's place in the store, with the deadlines of one push.
    pub namespace: Namespace,
    /// `repository.url`.
    pub repository: String,
    /// `cluster.data_dir`.
    pub data_dir: PathBuf,
    /// `cluster.conninfo`.
    pub conninfo: String,
    /// How often the tail goes out; zero turns it off.
    pub tail_interval: Duration,
    /// How often a commit record is written; zero turns it off.
    pub heartbeat_interval: Duration,
    /// Segments pushed at a time.
    pub concurrency: usize,
    /// Time that one push may take.
    pub archive_timeout: Duration,
    /// Where `wal-push` asks.
    pub socket: PathBuf,
    /// Where metrics, health and the status page are.
    pub listen: std::net::SocketAddr,
    /// Pinged while healthy.
    pub heartbeat_url: Option<url::Url>,
    /// What was promised.
    pub rpo_objective: Duration,
    /// What was promised.
    pub rto_objective: Duration,
    /// How far back every instant shall stay restorable.
    pub retention_window: Duration,
}

/// A snapshot asks the server for a fresh flush LSN for so long.
const FRESH: Duration = Duration::from_millis(500);

/// Shared by all tasks.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) setup: Setup,
    pub(super) counters: Arc<Counters>,
    pub(super) server: ServerHandle,
    pub(super) store: Arc<StoreWatch>,
    /// Woken when the repository has to be looked at again.
    pub(super) survey: Notify,
    pusher: OnceLock<Arc<Pusher>>,
    state: Mutex<State>,
    outages: Mutex<Outages>,
}

#[derive(Debug)]
struct Outages {
    server: Outage,
    store: StoreOutage,
}

impl Shared {
    pub(super) fn new(
        setup: Setup,
        counters: Arc<Counters>,
        store: Arc<StoreWatch>,
        server: ServerHandle,
    ) -> Self {
        let state = Mutex::new(State::new(Instant::now(), PgTime::now()));
        let outages =
            Outages { server: Outage::new("the server cannot be asked"), store: StoreOutage::new() };
        Self {
            setup,
            counters,
            server,
            store,
            survey: Notify::new(),
            pusher: OnceLock::new(),
            state,
            outages: Mutex::new(outages),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn outages(&self) -> MutexGuard<'_, Outages> {
        self.outages.lock().unwrap_or_else(PoisonError::into_inner)
    }

    // --- what tasks say

    /// From now on files can be pushed.
    pub(super) fn set_pusher(&self, pusher: Arc<Pusher>) {
        // Cannot fail: it is set once, by the one task that opens the repository.
        let _ = self.pusher.set(pusher);
    }

    pub(super) fn pusher(&self) -> Option<Arc<Pusher>> {
        self.pusher.get().map(Arc::clone)
    }

    /// The data directory is found.
    pub(super) fn set_system_identifier(&self, of_data_dir: u64) {
        self.state().system_identifier = Some(of_data_dir);
    }

    /// What stands in the way of starting, or nothing any more.
    pub(super) fn set_obstacle(&self, error: Option<&Error>) {
        self.state().obstacle = error.cloned();
    }

    /// The server is the configured one.
    pub(super) fn check_server(&self, info: &ServerInfo) -> Result<()> {
        let of_data_dir = self.state().system_identifier;
        match of_data_dir {
            Some(ours) if ours != info.system_identifier => Err(Error::server(format!(
                "the server has system identifier {}, the data directory {ours}",
                info.system_identifier
            ))
            .hint("do cluster.data_dir and cluster.conninfo belong to the same cluster?")),
            _ => Ok(()),
        }
    }

    pub(super) fn server_connected(&self, facts: ServerFacts) {
        self.state().facts = facts;
    }

    pub(super) fn server_said(&self, sample: Sample) {
        self.outages().server.succeeded(Instant::now());
        if self.state().server_said(sample) {
            self.survey.notify_one();
        }
    }

    /// The server cannot be asked; if it does not run, what is on the disk counts as flushed.
    pub(super) fn server_failed(&self, error: &Error) {
        self.outages().server.failed(Instant::now(), error);
        let look = self.state().server_failed(error);
        if look && let Some(pusher) = self.pusher() {
            let begin = Instant::now();
            let last = self.state().last_flushed();
            let found = tokio::task::block_in_place(|| left_behind(&pusher, last));
            if self.state().set_left_behind(found, begin.elapsed()) {
                // A segment may be finished, and the server died before it said so.
                self.survey.notify_one();
            }
        }
    }

    pub(super) fn pushed(&self, pushed: &Pushed, took: Duration) {
        self.store_served(Task::Push);
        let counters = &self.counters;
        if pushed.already_there { &counters.already_there } else { &counters.pushed }.add(1);
        if !pushed.already_there {
            counters.raw_bytes.add(pushed.raw_len);
            counters.stored_bytes.add(pushed.stored_len);
        }
        counters.push_durations.observe(took);
        tracing::debug!(name = %pushed.name, already_there = pushed.already_there, ?took, "archived");
        self.state().pushed(pushed, took);
        if let (WalName::Segment(segment), Some(pusher)) = (pushed.name, self.pusher()) {
            if self.setup.tail_interval.is_zero() {
                return;
            }
            tokio::spawn(async move {
                // The next survey sweeps what this one misses.
                if let Err(error) = super::tail::clean(&pusher.repository, segment).await {
                    tracing::debug!(%error, %segment, "the tail is left over");
                }
            });
        }
    }

    pub(super) fn push_failed(&self, name: &WalName, error: &Error, took: Duration) {
        self.counters.push_failed.add(1);
        if !self.store_failed(Task::Push, error) {
            tracing::error!(%name, %error, hint = error.hint_text(), "cannot archive");
        }
        self.state().push_failed(name, error, took);
    }

    /// Whether the store is to blame; then the log has it.
    pub(super) fn store_failed(&self, task: Task, error: &Error) -> bool {
        self.outages().store.failed(task, Instant::now(), error)
    }

    pub(super) fn store_served(&self, task: Task) {
        self.outages().store.succeeded(task, Instant::now());
    }

    pub(super) fn ready(&self, count: u64, oldest: Option<PgTime>) {
        self.state().ready = (count, oldest);
    }

    pub(super) fn tail_stored(
        &self,
        segment: SegmentName,
        len: u32,
        flushed: Lsn,
        last_time: Option<PgTime>,
    ) {
        self.state().tail_stored(segment, len, flushed, last_time);
    }

    pub(super) fn tail_worked(&self) {
        self.state().tail_error = None;
    }

    pub(super) fn tail_failed(&self, error: &Error) {
        self.state().tail_error = Some(error.to_string());
    }

    pub(super) fn survey_begins(&self) {
        self.state().survey_begins();
    }

    pub(super) fn surveyed(&self, survey: Survey) {
        self.state().surveyed(survey, Instant::now());
    }

    pub(super) fn survey_failed(&self, error: &Error) {
        self.state().survey_error = Some(error.to_string());
    }

    pub(super) fn backup_ended(&self, exists: bool) {
        if exists {
            self.survey.notify_one();
        } else {
            self.state().backup_failed_at = Some(PgTime::now());
        }
    }

    // --- what tasks ask

    /// What the survey needs of the server: the last sample, and how far WAL goes.
    pub(super) fn server_now(&self) -> (Option<Sample>, Option<Lsn>) {
        let state = self.state();
        (state.sample, state.end_of_wal())
    }

    /// What a primary that does not run has left.
    pub(super) fn left_behind(&self) -> Option<LeftBehind> {
        self.state().left_behind()
    }

    /// The snapshot of what is known, without asking anybody.
    pub(super) fn snapshot(&self) -> Snapshot {
        let failures = self.pusher().map(|pusher| pusher.failures()).unwrap_or_default();
        self.state().snapshot(&self.setup, self.store.up(), &failures, Instant::now())
    }

    /// The snapshot after asking the server how far WAL is flushed; nothing here asks the store.
    pub(super) async fn fresh_snapshot(&self) -> Snapshot {
        self.server.fresh(FRESH).await;
        self.snapshot()
    }
}

impl super::http::Answers for Shared {
    fn snapshot(&self) -> Pin<Box<dyn Future<Output = Snapshot> + Send + '_>> {
        Box::pin(self.fresh_snapshot())
    }

    fn counters(&self) -> &Counters {
        &self.counters
    }
}
