//! Which WAL stays: from the oldest kept backup of each branch on, and what holds and leases need.

use std::collections::{BTreeMap, BTreeSet};

use super::backups::{Decision, Decisions, Needs, is_needed};
use super::facts::Facts;
use crate::format::{BackupId, Manifest};
use crate::postgres::{Lsn, PgTime, SegmentName, TimelineId};
use crate::window::{Branch, files};

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

    /// What recovery along `branch` may read from `from` on, to `to`, else to the end.
    fn add_files(
        &mut self,
        facts: &Facts<'_>,
        branch: &Branch,
        (from, to): (Lsn, Option<Lsn>),
        reason: &str,
    ) {
        for (timeline, numbers) in files(&branch.history, facts.catalog.segment_size, from, to) {
            self.add(timeline, *numbers.start(), *numbers.end(), reason);
        }
    }
}

/// The WAL that stays with these backups.
pub(super) fn kept(facts: &Facts<'_>, decisions: &Decisions) -> KeptWal {
    let mut kept = KeptWal::default();
    for branch in facts.window.tips().filter(|branch| is_needed(facts, branch)) {
        keep_branch(facts, &mut kept, branch, decisions);
    }
    for backup in facts.catalog.manifests() {
        if let Some(decision) = decisions.get(&backup.id) {
            keep_of_backup(facts, &mut kept, backup, decision);
        }
    }
    for lease in &facts.leases {
        let reason = format!("a {} on {} needs it now", lease.purpose, lease.host);
        for wal in &lease.protects.wal {
            let first = wal.start.get() / facts.catalog.segment_size.bytes();
            kept.add(wal.timeline, first, u64::MAX, reason.clone());
            for branch in facts.window.tips().filter(|tip| tip.history.stretch(wal.timeline).is_some()) {
                kept.add_files(facts, branch, (wal.start, None), &reason);
            }
        }
    }
    keep_unreadable(facts, &mut kept);
    keep_damaged(facts, &mut kept, decisions);
    kept
}

/// From the oldest backup on that is kept to lead to the end of a branch that the window needs.
fn keep_branch(facts: &Facts<'_>, kept: &mut KeptWal, branch: &Branch, decisions: &Decisions) {
    match oldest_start(facts, branch, decisions) {
        Some((start, id)) => {
            let reason = format!("backup {id} and every later instant need it");
            kept.add_files(facts, branch, (start, None), &reason);
        }
        None if branch.reaches.is_empty() && is_last(facts, branch) => {
            let begin = branch.fork().map_or(Lsn::INVALID, |(_, at)| at);
            kept.add_files(facts, branch, (begin, None), "no backup leads to it yet");
        }
        None => {}
    }
}

/// What a kept backup needs that no branch of the window keeps for it.
fn keep_of_backup(facts: &Facts<'_>, kept: &mut KeptWal, backup: &Manifest, decision: &Decision) {
    let leads = |branch: &&Branch| Branch::leads_here(&branch.history, backup);
    let (until, reason) = match decision.needs {
        // The file of a later timeline that began in the last segment holds it, too, and may be the only one.
        Some(Needs::Until(until)) => {
            (Some(until), format!("backup {} needs it, which is {}", backup.id, decision.reason))
        }
        Some(Needs::Everything) => {
            if facts.window.tips().filter(|branch| is_needed(facts, branch)).any(|branch| leads(&branch)) {
                return;
            }
            (None, decision.reason.clone())
        }
        Some(Needs::Nothing) | None => return,
    };
    let along = |branch: &&Branch| until.is_some() || branch.timeline() == backup.timeline;
    for branch in facts.window.branches.iter().filter(leads).filter(along) {
        kept.add_files(facts, branch, (backup.start_lsn, until), &reason);
    }
    if facts.window.branch(backup.timeline).is_none() {
        let size = facts.catalog.segment_size.bytes();
        let last = until.map_or(u64::MAX, |until| until.get().saturating_sub(1) / size);
        kept.add(backup.timeline, backup.start_lsn.get() / size, last, reason);
    }
}

/// Where the oldest kept backup of a branch starts that has to lead to its end.
fn oldest_start(facts: &Facts<'_>, branch: &Branch, decisions: &Decisions) -> Option<(Lsn, BackupId)> {
    let leads = |id| decisions.get(id).is_some_and(|decision| decision.needs == Some(Needs::Everything));
    let on_branch = facts.catalog.manifests().filter(|backup| Branch::leads_here(&branch.history, backup));
    let kept = on_branch.filter(|backup| leads(&backup.id)).min_by_key(|backup| backup.start_lsn)?;
    Some((kept.start_lsn, kept.id.clone()))
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

/// Which WAL a backup needs whose manifest cannot be read is not known: where nothing takes its place, all stays.
fn keep_damaged(facts: &Facts<'_>, kept: &mut KeptWal, decisions: &Decisions) {
    let needs = |id| decisions.get(id).and_then(|decision| decision.needs);
    let mut damaged = facts.catalog.damaged.iter().map(|damaged| &damaged.id);
    let Some(id) = damaged.find(|id| needs(id) == Some(Needs::Everything)) else { return };
    let timelines: BTreeSet<TimelineId> = facts.catalog.wal().map(|file| file.name.timeline()).collect();
    for timeline in timelines {
        kept.add(timeline, 0, u64::MAX, format!("backup {id}, which cannot be read, may need it"));
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
