//! Carrying out a restore plan: fetch, open and write in parallel, sync once, let the cluster exist last.

use std::sync::{Arc, Mutex};

use futures_util::{StreamExt, TryStreamExt, stream};
use tokio::sync::mpsc;

use super::directory::Target;
use super::fetch::{Batch, Destination, batches};
use super::finish::{Handover, check_control, file_mode, write_recovery};
use super::flush::Flusher;
use super::plan::Plan;
use super::write::{Fetched, create, write_batches};
use crate::error::{Error, Kind, Result, ResultExt};
use crate::repository::{FileTable, PackReader, Repository};
use crate::seal::Decompressor;

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
    for number in 0..plan.backup.parts.len() {
        let number =
            u32::try_from(number).map_err(|_| Error::corrupt("the file table has too many parts"))?;
        let table = repository.get_file_table(&plan.backup.id, number).await?;
        restore_part(repository, &target, plan, table, &count).await?;
    }
    tokio::task::block_in_place(|| {
        write_recovery(&target, plan, handover)?;
        flusher.stop()?;
        target.commit()
    })?;
    Ok(Restored { files: plan.backup.files, bytes: plan.backup.size_bytes })
}

async fn restore_part(
    repository: &Repository,
    target: &Target,
    plan: &Plan,
    mut table: FileTable,
    count: &Arc<dyn Fn(u64) + Send + Sync>,
) -> Result<()> {
    if let Some(index) = table.files.iter().position(|file| file.path == CONTROL) {
        restore_control(repository, target, plan, &table, index).await?;
        table.files.remove(index);
    }
    let mut destinations = Vec::with_capacity(table.files.len());
    for file in &table.files {
        let destination = Arc::new(Destination { path: target.path(&file.path)?, mode: file.mode });
        if file.extents.is_empty() {
            create(&destination)?;
        }
        destinations.push(destination);
    }
    let readers = readers(repository, &table)?;
    let batches = batches(&table, &destinations);
    drop(destinations);
    let workers = std::thread::available_parallelism().map_or(2, usize::from);
    let (fetched_in, fetched_out) = mpsc::channel(WAITING);
    let fetched_out = Arc::new(Mutex::new(fetched_out));
    let writers: Vec<_> = (0..workers)
        .map(|_| {
            let (fetched_out, count) = (Arc::clone(&fetched_out), Arc::clone(count));
            tokio::task::spawn_blocking(move || write_batches(&fetched_out, &*count))
        })
        .collect();
    // With the last writer gone the channel closes, and fetching ends.
    drop(fetched_out);
    let fetching = stream::iter(batches)
        .map(|batch| fetch(repository, &table, &readers, batch))
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

fn stopped() -> Error {
    Error::new(Kind::Other, "the restore was stopped")
}

fn readers(repository: &Repository, table: &FileTable) -> Result<Vec<Arc<PackReader>>> {
    let reader = |pack: &crate::repository::PackRef| {
        PackReader::new(repository.keys(), repository.name(), pack.name.clone(), &pack.header).map(Arc::new)
    };
    table.packs.iter().map(reader).collect()
}

async fn fetch(
    repository: &Repository,
    table: &FileTable,
    readers: &[Arc<PackReader>],
    batch: Batch,
) -> Result<Fetched> {
    let pack = &table.packs[batch.pack];
    let bytes = repository.get_pack_range(&pack.name, batch.range.clone()).await.map_err(|error| {
        if error.kind() == Kind::NotFound {
            error.as_kind(Kind::Corrupt).hint("the repository is damaged: try an older backup (--backup)")
        } else {
            error
        }
    })?;
    Ok(Fetched { reader: Arc::clone(&readers[batch.pack]), batch, bytes })
}

/// `pg_control` waits under another name until the commit.
async fn restore_control(
    repository: &Repository,
    target: &Target,
    plan: &Plan,
    table: &FileTable,
    index: usize,
) -> Result<()> {
    let mut bytes = Vec::new();
    for extent in &table.files[index].extents {
        let pack = &table.packs[extent.pack as usize];
        let reader = PackReader::new(repository.keys(), repository.name(), pack.name.clone(), &pack.header)?;
        let start = u64::from(extent.offset);
        let stored =
            repository.get_pack_range(&pack.name, start..start + u64::from(extent.stored_len)).await?;
        reader.open(&mut Decompressor::new()?, u64::from(extent.frame), &stored, &mut bytes)?;
    }
    check_control(plan, &bytes).context("restore pg_control")?;
    target.write_control(&bytes, file_mode(plan))
}
