//! Which bytes of which pack are fetched at a time: neighbours together.

use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use crate::repository::{Extent, FileTable};

/// Stored bytes fetched at a time.
const LONGEST_RANGE: u64 = 4 << 20;
/// Plain bytes that come out of one range, about; so that both workers get some.
const LONGEST_PLAIN: u64 = 16 << 20;

/// An extent and where it goes.
#[derive(Debug, Clone)]
pub(super) struct Piece {
    pub(super) file: Arc<Destination>,
    /// Offset in the file, bytes.
    pub(super) position: u64,
    pub(super) extent: Extent,
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

/// Cut a part of the file table into batches, in the order in which the backup wrote them.
pub(super) fn batches(table: &FileTable, destinations: &[Arc<Destination>]) -> Vec<Batch> {
    let mut batches: Vec<Batch> = Vec::new();
    let mut plain = 0;
    for (file, destination) in table.files.iter().zip(destinations) {
        let mut position = 0;
        for extent in &file.extents {
            let pack = extent.pack as usize;
            let (start, end) =
                (u64::from(extent.offset), u64::from(extent.offset) + u64::from(extent.stored_len));
            let piece = Piece { file: Arc::clone(destination), position, extent: *extent };
            position += u64::from(extent.plain_len);
            plain += u64::from(extent.plain_len);
            match batches.last_mut() {
                Some(batch)
                    if batch.pack == pack
                        && batch.range.end == start
                        && end - batch.range.start <= LONGEST_RANGE
                        && plain <= LONGEST_PLAIN =>
                {
                    batch.range.end = end;
                    batch.pieces.push(piece);
                }
                _ => {
                    plain = u64::from(extent.plain_len);
                    batches.push(Batch { pack, range: start..end, pieces: vec![piece] });
                }
            }
        }
    }
    batches
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::repository::FileRecord;

    #[test]
    fn neighbours_are_fetched_together() {
        let extent = |pack, offset, stored_len| Extent { pack, frame: 0, offset, stored_len, plain_len: 10 };
        let file = |extents: &[Extent]| FileRecord {
            path: "f".into(),
            mode: 0,
            modified: 0,
            size: 0,
            extents: extents.to_vec(),
            digests: Vec::new(),
        };
        let table = FileTable {
            packs: Vec::new(),
            files: vec![
                file(&[extent(0, 64, 10), extent(0, 74, 10)]),
                file(&[
                    extent(0, 84, 10),
                    extent(1, 94, 10),
                    extent(1, 105, 5_000_000),
                    extent(1, 5_000_105, 1),
                ]),
            ],
        };
        let destination = Arc::new(Destination { path: "f".into(), mode: 0 });
        let found = batches(&table, &[Arc::clone(&destination), destination]);
        let ranges: Vec<_> =
            found.iter().map(|batch| (batch.pack, batch.range.clone(), batch.pieces.len())).collect();
        assert_eq!(
            ranges,
            [(0, 64..94, 3), (1, 94..104, 1), (1, 105..5_000_105, 1), (1, 5_000_105..5_000_106, 1)]
        );
        assert_eq!(found[0].pieces[1].position, 10);
        assert_eq!(found[0].pieces[2].position, 0);
    }
}
