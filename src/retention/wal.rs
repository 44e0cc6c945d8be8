//! Which WAL stays: from the oldest kept backup of each branch on, and what holds and leases need.

use std::collections::BTreeMap;

use super::backups::{Decisions, Needs, is_needed, timeline_of};
use super::facts::Facts;
use crate::postgres::{History, Lsn, PgTime, SegmentName, TimelineId};
use crate::window::Branch;

/// A range of segments of one timeline that stays, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Kept {
    /// Number of the first segment.
    pub(super) first: u64,
    /// Number of the last segment.
    pub(super) last: u64,
    pub(super) reason: String,
}

/// What stays, by timeline.
#[derive(Debug, Default)]
pub(super) struct KeptWal {
    ranges: BTreeMap<TimelineId, Vec<Kept>>,
}

impl KeptWal {
    /// Why a segment stays; `None` if it goes.
    pub(super) fn reason(&self, timeline: TimelineId, number: u64) -> Option<&str> {
        let ranges = self.ranges.get(&timeline)?;
        ranges.iter().find(|kept| (kept.first..=kept.last).contains(&number)).map(|kept| kept.reason.as_str())
    }

    fn add(&mut self, timeline: TimelineId, first: u64, last: u64, reason: impl Into<String>) {
        self.ranges.entry(timeline).or_default().push(Kept { first, last, reason: reason.into() });
    }

    /// Everything from `start` on along `history`: of older timelines up to where the next one begins, and the segment in
    /// which it does.
    fn add_lineage(&mut self, facts: &Facts<'_>, history: &History, start: Lsn, reason: &str) {
        let size = facts.catalog.segment_size.bytes();
        for stretch in history.lineage() {
            let first = stretch.begin.max(start).get() / size;
            let last = stretch.end.map_or(u64::MAX, |end| end.get() / size);
            if first <= last {
                self.add(stretch.timeline, first, last, reason);
            }
        }
    }
}

/// The WAL that stays with these backups.
pub(super) fn kept(facts: &Facts<'_>, decisions: &Decisions) -> KeptWal {
    let mut kept = KeptWal::default();
    for branch in facts.window.tips().filter(|branch| is_needed(facts, branch)) {
        let start = oldest_start(facts, branch, decisions);
        match start {
            Some((start, id)) => {
                let reason = format!("backup {id} and every later instant need it");
                kept.add_lineage(facts, &branch.history, start, &reason);
            }
            None if branch.reaches.is_empty() && is_last(facts, branch) => {
                let begin = branch.fork().map_or(Lsn::INVALID, |(_, at)| at);
                kept.add_lineage(facts, &branch.history, begin, "no backup leads to it yet");
            }
            None => {}
        }
    }
    for (id, decision) in decisions {
        let Some((timeline, start)) = timeline_of(facts, id) else { continue };
        let size = facts.catalog.segment_size.bytes();
        match decision.needs {
            Some(Needs::Until(until)) => {
                // A position at a boundary needs nothing of the segment behind it.
                let last = until.get().saturating_sub(1) / size;
                let reason = format!("backup {id} needs it, which is {}", decision.reason);
                // The file of a later timeline that began in that segment holds it, too, and may be the only one.
                let leads = |branch: &&Branch| branch.reaches.iter().any(|reach| reach.backup.id == *id);
                for branch in facts.window.branches.iter().filter(leads) {
                    for stretch in branch.history.lineage() {
                        let first = stretch.begin.max(start).get() / size;
                        if stretch.timeline > timeline && first <= last {
                            kept.add(stretch.timeline, first, last, reason.clone());
                        }
                    }
                }
                kept.add(timeline, start.get() / size, last, reason);
            }
            Some(Needs::Everything) => keep_beside_tips(facts, &mut kept, timeline, start, &decision.reason),
            Some(Needs::Nothing) | None => {}
        }
    }
    for lease in &facts.leases {
        let reason = format!("a {} on {} needs it now", lease.purpose, lease.host);
        for wal in &lease.protects.wal {
            for branch in facts.window.tips() {
                if branch.history.stretch(wal.timeline).is_some() {
                    kept.add_lineage(facts, &branch.history, wal.start, &reason);
                }
            }
            kept.add(
                wal.timeline,
                wal.start.get() / facts.catalog.segment_size.bytes(),
                u64::MAX,
                reason.clone(),
            );
        }
    }
    keep_unreadable(facts, &mut kept);
    kept
}

/// Where the oldest kept backup of a branch starts that has to lead to its end.
fn oldest_start(
    facts: &Facts<'_>,
    branch: &Branch,
    decisions: &Decisions,
) -> Option<(Lsn, crate::repository::BackupId)> {
    let leads = |id| decisions.get(id).is_some_and(|decision| decision.needs == Some(Needs::Everything));
    let on_branch = facts.catalog.backups.iter().filter(|backup| Branch::leads_here(&branch.history, backup));
    let kept = on_branch.filter(|backup| leads(&backup.id)).min_by_key(|backup| backup.start_lsn)?;
    Some((kept.start_lsn, kept.id.clone()))
}

/// A backup that is kept although no branch that the window needs leads from it.
fn keep_beside_tips(facts: &Facts<'_>, kept: &mut KeptWal, timeline: TimelineId, start: Lsn, reason: &str) {
    let size = facts.catalog.segment_size;
    let number = start.get() / size.bytes();
    if kept.reason(timeline, number).is_some() {
        return;
    }
    let last = facts.window.branch(timeline).map_or(u64::MAX, |branch| {
        let end = branch.spans.iter().map(|span| span.end).max().unwrap_or(start);
        end.get().saturating_sub(1) / size.bytes()
    });
    kept.add(timeline, number, last, reason);
}

/// WAL of a timeline that cannot be followed stays until it is older than the window by the store's clock: nobody knows
/// what it holds.
fn keep_unreadable(facts: &Facts<'_>, kept: &mut KeptWal) {
    for (timeline, error) in &facts.window.unreadable {
        let files = facts.catalog.wal().filter(|file| file.name.timeline() == *timeline);
        let newest = files.map(|file| PgTime::from(file.modified)).max();
        if newest.is_none_or(|newest| newest >= facts.horizon()) {
            kept.add(
                *timeline,
                0,
                u64::MAX,
                format!("in the window, though its timeline cannot be followed: {error}"),
            );
        }
    }
}

/// A range of segments as people write it.
pub(super) fn range_text(first: SegmentName, last: SegmentName, segments: u64) -> String {
    if first == last {
        format!("wal {first}")
    } else {
        format!("wal {first} to {last} ({segments} segments)")
    }
}

fn is_last(facts: &Facts<'_>, branch: &Branch) -> bool {
    facts.window.last_writer().is_some_and(|last| last.timeline() == branch.timeline())
}
