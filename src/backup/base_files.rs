//! The files of the base, read ahead and in order, so that memory stays flat whatever the size of the cluster.

use std::collections::HashMap;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinHandle};

use super::placement::{OldFrame, OldPage};
use super::unread::Unread;
use crate::cluster::{FileEntry, Walk};
use crate::digest_reader::DigestReader;
use crate::error::Result;
use crate::format::{BackupId, Extent, FileRecord, FileTable, PackRef};
use crate::postgres::PAGE_SIZE;
use crate::repository::{Base, Repository};

/// A part of the base's file table, with its digests.
#[derive(Debug)]
pub(super) struct BasePart {
    table: FileTable,
    /// Which of its packs may be used.
    usable: Vec<bool>,
    /// Which of its files need not be read again; these have no digests.
    unread: Vec<bool>,
}

/// The base's files in the order of their paths.
#[derive(Debug)]
pub(super) struct BaseFiles {
    parts: mpsc::Receiver<Arc<BasePart>>,
    part: Option<Arc<BasePart>>,
    next: usize,
    reading: JoinHandle<()>,
}

impl Drop for BaseFiles {
    fn drop(&mut self) {
        self.reading.abort();
    }
}

impl BaseFiles {
    /// Begin to read the files of `base`, to be compared with those that the walk found.
    pub(super) fn read(repository: &Repository, base: Base, walk: Arc<Walk>, unread: Unread) -> Self {
        let (sender, parts) = mpsc::channel(1);
        let repository = repository.clone();
        let reading = tokio::spawn(async move {
            if let Err(error) = read_parts(&repository, &base, (&walk, &unread), &sender).await {
                tracing::warn!(%error, "a part of the base cannot be read: what it and later parts hold is stored anew");
            }
        });
        Self { parts, part: None, next: 0, reading }
    }

    /// The task that reads ahead. Once it is aborted nobody waits for it.
    pub(super) fn reading(&self) -> AbortHandle {
        self.reading.abort_handle()
    }

    /// The base's record of the file `path`. Paths are asked for in ascending order. Blocks.
    pub(super) fn find(&mut self, path: &[u8]) -> Option<BaseFile> {
        loop {
            let part = match &self.part {
                Some(part) if self.next < part.table.files.len() => part,
                _ => {
                    self.part = None;
                    self.part = Some(self.parts.blocking_recv()?);
                    self.next = 0;
                    continue;
                }
            };
            match part.table.files[self.next].path.as_bytes().cmp(path) {
                std::cmp::Ordering::Less => self.next += 1,
                std::cmp::Ordering::Greater => return None,
                std::cmp::Ordering::Equal => {
                    let file = BaseFile { part: Arc::clone(part), file: self.next };
                    self.next += 1;
                    return Some(file);
                }
            }
        }
    }
}

async fn read_parts(
    repository: &Repository,
    base: &Base,
    (walk, unread): (&Walk, &Unread),
    sender: &mpsc::Sender<Arc<BasePart>>,
) -> Result<()> {
    let mut digests = DigestReader::default();
    let mut last = Vec::new();
    for (id, number) in base.parts() {
        let mut table = repository.get_file_table(&id, number).await?;
        // What an interrupted backup has read later is nearer to what is there now.
        table.files.retain(|file| file.path.as_bytes() > last.as_slice());
        if let Some(file) = table.files.last() {
            last = file.path.as_bytes().to_vec();
        }
        let usable: Vec<bool> = table.packs.iter().map(|pack| base.may_reuse(repository, pack)).collect();
        let unread = which_unread(&id, &table, &usable, walk, unread);
        let wanted: Vec<bool> = unread.iter().map(|unread| !unread).collect();
        digests.fill_some(repository, &mut table, &wanted).await.map_err(|no| no.error)?;
        if sender.send(Arc::new(BasePart { table, usable, unread })).await.is_err() {
            return Ok(());
        }
    }
    Ok(())
}

/// Which files of a part need not be read again: all that they are made of may be reused, too.
fn which_unread(
    id: &BackupId,
    table: &FileTable,
    usable: &[bool],
    walk: &Walk,
    unread: &Unread,
) -> Vec<bool> {
    let is_unread = |file: &FileRecord| {
        let by_path = |entry: &FileEntry| entry.path.as_os_str().as_bytes().cmp(file.path.as_bytes());
        let found = walk.files.binary_search_by(by_path).ok();
        found.is_some_and(|found| unread.may_skip(id, file, &walk.files[found]))
            && file.extents.iter().all(|extent| usable[extent.pack as usize])
    };
    table.files.iter().map(is_unread).collect()
}

/// A file of the base.
#[derive(Debug, Clone)]
pub(super) struct BaseFile {
    part: Arc<BasePart>,
    file: usize,
}

/// What the base has in the place of a region.
#[derive(Debug, Default)]
pub(super) struct OldRegion {
    /// Page by page.
    pub(super) pages: Vec<OldPage>,
    pub(super) frames: Vec<OldFrame>,
    /// Each frame as an extent of nothing; it numbers the packs of the base's part.
    pub(super) places: Vec<Extent>,
}

impl BaseFile {
    /// What it has from `offset` (a whole page) on, `len` bytes at most. A last page that is shorter than a page here or
    /// there counts only where both files end.
    pub(super) fn region(&self, offset: u64, len: u64) -> OldRegion {
        let record = &self.part.table.files[self.file];
        let end = record.size.min(offset + len);
        let mut old = OldRegion::default();
        let mut known: HashMap<(u32, u32), usize> = HashMap::new();
        let mut position = 0;
        for extent in &record.extents {
            let begin = position;
            position += u64::from(extent.plain_len);
            if position <= offset {
                continue;
            }
            if begin >= end {
                break;
            }
            let frame = *known.entry((extent.pack, extent.frame)).or_insert_with(|| {
                old.frames.push(OldFrame {
                    pages: (extent.frame_len as usize).div_ceil(PAGE_SIZE),
                    usable: self.part.usable[extent.pack as usize],
                });
                old.places.push(Extent { skip: 0, plain_len: 0, ..*extent });
                old.places.len() - 1
            });
            for (page, at) in extent.pages().zip((begin..).step_by(PAGE_SIZE)) {
                if at >= offset && at < end {
                    let number = usize::try_from(at / PAGE_SIZE as u64).unwrap_or(usize::MAX);
                    let digest = record.digests.get(number).copied().unwrap_or_default();
                    let page = u32::try_from(page).unwrap_or(u32::MAX);
                    old.pages.push(OldPage { frame, page, digest });
                }
            }
        }
        if record.size != offset + len {
            let whole = end.saturating_sub(offset) / PAGE_SIZE as u64;
            old.pages.truncate(usize::try_from(whole).unwrap_or(usize::MAX));
        }
        old
    }

    /// What the base knows of the file, if that need not be read again.
    pub(super) fn unread(&self) -> Option<&FileRecord> {
        self.part.unread[self.file].then(|| &self.part.table.files[self.file])
    }

    /// The pack of this number.
    pub(super) fn pack(&self, number: u32) -> &PackRef {
        &self.part.table.packs[number as usize]
    }
}
