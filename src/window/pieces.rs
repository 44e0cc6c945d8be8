//! The files along a lineage, in the order in which recovery reads them.

use std::ops::RangeInclusive;

use super::catalog::Catalog;
use super::times::{Need, WalTimes};
use crate::error::{Error, Result};
use crate::format::WalDigest;
use crate::postgres::{History, Lsn, SegmentName, SegmentSize, Stretch, TimelineId, WalName};
use crate::repository::conflict;

/// A stored segment, or a tail, on its place in a lineage.
#[derive(Debug, Clone, Copy)]
pub(super) struct Piece {
    pub(super) number: u64,
    pub(super) segment: SegmentName,
    /// `None`: a tail.
    pub(super) digest: Option<WalDigest>,
    /// Where it ends for this lineage.
    pub(super) end: Lsn,
    /// Whether all of it lies on this lineage: behind a switch its records tell of another one.
    pub(super) whole: bool,
}

/// The files that recovery along `history` may read between two positions, by timeline: segments by number, of an older
/// timeline the one too in which the next begins. Without `to`: to the end.
pub fn files(
    history: &History,
    size: SegmentSize,
    from: Lsn,
    to: Option<Lsn>,
) -> Vec<(TimelineId, RangeInclusive<u64>)> {
    let size = size.bytes();
    // A position at a boundary needs nothing of the segment behind it.
    let until = to.map_or(u64::MAX, |to| to.get().saturating_sub(1) / size);
    let stretches = history.lineage().into_iter().map(|stretch| {
        let first = stretch.begin.max(from).get() / size;
        let last = stretch.end.map_or(u64::MAX, |end| end.get() / size).min(until);
        (stretch.timeline, first..=last)
    });
    stretches.filter(|(_, numbers)| !numbers.is_empty()).collect()
}

/// The piece as it counts: the genuine version of its segment, the checked end of its tail. An error says why recovery
/// would stop before it.
pub(super) fn usable(
    catalog: &Catalog,
    times: &WalTimes,
    piece: &Piece,
    needs: &mut Vec<Need>,
) -> Result<Piece, Error> {
    let mut piece = *piece;
    let Some(digest) = piece.digest else {
        let Some(tail) = catalog.tail(&piece.segment) else { return Ok(piece) };
        let key = (piece.segment, tail.generation, tail.len);
        match times.tails.get(&key) {
            Some(Ok(scan)) => piece.end = piece.end.min(scan.end),
            Some(Err(error)) => return Err(error.clone()),
            None => needs.push(Need::Tail(key.0, key.1, key.2)),
        }
        return Ok(piece);
    };
    if catalog.is_doubled(&piece.segment) {
        let name = WalName::Segment(piece.segment);
        let digests: Vec<WalDigest> = catalog.versions(&name).map(|file| file.digest).collect();
        match times.genuine.get(&(piece.segment, digests)) {
            Some(Ok(genuine)) => piece.digest = Some(*genuine),
            Some(Err(error)) => return Err(error.clone()),
            None => {
                needs.push(Need::Genuine(piece.segment));
                return Err(conflict(&name));
            }
        }
    }
    let key = (piece.segment, piece.digest.unwrap_or(digest));
    if let Some(harm) = catalog.unsound.get(&key) {
        return Err(harm.clone());
    }
    match times.summaries.get(&key) {
        Some(Err(error)) => Err(error.clone()),
        _ => Ok(piece),
    }
}

/// What is stored along `history`, in order, as recovery looks for it (XLogFileReadAnyTLI: in the newest timeline that
/// has begun by then). An older timeline's copy serves only where the newer one begins within that segment, and up to
/// there. `from`: the first segment's number.
pub(super) fn pieces(catalog: &Catalog, history: &History, from: u64) -> Vec<Piece> {
    let size = catalog.segment_size;
    let mut pieces: Vec<Piece> = Vec::new();
    for stretch in &history.lineage() {
        let mut on_timeline = on_stretch(catalog, stretch, from);
        on_timeline.sort_by_key(|piece| piece.number);
        let first = on_timeline.first().map(|piece| piece.number);
        if first.is_some_and(|first| stretch.begin.get() / size.bytes() == first) {
            while pieces.last().is_some_and(|piece| Some(piece.number) >= first) {
                pieces.pop();
            }
        }
        pieces.extend(on_timeline);
    }
    pieces
}

fn on_stretch(catalog: &Catalog, stretch: &Stretch, from: u64) -> Vec<Piece> {
    let size = catalog.segment_size;
    let first = from.max(stretch.begin.get() / size.bytes());
    // A switch at a boundary: nothing of the segment behind it is this timeline's.
    let last = stretch.end.map_or(u64::MAX, |end| end.get().saturating_sub(1) / size.bytes());
    if first > last {
        return Vec::new();
    }
    let cut = |end: Lsn| stretch.end.map_or(end, |switch| end.min(switch));
    let archived = catalog.segments(stretch.timeline, first..=last).map(|(number, file)| {
        let segment = SegmentName::from_number(stretch.timeline, number, size);
        let end = segment.end(size);
        Piece { number, segment, digest: Some(file.digest), end: cut(end), whole: cut(end) == end }
    });
    let tails = catalog.tails(stretch.timeline, first..=last).map(|(number, tail)| {
        let end = tail.end(size);
        Piece { number, segment: tail.segment, digest: None, end: cut(end), whole: cut(end) == end }
    });
    archived.chain(tails).collect()
}
