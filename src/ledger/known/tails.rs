//! Tails: what was shipped, and what others shipped.

use std::collections::BTreeMap;

use super::super::coverage::Coverage;
use super::super::entry::StoredTail;
use super::super::event::Now;
use super::super::stored::StoredEnd;
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
        self.counts.tail_uploads += 1;
        if self.is_lost(&segment, generation) {
            // It was on its way when the survey missed what comes before it.
            return;
        }
        self.tail = Some(StoredTail { segment, end, at: now.time });
        self.note_time(segment.timeline, end, last_time);
        self.shipped.insert(segment, (generation, len));
        // Whoever ships has compared what was there before.
        self.suspected_tails.remove(&segment);
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
        self.last_times.clear();
        if let Some(coverage) = &mut self.coverage {
            coverage.forget_tails();
        }
    }

    /// What was shipped before a survey began and is not among what it listed was removed by somebody, and counts no longer.
    pub(super) fn drop_lost_tails(
        &mut self,
        listed: &BTreeMap<(SegmentName, TailGeneration), u32>,
        coverage: &Coverage,
        stored_end: &StoredEnd,
    ) {
        for (segment, (generation, len)) in std::mem::take(&mut self.expected) {
            let is_there = listed.get(&(segment, generation)) >= Some(&len) || coverage.has(&segment);
            // Another writer's takes its place.
            let is_replaced = stored_end.tail(&segment) > Some(generation);
            if !is_there && !is_replaced && self.shipped(&segment) == Some(generation) {
                self.shipped.remove(&segment);
                self.lost_tails.insert((segment, generation));
            }
        }
        self.lost_tails.retain(|(segment, _)| !coverage.has(segment));
    }

    /// Whether a tail that was shipped is no longer stored: whoever ships it has to begin anew.
    pub fn is_lost(&self, segment: &SegmentName, generation: TailGeneration) -> bool {
        self.lost_tails.contains(&(*segment, generation))
    }

    /// What was shipped before the survey that is under way began: of each tail so many bytes.
    pub fn expected_tails(&self) -> BTreeMap<(SegmentName, TailGeneration), u32> {
        self.expected.iter().map(|(segment, (generation, len))| ((*segment, *generation), *len)).collect()
    }

    /// The server has not flushed what a tail holds. Once it writes there again, the position says nothing any more: whose
    /// the tail is, the comparison of its bytes says.
    pub(super) fn note_other_tail(&mut self) {
        if let Some(stored_end) = &self.stored_end {
            self.suspected_tails.extend(stored_end.farthest_tail());
        }
    }

    /// A tail of `segment` that holds something else than the server has written reaches up to `other`.
    pub(super) fn tails_compared(&mut self, segment: SegmentName, other: Option<Lsn>) {
        self.suspected_tails.remove(&segment);
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
