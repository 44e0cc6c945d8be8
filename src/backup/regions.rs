//! What each worker reads next: the walked files, cut into regions, handed out in order.

use std::os::unix::ffi::OsStrExt;
use std::sync::Mutex;

use super::base_files::{BaseFile, BaseFiles};
use crate::cluster::FileEntry;

/// Bytes of a region: long enough that a restore reads long ranges, short enough that workers end together.
pub(super) const REGION: u64 = 8 << 20;
/// Bytes of all regions together that workers compare with the base's at a time, and of the shortest region.
const COMPARED: u64 = 128 << 20;
const SHORTEST: u64 = 1 << 20;

/// A part of one file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Region {
    /// Its place in the order of all regions.
    pub(super) number: u64,
    /// Index of the file.
    pub(super) file: usize,
    /// First byte.
    pub(super) offset: u64,
    /// Bytes, by the listing.
    pub(super) len: u64,
    /// No region of this file follows.
    pub(super) last: bool,
}

/// Hands out regions to workers.
#[derive(Debug)]
pub(super) struct Regions<'a> {
    files: &'a [FileEntry],
    longest: u64,
    next: Mutex<Next>,
}

#[derive(Debug, Default)]
struct Next {
    number: u64,
    file: usize,
    offset: u64,
    base: Option<BaseFiles>,
    /// What the base has of the file.
    of_file: Option<BaseFile>,
}

impl<'a> Regions<'a> {
    /// Regions for so many workers. Those that are compared with a base are in memory as a whole.
    pub(super) fn new(files: &'a [FileEntry], workers: usize, base: Option<BaseFiles>) -> Self {
        let share = COMPARED / workers.max(1) as u64;
        let longest =
            if base.is_none() { REGION } else { share.clamp(SHORTEST, REGION) / SHORTEST * SHORTEST };
        Self { files, longest, next: Mutex::new(Next { base, ..Next::default() }) }
    }

    /// The next region, and what the base has of its file; `None` when all are handed out.
    pub(super) fn next(&self) -> Option<(Region, Option<BaseFile>)> {
        let mut next = self.next.lock().ok()?;
        let entry = self.files.get(next.file)?;
        if next.offset == 0 {
            next.of_file = next.base.as_mut().and_then(|base| base.find(entry.path.as_os_str().as_bytes()));
        }
        let (file, offset) = (next.file, next.offset);
        // What is not read is not cut.
        let is_unread = next.of_file.as_ref().is_some_and(|file| file.unread().is_some());
        let len = if is_unread { entry.size } else { (entry.size - offset).min(self.longest) };
        let last = offset + len == entry.size;
        let region = Region { number: next.number, file, offset, len, last };
        (next.file, next.offset) = if last { (file + 1, 0) } else { (file, offset + len) };
        next.number += 1;
        Some((region, next.of_file.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::FileStat;

    #[test]
    fn regions_cover_every_file_in_order() {
        let id = crate::disk::FileId { device: 1, inode: 2 };
        let stat = FileStat { id, modified: 0, changed: 0 };
        let entry = |size| FileEntry { path: "f".into(), size, mode: 0, stat, relation: None };
        let files = [entry(0), entry(REGION), entry(REGION + 1), entry(5)];
        let regions = Regions::new(&files, 2, None);
        let all: Vec<Region> = std::iter::from_fn(|| regions.next().map(|(region, _)| region)).collect();
        let shape: Vec<_> = all.iter().map(|r| (r.number, r.file, r.offset, r.len, r.last)).collect();
        assert_eq!(
            shape,
            [
                (0, 0, 0, 0, true),
                (1, 1, 0, REGION, true),
                (2, 2, 0, REGION, false),
                (3, 2, REGION, 1, true),
                (4, 3, 0, 5, true)
            ]
        );
    }
}
