//! Which bytes of which pack are fetched at a time: whatever lies close together, in the order of the pack.

use std::ops::Range;
use std::sync::Arc;

use super::destination::Destination;
use crate::error::{Error, Kind};
use crate::format::{Extent, FileRecord, PackReader, PackRef};
use crate::postgres::PAGE_SIZE;

/// Stored bytes that one request asks for at most: a whole pack of a remote repository.
pub(super) const LONGEST_RANGE: u64 = 32 << 20;
/// Bytes that nobody wants, and that cost less than another request.
const GAP: u64 = 256 << 10;
/// Plain bytes of a share of what one request brought; so that every worker gets some.
const SHARE: u64 = 8 << 20;

/// A pack that is read.
#[derive(Debug)]
pub(super) struct Pack {
    pub(super) pack: PackRef,
    pub(super) reader: PackReader,
}

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

impl Piece {
    /// The frame that it lies in.
    pub(super) fn frame(&self) -> Range<u64> {
        let begin = u64::from(self.extent.offset);
        begin..begin + u64::from(self.extent.stored_len)
    }
}

/// What one request brings.
#[derive(Debug)]
pub(super) struct Batch {
    /// Index into the part's packs.
    pub(super) pack: u32,
    pub(super) range: Range<u64>,
    /// By the offset of their frames.
    pub(super) pieces: Vec<Piece>,
}

impl Batch {
    /// Cut into shares of whole frames.
    pub(super) fn shares(self) -> Vec<Vec<Piece>> {
        let mut shares: Vec<Vec<Piece>> = Vec::new();
        let mut plain = 0;
        for piece in self.pieces {
            let same_frame = |last: &Vec<Piece>| last.last().map(Piece::frame) == Some(piece.frame());
            if plain >= SHARE && !shares.last().is_some_and(same_frame) {
                plain = 0;
            }
            plain += u64::from(piece.extent.plain_len);
            match shares.last_mut() {
                Some(share) if plain > u64::from(piece.extent.plain_len) => share.push(piece),
                _ => shares.push(vec![piece]),
            }
        }
        shares
    }
}

/// Cut the pieces of one part of the file table into requests. What is wanted of a pack is asked for at once where that is
/// most of it; else what lies closer together than a request is worth.
pub(super) fn batches(mut pieces: Vec<Piece>) -> Vec<Batch> {
    pieces.sort_by_key(|piece| (piece.extent.pack, piece.extent.offset, piece.extent.skip));
    let mut batches = Vec::new();
    let mut rest = pieces.into_iter().peekable();
    while let Some(first) = rest.next() {
        let pack = first.extent.pack;
        let mut of_pack = vec![first];
        while let Some(piece) = rest.next_if(|piece| piece.extent.pack == pack) {
            of_pack.push(piece);
        }
        cut(pack, of_pack, &mut batches);
    }
    batches
}

fn cut(pack: u32, pieces: Vec<Piece>, batches: &mut Vec<Batch>) {
    let gap = if is_mostly_wanted(&pieces) { LONGEST_RANGE } else { GAP };
    let mut open: Option<Batch> = None;
    for piece in pieces {
        let frame = piece.frame();
        let joins = |batch: &Batch| {
            frame.end <= batch.range.end
                || frame.start <= batch.range.end + gap && frame.end - batch.range.start <= LONGEST_RANGE
        };
        match &mut open {
            Some(batch) if joins(batch) => {
                batch.range.end = batch.range.end.max(frame.end);
                batch.pieces.push(piece);
            }
            _ => batches.extend(open.replace(Batch { pack, range: frame, pieces: vec![piece] })),
        }
    }
    batches.extend(open);
}

/// Whether the frames make up at least half of the pack between the first and the last of them.
fn is_mostly_wanted(pieces: &[Piece]) -> bool {
    let (mut wanted, mut end) = (0, 0);
    for frame in pieces.iter().map(Piece::frame) {
        wanted += frame.end.max(end) - frame.start.max(end);
        end = end.max(frame.end);
    }
    pieces.first().is_some_and(|first| wanted * 2 >= end - first.frame().start)
}

/// The pieces of one file.
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

/// A pack that a backup names is there.
pub(super) fn pack_missing(error: Error) -> Error {
    if error.kind() == Kind::NotFound {
        error.as_kind(Kind::Corrupt).hint("the repository is damaged: try an older backup (--backup)")
    } else {
        error
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u32 = 1 << 20;

    fn piece(pack: u32, offset: u32, stored_len: u32, skip: u32) -> Piece {
        let extent = Extent { pack, frame: 0, offset, stored_len, frame_len: MIB, skip, plain_len: MIB };
        Piece {
            file: Arc::new(Destination::new("f".into(), 0)),
            position: 0,
            extent,
            digests: Box::default(),
        }
    }

    fn shape(pieces: &[(u32, u32, u32)]) -> Vec<(u32, Range<u64>, usize)> {
        let pieces = pieces.iter().map(|(pack, offset, len)| piece(*pack, *offset, *len, 0)).collect();
        batches(pieces).iter().map(|batch| (batch.pack, batch.range.clone(), batch.pieces.len())).collect()
    }

    #[test]
    fn what_is_mostly_wanted_comes_in_one_request_whatever_the_order() {
        let found = shape(&[(1, 64, 10), (0, 2 * MIB, MIB), (0, 64, MIB), (0, 64, MIB), (1, 74, 10)]);
        assert_eq!(found, [(0, 64..3 << 20, 3), (1, 64..84, 2)]);
    }

    #[test]
    fn of_what_is_hardly_wanted_only_neighbours_come_together() {
        let far = 20 * MIB;
        let found = shape(&[(0, 64, 10), (0, far, 10), (0, 100_000, 10), (0, far + 10, 10)]);
        assert_eq!(found, [(0, 64..100_010, 2), (0, u64::from(far)..u64::from(far) + 20, 2)]);
    }

    #[test]
    fn no_request_is_longer_than_the_longest_pack() {
        let pieces: Vec<_> = (0..40).map(|number| (0, number * MIB, MIB)).collect();
        assert_eq!(shape(&pieces), [(0, 0..32 << 20, 32), (0, 32 << 20..40 << 20, 8)]);
        assert_eq!(shape(&[(0, 0, 40 * MIB), (0, 40 * MIB, 1)]).len(), 2, "but for a frame that is");
    }

    #[test]
    fn shares_hold_whole_frames() {
        // Twelve extents of 1 MiB, the ninth to the eleventh of one frame.
        let offset = |number: u32| if (9..=10).contains(&number) { 8 } else { number };
        let pieces: Vec<_> = (0..12).map(|number| piece(0, offset(number), 1, number)).collect();
        let mut batches = batches(pieces);
        let shares = batches.remove(0).shares();
        assert!(batches.is_empty());
        assert_eq!(shares.iter().map(Vec::len).collect::<Vec<_>>(), [8, 4]);
        let one_frame: Vec<_> = (0..12).map(|number| piece(0, 64, 10, number)).collect();
        assert_eq!(super::batches(one_frame).remove(0).shares().len(), 1);
    }

    #[test]
    fn pieces_follow_each_other_in_their_file() {
        let extent = |skip| piece(0, 64, 10, skip).extent;
        let file = FileRecord {
            path: "f".into(),
            mode: 0,
            state: 0,
            read_at: 0,
            size: 0,
            extents: vec![Extent { plain_len: 16384, ..extent(0) }, Extent { plain_len: 8193, ..extent(1) }],
            sums: Vec::new(),
            digests: (0..4).collect(),
        };
        let destination = Arc::new(Destination::new("f".into(), 0));
        let found: Vec<_> =
            pieces(&file, &destination).map(|piece| (piece.position, piece.digests.to_vec())).collect();
        assert_eq!(found, [(0, vec![0, 1]), (16384, vec![2, 3])]);
    }
}
