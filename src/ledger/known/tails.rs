//! Tails: what was shipped, and what others shipped.

use super::super::entry::StoredTail;
use super::super::event::Now;
use super::Ledger;
use crate::format::TailGeneration;
use crate::postgres::{Lsn, PgTime, SegmentName};

impl Ledger {
    pub(super) fn tail_stored(
        &mut self,
        segment: SegmentName,
        (generation, len, end): (TailGeneration, u32, Lsn),
        last_time: Option<PgTime>,
        now: Now,
    ) {
        self.tail = Some(StoredTail { segment, end, at: now.time });
        self.counts.tail_uploads += 1;
        self.last_time = self.last_time.max(last_time);
        self.shipped.insert(segment, (generation, len));
        if let Some(stored_end) = &mut self.stored_end {
            if stored_end.tail(&segment) > Some(generation) {
                // A restore takes theirs.
                self.second_writer = Some(segment);
            }
            stored_end.add_tail(segment, (generation, len), now.instant);
        }
        if let Some(coverage) = &mut self.coverage {
            coverage.add_tail(segment, len);
            self.shipped.retain(|segment, _| !coverage.has(segment));
        }
        self.prune();
    }

    pub(super) fn forget_tails(&mut self) {
        self.shipped.clear();
        if let Some(coverage) = &mut self.coverage {
            coverage.forget_tails();
        }
    }

    /// The server has not flushed what a tail holds. Once it writes there again, the position says nothing any more: whose
    /// the tail is, the comparison of its bytes says.
    pub(super) fn note_other_tail(&mut self) {
        if let Some(stored_end) = &self.stored_end {
            self.other_tails.extend(stored_end.farthest_tail());
        }
    }

    /// A tail of `segment` that holds something else than the server has written reaches up to `other`.
    pub(super) fn tails_compared(&mut self, segment: SegmentName, other: Option<Lsn>) {
        match other {
            Some(end) => drop(self.other_tails.insert(segment, end)),
            None => drop(self.other_tails.remove(&segment)),
        }
    }

    /// The tail of a segment that this server ships, in its present life, while the segment is not stored.
    pub fn shipped(&self, segment: &SegmentName) -> Option<TailGeneration> {
        self.shipped.get(segment).map(|(generation, _)| *generation)
    }

    /// R29: a tail of this timeline that holds something else than the server has written, or once flushed and lost: its
    /// segment, and up to where. A backup that begins behind it needs none of it.
    pub fn other_tail(&self) -> Option<(SegmentName, Lsn)> {
        let coverage = self.coverage.as_ref()?;
        let ours = coverage.history().timeline;
        let newest = coverage.backups().map(|backup| backup.start_lsn).max();
        let is_open = |segment: &SegmentName, end: Lsn| {
            segment.timeline == ours && newest.is_none_or(|newest| newest < end)
        };
        self.other_tails
            .iter()
            .map(|(segment, end)| (*segment, *end))
            .find(|(segment, end)| is_open(segment, *end))
    }
}
