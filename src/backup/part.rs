//! One part of the file table while it is made.

use std::collections::HashMap;

use super::shared::{RegionDone, StoredPacks};
use crate::error::{Error, Result};
use crate::format::{BackupId, Extent, FileRecord, FileTable, PAGES_PER_SUM, PackName, digest_sum};

/// A file whose regions are still coming.
#[derive(Debug)]
pub(super) struct OpenFile {
    pub(super) record: FileRecord,
    /// Digests that no sum has yet: of fewer pages than a sum takes.
    pending: Vec<u64>,
    page_seed: u64,
}

impl OpenFile {
    pub(super) const fn new(record: FileRecord, page_seed: u64) -> Self {
        Self { record, pending: Vec::new(), page_seed }
    }

    fn add_digests(&mut self, mut digests: &[u64]) {
        while !digests.is_empty() {
            let (now, rest) = digests.split_at(digests.len().min(PAGES_PER_SUM - self.pending.len()));
            self.pending.extend_from_slice(now);
            digests = rest;
            if self.pending.len() == PAGES_PER_SUM {
                self.sum_up();
            }
        }
    }

    fn sum_up(&mut self) {
        if !self.pending.is_empty() {
            self.record.sums.push(digest_sum(self.page_seed, &self.pending));
            self.pending.clear();
        }
    }

    /// The record, when the last region has come.
    pub(super) fn finish(mut self) -> FileRecord {
        self.sum_up();
        self.record
    }
}

/// A part that files are added to.
#[derive(Debug, Default)]
pub(super) struct Part {
    table: FileTable,
    indices: HashMap<PackName, u32>,
    weight: usize,
    bytes: u64,
}

impl Part {
    /// Append a region's extents to its file, with packs numbered by the part.
    pub(super) fn place(&mut self, file: &mut OpenFile, done: &RegionDone) -> Result<()> {
        let mut packs = Vec::with_capacity(done.packs.len());
        for pack in &done.packs {
            let next = self.table.packs.len();
            let next = u32::try_from(next)
                .map_err(|_| Error::corrupt("a part of the file table names too many packs"))?;
            let index = *self.indices.entry(pack.name.clone()).or_insert(next);
            if index == next {
                self.table.packs.push(pack.clone());
                self.weight += 110;
            }
            packs.push(index);
        }
        for extent in &done.extents {
            file.record.size += u64::from(extent.plain_len);
            file.record.extents.push(Extent { pack: packs[extent.pack as usize], ..*extent });
        }
        // With a frame for nearly every one.
        self.weight += 32 * done.extents.len();
        file.add_digests(&done.digests);
        if let Some(unread) = &done.unread {
            file.record.sums.clone_from(&unread.sums);
            file.record.read_at = unread.read_at;
        }
        Ok(())
    }

    pub(super) fn push(&mut self, file: FileRecord) {
        self.weight += 40 + file.path.as_bytes().len();
        self.bytes += file.size;
        self.table.files.push(file);
    }

    /// Roughly how many bytes its records have, with four for each number.
    pub(super) const fn weight(&self) -> usize {
        self.weight
    }

    /// Bytes of its files.
    pub(super) const fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) const fn table(&self) -> &FileTable {
        &self.table
    }

    /// Whether every pack that the backup `id` wrote is stored; the part then knows where their digests are.
    pub(super) fn complete(&mut self, id: &BackupId, stored: &StoredPacks) -> bool {
        let own = self.table.packs.iter_mut().filter(|pack| pack.name.backup == *id);
        let mut all = true;
        for pack in own {
            match stored.get(&pack.name) {
                Some(known) => pack.digests = known.digests,
                None => all = false,
            }
        }
        all
    }
}
