//! Putting finished regions back in order and writing the file table, part by part.

use std::collections::{BTreeMap, VecDeque};

use super::pages::Suspect;
use super::part::{OpenFile, Part};
use super::shared::{RegionDone, Shared, stopped};
use super::tally::PackTally;
use crate::error::{Error, Result};
use crate::format::{FileRecord, PartRecord};

/// A part is stored when it weighs so much (bytes of records; about 10 GB of data).
const PART_WEIGHT: usize = 1 << 20;
/// Or when its files have so many bytes: what an interrupted backup has put into parts need not be stored again (R15).
const PART_BYTES: u64 = 2 << 30;
/// For tests only: fewer.
const TEST_PART_BYTES: &str = "WALPROOF_TEST_PART_BYTES";

/// Builds the file table of one backup.
pub(super) struct TableWriter<'a> {
    shared: &'a Shared<'a>,
    /// Regions that came before those in front of them.
    early: BTreeMap<u64, RegionDone>,
    next: u64,
    current: Option<OpenFile>,
    part: Part,
    part_bytes: u64,
    /// Parts whose packs are not all stored yet.
    waiting: VecDeque<Part>,
    pub(super) parts: Vec<PartRecord>,
    pub(super) suspects: Vec<Suspect>,
    pub(super) tally: PackTally,
    pub(super) files_done: u64,
    pub(super) size_bytes: u64,
    /// Of them, those that stay where the base has them, and those that are as there and were stored again.
    pub(super) reused_bytes: u64,
    pub(super) rewritten_bytes: u64,
    /// Of those that stay, those that were not read.
    pub(super) unread_bytes: u64,
}

impl<'a> TableWriter<'a> {
    pub(super) fn new(shared: &'a Shared<'a>) -> Self {
        Self {
            shared,
            early: BTreeMap::new(),
            next: 0,
            current: None,
            part: Part::default(),
            part_bytes: std::env::var(TEST_PART_BYTES)
                .ok()
                .and_then(|text| text.parse().ok())
                .unwrap_or(PART_BYTES),
            waiting: VecDeque::new(),
            parts: Vec::new(),
            suspects: Vec::new(),
            tally: PackTally::default(),
            files_done: 0,
            size_bytes: 0,
            reused_bytes: 0,
            rewritten_bytes: 0,
            unread_bytes: 0,
        }
    }

    /// Take in a region; stores parts that are full.
    pub(super) async fn add(&mut self, done: RegionDone) -> Result<()> {
        self.early.insert(done.region.number, done);
        while let Some(done) = self.early.remove(&self.next) {
            self.next += 1;
            self.append(&done)?;
            self.shared.pace.taken(done.weight());
            let full = self.part.weight() >= PART_WEIGHT || self.part.bytes() >= self.part_bytes;
            if self.current.is_none() && full {
                self.waiting.push_back(std::mem::take(&mut self.part));
            }
        }
        self.store_parts().await
    }

    fn append(&mut self, done: &RegionDone) -> Result<()> {
        let entry = &self.shared.files[done.region.file];
        let suspect = |block: &u32| Suspect { file: done.region.file, block: *block };
        self.suspects.extend(done.bad_pages.iter().map(suspect));
        if done.vanished && done.region.offset == 0 {
            // A file of several regions may be seen gone by the first and be padded by the rest; all of it is void.
            self.current = None;
        } else if done.region.offset == 0 {
            let record = FileRecord {
                path: entry.path.as_path().into(),
                mode: entry.mode,
                state: self.shared.moment.state(entry),
                read_at: self.shared.moment.seconds(),
                size: 0,
                extents: Vec::new(),
                sums: Vec::new(),
                digests: Vec::new(),
            };
            self.current = Some(OpenFile::new(record, self.shared.page_seed));
        }
        if let Some(file) = &mut self.current {
            self.part.place(file, done)?;
            self.reused_bytes += done.reused;
            self.rewritten_bytes += done.rewritten;
            self.unread_bytes += if done.unread.is_some() { done.reused } else { 0 };
        }
        if done.region.last
            && let Some(file) = self.current.take()
        {
            self.finish_file(file)?;
        }
        Ok(())
    }

    fn finish_file(&mut self, file: OpenFile) -> Result<()> {
        let file = file.finish();
        self.files_done += 1;
        self.size_bytes += file.size;
        for extent in &file.extents {
            let pack = &self.part.table().packs[extent.pack as usize];
            self.tally.used(&pack.name, &pack.header, extent.frame, extent.stored_len)?;
        }
        self.part.push(file);
        Ok(())
    }

    /// Add a file that was not walked: `pg_control`, which is copied last.
    pub(super) fn add_last(&mut self, file: FileRecord, done: &RegionDone) -> Result<()> {
        let mut file = OpenFile::new(file, self.shared.page_seed);
        self.part.place(&mut file, done)?;
        self.finish_file(file)
    }

    /// Store what is left. Every region must have come, and every pack be stored.
    pub(super) async fn finish(&mut self) -> Result<()> {
        if !self.early.is_empty() || self.current.is_some() {
            return Err(Error::corrupt("a region of the data directory was not copied"));
        }
        self.waiting.push_back(std::mem::take(&mut self.part));
        self.store_parts().await?;
        if self.waiting.is_empty() { Ok(()) } else { Err(Error::corrupt("a pack was not stored")) }
    }

    /// Store the parts that are full and whose packs are stored: what a part names is always there.
    pub(super) async fn store_parts(&mut self) -> Result<()> {
        self.shared.pace.waits(self.waiting.iter().map(Part::weight).sum());
        while let Some(mut part) = self.waiting.pop_front() {
            let complete = {
                let stored = self.shared.stored.lock().map_err(|_| stopped())?;
                part.complete(self.shared.id, &stored)
            };
            if !complete {
                self.waiting.push_front(part);
                return Ok(());
            }
            let number = u32::try_from(self.parts.len())
                .map_err(|_| Error::corrupt("the file table has too many parts"))?;
            let put = self.shared.repository.put_file_table(self.shared.id, number, part.table());
            self.parts.push(put.await?);
            self.shared.pace.waits(self.waiting.iter().map(Part::weight).sum());
        }
        Ok(())
    }
}
