//! What each worker reads next: the walked files, cut into regions, handed out in order.

use std::sync::Mutex;

use crate::cluster::FileEntry;

/// Bytes of a region: long enough that a restore reads long ranges, short enough that workers end together.
pub(super) const REGION: u64 = 8 << 20;

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
    next: Mutex<(u64, usize, u64)>,
}

impl<'a> Regions<'a> {
    pub(super) fn new(files: &'a [FileEntry]) -> Self {
        Self { files, next: Mutex::new((0, 0, 0)) }
    }

    /// The next region; `None` when all are handed out.
    pub(super) fn next(&self) -> Option<Region> {
        let mut next = self.next.lock().ok()?;
        let (number, file, offset) = *next;
        let size = self.files.get(file)?.size;
        let len = (size - offset).min(REGION);
        let last = offset + len == size;
        *next = if last { (number + 1, file + 1, 0) } else { (number + 1, file, offset + len) };
        Some(Region { number, file, offset, len, last })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn regions_cover_every_file_in_order() {
        let entry = |size| FileEntry { path: "f".into(), size, mode: 0, modified: 0, relation: None };
        let files = [entry(0), entry(REGION), entry(REGION + 1), entry(5)];
        let regions = Regions::new(&files);
        let all: Vec<Region> = std::iter::from_fn(|| regions.next()).collect();
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
