//! Carrying out a restore plan: fetch, open and write in parallel, sync once, let the cluster exist last.

use std::sync::{Arc, Mutex};

use futures_util::{StreamExt, TryStreamExt, stream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use super::destination::set_mode;
use super::directory::{Target, complete};
use super::fetch::{Pack, Piece, Request, Stretches, pack_missing, requests, shares};
use super::finish::{Handover, leads_as, write_recovery};
use super::flush::Flusher;
use super::part::{Part, Parts};
use super::places::State;
use super::plan::Plan;
use super::prepare::Prepared;
use super::write::{Chunk, Fetched, write_shares};
use crate::error::{Error, Kind, Result};
use crate::repository::Repository;

/// Requests under way at a time.
const CONCURRENT_FETCHES: usize = 8;
/// Stretches that are fetched at a time, as far as the memory lets them.
const CONCURRENT_STRETCHES: usize = 6;
/// Stored bytes that are asked for of a remote repository, or wait to be written, in KiB: this bounds the memory.
const REMOTE_KIB: u32 = 64 << 10;
/// The same of a local one, which answers at once.
const LOCAL_KIB: u32 = 32 << 10;
/// Shares that wait for a worker.
const WAITING: usize = 4;
/// Parts of the file table that are read ahead of the one that is written.
const PARTS_AHEAD: usize = 1;

/// What was restored.
#[derive(Debug, Clone, Copy)]
pub struct Restored {
    /// Files.
    pub files: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// Bytes that were there already (`--delta`), and were not fetched.
    pub found: u64,
}

/// Fill the plan's directory and hand it over to the server; [`prepare`](super::prepare()) says what it begins with. `count`
/// hears of every written byte.
/// The cluster can start when this returns, and cannot while it has not.
pub async fn execute(
    repository: &Repository,
    plan: &Plan,
    mut prepared: Prepared,
    handover: &Handover,
    count: Arc<dyn Fn(u64) + Send + Sync>,
) -> Result<Restored> {
    plan.check_directories()?;
    match plan.state()? {
        State::Complete if !plan.delta => return complete_as(plan, handover),
        State::Empty => prepared.kept = None,
        _ => {}
    }
    let target = Arc::new(Target::begin(plan, handover.owner, prepared.kept.as_ref())?);
    let flusher = Flusher::start(Arc::clone(&target));
    let seed = repository.identity().page_seed()?;
    let parts = Parts::new(repository, plan, &target, seed, prepared, Arc::clone(&count));
    write_all(repository, &parts, seed, count).await?;
    parts.made().await?;
    tokio::task::block_in_place(|| {
        write_recovery(&target, plan, handover)?;
        // Nothing is written any more: take away the permission to write where the backup has none.
        parts.read_only().iter().try_for_each(|file| set_mode(&file.path, file.mode))?;
        flusher.stop()?;
        target.commit()
    })?;
    Ok(Restored { files: plan.backup.files, bytes: plan.backup.size_bytes, found: parts.found() })
}

/// Complete a restore that was killed when all was there, if it was by the same plan.
fn complete_as(plan: &Plan, handover: &Handover) -> Result<Restored> {
    let same = leads_as(plan, handover)?;
    complete(plan, handover.owner)?;
    if same {
        let (files, bytes) = (plan.backup.files, plan.backup.size_bytes);
        return Ok(Restored { files, bytes, found: bytes });
    }
    Err(Error::impossible(format!(
        "an interrupted restore to another state lacked only its last step in {}, and is now complete",
        plan.to.display()
    ))
    .hint("to get the state that you asked for, restore into an empty directory, or use --delta"))
}

/// Fetch what all parts want, several requests at a time, and write it; the next part is read meanwhile.
async fn write_all(
    repository: &Repository,
    parts: &Parts<'_>,
    seed: u64,
    count: Arc<dyn Fn(u64) + Send + Sync>,
) -> Result<()> {
    let workers = std::thread::available_parallelism().map_or(2, usize::from);
    let (shares_in, shares_out) = mpsc::channel(WAITING);
    let shares_out = Arc::new(Mutex::new(shares_out));
    let writers: Vec<_> = (0..workers)
        .map(|_| {
            let (shares_out, count) = (Arc::clone(&shares_out), Arc::clone(&count));
            tokio::task::spawn_blocking(move || write_shares(&shares_out, seed, &*count))
        })
        .collect();
    // With the last writer gone the channel closes, and fetching ends.
    drop(shares_out);
    let limits = Limits::of(repository);
    let mut stretches = Stretches::default();
    let fetching = stream::iter(parts.numbers())
        .map(|number| parts.read(number))
        .buffered(1 + PARTS_AHEAD)
        .map_ok(|Part { packs, pieces }| pieces.map_ok(move |pieces| (Arc::clone(&packs), pieces)))
        .try_flatten()
        .map_ok(|(packs, pieces)| {
            stream::iter(stretches.of(pieces)).map(move |stretch| Ok((Arc::clone(&packs), stretch)))
        })
        .try_flatten()
        .map_ok(|(packs, stretch)| {
            // A task of its own: it goes on while a share waits for its worker.
            let task = tokio::spawn(fetch(repository.clone(), packs, stretch, limits.clone()));
            async { task.await.map_err(|_| Error::new(Kind::Other, "a request's task died"))? }
        })
        .try_buffer_unordered(CONCURRENT_STRETCHES)
        .try_for_each(|shares| hand_on(&shares_in, shares))
        .await;
    drop(shares_in);
    let mut result = fetching;
    for writer in writers {
        let written = writer.await.map_err(|_| Error::new(Kind::Other, "a restore thread died"))?;
        // A writer's own error says more than the stop that follows from it.
        if written.is_err() {
            result = written;
        }
    }
    result
}

async fn hand_on(workers: &mpsc::Sender<Fetched>, shares: Vec<Fetched>) -> Result<()> {
    for share in shares {
        workers.send(share).await.map_err(|_| Error::new(Kind::Other, "the restore was stopped"))?;
    }
    Ok(())
}

/// What all requests together may take.
#[derive(Clone)]
struct Limits {
    requests: Arc<Semaphore>,
    kib: Arc<Semaphore>,
    /// Of `kib`.
    most_kib: u32,
}

impl Limits {
    fn of(repository: &Repository) -> Self {
        let most_kib = if repository.store().is_remote() { REMOTE_KIB } else { LOCAL_KIB };
        Self {
            requests: Arc::new(Semaphore::new(CONCURRENT_FETCHES)),
            kib: Arc::new(Semaphore::new(most_kib as usize)),
            most_kib,
        }
    }
}

/// Fetch a stretch; its shares. What it takes of the memory it takes at once: of several that wait for each other's rest none
/// would be done.
async fn fetch(
    repository: Repository,
    packs: Arc<[Arc<Pack>]>,
    stretch: Vec<Piece>,
    limits: Limits,
) -> Result<Vec<Fetched>> {
    let requests = requests(&stretch, repository.store().is_remote());
    let bytes: u64 = requests.iter().map(|request| request.range.end - request.range.start).sum();
    let kib = u32::try_from(bytes.div_ceil(1024)).unwrap_or(limits.most_kib).min(limits.most_kib);
    let memory = take(&limits.kib, kib).await?;
    let chunks = stream::iter(requests)
        .map(|request| {
            let (repository, packs) = (repository.clone(), Arc::clone(&packs));
            let turn = Arc::clone(&limits.requests);
            let task = tokio::spawn(async move {
                let _turn = take(&turn, 1).await?;
                fetch_chunk(&repository, &packs, request).await
            });
            async { task.await.map_err(|_| Error::new(Kind::Other, "a request's task died"))? }
        })
        .buffered(CONCURRENT_FETCHES)
        .try_collect::<Vec<Chunk>>()
        .await?;
    let (memory, chunks) = (Arc::new(memory), Arc::<[Chunk]>::from(chunks));
    let share = |pieces| Fetched {
        pieces,
        packs: Arc::clone(&packs),
        chunks: Arc::clone(&chunks),
        _memory: Arc::clone(&memory),
    };
    Ok(shares(stretch).into_iter().map(share).collect())
}

async fn fetch_chunk(repository: &Repository, packs: &[Arc<Pack>], request: Request) -> Result<Chunk> {
    let Request { pack, range } = request;
    let name = &packs[pack as usize].pack.name;
    let bytes = repository.get_pack_range(name, range.clone()).await.map_err(pack_missing)?;
    Ok(Chunk { pack, begin: range.start, bytes })
}

async fn take(of: &Arc<Semaphore>, permits: u32) -> Result<OwnedSemaphorePermit> {
    let taken = Arc::clone(of).acquire_many_owned(permits).await;
    taken.map_err(|_| Error::new(Kind::Other, "the restore was stopped"))
}
