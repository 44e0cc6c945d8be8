//! Which bytes of which pack are fetched at a time: neighbours together.

use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use crate::format::{Extent, FileRecord, FileTable};
use crate::postgres::PAGE_SIZE;

/// Stored bytes fetched at a time.
const LONGEST_RANGE: u64 = 4 << 20;
/// Bytes between two frames that are fetched for nothing, rather than asked for the second frame apart.
const LONGEST_GAP: u64 = 256 << 10;
/// Plain bytes that come out of one range, about; so that both workers get some.
const LONGEST_PLAIN: u64 = 16 << 20;

/// An extent and where it goes.
#[derive(Debug, Clone)]
pub(super) struct Piece {
    pub(super) file: Arc<Destination>,
    /// Offset in the file, bytes.
    pub(super) position: u64,
    pub(super) extent: Extent,
    /// Those of its pages.
    pub(super) digests: Box<[u64]>,
}

/// A file that is being written.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Destination {
    pub(super) path: PathBuf,
    pub(super) mode: u32,
}

/// Neighbouring extents of one pack.
#[derive(Debug, Clone)]
pub(super) struct Batch {
    /// Index into the part's packs.
    pub(super) pack: usize,
    pub(super) range: Range<u64>,
    pub(super) pieces: Vec<Piece>,
}

impl Batch {
    const fn of(pack: usize, range: Range<u64>) -> Self {
        Self { pack, range, pieces: Vec::new() }
    }

    /// Whether the frame at `range` of this pack is the last one here, or follows it soon and can be fetched together
    /// with it. `plain` bytes come out of all.
    fn takes(&self, pack: usize, range: &Range<u64>, plain: u64) -> bool {
        let begins = |piece: &Piece| u64::from(piece.extent.offset);
        let is_last = range.end == self.range.end && self.pieces.last().map(begins) == Some(range.start);
        let gap = range.start.checked_sub(self.range.end);
        let follows = gap.is_some_and(|gap| gap <= LONGEST_GAP)
            && range.end - self.range.start <= LONGEST_RANGE
            && plain <= LONGEST_PLAIN;
        self.pack == pack && (is_last || follows)
    }
}

/// Cut a part of the file table into batches, in the order in which the packs hold them: so that each frame is fetched
/// and opened once, whatever files it is for.
pub(super) fn batches(table: &FileTable, destinations: &[Arc<Destination>]) -> Vec<Batch> {
    let mut batches: Vec<Batch> = Vec::new();
    let mut plain = 0;
    let files = table.files.iter().zip(destinations);
    let mut all: Vec<Piece> = files.flat_map(|(file, destination)| pieces(file, destination)).collect();
    all.sort_by_key(|piece| (piece.extent.pack, piece.extent.offset));
    for piece in all {
        let Extent { pack, offset, stored_len, plain_len, .. } = piece.extent;
        let (pack, start) = (pack as usize, u64::from(offset));
        let range = start..start + u64::from(stored_len);
        plain += u64::from(plain_len);
        if !batches.last().is_some_and(|batch| batch.takes(pack, &range, plain)) {
            plain = u64::from(plain_len);
            batches.push(Batch::of(pack, range.clone()));
        }
        if let Some(batch) = batches.last_mut() {
            batch.range.end = range.end;
            batch.pieces.push(piece);
        }
    }
    batches
}

pub(super) fn pieces(file: &FileRecord, destination: &Arc<Destination>) -> impl Iterator<Item = Piece> {
    let (mut position, mut digests) = (0, file.digests.as_slice());
    file.extents.iter().map(move |extent| {
        let pages = (extent.plain_len as usize).div_ceil(PAGE_SIZE).min(digests.len());
        let (own, rest) = digests.split_at(pages);
        let piece = Piece { file: Arc::clone(destination), position, extent: *extent, digests: own.into() };
        position += u64::from(extent.plain_len);
        digests = rest;
        piece
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn extent(pack: u32, offset: u32, stored_len: u32) -> Extent {
        Extent { pack, frame: 0, offset, stored_len, frame_len: 65536, skip: 0, plain_len: 8192 }
    }

    fn file(extents: &[Extent]) -> FileRecord {
        FileRecord {
            path: "f".into(),
            mode: 0,
            modified: 0,
            size: 0,
            extents: extents.to_vec(),
            sums: Vec::new(),
            digests: (0..extents.len() as u64).collect(),
        }
    }

    fn cut(files: &[&[Extent]]) -> Vec<Batch> {
        let table =
            FileTable { packs: Vec::new(), files: files.iter().map(|extents| file(extents)).collect() };
        let destination = Arc::new(Destination { path: "f".into(), mode: 0 });
        batches(&table, &vec![destination; files.len()])
    }

    fn shape(batches: &[Batch]) -> Vec<(usize, Range<u64>, usize)> {
        batches.iter().map(|batch| (batch.pack, batch.range.clone(), batch.pieces.len())).collect()
    }

    #[test]
    fn neighbours_are_fetched_together() {
        let found = cut(&[
            &[extent(0, 64, 10), extent(0, 74, 10)],
            &[extent(0, 84, 10), extent(1, 94, 10), extent(1, 105, 5_000_000), extent(1, 5_000_105, 1)],
        ]);
        assert_eq!(
            shape(&found),
            [(0, 64..94, 3), (1, 94..104, 1), (1, 105..5_000_105, 1), (1, 5_000_105..5_000_106, 1)]
        );
        let places: Vec<_> = found[0].pieces.iter().map(|piece| (piece.position, piece.digests[0])).collect();
        assert_eq!(places, [(0, 0), (8192, 1), (0, 0)]);
        let gap = u32::try_from(LONGEST_GAP).unwrap();
        let found = cut(&[&[extent(0, 0, 10), extent(0, 10 + gap, 10), extent(0, 21 + 2 * gap, 10)]]);
        let second = u64::from(21 + 2 * gap);
        assert_eq!(shape(&found), [(0, 0..LONGEST_GAP + 20, 2), (0, second..second + 10, 1)]);
    }

    #[test]
    fn extents_of_one_frame_are_fetched_together() {
        let part = |pack, offset, skip| Extent { skip, ..extent(pack, offset, 10) };
        let found = cut(&[
            &[part(0, 64, 8192), part(0, 64, 0), part(0, 74, 0)],
            &[part(0, 74, 8192), part(0, 64, 0), part(1, 64, 0), part(1, 64, 0)],
        ]);
        assert_eq!(shape(&found), [(0, 64..84, 5), (1, 64..74, 2)]);
        let frames: Vec<_> = found[0].pieces.iter().map(|piece| piece.extent.offset).collect();
        assert_eq!(frames, [64, 64, 64, 74, 74]);
    }
}
