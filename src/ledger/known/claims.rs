//! What follows for the claims: what would be lost now, and why nothing can be said.

use std::time::Instant;

use super::{Ledger, Role, STALE};
use crate::postgres::{Lsn, SegmentName, TimelineId, WAL_PAGE_SIZE};
use crate::window::Branch;

/// The WAL writer flushes whole pages, also where a record goes on behind them (XLogBackgroundFlush in xlog.c): a crash
/// then cuts it off. Longer records are hardly ever written.
const LONGEST_TORN: u64 = 1 << 20;
const SMALLEST_SEGMENT: u64 = 1 << 20;

/// Whether WAL on disk may end at `end`, although `flushed` was flushed: in the middle of a record. Where a segment ends, the
/// segment's end is what is found on disk.
fn is_torn(end: Lsn, flushed: Lsn) -> bool {
    let flushed = flushed.get();
    let is_page = flushed.is_multiple_of(WAL_PAGE_SIZE as u64) && !flushed.is_multiple_of(SMALLEST_SEGMENT);
    is_page && flushed.checked_sub(end.get()).is_some_and(|missing| missing < LONGEST_TORN)
}

impl Ledger {
    /// R29: what is stored of the server's timeline goes farther than the server has ever flushed on it. It is another
    /// life's: (stored, flushed).
    pub fn divergence(&self) -> Option<(Lsn, Lsn)> {
        let stored_end = self.stored_end.as_ref()?;
        let writes = self.sample.filter(|sample| !sample.status.in_recovery);
        let last = writes.and_then(|sample| Some((sample.status.timeline?, sample)));
        if let Some(left) = self.left_behind().filter(|left| last.is_none_or(|(of, _)| of == left.timeline)) {
            // Since it went down it has not written more, whenever it was asked last.
            let stored = stored_end.beyond(left.timeline, left.end, None)?;
            let flushed = last.map_or(stored, |(_, sample)| sample.status.flushed);
            let end = if is_torn(left.end, flushed) { flushed } else { left.end };
            return (stored > end).then_some((stored, end));
        }
        let (timeline, sample) = last?;
        let stored = stored_end.beyond(timeline, sample.status.flushed, Some(sample.asked_at))?;
        Some((stored, sample.status.flushed))
    }

    /// The segment of which another writer's tail is newer than ours.
    pub fn second_writer(&self) -> Option<SegmentName> {
        self.second_writer
    }

    /// The branch beside the server's own that still grows: its timeline, and up to where it reaches.
    pub fn beside(&self) -> Option<(TimelineId, Lsn)> {
        self.beside.filter(|_| !self.is_standby())
    }

    /// R28: the timeline that a default restore follows, where it is not the one that the server writes.
    pub fn led_astray(&self) -> Option<TimelineId> {
        let ours = self.coverage.as_ref()?.history();
        let default = self.window.as_ref()?.default_branch().ok()?.timeline();
        (!self.is_standby() && default != ours.timeline).then_some(default)
    }

    /// R28: a default restore that is refused now may follow another timeline before the next look: two servers write, and
    /// the last one counts.
    fn is_rivalled(&self) -> bool {
        let Some((coverage, window)) = self.coverage.as_ref().zip(self.window.as_ref()) else { return false };
        window.about_to_lead(coverage.history().timeline).is_some()
    }

    /// Whether a restore that is told nothing would follow what this server writes, as of the last survey.
    pub(super) fn is_followed(&self) -> bool {
        let Some((coverage, window)) = self.coverage.as_ref().zip(self.window.as_ref()) else { return true };
        window.default_branch().is_ok_and(|branch| branch.timeline() == coverage.history().timeline)
    }

    /// The branch that the server writes, as of the last survey.
    pub fn own_branch(&self) -> Option<&Branch> {
        self.window.as_ref()?.branch(self.coverage.as_ref()?.history().timeline)
    }

    /// Seconds of flushed WAL that would be lost now; `None` where nothing can be claimed.
    pub fn rpo(&self, now: Instant) -> Option<f64> {
        let coverage = self.coverage.as_ref()?;
        let stored = coverage.stored();
        let sample = self.sample.filter(|sample| !sample.status.in_recovery);
        if sample.is_some_and(|sample| sample.status.timeline != Some(coverage.history().timeline)) {
            // Promoted: what is stored of the timeline before says nothing of this one.
            return None;
        }
        if self.own_branch().is_none()
            && self.window.as_ref().is_some_and(|window| !window.branches.is_empty())
        {
            // Its history is not stored yet: whatever a restore follows, or asks about, is another timeline.
            return None;
        }
        if self.own_branch().is_some_and(|branch| branch.reaches.is_empty() && !branch.stranded.is_empty()) {
            // There are backups, and from none of them a restore leads here.
            return None;
        }
        let foreign = self.divergence().is_some() || self.other_tail().is_some() || self.doubt.is_some();
        if foreign || self.second_writer.is_some() || self.led_astray().is_some() || self.is_rivalled() {
            // What is stored is not, or not all, what this server wrote.
            return None;
        }
        if self.overtaken.iter().any(|start| (coverage.base()..=stored).contains(start)) {
            // A restore may begin with another life's backup.
            return None;
        }
        if self.wrong_server {
            // Nothing says what our own server has flushed.
            return None;
        }
        if self.is_standby() {
            // Its WAL is its primary's to archive.
            return None;
        }
        let fresh = sample.is_some_and(|sample| now.saturating_duration_since(sample.asked_at) < STALE);
        let end = match (self.role(), self.left_behind) {
            // Nobody writes: what the disk holds is all there is.
            (Role::Down, Some(left)) if left.timeline != coverage.history().timeline => return None,
            (Role::Down, Some(left)) => match sample.map(|sample| sample.status.flushed) {
                // Less than it had flushed: the directory is another life's, which may have written what nobody saw.
                Some(flushed) if flushed > left.end && !is_torn(left.end, flushed) => return None,
                Some(flushed) => Some(left.end.max(flushed)),
                None => Some(left.end),
            },
            (Role::Primary, _) if fresh => sample.map(|sample| sample.status.flushed),
            _ => None,
        };
        if end.is_some_and(|end| end <= stored) {
            return Some(0.0);
        }
        Some(self.flushes.age(now, stored).as_secs_f64())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::ledger::{Event, Now, Wanted};
    use crate::postgres::PgTime;
    use crate::store::Outcome;

    #[test]
    fn r28_after_an_outage_the_repository_is_looked_at_at_once() {
        let begin = Instant::now();
        let mut ledger = Ledger::new(Now { instant: begin, time: PgTime::now() });
        let mut requested = |second, outcome| {
            let now = Now { instant: begin + Duration::from_secs(second), time: PgTime::now() };
            ledger.apply(Event::Requested { verb: "put", outcome, elapsed: Duration::ZERO }, now)
        };
        assert_eq!(requested(0, Outcome::Answered), None);
        assert_eq!((requested(1, Outcome::Failed), requested(2, Outcome::Answered)), (None, None));
        assert_eq!((requested(3, Outcome::Failed), requested(7, Outcome::Failed)), (None, None));
        assert_eq!(requested(8, Outcome::Answered), Some(Wanted::Survey));
        assert_eq!(requested(9, Outcome::Answered), None);
    }

    #[test]
    fn a_crash_cuts_a_record_off_and_nothing_else() {
        let torn = |end, flushed| is_torn(Lsn::new(end), Lsn::new(flushed));
        assert!(torn(0x51_9F00, 0x51_A000), "a record that goes on behind the page");
        assert!(!torn(0x51_9F00, 0x51_A028), "what a commit flushes ends where its record does");
        assert!(!torn(0x5F_9F00, 0x60_0000), "at the end of a segment the disk shows it whole");
        assert!(!torn(0x51_9F00, 0x71_A000), "no record is as long");
        assert!(!torn(0x51_A000, 0x51_8000), "nothing is missing");
    }
}
