//! Putting finished regions back in order and writing the file table, part by part.

use std::collections::BTreeMap;

use super::pages::Suspect;
use super::worker::RegionDone;
use crate::cluster::FileEntry;
use crate::error::{Error, Result};
use crate::format::{BackupId, Extent, FileRecord, FileTable, PackTally, PartRecord};
use crate::repository::Repository;

/// A part is stored when it weighs so much (bytes before compression; about 10 GB of data).
const PART_WEIGHT: usize = 1 << 20;

/// Builds the file table of one backup.
pub(super) struct TableWriter<'a> {
    repository: &'a Repository,
    id: &'a BackupId,
    files: &'a [FileEntry],
    /// Regions that came before those in front of them.
    early: BTreeMap<u64, RegionDone>,
    next: u64,
    current: Option<FileRecord>,
    part: FileTable,
    pub(super) parts: Vec<PartRecord>,
    pub(super) suspects: Vec<Suspect>,
    pub(super) tally: PackTally,
    pub(super) files_done: u64,
    pub(super) size_bytes: u64,
}

impl<'a> TableWriter<'a> {
    pub(super) fn new(repository: &'a Repository, id: &'a BackupId, files: &'a [FileEntry]) -> Self {
        Self {
            repository,
            id,
            files,
            early: BTreeMap::new(),
            next: 0,
            current: None,
            part: FileTable::default(),
            parts: Vec::new(),
            suspects: Vec::new(),
            tally: PackTally::default(),
            files_done: 0,
            size_bytes: 0,
        }
    }

    /// Take in a region; stores a part when one is full.
    pub(super) async fn add(&mut self, done: RegionDone) -> Result<()> {
        self.early.insert(done.region.number, done);
        while let Some(done) = self.early.remove(&self.next) {
            self.next += 1;
            self.append(&done)?;
            if self.current.is_none() && self.part.weight() >= PART_WEIGHT {
                self.store_part().await?;
            }
        }
        Ok(())
    }

    fn append(&mut self, done: &RegionDone) -> Result<()> {
        let entry = &self.files[done.region.file];
        let suspect = |block: &u32| Suspect { file: done.region.file, block: *block };
        self.suspects.extend(done.bad_pages.iter().map(suspect));
        if done.vanished && done.region.offset == 0 {
            // A file of several regions may be seen gone by the first and be padded by the rest; all of it is void.
            self.current = None;
        } else if done.region.offset == 0 {
            self.current = Some(FileRecord {
                path: entry.path.as_path().into(),
                mode: entry.mode,
                modified: entry.modified,
                size: 0,
                extents: Vec::new(),
                digests: Vec::new(),
            });
        }
        let last = done.region.last;
        if let Some(file) = &mut self.current {
            place(&mut self.part, file, done)?;
        }
        if last && let Some(file) = self.current.take() {
            self.finish_file(file)?;
        }
        Ok(())
    }

    fn finish_file(&mut self, file: FileRecord) -> Result<()> {
        self.files_done += 1;
        self.size_bytes += file.size;
        for extent in &file.extents {
            let pack = &self.part.packs[extent.pack as usize];
            self.tally.used(&pack.name, &pack.header, extent.frame, extent.stored_len)?;
        }
        self.part.files.push(file);
        Ok(())
    }

    /// Add a file that was not walked: `pg_control`, which is copied last.
    pub(super) fn add_last(&mut self, mut file: FileRecord, done: &RegionDone) -> Result<()> {
        place(&mut self.part, &mut file, done)?;
        self.finish_file(file)
    }

    /// Store what is left. Every region must have come.
    pub(super) async fn finish(&mut self) -> Result<()> {
        if !self.early.is_empty() || self.current.is_some() {
            return Err(Error::corrupt("a region of the data directory was not copied"));
        }
        self.store_part().await
    }

    async fn store_part(&mut self) -> Result<()> {
        let part = std::mem::take(&mut self.part);
        let number = u32::try_from(self.parts.len())
            .map_err(|_| Error::corrupt("the file table has too many parts"))?;
        self.parts.push(self.repository.put_file_table(self.id, number, &part).await?);
        Ok(())
    }
}

/// Append a region's extents to its file, with packs numbered by the part.
fn place(part: &mut FileTable, file: &mut FileRecord, done: &RegionDone) -> Result<()> {
    let packs: Vec<u32> =
        done.packs.iter().map(|pack| part.pack_index(&pack.name, &pack.header)).collect::<Result<_>>()?;
    for placed in &done.extents {
        file.size += u64::from(placed.plain_len);
        file.extents.push(Extent {
            pack: packs[placed.pack],
            frame: placed.frame,
            offset: placed.offset,
            stored_len: placed.stored_len,
            skip: 0,
            plain_len: placed.plain_len,
        });
    }
    file.digests.extend_from_slice(&done.digests);
    Ok(())
}
