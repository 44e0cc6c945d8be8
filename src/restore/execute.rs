//! Carrying out a restore plan: fetch, open and write in parallel, sync once, let the cluster exist last.

use std::sync::{Arc, Mutex};

use futures_util::{StreamExt, TryStreamExt, stream};
use tokio::sync::mpsc;

use super::directory::{Target, set_mode};
use super::fetch::{Batch, Destination, Piece, batches, pieces};
use super::finish::{Handover, check_control, file_mode, write_recovery};
use super::flush::Flusher;
use super::plan::Plan;
use super::write::{Fetched, Frames, create, write_batches};
use crate::error::{Error, Kind, Result, ResultExt};
use crate::format::{FileTable, PackReader, PackRef};
use crate::repository::{DigestReader, Repository};

/// Ranges that are fetched at a time, and wait to be written: with ranges of up to 4 MiB this bounds the memory.
const CONCURRENT_FETCHES: usize = 8;
const WAITING: usize = 4;
const CONTROL: &str = "global/pg_control";

/// What was restored.
#[derive(Debug, Clone, Copy)]
pub struct Restored {
    /// Files written.
    pub files: u64,
    /// Bytes written.
    pub bytes: u64,
}

/// Fill the plan's directory and hand it over to the server. `count` hears of every written byte.
/// The cluster can start when this returns, and cannot while it has not.
pub async fn execute(
    repository: &Repository,
    plan: &Plan,
    handover: &Handover,
    count: Arc<dyn Fn(u64) + Send + Sync>,
) -> Result<Restored> {
    plan.check_directories()?;
    let target = Arc::new(Target::begin(plan, handover.owner)?);
    let flusher = Flusher::start(Arc::clone(&target));
    let seed = repository.identity().page_seed()?;
    let digests = DigestReader::default();
    let mut part =
        PartRestore { repository, target: &target, plan, seed, count, digests, read_only: Vec::new() };
    for number in 0..plan.backup.parts.len() {
        let number =
            u32::try_from(number).map_err(|_| Error::corrupt("the file table has too many parts"))?;
        part.restore(number).await?;
    }
    let read_only = part.read_only;
    tokio::task::block_in_place(|| {
        write_recovery(&target, plan, handover)?;
        // Nothing is written any more: take away the permission to write where the backup has none.
        read_only.iter().try_for_each(|file| set_mode(&file.path, file.mode))?;
        flusher.stop()?;
        target.commit()
    })?;
    Ok(Restored { files: plan.backup.files, bytes: plan.backup.size_bytes })
}

/// Restores part after part of the file table.
struct PartRestore<'a> {
    repository: &'a Repository,
    target: &'a Target,
    plan: &'a Plan,
    seed: u64,
    count: Arc<dyn Fn(u64) + Send + Sync>,
    digests: DigestReader,
    /// Files that are read-only in the end.
    read_only: Vec<Arc<Destination>>,
}

impl PartRestore<'_> {
    async fn restore(&mut self, number: u32) -> Result<()> {
        let id = &self.plan.backup.id;
        let mut table = self.repository.get_file_table(id, number).await?;
        self.digests.fill(self.repository, &mut table).await.map_err(|no| pack_missing(no.error))?;
        if let Some(index) = table.files.iter().position(|file| file.path.as_bytes() == CONTROL.as_bytes()) {
            self.restore_control(&table, index).await?;
            table.files.remove(index);
        }
        let mut destinations = Vec::with_capacity(table.files.len());
        for file in &table.files {
            let path = self.target.path(file.path.as_path())?;
            let destination = Arc::new(Destination { path, mode: file.mode });
            if file.extents.is_empty() {
                create(&destination)?;
            }
            if file.mode & 0o200 == 0 {
                self.read_only.push(Arc::clone(&destination));
            }
            destinations.push(destination);
        }
        let readers = readers(self.repository, &table)?;
        let batches = batches(&table, &destinations);
        let packs = std::mem::take(&mut table.packs);
        drop((table, destinations));
        self.write(&packs, &readers, batches).await
    }

    /// Fetch batches and write them, several at a time.
    async fn write(&self, packs: &[PackRef], readers: &[Arc<PackReader>], batches: Vec<Batch>) -> Result<()> {
        let workers = std::thread::available_parallelism().map_or(2, usize::from);
        let (fetched_in, fetched_out) = mpsc::channel(WAITING);
        let fetched_out = Arc::new(Mutex::new(fetched_out));
        let writers: Vec<_> = (0..workers)
            .map(|_| {
                let (fetched_out, count) = (Arc::clone(&fetched_out), Arc::clone(&self.count));
                let seed = self.seed;
                tokio::task::spawn_blocking(move || write_batches(&fetched_out, seed, &*count))
            })
            .collect();
        // With the last writer gone the channel closes, and fetching ends.
        drop(fetched_out);
        let fetching = stream::iter(batches)
            .map(|batch| fetch(self.repository, packs, readers, batch))
            .buffer_unordered(CONCURRENT_FETCHES)
            .try_for_each(|fetched| async { fetched_in.send(fetched).await.map_err(|_| stopped()) })
            .await;
        drop(fetched_in);
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

    /// `pg_control` waits under another name until the commit.
    async fn restore_control(&self, table: &FileTable, index: usize) -> Result<()> {
        let file = &table.files[index];
        let destination = Arc::new(Destination { path: CONTROL.into(), mode: file.mode });
        let mut frames = Frames::new(self.seed)?;
        let mut bytes = Vec::new();
        for Piece { extent, digests, .. } in pieces(file, &destination) {
            let pack = &table.packs[extent.pack as usize];
            let reader = reader(self.repository, pack)?;
            let range = u64::from(extent.offset)..u64::from(extent.offset) + u64::from(extent.stored_len);
            let stored = self.repository.get_pack_range(&pack.name, range).await.map_err(pack_missing)?;
            let opened = frames.open(&reader, &extent, &stored);
            let plain = opened.and_then(|()| frames.extent(&extent, &digests));
            bytes.extend_from_slice(plain.context("restore pg_control")?);
        }
        check_control(self.plan, &bytes).context("restore pg_control")?;
        self.target.write_control(&bytes, file_mode(self.plan))
    }
}

fn stopped() -> Error {
    Error::new(Kind::Other, "the restore was stopped")
}

fn readers(repository: &Repository, table: &FileTable) -> Result<Vec<Arc<PackReader>>> {
    table.packs.iter().map(|pack| reader(repository, pack).map(Arc::new)).collect()
}

fn reader(repository: &Repository, pack: &PackRef) -> Result<PackReader> {
    PackReader::new(repository.keys(), repository.name(), pack.name.clone(), &pack.header)
}

async fn fetch(
    repository: &Repository,
    packs: &[PackRef],
    readers: &[Arc<PackReader>],
    batch: Batch,
) -> Result<Fetched> {
    let bytes = repository.get_pack_range(&packs[batch.pack].name, batch.range.clone()).await;
    Ok(Fetched { reader: Arc::clone(&readers[batch.pack]), batch, bytes: bytes.map_err(pack_missing)? })
}

fn pack_missing(error: Error) -> Error {
    if error.kind() == Kind::NotFound {
        error.as_kind(Kind::Corrupt).hint("the repository is damaged: try an older backup (--backup)")
    } else {
        error
    }
}
