//! What follows for the claims: what would be lost now, and why nothing can be said.

use std::time::Instant;

use super::{Ledger, Role, STALE};
use crate::postgres::{Lsn, SegmentName, TimelineId};

impl Ledger {
    /// R29: what is stored of the server's timeline goes farther than the server has ever flushed on it. It is another
    /// life's: (stored, flushed).
    pub fn divergence(&self) -> Option<(Lsn, Lsn)> {
        let sample = self.sample.filter(|sample| !sample.status.in_recovery)?;
        let (timeline, flushed) = (sample.status.timeline?, sample.status.flushed);
        let stored_end = self.stored_end.as_ref()?;
        if let Some(left) = self.left_behind().filter(|left| left.timeline == timeline) {
            // Since it went down it has not written more, whenever it was asked last.
            let end = left.end.max(flushed);
            return Some((stored_end.beyond(timeline, end, None)?, end));
        }
        let stored = stored_end.beyond(timeline, flushed, Some(sample.asked_at))?;
        Some((stored, flushed))
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

    /// Whether a restore that is told nothing would follow what this server writes, as of the last survey.
    pub(super) fn is_followed(&self) -> bool {
        let Some((coverage, window)) = self.coverage.as_ref().zip(self.window.as_ref()) else { return true };
        window.default_branch().is_ok_and(|branch| branch.timeline() == coverage.history().timeline)
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
        let foreign = self.divergence().is_some() || self.doubt.is_some();
        if foreign || self.second_writer.is_some() || self.led_astray().is_some() {
            // What is stored is not, or not all, what this server wrote.
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
            (Role::Down, Some(left)) => {
                Some(sample.map_or(left.end, |sample| left.end.max(sample.status.flushed)))
            }
            (Role::Primary, _) if fresh => sample.map(|sample| sample.status.flushed),
            _ => None,
        };
        if end.is_some_and(|end| end <= stored) {
            return Some(0.0);
        }
        Some(self.flushes.age(now, stored).as_secs_f64())
    }
}
