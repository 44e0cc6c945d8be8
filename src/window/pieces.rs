//! The files along a lineage, in the order in which recovery reads them.

use std::ops::RangeInclusive;

use super::times::{Need, WalTimes};
use crate::catalog::Catalog;
use crate::error::{Error, Result};
use crate::format::WalDigest;
use crate::postgres::{History, Lsn, SegmentName, SegmentSize, Stretch, TimelineId, WalName};
use crate::repository::conflict;
use crate::wal::{Lead, Links};

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
    /// How it is linked to its neighbours.
    pub(super) links: Links,
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
            Some(Ok(scan)) => (piece.end, piece.links) = (piece.end.min(scan.end), scan.summary.links),
            Some(Err(error)) => return Err(error.clone()),
            None => needs.push(Need::Tail(key.0, key.1, key.2)),
        }
        return Ok(piece);
    };
    if catalog.is_doubled(&piece.segment) {
        let name = WalName::Segment(piece.segment);
        let digests: Vec<WalDigest> = catalog.versions(&name).map(|file| file.digest).collect();
        match times.genuine.get(&(piece.segment, digests)) {
            Some(Ok(genuine)) => (piece.digest, piece.links) = (Some(*genuine), genuine.links()),
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

/// The error for a file whose records do not follow those of the one before it, and who archived the two.
pub(super) fn parted(
    times: &WalTimes,
    [last, piece]: [&Piece; 2],
    why: &str,
    needs: &mut Vec<Need>,
) -> Error {
    let mut writer = |piece: &Piece| {
        let digest = piece.digest?;
        let Some(summary) = times.summaries.get(&(piece.segment, digest)) else {
            needs.push(Need::Summary(piece.segment, digest));
            return None;
        };
        summary.as_ref().ok().map(|summary| summary.writer.clone()).filter(|writer| !writer.is_empty())
    };
    let by = match [writer(last), writer(piece)] {
        [Some(one), Some(other)] if one == other => format!("; both were archived by {one}"),
        writers => {
            let named = [last, piece].into_iter().zip(writers);
            let by = |(piece, writer): (&Piece, Option<String>)| {
                Some(format!("; {} was archived by {}", piece.segment, writer?))
            };
            named.filter_map(by).collect()
        }
    };
    Error::corrupt(format!("{} does not go on where {} ends: {why}{by}", piece.segment, last.segment)).hint(
        "did two servers write this timeline, one of them a restored copy or an old primary? a new backup of \
         the right one needs none of it",
    )
}

impl Catalog {
    /// The segments and tails that are stored along `history` from `start` on without a hole, and where that ends. By
    /// their keys alone: what is damaged, or stored twice, counts here.
    pub fn stored_from(&self, history: &History, start: Lsn) -> (Vec<SegmentName>, Lsn) {
        let (found, end, _) = self.stored_behind(history, start, Lead::default());
        (found, end)
    }

    /// The same, behind what has this lead; and what is found leads to.
    pub(crate) fn stored_behind(
        &self,
        history: &History,
        start: Lsn,
        mut lead: Lead,
    ) -> (Vec<SegmentName>, Lsn, Lead) {
        let size = self.segment_size;
        let (mut found, mut end) = (Vec::new(), start.segment_start(size));
        for piece in pieces(self, history, start.get() / size.bytes()) {
            if piece.segment.start(size) != end || lead.breaks_at(piece.links, end).is_some() {
                break;
            }
            found.push(piece.segment);
            end = piece.end;
            // One that ends at a switch may give way to the next timeline's copy of it.
            if piece.whole {
                lead = lead.through(piece.links);
            }
        }
        (found, end, lead)
    }
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
        let (digest, links) = (Some(file.digest), file.digest.links());
        Piece { number, segment, digest, end: cut(end), whole: cut(end) == end, links }
    });
    let tails = catalog.tails(stretch.timeline, first..=last).map(|(number, tail)| {
        let end = tail.end(size);
        let (segment, links) = (tail.segment, Links::UNKNOWN);
        Piece { number, segment, digest: None, end: cut(end), whole: cut(end) == end, links }
    });
    archived.chain(tails).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::samples::{catalog, file, history, manifest, summary, window};
    use super::super::{Cut, RecoveryWindow};
    use super::*;
    use crate::format::Summary;
    use crate::repository::WalFile;

    const MIB: u64 = 1 << 20;

    fn size() -> SegmentSize {
        SegmentSize::new(1 << 20).unwrap()
    }

    fn segment(of: u32, number: u64) -> SegmentName {
        SegmentName::from_number(TimelineId::new(of).unwrap(), number, size())
    }

    /// A segment whose first record follows the one at `first`, and whose last one begins at `last`.
    fn linked(of: u32, number: u64, first: u64, last: u64) -> WalFile {
        // Timeline 2 begins within a segment.
        let pages = (if number > 5 { of } else { 1 }, of);
        let links = Links::new(Some(Lsn::new(first)), Some(Some(Lsn::new(last))), pages);
        let file = file(&segment(of, number).to_string(), 1);
        WalFile { digest: file.digest.content().linked(links), ..file }
    }

    /// Where the last record of a segment begins in the life that is `life`.
    fn last(number: u64, life: u64) -> u64 {
        (number + 1) * MIB - 800 + 8 * life
    }

    /// A rehearsal switched in segment 4 and wrote it alone; the server that was promoted later begins in segment 5.
    fn two_lives() -> Catalog {
        let mut catalog = catalog(1 << 20, &[]);
        for file in [
            linked(1, 3, 8, last(3, 0)),
            linked(1, 4, last(3, 0), last(4, 0)),
            linked(2, 4, last(3, 0), last(4, 1)),
            linked(2, 5, last(4, 0), last(5, 2)),
            linked(2, 6, last(5, 2), last(6, 2)),
            file("00000002.history", 1),
        ] {
            catalog.add(file);
        }
        catalog.with_history(2, Ok(history(2, "1\t0/480000\tx")))
    }

    fn seen(catalog: &Catalog) -> RecoveryWindow {
        let said = |segment: SegmentName, _| {
            let writer = format!("db{}:/pg", if segment == self::segment(2, 4) { 1 } else { 2 });
            let end = segment.end(size());
            Ok(Summary { writer, ..summary(end, i64::try_from(segment.number(size())).unwrap()) })
        };
        window(catalog, |_, _| None, said, |_, _| panic!(), |_, _, _| panic!()).0
    }

    #[test]
    fn r28_a_path_ends_where_records_do_not_follow_and_a_backup_behind_it_begins_anew() {
        let mut catalog = two_lives();
        for (of, number) in [(1, 3), (2, 5), (2, 4)] {
            let start = number * MIB;
            let stop = if (of, number) == (2, 4) { 5 * MIB + 400 } else { start + 400 };
            catalog.backups.push(Arc::new(manifest(Lsn::new(start + 40), Lsn::new(stop), of)));
        }
        let window = seen(&catalog);
        let branch = window.branch(TimelineId::new(2).unwrap()).unwrap();
        let spans: Vec<_> =
            branch.spans.iter().map(|span| (span.begin.get() / MIB, span.end.get() / MIB)).collect();
        assert_eq!(spans, [(3, 5), (5, 7)]);
        let Cut::Unusable(cut, error) = &branch.spans[0].cut else { panic!("{:?}", branch.spans[0].cut) };
        assert_eq!(*cut, segment(2, 5));
        let text = error.to_string();
        for part in [
            "000000020000000000000005 does not go on where 000000020000000000000004 ends",
            "its first record follows the record at 0/4FFCE0, and the last one before it begins at 0/4FFCE8",
            "000000020000000000000004 was archived by db1:/pg; 000000020000000000000005 was archived by db2:/pg",
        ] {
            assert!(text.contains(part), "{text}");
        }
        let reaches: Vec<_> =
            branch.reaches.iter().map(|reach| (reach.backup.start_lsn.get() / MIB, reach.span)).collect();
        assert_eq!(reaches, [(3, 0), (5, 1)]);
        // One that began before the border and stopped behind it cannot be made consistent.
        assert_eq!(branch.stranded.len(), 1);
        // On timeline 1 all is one.
        assert_eq!(window.branch(TimelineId::FIRST).unwrap().spans.len(), 1);
    }

    #[test]
    fn r28_what_is_stored_ends_there_too() {
        let catalog = two_lives();
        let history = history(2, "1\t0/480000\tx");
        let stored = |from: u64| catalog.stored_from(&history, Lsn::new(from * MIB)).1.get() / MIB;
        assert_eq!([stored(3), stored(4), stored(5)], [5, 5, 7]);
        // What lies before it counts as well where it is known.
        let (_, _, lead) = catalog.stored_behind(&history, Lsn::new(3 * MIB), Lead::default());
        assert_eq!(catalog.stored_behind(&history, Lsn::new(5 * MIB), lead).1, Lsn::new(5 * MIB));
    }
}
