//! Up to where WAL of a timeline is stored, holes or not, whoever stored it (R29): more than the server has flushed is
//! proof that another life of the cluster wrote it.

use std::collections::BTreeMap;
use std::time::Instant;

use crate::format::{ObjectKey, TailGeneration};
use crate::postgres::{Lsn, SegmentName, SegmentSize, TimelineId};
use crate::repository::Listing;

/// The newest tail of a segment.
pub(super) type NewestTail = (TailGeneration, u32);

/// What is stored of one timeline.
#[derive(Debug)]
pub(super) struct StoredEnd {
    timeline: TimelineId,
    size: SegmentSize,
    segments: Option<Lsn>,
    tails: BTreeMap<SegmentName, NewestTail>,
    /// What the server says later can be compared: when its end was last seen to move on.
    at: Instant,
}

impl StoredEnd {
    /// By a listing that was complete `at` this moment.
    pub(super) fn of(listing: &Listing, timeline: TimelineId, size: SegmentSize, at: Instant) -> Self {
        let mut stored = Self { timeline, size, segments: None, tails: BTreeMap::new(), at };
        for listed in &listing.objects {
            match listed.key {
                ObjectKey::Wal(crate::postgres::WalName::Segment(segment), _) => stored.note_segment(segment),
                ObjectKey::Tail(piece) => {
                    let newest = stored.tails.entry(piece.segment).or_insert((piece.generation, piece.end));
                    *newest = (*newest).max((piece.generation, piece.end));
                }
                _ => {}
            }
        }
        stored
    }

    fn note_segment(&mut self, segment: SegmentName) {
        if segment.timeline == self.timeline {
            self.segments = self.segments.max(Some(segment.end(self.size)));
        }
    }

    /// A segment was stored.
    pub(super) fn add_segment(&mut self, segment: SegmentName, at: Instant) {
        let before = self.end();
        self.note_segment(segment);
        self.tails.remove(&segment);
        self.moved(before, at);
    }

    /// What does not move the end on leaves what was known of it.
    fn moved(&mut self, before: Option<Lsn>, at: Instant) {
        if self.end() > before {
            self.at = at;
        }
    }

    /// A tail was stored; it takes the place of earlier generations, even if it is shorter.
    pub(super) fn add_tail(&mut self, segment: SegmentName, tail: NewestTail, at: Instant) {
        let before = self.end();
        let newest = self.tails.entry(segment).or_insert(tail);
        if tail.0 >= newest.0 {
            *newest = tail;
        }
        self.moved(before, at);
    }

    /// The newest tail of a segment.
    pub(super) fn tail(&self, segment: &SegmentName) -> Option<TailGeneration> {
        self.tails.get(segment).map(|(generation, _)| *generation)
    }

    /// The same, with when its end was first seen by the look before, if it has not moved on.
    #[must_use]
    pub(super) fn after(self, before: Option<&Self>) -> Self {
        let still = before.filter(|before| before.timeline == self.timeline && self.end() <= before.end());
        let at = still.map_or(self.at, |before| before.at);
        Self { at, ..self }
    }

    /// Where it ends, if that is beyond what a server of this timeline had `flushed` when it was asked; `None`: it writes
    /// nothing.
    pub(super) fn beyond(
        &self,
        timeline: TimelineId,
        flushed: Lsn,
        asked_at: Option<Instant>,
    ) -> Option<Lsn> {
        // An answer from before says less than was flushed by then.
        if timeline != self.timeline || asked_at.is_some_and(|asked_at| asked_at < self.at) {
            return None;
        }
        self.end().filter(|end| *end > flushed)
    }

    /// Where what is stored ends.
    fn end(&self) -> Option<Lsn> {
        self.farthest_tail().map(|(_, end)| end).max(self.segments)
    }

    /// The tail that reaches farther than all segments, and up to where.
    pub(super) fn farthest_tail(&self) -> Option<(SegmentName, Lsn)> {
        let of_timeline = self.tails.iter().filter(|(segment, _)| segment.timeline == self.timeline);
        let unfinished = of_timeline
            .filter(|(segment, _)| self.segments.is_none_or(|end| segment.start(self.size) >= end));
        let ends =
            unfinished.map(|(segment, (_, len))| (*segment, segment.position(u64::from(*len), self.size)));
        ends.max_by_key(|(_, end)| *end)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn r29_what_is_stored_ahead_of_flushed_is_another_lifes() {
        let (begin, second) = (Instant::now(), Duration::from_secs(1));
        let (timeline, size) = (TimelineId::FIRST, SegmentSize::new(1 << 20).unwrap());
        let segment = |number| SegmentName::from_number(timeline, number, size);
        let generation = |count| TailGeneration { count, writer: 7 };
        let mut stored = StoredEnd::of(&Listing::default(), timeline, size, begin);
        let beyond =
            |stored: &StoredEnd, flushed: u64, at| stored.beyond(timeline, Lsn::new(flushed), Some(at));
        assert_eq!(beyond(&stored, 0, begin + second), None);
        stored.add_segment(segment(3), begin + second);
        assert_eq!(beyond(&stored, 4 << 20, begin + 2 * second), None);
        assert_eq!(beyond(&stored, (4 << 20) - 1, begin + 2 * second), Some(Lsn::new(4 << 20)));
        assert_eq!(beyond(&stored, 1, begin), None, "asked before that was stored");
        let other = TimelineId::new(2).unwrap();
        assert_eq!(stored.beyond(other, Lsn::new(1), Some(begin + 2 * second)), None);
        // A tail that went too far, and the one after it that does not.
        stored.add_tail(segment(4), (generation(1), 500), begin + 2 * second);
        assert!(beyond(&stored, (4 << 20) + 400, begin + 3 * second).is_some());
        stored.add_tail(segment(4), (generation(2), 300), begin + 3 * second);
        assert_eq!(beyond(&stored, (4 << 20) + 400, begin + 4 * second), None);
    }
}
