//! Which bytes of which pack are fetched at a time: what a stretch of the files needs, and of that whatever lies close
//! together in a pack. So a worker has all pages of its share of a file at hand, in whatever packs they lie, and writes
//! them one behind the other: after many backups on top of each other hardly two neighbours lie in one frame.

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::sync::Arc;

use super::destination::Destination;
use crate::error::{Error, Kind};
use crate::format::{Extent, FileRecord, PackReader, PackRef};
use crate::postgres::PAGE_SIZE;

/// Stored bytes that one request asks for at most: a whole pack of a remote repository.
const LONGEST_RANGE: u64 = 32 << 20;
/// Bytes that nobody wants, and that cost less than another request to a remote repository.
const GAP: u64 = 256 << 10;
/// Stored bytes of the first stretch, of which each later one holds twice as many as the one before, and of the longest: the
/// disk has something to write early, and most comes in few requests. Up to twice as many where frames are shared across the end.
const FIRST_STRETCH: u64 = 1 << 20;
const LONGEST_STRETCH: u64 = 16 << 20;
/// Plain bytes of the frames of a share of a stretch, so that every worker gets some; up to twice as many, as above.
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

    /// Those of its pages.
    pub(super) fn pages(&self, pages: Range<usize>) -> Self {
        let whole = self.extent.plain_len as usize;
        let begin = (pages.start * PAGE_SIZE).min(whole);
        let end = (pages.end * PAGE_SIZE).min(whole);
        let bytes = |bytes: usize| u32::try_from(bytes).unwrap_or(u32::MAX);
        let skip = self.extent.skip.saturating_add(bytes(begin));
        Self {
            file: Arc::clone(&self.file),
            position: self.position + begin as u64,
            extent: Extent { skip, plain_len: bytes(end - begin), ..self.extent },
            digests: self.digests.get(pages).unwrap_or_default().into(),
        }
    }
}

/// What one request brings.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Request {
    /// Index into the part's packs.
    pub(super) pack: u32,
    pub(super) range: Range<u64>,
}

/// Cuts pieces into stretches.
#[derive(Debug)]
pub(super) struct Stretches {
    /// Stored bytes of the next one.
    next: u64,
}

impl Default for Stretches {
    fn default() -> Self {
        Self { next: FIRST_STRETCH }
    }
}

impl Stretches {
    /// The pieces, which are in the order of the files.
    pub(super) fn of(&mut self, pieces: Vec<Piece>) -> Vec<Vec<Piece>> {
        let limit = || {
            let this = self.next;
            self.next = LONGEST_STRETCH.min(this * 2);
            this
        };
        cut(pieces, limit, |extent| extent.stored_len)
    }
}

/// A stretch cut into shares. Of a frame of which one page is wanted as much is opened as of one that is wanted whole, nearly.
pub(super) fn shares(stretch: Vec<Piece>) -> Vec<Vec<Piece>> {
    cut(stretch, || SHARE, |extent| extent.frame_len)
}

/// Cut where the weight that `limit` gives for each is reached and no frame is wanted on both sides; in any case when it is
/// reached twice. Each frame counts once, with the bytes that `of_frame` gives.
fn cut(
    pieces: Vec<Piece>,
    mut limit: impl FnMut() -> u64,
    of_frame: impl Fn(&Extent) -> u32,
) -> Vec<Vec<Piece>> {
    let place = |piece: &Piece| (piece.extent.pack, piece.extent.offset);
    let last: HashMap<_, _> = pieces.iter().enumerate().map(|(at, piece)| (place(piece), at)).collect();
    let (mut found, mut open, mut seen) = (Vec::new(), Vec::new(), HashSet::new());
    let (mut sum, mut wanted_until, mut most) = (0, 0, limit());
    for (at, piece) in pieces.into_iter().enumerate() {
        wanted_until = wanted_until.max(last.get(&place(&piece)).copied().unwrap_or(at));
        if seen.insert(place(&piece)) {
            sum += u64::from(of_frame(&piece.extent));
        }
        open.push(piece);
        if sum >= most && (wanted_until <= at || sum >= 2 * most) {
            found.push(std::mem::take(&mut open));
            (sum, most) = (0, limit());
        }
    }
    found.extend(Some(open).filter(|open| !open.is_empty()));
    found
}

/// The requests that bring a stretch. What is wanted of a pack is asked for at once where that is most of it; else what lies
/// closer together than a request is worth. A local repository answers at once: of it only what is wanted is read.
pub(super) fn requests(stretch: &[Piece], is_remote: bool) -> Vec<Request> {
    let mut frames: Vec<(u32, Range<u64>)> =
        stretch.iter().map(|piece| (piece.extent.pack, piece.frame())).collect();
    frames.sort_unstable_by_key(|(pack, frame)| (*pack, frame.start));
    frames.dedup();
    let gap = |frames: &[_]| {
        if is_remote && is_mostly_wanted(frames) {
            LONGEST_RANGE
        } else if is_remote {
            GAP
        } else {
            0
        }
    };
    let packs = frames.chunk_by(|one, next| one.0 == next.0);
    packs.flat_map(|frames| requests_of_pack(frames, gap(frames))).collect()
}

/// Asked for together: what has no more than `gap` bytes between.
fn requests_of_pack(frames: &[(u32, Range<u64>)], gap: u64) -> Vec<Request> {
    let mut requests: Vec<Request> = Vec::new();
    for (pack, frame) in frames {
        match requests.last_mut().map(|request| &mut request.range) {
            Some(range)
                if frame.end <= range.end
                    || frame.start <= range.end + gap && frame.end - range.start <= LONGEST_RANGE =>
            {
                range.end = range.end.max(frame.end);
            }
            _ => requests.push(Request { pack: *pack, range: frame.clone() }),
        }
    }
    requests
}

/// Whether the frames make up at least half of the pack between the first and the last of them.
fn is_mostly_wanted(frames: &[(u32, Range<u64>)]) -> bool {
    let (mut wanted, mut end) = (0, 0);
    for (_, frame) in frames {
        wanted += frame.end.max(end) - frame.start.max(end);
        end = end.max(frame.end);
    }
    frames.first().is_some_and(|(_, first)| wanted * 2 >= end - first.start)
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

    fn shape_of(is_remote: bool, pieces: &[(u32, u32, u32)]) -> Vec<(u32, Range<u64>)> {
        let pieces: Vec<_> =
            pieces.iter().map(|(pack, offset, len)| piece(*pack, *offset, *len, 0)).collect();
        requests(&pieces, is_remote).into_iter().map(|request| (request.pack, request.range)).collect()
    }

    fn shape(pieces: &[(u32, u32, u32)]) -> Vec<(u32, Range<u64>)> {
        shape_of(true, pieces)
    }

    #[test]
    fn of_a_local_repository_what_is_wanted_is_read_and_nothing_else() {
        let found = shape_of(false, &[(0, 64, 10), (0, 80, 10), (0, 74, 2), (0, 90, 20)]);
        assert_eq!(found, [(0, 64..76), (0, 80..110)]);
    }

    #[test]
    fn what_is_mostly_wanted_comes_in_one_request_whatever_the_order() {
        let found = shape(&[(1, 64, 10), (0, 2 * MIB, MIB), (0, 64, MIB), (0, 64, MIB), (1, 74, 10)]);
        assert_eq!(found, [(0, 64..3 << 20), (1, 64..84)]);
    }

    #[test]
    fn of_what_is_hardly_wanted_only_neighbours_come_together() {
        let far = 20 * MIB;
        let found = shape(&[(0, 64, 10), (0, far, 10), (0, 100_000, 10), (0, far + 10, 10)]);
        assert_eq!(found, [(0, 64..100_010), (0, u64::from(far)..u64::from(far) + 20)]);
    }

    #[test]
    fn no_request_is_longer_than_the_longest_pack() {
        let pieces: Vec<_> = (0..40).map(|number| (0, number * MIB, MIB)).collect();
        assert_eq!(shape(&pieces), [(0, 0..32 << 20), (0, 32 << 20..40 << 20)]);
        assert_eq!(shape(&[(0, 0, 40 * MIB), (0, 40 * MIB, 1)]).len(), 2, "but for a frame that is");
    }

    #[test]
    fn shares_and_stretches_hold_whole_frames() {
        // Extents of 1 MiB, the ninth to the eleventh of one frame.
        let offset = |number: u32| if (9..=10).contains(&number) { 8 } else { number };
        let pieces: Vec<_> = (0..20).map(|number| piece(0, offset(number), 3 * MIB, number)).collect();
        let lengths = |cut: Vec<Vec<Piece>>| cut.iter().map(Vec::len).collect::<Vec<_>>();
        assert_eq!(lengths(shares(pieces.clone())), [8, 10, 2]);
        // Three of the twenty are in one frame: 18 frames of 3 MiB.
        let stretches = |pieces| Stretches { next: LONGEST_STRETCH }.of(pieces);
        assert_eq!(lengths(stretches(pieces)), [6, 8, 6]);
        // A page of each is as much work as all of them.
        let a_page = |piece: Piece| piece.pages(0..1);
        let pages: Vec<_> = (0..20).map(|number| a_page(piece(0, number, 3 * MIB, 0))).collect();
        assert_eq!(lengths(shares(pages)), [8, 8, 4]);
        // A frame that is wanted everywhere does not make it endless.
        let everywhere = |number: u32| piece(0, if number.is_multiple_of(2) { number } else { 64 }, 10, 0);
        assert_eq!(lengths(shares((0..40).map(everywhere).collect())), [29, 11]);
    }

    #[test]
    fn the_first_stretches_are_short() {
        let pieces: Vec<_> = (0..40).map(|number| piece(0, number, MIB, 0)).collect();
        let mut stretches = Stretches::default();
        let lengths = |cut: Vec<Vec<Piece>>| cut.iter().map(Vec::len).collect::<Vec<_>>();
        assert_eq!(lengths(stretches.of(pieces.clone())), [1, 2, 4, 8, 16, 9]);
        assert_eq!(lengths(stretches.of(pieces)), [16, 16, 8], "those of the next part are long");
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
