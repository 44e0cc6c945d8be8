//! What the workers of a backup share, and what they make of a region.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU32};

use super::pace::Pace;
use super::progress::Progress;
use super::regions::{Region, Regions};
use super::throttle::Throttle;
use super::unread::Moment;
use crate::cluster::FileEntry;
use crate::error::{Error, Kind, Result};
use crate::format::{BackupId, Extent, FramePlace, PackName, PackRef, SealedPack};
use crate::postgres::Lsn;
use crate::repository::Repository;

/// Bytes of an extent: 64 pages compress well together (5 % better than 32), and fit the processor's cache.
pub(super) const EXTENT: usize = 512 << 10;
/// Bytes of a file that one sample speaks for: judging four or five filters costs what compressing 160 KiB does.
pub(super) const SAMPLED: u64 = 64 << 20;
/// A pack that is stored.
#[derive(Debug, Clone, Copy)]
pub(super) struct StoredPack {
    pub(super) bytes: u64,
    pub(super) digests: FramePlace,
}

pub(super) type StoredPacks = HashMap<PackName, StoredPack>;

/// What all workers share.
pub(super) struct Shared<'a> {
    pub(super) repository: &'a Repository,
    pub(super) id: &'a BackupId,
    pub(super) data_dir: &'a Path,
    pub(super) files: &'a [FileEntry],
    pub(super) regions: Regions<'a>,
    pub(super) start: Lsn,
    pub(super) verify_pages: bool,
    pub(super) page_seed: u64,
    pub(super) moment: &'a Moment,
    pub(super) pack_size: usize,
    pub(super) throttle: Throttle,
    pub(super) progress: &'a Progress,
    pub(super) stop: AtomicBool,
    pub(super) next_pack: AtomicU32,
    /// Packs that are stored.
    pub(super) stored: Mutex<StoredPacks>,
    pub(super) pace: Pace,
    /// Buffers of packs that are stored, to be filled again.
    pub(super) spare: Mutex<Vec<Vec<u8>>>,
}

impl Shared<'_> {
    /// A buffer for a pack: one that is free again, or a new one.
    pub(super) fn buffer(&self) -> Vec<u8> {
        let spare = self.spare.lock().ok().and_then(|mut spare| spare.pop());
        spare.unwrap_or_else(|| Vec::with_capacity(self.pack_size + EXTENT * 2))
    }

    /// Put a pack, and take note of it.
    pub(super) async fn store(&self, pack: SealedPack) -> Result<()> {
        let name = pack.name.clone();
        let stored = StoredPack { bytes: pack.bytes.len() as u64, digests: pack.digests };
        let buffer = self.repository.put_pack(pack).await?;
        self.stored.lock().map_err(|_| stopped())?.insert(name, stored);
        self.spare.lock().map_err(|_| stopped())?.push(buffer);
        self.pace.pack_is_stored();
        Ok(())
    }
}

/// Of a file that was not read.
#[derive(Debug)]
pub(super) struct UnreadFile {
    pub(super) sums: Vec<u64>,
    pub(super) read_at: i64,
}

/// What became of a region.
#[derive(Debug)]
pub(super) struct RegionDone {
    pub(super) region: Region,
    /// The file was gone when its first region was to be read.
    pub(super) vanished: bool,
    pub(super) packs: Vec<PackRef>,
    /// They number the packs above.
    pub(super) extents: Vec<Extent>,
    pub(super) digests: Vec<u64>,
    /// Bytes that stay where the base has them.
    pub(super) reused: u64,
    /// For a file that was not read: what the base knows of it.
    pub(super) unread: Option<UnreadFile>,
    /// Bytes that are as in the base, and stored again.
    pub(super) rewritten: u64,
    /// Blocks whose checksum failed.
    pub(super) bad_pages: Vec<u32>,
}

impl RegionDone {
    pub(super) const fn empty(region: Region) -> Self {
        Self {
            region,
            vanished: false,
            packs: Vec::new(),
            extents: Vec::new(),
            digests: Vec::new(),
            reused: 0,
            unread: None,
            rewritten: 0,
            bad_pages: Vec::new(),
        }
    }

    /// Roughly how many bytes of memory it holds.
    pub(super) fn weight(&self) -> usize {
        let sums = self.unread.as_ref().map_or(0, |unread| unread.sums.len());
        200 + size_of_val(self.extents.as_slice())
            + size_of_val(self.packs.as_slice())
            + 8 * (self.digests.len() + sums)
    }
}

pub(super) fn stopped() -> Error {
    Error::new(Kind::Other, "the backup was stopped")
}
