//! The recovery window: branches x backups x WAL, as a value. Which branch a restore follows by default (R30), and which
//! instants can be reached.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::branch::{Branch, Cut};
use super::reach::Reach;
use super::times::{Need, WalTimes};
use crate::catalog::Catalog;
use crate::error::{Error, Result};
use crate::format::Manifest;
use crate::postgres::{Lsn, PgTime, TimelineId, WalName};

/// A server that writes stores something of its branch within this: its heartbeat makes WAL every ten seconds, of which the
/// daemon ships a tail. Twice the time between two looks.
const ALIVE: jiff::SignedDuration = jiff::SignedDuration::from_secs(120);

/// Instants that can be reached, both ends included: from the end of a backup to the last commit that follows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Instants {
    /// The first.
    pub start: PgTime,
    /// The last.
    pub end: PgTime,
}

/// What can be restored.
#[derive(Debug, Clone)]
pub struct RecoveryWindow {
    /// One for each timeline whose history is known, ascending.
    pub branches: Vec<Branch>,
    /// Timelines that WAL is stored of and that cannot be followed, with why.
    pub unreadable: Vec<(TimelineId, Error)>,
    /// Names under which different contents are stored.
    pub conflicts: Vec<WalName>,
    /// For each timeline but the first: the last commit before it began, if it was asked for.
    pub(super) fork_times: BTreeMap<TimelineId, PgTime>,
}

impl RecoveryWindow {
    /// The window of `catalog`, or what has to be read first.
    pub(super) fn of(catalog: &Catalog, times: &WalTimes) -> Result<Self, Vec<Need>> {
        let mut needs = Vec::new();
        let (mut branches, mut unreadable) = (Vec::new(), Vec::new());
        for timeline in catalog.timelines() {
            match catalog.history(timeline) {
                Ok(history) => branches.push(Branch::build(catalog, times, history, &mut needs)),
                Err(error) => unreadable.push((timeline, error)),
            }
        }
        let mut fork_times = BTreeMap::new();
        for branch in &branches {
            if let Some((_, at)) = branch.fork()
                && let Some(time) = branch.time_before(catalog.segment_size, times, at, &mut needs)
            {
                fork_times.insert(branch.timeline(), time);
            }
        }
        let continued: Vec<_> = branches
            .iter()
            .map(|branch| continued_by(&branches, branch, catalog, times, &mut needs))
            .collect();
        if !needs.is_empty() {
            needs.sort_unstable();
            needs.dedup();
            return Err(needs);
        }
        for (branch, (continued_by, only_backups)) in branches.iter_mut().zip(continued) {
            branch.continued_by = continued_by;
            branch.only_backups = only_backups;
        }
        Ok(Self { branches, unreadable, conflicts: catalog.conflicts(), fork_times })
    }

    /// The branch of a timeline.
    pub fn branch(&self, timeline: TimelineId) -> Option<&Branch> {
        self.branches.iter().find(|branch| branch.timeline() == timeline)
    }

    /// The branches that no other timeline continues.
    pub fn tips(&self) -> impl Iterator<Item = &Branch> {
        self.branches.iter().filter(|branch| branch.continued_by.is_none())
    }

    /// The branch of the last writer: the one that something was stored of last. Of two in the same second, the higher.
    pub fn last_writer(&self) -> Option<&Branch> {
        self.tips().max_by_key(|branch| (branch.last_written, branch.timeline()))
    }

    /// The branch that takes over from that of `timeline` whenever its server stores something: a higher one that is still
    /// written, if not last.
    pub fn about_to_lead(&self, timeline: TimelineId) -> Option<&Branch> {
        let last = self.last_writer()?.last_written;
        let is_alive = |other: &&Branch| {
            let since = last.zip(other.last_written).map(|(last, theirs)| last.duration_since(theirs));
            other.timeline() > timeline && since.is_some_and(|since| since < ALIVE)
        };
        self.tips().find(is_alive)
    }

    /// The branch that a restore follows unless told otherwise. Impossible, naming both, when another one has a newer
    /// backup, newer commits or a higher timeline (R30).
    pub fn default_branch(&self) -> Result<&Branch> {
        let Some(last) = self.last_writer() else {
            return Err(match self.unreadable.first() {
                Some((_, error)) => error.clone(),
                None => Error::impossible("no WAL is archived yet"),
            });
        };
        let rival = self.tips().find(|other| other.timeline() != last.timeline() && rivals(last, other));
        if let Some(other) = rival {
            return Err(Error::impossible(format!(
                "two branches could be meant: {}, and {}",
                describe(last),
                describe(other)
            ))
            .hint(format!(
                "was a restored copy or a standby started with archiving on? decide with --target-timeline {} or --target-timeline {}",
                last.timeline(),
                other.timeline()
            )));
        }
        let higher = self.unreadable.iter().find(|(timeline, _)| *timeline > last.timeline());
        if let Some((timeline, error)) = higher {
            return Err(Error::impossible(format!(
                "WAL of timeline {timeline} is stored, but cannot be followed: {error}; {} can",
                describe(last)
            ))
            .hint(format!("decide with --target-timeline {}", last.timeline())));
        }
        Ok(last)
    }

    /// The instants that can be reached on `branch`, earliest first, without overlaps.
    pub fn instants(branch: &Branch) -> Vec<Instants> {
        let instants = |reach: &Reach| {
            let start = reach.backup.finished_at;
            Instants { start, end: branch.span_of(reach).end_time.map_or(start, |end| end.max(start)) }
        };
        let mut all: Vec<Instants> = branch.reaches.iter().map(instants).collect();
        all.sort_unstable_by_key(|instants| (instants.start, instants.end));
        let mut merged: Vec<Instants> = Vec::new();
        for instants in all {
            match merged.last_mut() {
                Some(last) if instants.start <= last.end => last.end = last.end.max(instants.end),
                _ => merged.push(instants),
            }
        }
        merged
    }

    /// The branch that was left, beside `branch`, on which `time` lies as well; the state at that time is then not the one
    /// that `branch` leads to.
    pub fn also_on(&self, branch: &Branch, time: PgTime) -> Option<&Branch> {
        self.tips().find(|other| {
            let Some((own, fork)) = parting(branch, other) else { return false };
            // Between the parting and the last commit of the one that was left, or the first of the one that goes on.
            let parted = self.time_at([branch, other], fork);
            let began = self.began(own);
            let left = other.last_commit();
            other.timeline() != branch.timeline()
                && parted.is_none_or(|parted| time > parted)
                && (left.is_some_and(|left| time <= left) || began.is_some_and(|began| time < began))
        })
    }

    /// The last known commit before two branches part at `fork`, where a timeline of one of them begins.
    fn time_at(&self, branches: [&Branch; 2], fork: Lsn) -> Option<PgTime> {
        let mut stretches = branches.into_iter().flat_map(|branch| branch.history.lineage());
        let began = stretches.find(|stretch| stretch.begin == fork)?;
        self.fork_times.get(&began.timeline).copied()
    }

    /// When something was first stored of a timeline: its history is put before its WAL.
    fn began(&self, timeline: TimelineId) -> Option<PgTime> {
        self.branch(timeline)?.history_stored.map(PgTime::from)
    }
}

/// Whether a restore of the last writer's branch could be wrong because of `other`.
fn rivals(last: &Branch, other: &Branch) -> bool {
    let newer_backup = other
        .newest_backup()
        .filter(|backup| !Branch::leads_here(&last.history, backup))
        .is_some_and(|theirs| last.newest_backup().is_none_or(|ours| theirs.finished_at > ours.finished_at));
    let newer_commits = other.last_commit() > last.last_commit();
    newer_backup || newer_commits || other.timeline() > last.timeline()
}

fn describe(branch: &Branch) -> String {
    let fork = branch.fork().map(|(parent, at)| format!(", which left timeline {parent} at {at}"));
    let commit =
        branch.last_commit().map_or_else(|| "none that can be reached".to_owned(), |at| at.to_string());
    let backup = branch.newest_backup().map_or_else(|| "none".to_owned(), |backup| backup.id.to_string());
    let writer = branch.writer.as_ref().map(|writer| format!(", archived by {writer}"));
    format!(
        "timeline {}{} (last commit {commit}, newest backup {backup}{})",
        branch.timeline(),
        fork.unwrap_or_default(),
        writer.unwrap_or_default()
    )
}

/// Where `other` leaves the lineage of `branch`: (the timeline by which `branch` goes on there, the position); `None` if
/// it does not, or if one of them is the beginning of the other.
fn parting(branch: &Branch, other: &Branch) -> Option<(TimelineId, Lsn)> {
    let (ours, theirs) = (branch.history.lineage(), other.history.lineage());
    let shared = ours.iter().zip(&theirs).take_while(|(a, b)| a.timeline == b.timeline).count();
    let (ours_end, theirs_end) = (ours.get(shared.checked_sub(1)?)?.end, theirs.get(shared - 1)?.end);
    let fork = [ours_end, theirs_end].into_iter().flatten().min()?;
    let own = ours.get(shared).map_or(branch.timeline(), |stretch| stretch.timeline);
    Some((own, fork))
}

/// The timeline that continues `branch` and leaves nothing of it behind, if there is one; or the backups that alone are left
/// behind.
fn continued_by(
    branches: &[Branch],
    branch: &Branch,
    catalog: &Catalog,
    times: &WalTimes,
    needs: &mut Vec<Need>,
) -> (Option<TimelineId>, Vec<Arc<Manifest>>) {
    let timeline = branch.timeline();
    let children = branches.iter().filter(|other| other.timeline() != timeline);
    let forks = children.filter_map(|child| Some((child.history.stretch(timeline)?.end?, child.timeline())));
    let Some((fork, child)) = forks.max() else { return (None, Vec::new()) };
    let size = catalog.segment_size;
    let number = fork.get() / size.bytes();
    let behind = catalog.segments(timeline, number + 1..=u64::MAX).next().is_some();
    let tail_behind = catalog.tails(timeline, number..=u64::MAX).any(|(_, tail)| tail.end(size) > fork);
    let is_behind = |backup: &&Arc<Manifest>| backup.timeline == timeline && backup.stop_lsn > fork;
    let within = catalog.segments(timeline, number..=number).next().is_some_and(|(_, file)| {
        let segment = crate::postgres::SegmentName::from_number(timeline, number, size);
        match times.summaries.get(&(segment, file.digest)) {
            Some(Ok(summary)) => summary.end > fork && summary.end != segment.start(size),
            // What cannot be read leads nowhere.
            Some(Err(_)) => false,
            None => {
                needs.push(Need::Summary(segment, file.digest));
                false
            }
        }
    });
    if behind || tail_behind || within {
        return (None, Vec::new());
    }
    let backups: Vec<_> = catalog.backups.iter().filter(is_behind).cloned().collect();
    (backups.is_empty().then_some(child), backups)
}

impl Cut {
    /// Whether WAL that exists cannot be reached because of it.
    pub const fn is_fault(&self) -> bool {
        !matches!(self, Self::End)
    }
}
