//! How far WAL is stored without a gap (R8), from what one listing said and what was pushed since.

use std::collections::{BTreeMap, BTreeSet};

use crate::format::Manifest;
use crate::postgres::{History, Lsn, SegmentName, Stretch, WalName};
use crate::repository::WalFile;
use crate::wal::Lead;
use crate::window::{Branch, Catalog, Cut, Reach};

/// What is stored, along one timeline's lineage.
#[derive(Debug)]
pub struct Coverage {
    catalog: Catalog,
    history: History,
    /// Where the prefix begins: with the newest backup, else with the oldest WAL.
    base: Lsn,
    /// Whole segments without a gap from `base` on.
    archived: Lsn,
    /// What they lead to.
    lead: Lead,
    /// Recovery stops here: what follows is damaged, or stored with two contents.
    limit: Lsn,
    /// Bytes of unfinished segments, or of finished ones on their way.
    tails: BTreeMap<SegmentName, u32>,
    /// Segments that are nowhere.
    holes: BTreeSet<SegmentName>,
    /// Segments that the server has written with other bytes than are stored.
    others: BTreeSet<SegmentName>,
}

impl Coverage {
    /// By `catalog`, along `history`. `oldest_here` is the oldest WAL that this host still has to push, from which the
    /// prefix begins where nothing is stored yet.
    pub(super) fn new(catalog: Catalog, history: History, oldest_here: Lsn) -> Self {
        let mut coverage = Self {
            catalog,
            history,
            base: oldest_here,
            archived: oldest_here,
            lead: Lead::default(),
            limit: Lsn::new(u64::MAX),
            tails: BTreeMap::new(),
            holes: BTreeSet::new(),
            others: BTreeSet::new(),
        };
        coverage.base = coverage.first_needed(oldest_here);
        coverage.archived = coverage.base;
        coverage.advance();
        coverage
    }

    fn first_needed(&self, oldest_here: Lsn) -> Lsn {
        let size = self.catalog.segment_size;
        if let Some(backup) = self.backups().next_back() {
            return backup.start_lsn.segment_start(size);
        }
        let on_lineage = |segment: &SegmentName| self.history.stretch(segment.timeline).is_some();
        let oldest = self.catalog.runs().iter().map(|run| run.first).find(on_lineage);
        oldest.map_or(oldest_here, |segment| segment.start(size).min(oldest_here))
    }

    /// Backups that lead to this timeline, oldest first.
    pub fn backups(&self) -> impl DoubleEndedIterator<Item = &std::sync::Arc<Manifest>> {
        self.catalog.backups.iter().filter(|backup| {
            let stretch = self.history.stretch(backup.timeline);
            stretch.is_some_and(|stretch| stretch.end.is_none_or(|end| backup.stop_lsn <= end))
        })
    }

    fn advance(&mut self) {
        let (_, end, lead) = self.catalog.stored_behind(&self.history, self.archived, self.lead);
        self.lead = lead;
        self.archived = self.archived.max(end).min(self.limit);
    }

    /// The claim begins with the backup that a restore along `branch` begins with, which need not be the newest, and what the
    /// restore stops at stops the claim as well.
    pub(super) fn limit_to(&mut self, branch: &Branch) {
        let Some(farthest) = branch.farthest() else { return };
        let size = self.catalog.segment_size;
        let leads = || branch.reaches.iter().filter(|reach| branch.span_of(reach).end == farthest.end);
        let start = |reach: &Reach| reach.backup.start_lsn.segment_start(size);
        let clean = leads().filter(|reach| reach.backup.page_errors.is_empty()).map(start).max();
        if let Some(start) = clean.or_else(|| leads().map(start).max()) {
            (self.base, self.archived, self.lead) = (start, start, Lead::default());
        }
        if let Cut::Unusable(segment, _) = &farthest.cut {
            self.limit = segment.start(size).max(farthest.begin);
        }
        self.advance();
    }

    /// What is `stored` under the name of our history may be another life's; a restore follows that one. The claim ends where
    /// the two part, unless the restore begins behind that. Whether they do.
    pub(super) fn limit_to_stored(&mut self, stored: &History) -> bool {
        let (ours, theirs) = (self.history.lineage(), stored.lineage());
        let needed = |stretch: &&Stretch| stretch.end.is_none_or(|end| end > self.base);
        let from_base = |stretch: &Stretch| (stretch.timeline, stretch.begin.max(self.base), stretch.end);
        let ours: Vec<_> = ours.iter().filter(needed).map(from_base).collect();
        let theirs: Vec<_> = theirs.iter().filter(needed).map(from_base).collect();
        let parted = ours.iter().zip(&theirs).find(|(a, b)| a != b);
        if let Some((a, b)) = parted {
            let ends = [a.2, b.2].into_iter().flatten();
            let parting = if (a.0, a.1) == (b.0, b.1) { ends.min() } else { Some(a.1.min(b.1)) };
            // Up to there, too, the restore reads the files that their history names.
            let (_, end) = self.catalog.stored_from(stored, self.base);
            self.limit = self.limit.min(parting.unwrap_or(self.base)).min(end).max(self.base);
            self.archived = self.archived.min(self.limit);
        }
        parted.is_some()
    }

    /// R29: under these names other bytes are stored than the server has written, in this life.
    pub(super) fn set_others(&mut self, others: BTreeSet<SegmentName>) {
        self.others = others;
        self.limit_to_ours();
    }

    /// The same of one more; whether that is news.
    pub(super) fn add_other(&mut self, segment: SegmentName) -> bool {
        let news = self.others.insert(segment);
        self.limit_to_ours();
        news
    }

    /// A backup that begins behind all of them needs none. One that does not may be another life's, too: then the claim ends
    /// where the lives part.
    fn limit_to_ours(&mut self) {
        if self.is_shared() {
            let first = self.others.iter().map(|segment| segment.start(self.catalog.segment_size)).min();
            self.limit = first.map_or(self.limit, |first| self.limit.min(first));
            self.archived = self.archived.min(self.limit);
        }
    }

    /// Whether another life's WAL is among what a restore would read.
    pub(super) fn is_shared(&self) -> bool {
        let start = |segment: &SegmentName| segment.start(self.catalog.segment_size);
        self.others.iter().map(start).max() >= Some(self.base)
    }

    /// A segment was stored.
    pub(super) fn add(&mut self, file: WalFile) {
        let name = file.name;
        self.catalog.add(file);
        if let WalName::Segment(segment) = name {
            self.holes.remove(&segment);
            if self.catalog.is_doubled(&segment) {
                self.limit = self.limit.min(segment.start(self.catalog.segment_size));
            }
        }
        self.advance();
    }

    /// The first `len` bytes of a segment are stored.
    pub(super) fn add_tail(&mut self, segment: SegmentName, len: u32) {
        self.tails.retain(|other, _| !self.catalog.has(other));
        self.tails.insert(segment, len);
    }

    /// Of no segment is a tail known to be stored.
    pub(super) fn forget_tails(&mut self) {
        self.tails.clear();
    }

    /// Where the WAL begins that a default restore needs.
    pub(super) const fn base(&self) -> Lsn {
        self.base
    }

    /// Whole segments are stored up to here without a gap.
    pub const fn archived(&self) -> Lsn {
        self.archived
    }

    /// The segment that comes next.
    pub fn next(&self) -> SegmentName {
        SegmentName::containing(self.timeline_at(self.archived), self.archived, self.catalog.segment_size)
    }

    /// WAL is stored up to here without a gap, tails included.
    pub fn stored(&self) -> Lsn {
        let size = self.catalog.segment_size;
        let mut stored = self.archived;
        if stored >= self.limit {
            return self.limit;
        }
        loop {
            let timeline = self.timeline_at(stored);
            let segment = SegmentName::containing(timeline, stored, size);
            let end = self.tails.get(&segment).map(|len| segment.position(u64::from(*len), size));
            match end {
                Some(end) if end > stored => stored = end,
                _ => return stored,
            }
        }
    }

    fn timeline_at(&self, position: Lsn) -> crate::postgres::TimelineId {
        let size = self.catalog.segment_size;
        let begun = |stretch: &Stretch| stretch.begin.segment_start(size) <= position;
        let lineage = self.history.lineage();
        lineage.iter().rev().find(|stretch| begun(stretch)).map_or(self.history.timeline, |s| s.timeline)
    }

    /// Whether a segment is stored.
    pub(super) fn has(&self, segment: &SegmentName) -> bool {
        self.catalog.has(segment)
    }

    /// These segments are neither stored nor here.
    pub(super) fn set_holes(&mut self, holes: BTreeSet<SegmentName>) {
        self.holes = holes;
    }

    /// The segments that are nowhere.
    pub const fn holes(&self) -> &BTreeSet<SegmentName> {
        &self.holes
    }

    /// The lineage that counts.
    pub const fn history(&self) -> &History {
        &self.history
    }

    /// What is listed.
    pub const fn catalog(&self) -> &Catalog {
        &self.catalog
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::WalDigest;
    use crate::postgres::{SegmentSize, TimelineId};
    use crate::wal::Links;

    const MIB: u64 = 1 << 20;

    fn file(timeline: u32, number: u64) -> WalFile {
        let size = SegmentSize::new(1 << 20).unwrap();
        WalFile {
            name: WalName::Segment(segment(timeline, number, size)),
            digest: WalDigest::from_bytes([1; 16]),
            stored_len: 1,
            modified: jiff::Timestamp::UNIX_EPOCH,
        }
    }

    fn segment(timeline: u32, number: u64, size: SegmentSize) -> SegmentName {
        SegmentName::from_number(TimelineId::new(timeline).unwrap(), number, size)
    }

    fn coverage(files: &[(u32, u64)], timeline: u32, history: &str) -> Coverage {
        let mut catalog = Catalog::empty(SegmentSize::new(1 << 20).unwrap());
        for (timeline, number) in files {
            catalog.add(file(*timeline, *number));
        }
        let history = History::parse(TimelineId::new(timeline).unwrap(), history.as_bytes()).unwrap();
        Coverage::new(catalog, history, Lsn::new(3 * MIB))
    }

    #[test]
    fn r8_the_archived_lsn_moves_over_a_contiguous_prefix_only() {
        let mut coverage = coverage(&[(1, 3)], 1, "");
        assert_eq!(coverage.archived(), Lsn::new(4 * MIB));
        coverage.add(file(1, 5));
        coverage.add(file(1, 6));
        assert_eq!(coverage.archived(), Lsn::new(4 * MIB), "segment 4 is not there yet");
        coverage.add(file(1, 4));
        assert_eq!(coverage.archived(), Lsn::new(7 * MIB));
    }

    #[test]
    fn r8_a_tail_counts_only_behind_everything_before_it() {
        let size = SegmentSize::new(1 << 20).unwrap();
        let mut coverage = coverage(&[(1, 3)], 1, "");
        coverage.add_tail(segment(1, 5, size), 100);
        assert_eq!(coverage.stored(), Lsn::new(4 * MIB));
        // The tail of a segment that was finished meanwhile and is on its way.
        coverage.add_tail(segment(1, 4, size), 1 << 20);
        assert_eq!(coverage.stored(), Lsn::new(5 * MIB + 100));
        assert_eq!(coverage.archived(), Lsn::new(4 * MIB));
    }

    #[test]
    fn a_new_timeline_goes_on_where_it_began() {
        let size = SegmentSize::new(1 << 20).unwrap();
        let mut coverage = coverage(&[(1, 3), (1, 4)], 2, "1\t0/480000\tx");
        assert_eq!(
            coverage.archived(),
            Lsn::new(0x48_0000),
            "the older one's segment counts up to the switch"
        );
        coverage.add_tail(segment(2, 4, size), 0x9_0000);
        assert_eq!(coverage.stored(), Lsn::new(0x49_0000));
        coverage.add(file(2, 4));
        assert_eq!(coverage.stored(), Lsn::new(5 * MIB));
    }

    #[test]
    fn r28_what_is_pushed_counts_only_where_its_records_follow() {
        let linked = |timeline, number: u64, first: u64, last: u64| {
            let at = |before: u64| Lsn::new((number + 1) * MIB - before);
            let links = Links::new(Some(at(first + MIB)), Some(Some(at(last))), (1, 1));
            let file = file(timeline, number);
            WalFile { digest: file.digest.content().linked(links), ..file }
        };
        let mut coverage = coverage(&[], 2, "1\t0/480000\tx");
        coverage.add(linked(1, 3, 80, 80));
        coverage.add(linked(1, 4, 80, 96));
        assert_eq!(coverage.archived(), Lsn::new(0x48_0000));
        // The new timeline's file of the same place follows what that one followed.
        coverage.add(linked(2, 4, 80, 112));
        assert_eq!(coverage.archived(), Lsn::new(5 * MIB));
        coverage.add(linked(2, 5, 96, 80));
        coverage.add(linked(2, 6, 80, 80));
        assert_eq!(coverage.archived(), Lsn::new(5 * MIB), "it follows timeline 1");
    }

    #[test]
    fn r28_where_the_stored_history_is_another_lifes_the_claim_ends_where_the_two_part() {
        let id = |number| TimelineId::new(number).unwrap();
        let stored = |text: &str| History::parse(id(2), text.as_bytes()).unwrap();
        let files = [(1, 3), (1, 4), (2, 5), (2, 6)];
        let limited = |text: &str| {
            let mut coverage = coverage(&files, 2, "1\t0/500000\tours");
            coverage.limit_to_stored(&stored(text));
            coverage.stored()
        };
        assert_eq!(limited("1\t0/500000\tof the same place"), Lsn::new(7 * MIB));
        assert_eq!(limited("1\t0/400000\ttheirs"), Lsn::new(4 * MIB));
        assert_eq!(limited("1\t0/600000\ttheirs"), Lsn::new(5 * MIB));
        // Ours began a file earlier, and it alone holds what came before.
        let mut copied = coverage(&[(1, 3), (2, 4), (2, 5)], 2, "1\t0/480000\tours");
        copied.limit_to_stored(&stored("1\t0/500000\ttheirs"));
        assert_eq!(copied.stored(), Lsn::new(4 * MIB));
        // What is restored begins behind both.
        let mut behind = coverage(&[(2, 5), (2, 6)], 2, "1\t0/500000\tours");
        (behind.base, behind.archived) = (Lsn::new(6 * MIB), Lsn::new(7 * MIB));
        behind.limit_to_stored(&stored("1\t0/400000\ttheirs"));
        assert_eq!(behind.stored(), Lsn::new(7 * MIB));
    }
}
