//! The copy: workers read and seal, packs go to the store, the file table grows. Memory is bounded by the packs that
//! are being filled or on their way, whatever the size of the database.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::{StreamExt, TryStreamExt};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

use super::base_files::BaseFiles;
use super::pace::Pace;
use super::packer::Packer;
use super::pages::{Copying, judge_again};
use super::progress::Progress;
use super::regions::{Region, Regions};
use super::shared::{RegionDone, Shared, StoredPacks, stopped};
use super::table::TableWriter;
use super::throttle::Throttle;
use super::unread::Unread;
use super::worker::work;
use crate::cluster::{DataDir, Session, Walk};
use crate::error::{Error, Kind, Result, ResultExt};
use crate::format::{BackupId, FileRecord, PacksRecord, PageError, PartRecord, SealedPack};
use crate::postgres::{ControlFile, Lsn};
use crate::repository::{Base, Repository};

/// Bytes that all packs in memory may take together.
const PACK_MEMORY: usize = 144 << 20;
/// Largest and smallest pack.
const LARGEST_PACK: usize = 32 << 20;
const SMALLEST_PACK: usize = 4 << 20;
/// Pack on a local disk, where a request costs nothing: the same few pages of memory and page cache serve all packs.
const LOCAL_PACK: usize = 8 << 20;
/// How long after the copy pages are read again that were perhaps being written.
const SUSPECT_PAUSE: Duration = Duration::from_millis(100);
/// How often the session is asked whether it lives: if it dies, so does the backup.
const PING_INTERVAL: Duration = Duration::from_secs(5);

/// What to copy.
pub(super) struct CopyRequest<'a> {
    pub(super) repository: &'a Repository,
    pub(super) session: &'a Session,
    pub(super) id: &'a BackupId,
    pub(super) data_dir: &'a DataDir,
    pub(super) control: &'a ControlFile,
    pub(super) walk: Arc<Walk>,
    pub(super) start: Lsn,
    pub(super) concurrency: usize,
    pub(super) max_rate: u64,
    pub(super) progress: Arc<Progress>,
    pub(super) base: Base,
    pub(super) unread: Unread,
}

/// What was copied.
#[derive(Debug)]
pub(super) struct Copied {
    pub(super) parts: Vec<PartRecord>,
    pub(super) packs: Vec<PacksRecord>,
    pub(super) pack_list_bytes: u64,
    pub(super) files: u64,
    pub(super) size_bytes: u64,
    pub(super) stored_bytes: u64,
    pub(super) new_bytes: u64,
    pub(super) reused_bytes: u64,
    pub(super) rewritten_bytes: u64,
    pub(super) unread_bytes: u64,
    pub(super) page_errors: Vec<PageError>,
}

/// Copy everything that the walk found, then `pg_control`.
pub(super) async fn copy(request: CopyRequest<'_>) -> Result<Copied> {
    let workers = request.concurrency.max(1);
    let files = &request.walk.files;
    let largest = if request.repository.store().is_remote() { LARGEST_PACK } else { LOCAL_PACK };
    // It reads ahead until the last region is handed out.
    let base_files = (!request.base.is_empty()).then(|| {
        let (walk, unread) = (Arc::clone(&request.walk), request.unread.clone());
        BaseFiles::read(request.repository, request.base.clone(), walk, unread)
    });
    let reading = base_files.as_ref().map(BaseFiles::reading);
    request.progress.begin(files.iter().map(|file| file.size).sum());
    let shared = Shared {
        repository: request.repository,
        id: request.id,
        data_dir: request.data_dir.path(),
        files,
        regions: Regions::new(files, workers, base_files),
        start: request.start,
        verify_pages: request.control.has_page_checksums(),
        page_seed: request.unread.moment.seed,
        moment: &request.unread.moment,
        pack_size: (PACK_MEMORY / (2 * workers + 1)).clamp(SMALLEST_PACK, largest),
        throttle: Throttle::new(request.max_rate),
        progress: &request.progress,
        stop: AtomicBool::new(false),
        next_pack: AtomicU32::new(0),
        stored: Mutex::new(StoredPacks::new()),
        pace: Pace::default(),
        spare: Mutex::new(Vec::new()),
    };
    let mut table = TableWriter::new(&shared);
    let (packs_in, packs_out) = mpsc::channel::<SealedPack>(1);
    let (done_in, done_out) = mpsc::unbounded_channel::<RegionDone>();
    let copied = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..workers)
            .map(|_| {
                let (shared, packs_in, done_in) = (&shared, packs_in.clone(), done_in.clone());
                scope.spawn(move || {
                    let result = work(shared, packs_in, &done_in);
                    shared.stop.fetch_or(result.is_err(), Ordering::Relaxed);
                    result
                })
            })
            .collect();
        drop((packs_in, done_in));
        let flow = async {
            let packs = put_packs(&shared, packs_out, workers);
            let collected = collect(&shared.pace, done_out, &mut table);
            let both = async { tokio::try_join!(packs, collected).map(|_| ()) };
            tokio::select! {
                result = both => result,
                error = lost(request.session) => Err(error),
            }
        };
        let flow = tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(flow));
        if flow.is_err() {
            shared.stop.store(true, Ordering::Relaxed);
            // Whoever waits for what the base has goes on.
            reading.inspect(AbortHandle::abort);
        }
        // A worker's own error says more than the stop that follows from it.
        for thread in threads {
            let result = thread.join().map_err(|_| Error::new(Kind::Other, "a backup thread died"))?;
            if flow.is_ok() {
                result?;
            }
        }
        flow
    });
    copied.context("copy the data directory")?;
    copy_control(&request, &shared, &mut table).await?;
    table.finish().await?;
    let page_errors = judge_suspects(&request, &table).await?;
    conclude(&shared, &request.base, table, page_errors).await
}

/// Store the list of packs, and sum up.
async fn conclude(
    shared: &Shared<'_>,
    base: &Base,
    mut table: TableWriter<'_>,
    page_errors: Vec<PageError>,
) -> Result<Copied> {
    let stored = std::mem::take(&mut *shared.stored.lock().map_err(|_| stopped())?);
    for (name, pack) in &stored {
        table.tally.stored(name, pack.bytes)?;
    }
    let reused: Vec<_> = table.tally.without_bytes().collect();
    for name in &reused {
        let bytes = base.pack_bytes(name);
        table.tally.stored(name, bytes.ok_or_else(|| Error::corrupt("a reused pack is not the base's"))?)?;
    }
    let (list, packs) = table.tally.finish();
    let pack_list_bytes = shared.repository.put_pack_list(shared.id, &list).await?;
    let in_packs: u64 = stored.values().map(|pack| pack.bytes).sum();
    let in_parts: u64 = table.parts.iter().map(|part| part.table_bytes).sum();
    Ok(Copied {
        parts: table.parts,
        files: table.files_done,
        size_bytes: table.size_bytes,
        stored_bytes: packs.iter().map(|packs| packs.live_bytes).sum(),
        reused_bytes: table.reused_bytes,
        rewritten_bytes: table.rewritten_bytes,
        unread_bytes: table.unread_bytes,
        new_bytes: in_packs + in_parts + pack_list_bytes,
        packs,
        pack_list_bytes,
        page_errors,
    })
}

/// Put packs as they come, as many at a time as there are workers.
async fn put_packs(shared: &Shared<'_>, packs: mpsc::Receiver<SealedPack>, concurrent: usize) -> Result<()> {
    let packs = futures_util::stream::unfold(packs, |mut packs| async {
        packs.recv().await.map(|pack| (pack, packs))
    });
    packs.map(Ok).try_for_each_concurrent(concurrent, |pack| shared.store(pack)).await
}

async fn collect(
    pace: &Pace,
    mut done: mpsc::UnboundedReceiver<RegionDone>,
    table: &mut TableWriter<'_>,
) -> Result<()> {
    loop {
        let region = tokio::select! {
            region = done.recv() => region,
            () = pace.pack_stored() => {
                table.store_parts().await?;
                continue;
            }
        };
        match region {
            Some(region) => table.add(region).await?,
            None => return Ok(()),
        }
    }
}

/// Returns when the session dies: the backup is void then.
async fn lost(session: &Session) -> Error {
    loop {
        tokio::time::sleep(PING_INTERVAL).await;
        if let Err(error) = session.ping().await {
            return error.context("the connection that holds the backup is lost");
        }
    }
}

/// `pg_control` last: on a standby its minRecoveryPoint tells when the copy is consistent.
async fn copy_control(
    request: &CopyRequest<'_>,
    shared: &Shared<'_>,
    table: &mut TableWriter<'_>,
) -> Result<()> {
    let mut bytes = request.data_dir.control_bytes()?;
    let region = Region { number: 0, file: 0, offset: 0, len: bytes.len() as u64, last: true };
    let mut done = RegionDone::empty(region);
    let (packs_in, mut packs_out) = mpsc::channel(1);
    let mut packer = Packer::new(shared, packs_in)?;
    tokio::task::block_in_place(|| packer.add(&mut bytes, &mut done).and_then(|()| packer.flush()))?;
    drop(packer);
    while let Some(pack) = packs_out.recv().await {
        shared.store(pack).await?;
    }
    let record = FileRecord {
        path: "global/pg_control".into(),
        mode: if request.walk.mode & 0o040 == 0 { 0o600 } else { 0o640 },
        state: 0,
        read_at: shared.moment.seconds(),
        size: 0,
        extents: Vec::new(),
        sums: Vec::new(),
        digests: Vec::new(),
    };
    table.add_last(record, &done)
}

/// The pages that are damaged, and were not only written while they were copied.
async fn judge_suspects(request: &CopyRequest<'_>, table: &TableWriter<'_>) -> Result<Vec<PageError>> {
    if table.suspects.is_empty() {
        return Ok(Vec::new());
    }
    tokio::time::sleep(SUSPECT_PAUSE).await;
    let (files, end) = (&request.walk.files, request.session.flush_lsn().await?);
    let copying = Copying { began: request.unread.moment.started_at, start: request.start, end };
    let again = || judge_again(request.data_dir.path(), files, &table.suspects, copying);
    let bad = tokio::task::block_in_place(again).context("read damaged pages again")?;
    let errors =
        bad.iter().map(|bad| PageError { path: files[bad.file].path.as_path().into(), block: bad.block });
    let errors: Vec<PageError> = errors.collect();
    for error in &errors {
        tracing::error!(path = %error.path, block = error.block, "page checksum failed");
    }
    Ok(errors)
}
