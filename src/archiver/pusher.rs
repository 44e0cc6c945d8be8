//! Pushing files, several at a time, before PostgreSQL asks for them.

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, watch};

use super::handle::LedgerHandle;
use super::older_tails::drop_tail;
use super::queue::{Failure, FileMark, Queue};
use super::setup::Setup;
use crate::archive::{PgWal, Pushed, push_into};
use crate::error::{Error, Kind, Result};
use crate::format::TailGeneration;
use crate::ledger::{Event, Now};
use crate::postgres::{ControlFile, SegmentName, WalName};
use crate::repository::Repository;

/// Without anything to wait for, look again after this long.
const IDLE: Duration = Duration::from_mins(1);

/// Pushes what it is given.
#[derive(Debug)]
pub struct Pusher {
    queue: Mutex<Queue>,
    wake: Notify,
    /// Counts whatever became of files, for callers that wait for one.
    progress: watch::Sender<u64>,
    pub(super) repository: Repository,
    pub(super) control: ControlFile,
    pub(super) pg_wal: PgWal,
    setup: Arc<Setup>,
    ledger: LedgerHandle,
    /// The cluster or the repository has been replaced: what is still under way says nothing about
    /// it.
    retired: AtomicBool,
}

/// What is known of one file.
#[derive(Debug)]
pub enum Fate {
    /// Durable in the repository.
    Stored,
    /// It failed, and waits to be tried again.
    Failed(Failure),
    /// It waits or is on its way.
    Pending,
}

impl Pusher {
    /// Where it pushes to.
    pub const fn repository(&self) -> &Repository {
        &self.repository
    }

    pub(super) fn new(
        repository: Repository,
        control: ControlFile,
        pg_wal: PgWal,
        setup: Arc<Setup>,
        ledger: LedgerHandle,
    ) -> Self {
        let (queue, wake, progress) = (Mutex::default(), Notify::new(), watch::Sender::new(0));
        Self {
            queue,
            wake,
            progress,
            repository,
            control,
            pg_wal,
            setup,
            ledger,
            retired: AtomicBool::new(false),
        }
    }

    /// Of the cluster whose files it pushes.
    pub const fn system_identifier(&self) -> u64 {
        self.control.system_identifier
    }

    /// So many files at a time.
    pub(super) fn concurrency(&self) -> u64 {
        self.setup.concurrency as u64
    }

    /// The `pg_wal` whose files it pushes.
    pub fn directory(&self) -> &Path {
        self.pg_wal.path()
    }

    /// From now on nothing that is under way counts.
    pub(super) fn retire(&self) {
        self.retired.store(true, Ordering::Release);
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Push these, too.
    pub(super) fn add(&self, names: impl IntoIterator<Item = WalName>) {
        let marked: Vec<_> = names.into_iter().map(|name| (name, self.mark(&name))).collect();
        let mut queue = self.queue();
        let added = marked.into_iter().filter(|(name, mark)| queue.add(*name, *mark)).count();
        drop(queue);
        if added > 0 {
            self.wake.notify_one();
        }
    }

    /// Push `name` soon: somebody waits for it.
    pub fn hurry(&self, name: &WalName) {
        self.queue().hurry(name, Instant::now());
        self.add([*name]);
        self.wake.notify_one();
    }

    /// What became of `name`, if it still is the file with `mark`.
    pub fn fate(&self, name: &WalName, mark: &FileMark) -> Fate {
        let queue = self.queue();
        if queue.is_stored(name, mark) {
            return Fate::Stored;
        }
        queue.failure(name).map_or(Fate::Pending, |failure| Fate::Failed(failure.clone()))
    }

    /// Tells of every change of any file's fate.
    pub fn progress(&self) -> watch::Receiver<u64> {
        self.progress.subscribe()
    }

    /// Forget stored files that nobody will ask for any more: those that are neither among `ready` nor were marked since
    /// that was listed.
    pub(super) fn keep_stored(&self, ready: &[WalName]) {
        let mut still: BTreeSet<WalName> = ready.iter().copied().collect();
        let stored = self.queue().stored_names();
        let marked = |name: &WalName| still.contains(name) || self.pg_wal.ready_since(name).is_some();
        let kept: Vec<WalName> = stored.into_iter().filter(marked).collect();
        still.extend(kept);
        self.queue().keep_stored(&still);
    }

    /// Try no longer what is refused and not marked as ready: the operator has settled it (`.done`), and PostgreSQL will not
    /// ask again.
    pub(super) fn give_up_refused(&self) {
        let refused = self.queue().refused();
        for name in refused.into_iter().filter(|name| self.pg_wal.ready_since(name).is_none()) {
            self.queue().gone(&name);
            self.ledger.apply(Event::FileGone(name), Now::read());
        }
    }

    /// Which file is in pg_wal under `name` now.
    pub fn mark(&self, name: &WalName) -> Option<FileMark> {
        let metadata = std::fs::metadata(self.pg_wal.file(name)).ok()?;
        Some(FileMark {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
        })
    }

    /// Push for ever, up to `concurrency` files at a time.
    pub(super) async fn run(self: Arc<Self>) {
        let concurrency = self.setup.concurrency;
        loop {
            let due = {
                let mut queue = self.queue();
                while queue.in_flight() < concurrency {
                    let Some(name) = queue.next(Instant::now()) else { break };
                    tokio::spawn(Arc::clone(&self).push(name));
                }
                // With all places taken, whoever ends wakes us.
                let due = queue.next_due().filter(|_| queue.in_flight() < concurrency);
                due.map_or(IDLE, |due| due.saturating_duration_since(Instant::now()))
            };
            let _ = tokio::time::timeout(due.max(Duration::from_millis(10)), self.wake.notified()).await;
        }
    }

    async fn push(self: Arc<Self>, name: WalName) {
        let begin = Instant::now();
        let mark = self.mark(&name);
        let path = self.pg_wal.file(&name);
        let limit = self.setup.archive_timeout;
        let careful = self.queue().failures().next().is_some();
        let pushing = tokio::time::timeout(limit, push_into(&self.repository, &self.control, &path, careful));
        let result: Result<Pushed> = pushing.await.unwrap_or_else(|_| {
            let text = format!("not done within {}", humantime::format_duration(limit));
            Err(Error::new(Kind::Unreachable, text).hint("is the store slow, or the network down?"))
        });
        // What was pushed is the file that was there before, if that is still there: segments that are ready do not
        // change, and a file that took its name has another mark.
        let mark = mark.filter(|mark| self.mark(&name).as_ref() == Some(mark));
        if self.retired.load(Ordering::Acquire) {
            return;
        }
        match result {
            Ok(pushed) => {
                self.queue().stored(name, mark);
                let tail = self.tail_of(&name);
                self.ledger.apply(Event::Pushed { file: pushed, took: begin.elapsed() }, Now::read());
                self.drop_tail(tail);
            }
            // Recycled or removed after somebody else archived it.
            Err(_) if !path.exists() => {
                self.queue().gone(&name);
                self.ledger.apply(Event::FileGone(name), Now::read());
            }
            Err(error) => {
                self.queue().failed(name, &error, Instant::now());
                let took = begin.elapsed();
                self.ledger.apply(Event::PushFailed { name, error, took }, Now::read());
            }
        }
        self.progress.send_modify(|count| *count = count.wrapping_add(1));
        self.wake.notify_one();
    }

    /// The tail of a segment that the server has written in its present life, as this one's own.
    fn tail_of(&self, name: &WalName) -> Option<(SegmentName, TailGeneration)> {
        let WalName::Segment(segment) = *name else { return None };
        self.ledger.read(|ledger| Some((segment, ledger.shipped(&segment)?)))
    }

    /// Delete the tail of a segment that is stored as a whole. The next survey sweeps what is left over of others.
    fn drop_tail(self: &Arc<Self>, tail: Option<(SegmentName, TailGeneration)>) {
        let Some((segment, generation)) = tail else { return };
        let pusher = Arc::clone(self);
        tokio::spawn(async move {
            if let Err(error) = drop_tail(&pusher.repository, segment, generation).await {
                tracing::debug!(%error, %segment, "the tail is left over");
            }
        });
    }
}
