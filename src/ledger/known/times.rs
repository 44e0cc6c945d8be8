//! The last commit that a restore reaches.

use super::Ledger;
use crate::postgres::{Lsn, PgTime, TimelineId};
use crate::window::Branch;

/// Stored since the last survey, which looks every minute.
const MOST: usize = 10_000;

impl Ledger {
    /// WAL of a timeline that was stored up to `end` holds this time last.
    pub(super) fn note_time(&mut self, timeline: TimelineId, end: Lsn, time: Option<PgTime>) {
        self.last_times.extend(time.map(|time| ((timeline, end), time)));
        // Where nothing leads to what is stored, no survey sees it.
        if self.last_times.len() > MOST {
            self.last_times.pop_first();
        }
    }

    /// What the survey has seen, it says better.
    pub(super) fn forget_times(&mut self) {
        let seen = self.seen_end();
        let ours = self.coverage.as_ref().map(|coverage| coverage.history().timeline);
        let is_ours = |timeline| ours.is_none_or(|ours| timeline >= ours);
        self.last_times.retain(|(timeline, end), _| *end > seen && is_ours(*timeline));
    }

    /// The last commit that was stored since the survey, without a gap behind what that saw; `None`: there is none. Not the
    /// latest: a clock that was ahead for a while makes an earlier one later.
    pub fn last_time(&self) -> Option<PgTime> {
        let coverage = self.coverage.as_ref()?;
        let (ours, stored) = (coverage.history().timeline, coverage.stored());
        let (newest, time) = self.last_times.range(..=(ours, stored)).next_back()?;
        (newest.0 == ours && newest.1 > self.seen_end()).then_some(*time)
    }

    /// Up to where the last survey has seen what can be restored.
    fn seen_end(&self) -> Lsn {
        self.own_branch().and_then(Branch::farthest).map_or(Lsn::INVALID, |span| span.end)
    }
}
