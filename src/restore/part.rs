//! Reading the file table of a backup part by part: which files there are, and what has to be fetched for them.

use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::stream::{self, BoxStream, StreamExt};
use tokio::task::JoinHandle;

use super::compare::{Found, Wanted, missing};
use super::destination::{Destination, create};
use super::directory::Target;
use super::fetch::{Pack, Piece, pack_missing, pieces};
use super::finish::{check_control, file_mode};
use super::places::CONTROL;
use super::plan::Plan;
use super::prepare::Prepared;
use super::table::{fill, read_part};
use super::write::Frames;
use crate::digest_reader::DigestReader;
use crate::error::{Error, Kind, Result, ResultExt};
use crate::format::{FileTable, PackReader, PackRef};
use crate::repository::Repository;

/// What one part wants.
pub(super) struct Part {
    pub(super) packs: Arc<[Arc<Pack>]>,
    /// In the order of the files, batch by batch.
    pub(super) pieces: BoxStream<'static, Result<Vec<Piece>>>,
}

/// The parts of a plan's backup.
pub(super) struct Parts<'a> {
    repository: &'a Repository,
    plan: &'a Plan,
    target: &'a Target,
    seed: u64,
    /// Whether something may be there already.
    delta: bool,
    /// The first part with its digests, until it is asked for.
    first: Mutex<Option<FileTable>>,
    digests: tokio::sync::Mutex<DigestReader>,
    found: Arc<Found>,
    count: Arc<dyn Fn(u64) + Send + Sync>,
    /// Files that are read-only in the end.
    read_only: Mutex<Vec<Arc<Destination>>>,
    /// The making of files without content, of which a cluster has hundreds: what has one is fetched meanwhile.
    making: Mutex<Vec<JoinHandle<Result<()>>>>,
}

impl<'a> Parts<'a> {
    pub(super) fn new(
        repository: &'a Repository,
        plan: &'a Plan,
        target: &'a Target,
        seed: u64,
        prepared: Prepared,
        count: Arc<dyn Fn(u64) + Send + Sync>,
    ) -> Self {
        let (first, digests) = (Mutex::new(prepared.first), tokio::sync::Mutex::new(prepared.digests));
        let (found, read_only, making) = Default::default();
        let delta = prepared.kept.is_some();
        Self { repository, plan, target, seed, delta, first, digests, found, count, read_only, making }
    }

    /// Bytes of the parts read so far that were there already.
    pub(super) fn found(&self) -> u64 {
        self.found.get()
    }

    /// The numbers of the parts.
    pub(super) fn numbers(&self) -> Range<usize> {
        0..self.plan.backup.parts.len()
    }

    /// Of the parts read so far.
    pub(super) fn read_only(&self) -> MutexGuard<'_, Vec<Arc<Destination>>> {
        self.read_only.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wait until the files without content of the parts read so far are there.
    pub(super) async fn made(&self) -> Result<()> {
        let making = std::mem::take(&mut *self.making());
        for made in making {
            made.await.map_err(|_| Error::new(Kind::Other, "a restore thread died"))??;
        }
        Ok(())
    }

    fn making(&self) -> MutexGuard<'_, Vec<JoinHandle<Result<()>>>> {
        self.making.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Read part `number`, and see to the files that need nothing from a pack. `pg_control` is dealt with here.
    pub(super) async fn read(&self, number: usize) -> Result<Part> {
        let mut table = self.table(number).await?;
        if let Some(index) = table.files.iter().position(|file| file.path.as_bytes() == CONTROL.as_bytes()) {
            self.restore_control(&table, index).await?;
            table.files.remove(index);
        }
        let (mut wanted, mut empty) = (Vec::new(), Vec::new());
        for file in &table.files {
            let path = self.target.path(file.path.as_path())?;
            let destination = Arc::new(Destination::new(path, file.mode));
            if file.extents.is_empty() && !self.delta {
                empty.push(Arc::clone(&destination));
            }
            if file.mode & 0o200 == 0 {
                self.read_only().push(Arc::clone(&destination));
            }
            let pieces = pieces(file, &destination).collect();
            wanted.push(Wanted { file: destination, size: file.size, pieces });
        }
        if !empty.is_empty() {
            let make = move || empty.iter().try_for_each(|file| create(file).map(drop));
            self.making().push(tokio::task::spawn_blocking(make));
        }
        let pieces = if self.delta {
            let (found, count) = (Arc::clone(&self.found), Arc::clone(&self.count));
            let count = move |bytes| {
                found.add(bytes);
                count(bytes);
            };
            missing(wanted, self.seed, count).boxed()
        } else {
            let pieces = wanted.into_iter().flat_map(|wanted| wanted.pieces).collect();
            stream::iter([Ok(pieces)]).boxed()
        };
        let packs = table.packs.into_iter().map(|pack| {
            let reader = reader(self.repository, &pack)?;
            Ok(Arc::new(Pack { pack, reader }))
        });
        Ok(Part { packs: packs.collect::<Result<_>>()?, pieces })
    }

    /// Part `number` of the file table, with its digests.
    async fn table(&self, number: usize) -> Result<FileTable> {
        if number == 0
            && let Some(first) = self.first.lock().unwrap_or_else(PoisonError::into_inner).take()
        {
            return Ok(first);
        }
        let mut table = read_part(self.repository, self.plan, number).await?;
        fill(&mut *self.digests.lock().await, self.repository, &mut table).await?;
        Ok(table)
    }

    /// `pg_control` waits under another name until the commit.
    async fn restore_control(&self, table: &FileTable, index: usize) -> Result<()> {
        let file = &table.files[index];
        let destination = Arc::new(Destination::new(CONTROL.into(), file.mode));
        let mut frames = Frames::new(self.seed)?;
        let mut bytes = Vec::new();
        for piece in pieces(file, &destination) {
            let pack = &table.packs[piece.extent.pack as usize];
            let reader = reader(self.repository, pack)?;
            let stored =
                self.repository.get_pack_range(&pack.name, piece.frame()).await.map_err(pack_missing)?;
            let opened = frames.open(&reader, &piece.extent, &stored, piece.extent.end());
            let opened = opened.context("restore pg_control")?;
            let plain = frames.extent(&opened, &piece.extent, &piece.digests);
            bytes.extend_from_slice(plain.context("restore pg_control")?);
        }
        check_control(self.plan, &bytes).context("restore pg_control")?;
        self.target.write_control(&bytes, file_mode(self.plan))
    }
}

fn reader(repository: &Repository, pack: &PackRef) -> Result<PackReader> {
    PackReader::new(repository.keys(), repository.name(), pack.name.clone(), &pack.header)
}
