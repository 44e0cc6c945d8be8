//! Which backups stay, and how much WAL each needs.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::facts::Facts;
use crate::format::{BackupId, Manifest};
use crate::postgres::{Lsn, PgTime, SegmentName, SegmentSize};
use crate::window::{Branch, Cut, Lack, Reach, RecoveryWindow, Stranded};

/// The WAL that a kept backup needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Needs {
    /// From its start to the end of its branches: any later instant.
    Everything,
    /// From its start to this position of its timeline: the state when it ended, or when it was held.
    Until(Lsn),
    /// None: it cannot be restored, or cannot be read.
    Nothing,
}

/// What becomes of a backup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Decision {
    /// `None`: it goes.
    pub(super) needs: Option<Needs>,
    pub(super) reason: String,
}

impl Decision {
    fn keep(needs: Needs, reason: impl Into<String>) -> Self {
        Self { needs: Some(needs), reason: reason.into() }
    }

    fn keep_unrestorable(why: impl std::fmt::Display) -> Self {
        Self::keep(Needs::Everything, format!("in the window, though it cannot be restored: {why}"))
    }

    fn keep_irreplaceable(why: impl std::fmt::Display) -> Self {
        Self::keep(Needs::Everything, format!("nothing takes its place, though it cannot be restored: {why}"))
    }

    fn delete(reason: impl Into<String>) -> Self {
        Self { needs: None, reason: reason.into() }
    }
}

pub(super) type Decisions = BTreeMap<BackupId, Decision>;

/// Whether an instant of the window lies on a branch, or may lie behind a segment of it that cannot be used: of a conflict
/// it may yet be sorted out which copy is genuine. One that ended before the window is over; the last writer's never is.
/// Where backups alone keep another timeline from continuing it and they go, what may lie behind is on that one, too.
pub(super) fn is_needed(facts: &Facts<'_>, branch: &Branch) -> bool {
    let last = facts.window.last_writer().map(Branch::timeline);
    let horizon = facts.horizon();
    // Not the last commit alone: times may run backwards where a data directory was put back.
    let reaches = || RecoveryWindow::instants(branch).iter().any(|instants| instants.end >= horizon);
    let may_reach = || {
        let size = facts.catalog.segment_size;
        let stranded = |Stranded { backup, .. }: &Stranded| {
            // What does not follow the segment before it serves whoever begins in it.
            let begins = |segment: &SegmentName| {
                branch.parts_at(segment, size) && segment.start(size) <= backup.start_lsn
            };
            let unusable = |segment: &SegmentName| is_made_over(backup, segment, size) && !begins(segment);
            backup.finished_at > horizon && branch.unusable.iter().any(|(segment, _)| unusable(segment))
        };
        branch.reaches.iter().any(|reach| is_in_doubt(facts, branch, reach))
            || branch.stranded.iter().any(stranded)
    };
    let stays = branch.only_backups.is_empty()
        || branch.only_backups.iter().any(|backup| backup.finished_at > horizon);
    last == Some(branch.timeline()) && !facts.superseded || reaches() || stays && may_reach()
}

/// Whether the WAL of a segment makes a backup consistent.
fn is_made_over(backup: &Manifest, segment: &SegmentName, size: SegmentSize) -> bool {
    segment.end(size) > backup.start_lsn && segment.start(size) < backup.stop_lsn
}

/// Whether a backup could be restored if WAL were mended that is there: damaged, or stored with two contents.
fn may_be_mended(facts: &Facts<'_>, branch: &Branch, stranded: &Stranded) -> bool {
    let size = facts.catalog.segment_size;
    let mendable = |segment: &SegmentName| {
        is_made_over(&stranded.backup, segment, size) && !branch.parts_at(segment, size)
    };
    stranded.lack == Lack::Whole && branch.unusable.iter().any(|(segment, _)| mendable(segment))
}

/// Whether a span ends before a segment that is there and cannot be used, and something on its branch was stored within the
/// window.
fn is_in_doubt(facts: &Facts<'_>, branch: &Branch, reach: &Reach) -> bool {
    let written = branch.last_written.is_some_and(|at| PgTime::from(at) >= facts.horizon());
    written && matches!(branch.span_of(reach).cut, Cut::Unusable(..))
}

/// Decide about every backup of the catalog.
pub(super) fn decide(facts: &Facts<'_>) -> Decisions {
    let mut decisions = Decisions::new();
    for branch in facts.window.tips().filter(|branch| is_needed(facts, branch)) {
        for (id, decision) in on_branch(facts, branch) {
            // On several branches: it is kept if one of them needs it.
            let known = decisions.get(&id).is_some_and(|known| known.needs == Some(Needs::Everything));
            if !known && (decision.needs.is_some() || !decisions.contains_key(&id)) {
                decisions.insert(id, decision);
            }
        }
    }
    decide_harmed(facts, &mut decisions);
    for backup in &facts.catalog.backups {
        decisions.entry(backup.id.clone()).or_insert_with(|| elsewhere(facts, backup));
    }
    decide_damaged(facts, &mut decisions);
    keep_newest(facts, &mut decisions);
    keep_held(facts, &mut decisions);
    keep_leased(facts, &mut decisions);
    decisions
}

/// A manifest that cannot be read may be mended, or was misread on its way. On which branch it lies, and which WAL it needs,
/// is not known: until the start of the window is restored from another one on every branch, it may be this one.
fn decide_damaged(facts: &Facts<'_>, decisions: &mut Decisions) {
    let horizon = facts.horizon();
    let sound = sound_before_window(facts, decisions);
    let leads = |branch: &Branch| sound.iter().any(|sound| Branch::leads_here(&branch.history, sound));
    let mut needed = facts.window.tips().filter(|branch| is_needed(facts, branch));
    let is_covered = facts.superseded || !sound.is_empty() && needed.all(leads);
    for damaged in &facts.catalog.damaged {
        let in_window = damaged.id.began().is_none_or(|start| PgTime::from(start) > horizon);
        let needs = if is_covered { Needs::Nothing } else { Needs::Everything };
        let decision = match (in_window, is_covered) {
            (true, _) => {
                Decision::keep(needs, format!("in the window, though it cannot be read: {}", damaged.error))
            }
            (false, true) => Decision::delete("older than the window, and it cannot be read"),
            (false, false) => Decision::keep(
                needs,
                format!("nothing takes its place, though it cannot be read: {}", damaged.error),
            ),
        };
        decisions.insert(damaged.id.clone(), decision);
    }
}

/// The backups that ended before the window, can be restored, and stay.
fn sound_before_window<'a>(facts: &Facts<'a>, decisions: &Decisions) -> Vec<&'a Arc<Manifest>> {
    let newest = newest_good(facts).filter(|_| !facts.superseded).map(|newest| newest.id.clone());
    let stays = |id: &BackupId| {
        let decision = decisions.get(id);
        newest.as_ref() == Some(id) || decision.is_some_and(|known| known.needs == Some(Needs::Everything))
    };
    let before = facts.catalog.backups.iter().filter(|backup| backup.finished_at <= facts.horizon());
    before.filter(|backup| stays(&backup.id)).collect()
}

/// What a verification found harmed may be mended, and so may the WAL of a backup: it stays as long as the window needs it, or
/// nothing takes its place.
fn decide_harmed(facts: &Facts<'_>, decisions: &mut Decisions) {
    let horizon = facts.horizon();
    let sound = sound_before_window(facts, decisions);
    let replaced = |harmed: &Manifest| {
        let mut needed = facts.window.tips().filter(|branch| is_needed(facts, branch));
        let leads = |branch: &Branch| sound.iter().any(|sound| Branch::leads_here(&branch.history, sound));
        !sound.is_empty()
            && needed.all(|branch| !Branch::leads_here(&branch.history, harmed) || leads(branch))
    };
    for (backup, error) in &facts.catalog.harmed {
        let decision = if backup.finished_at > horizon {
            Decision::keep_unrestorable(error)
        } else if replaced(backup) {
            Decision::delete(format!("older than the window, and it cannot be restored: {error}"))
        } else {
            Decision::keep_irreplaceable(error)
        };
        decisions.insert(backup.id.clone(), decision);
    }
    for branch in facts.window.tips().filter(|branch| is_needed(facts, branch)) {
        for stranded in branch.stranded.iter().filter(|stranded| may_be_mended(facts, branch, stranded)) {
            let backup = &stranded.backup;
            let goes = decisions.get(&backup.id).is_some_and(|decision| decision.needs.is_none());
            if goes && !replaced(backup) {
                decisions.insert(backup.id.clone(), Decision::keep_irreplaceable(stranded.lack));
            }
        }
    }
}

/// Of a branch that the window needs: everything that ended in the window, and the newest good backup before it.
fn on_branch(facts: &Facts<'_>, branch: &Branch) -> Vec<(BackupId, Decision)> {
    let horizon = facts.horizon();
    let anchor = anchor(facts, branch);
    let mut found = Vec::new();
    for reach in &branch.reaches {
        let backup = &reach.backup;
        let pages = backup.page_errors.len();
        let decision = if anchor.is_some_and(|anchor| anchor.backup.id == backup.id) {
            let what = if pages == 0 {
                String::new()
            } else {
                format!("; it holds {pages} damaged pages, and no good one reaches back so far")
            };
            Decision::keep(
                Needs::Everything,
                format!("the start of the window, {horizon}, is restored from it{what}"),
            )
        } else if backup.finished_at > horizon {
            let what = if pages == 0 { String::new() } else { format!("; it holds {pages} damaged pages") };
            Decision::keep(Needs::Everything, format!("in the window{what}"))
        } else {
            Decision::delete("older than the window, and a newer one reaches its start")
        };
        found.push((backup.id.clone(), decision));
    }
    for Stranded { backup, lack } in &branch.stranded {
        let decision = if backup.finished_at > horizon {
            // What is left of its WAL stays: of a conflict the operator may yet sort out which copy is genuine, and with
            // one copy gone nobody would see that there was one.
            Decision::keep_unrestorable(lack)
        } else {
            Decision::delete("older than the window, and it cannot be restored")
        };
        found.push((backup.id.clone(), decision));
    }
    found
}

/// The backup that the start of the window is restored from: the newest good one that ended before it and leads there;
/// if there is no good one, the newest with damaged pages; if none leads there, one that may, behind a segment that cannot
/// be used.
fn anchor<'a>(facts: &Facts<'_>, branch: &'a Branch) -> Option<&'a Reach> {
    let horizon = facts.horizon();
    let leads = |reach: &Reach| {
        let end = branch.span_of(reach).end_time.unwrap_or(reach.backup.finished_at);
        end.max(reach.backup.finished_at) >= horizon
    };
    let may_lead = |reach: &Reach| is_in_doubt(facts, branch, reach);
    let newest = |good: bool, leads: &dyn Fn(&Reach) -> bool| {
        let before = branch.reaches.iter().filter(|reach| reach.backup.finished_at <= horizon);
        before
            .filter(|reach| leads(reach) && reach.backup.page_errors.is_empty() == good)
            .max_by_key(|reach| (reach.backup.finished_at, &reach.backup.id))
    };
    let certain = newest(true, &leads).or_else(|| newest(false, &leads));
    certain.or_else(|| newest(true, &may_lead)).or_else(|| newest(false, &may_lead))
}

/// Of a branch that was left and that no instant of the window lies on, or of a timeline that cannot be followed. What ended
/// in the window cannot be restored now, and stays for the day when it can.
fn elsewhere(facts: &Facts<'_>, backup: &Arc<Manifest>) -> Decision {
    let in_window = backup.finished_at > facts.horizon();
    let timeline = backup.timeline;
    match facts.window.branch(timeline).map(|branch| branch.lack_of(&backup.id)) {
        None if in_window => Decision::keep(
            Needs::Everything,
            format!("in the window, though timeline {timeline} cannot be followed"),
        ),
        None => {
            Decision::delete(format!("older than the window, and timeline {timeline} cannot be followed"))
        }
        Some(Some(lack)) if in_window => Decision::keep_unrestorable(lack),
        Some(_) => {
            Decision::delete(format!("no instant of the window lies on the branch of timeline {timeline}"))
        }
    }
}

/// The newest good backup: of the last writer's branch, else of any.
fn newest_good<'a>(facts: &Facts<'a>) -> Option<&'a Arc<Manifest>> {
    let age = |backup: &&Arc<Manifest>| (backup.finished_at, backup.id.clone());
    let good = |branch: &'a Branch| {
        let reaches = branch.reaches.iter().filter(|reach| reach.backup.page_errors.is_empty());
        reaches.map(|reach| &reach.backup).max_by_key(age)
    };
    let of_last = facts.window.last_writer().and_then(good);
    of_last.or_else(|| facts.window.tips().filter_map(good).max_by_key(age))
}

/// R22: what the newest state is restored from stays, and the newest good backup.
fn keep_newest(facts: &Facts<'_>, decisions: &mut Decisions) {
    if facts.superseded {
        return;
    }
    let newest = newest_good(facts);
    let mut keep = |backup: &Manifest, reason: &str| {
        let known = decisions.get(&backup.id).and_then(|decision| decision.needs);
        if known != Some(Needs::Everything) {
            decisions.insert(backup.id.clone(), Decision::keep(Needs::Everything, reason));
        }
    };
    if let Some(newest) = newest {
        keep(newest, "the newest good backup; nothing newer takes its place");
    }
    if let Some(latest) = facts.window.last_writer().and_then(latest) {
        keep(&latest.backup, "the newest state is restored from it");
    }
    if newest.is_none() {
        for decision in decisions.values_mut().filter(|decision| decision.needs.is_none()) {
            *decision =
                Decision::keep(Needs::Everything, "there is no good backup that could take its place");
        }
    }
}

/// What a restore of the newest state begins with.
fn latest(branch: &Branch) -> Option<&Reach> {
    let farthest = branch.farthest()?.end;
    let leads = || branch.reaches.iter().filter(|reach| branch.span_of(reach).end == farthest);
    let newest = |reach: &&Reach| (reach.backup.finished_at, reach.backup.id.clone());
    let good = leads().filter(|reach| reach.backup.page_errors.is_empty()).max_by_key(newest);
    good.or_else(|| leads().max_by_key(newest))
}

fn keep_held(facts: &Facts<'_>, decisions: &mut Decisions) {
    for hold in &facts.catalog.holds {
        let backup = facts.catalog.manifests().find(|backup| backup.id == hold.backup);
        let reason =
            if hold.reason.is_empty() { "held".to_owned() } else { format!("held: {}", hold.reason) };
        let Some(decision) = decisions.get_mut(&hold.backup) else { continue };
        if decision.needs == Some(Needs::Everything) {
            decision.reason = format!("{reason}; {}", decision.reason);
            continue;
        }
        let until = backup.map(|backup| hold.until.unwrap_or(backup.stop_lsn).max(backup.stop_lsn));
        *decision = Decision::keep(until.map_or(Needs::Nothing, Needs::Until), reason);
    }
}

fn keep_leased(facts: &Facts<'_>, decisions: &mut Decisions) {
    for lease in &facts.leases {
        for id in &lease.protects.backups {
            let Some(decision) = decisions.get_mut(id) else { continue };
            if decision.needs != Some(Needs::Everything) {
                let reason = format!("a {} on {} uses it now", lease.purpose, lease.host);
                *decision = Decision::keep(Needs::Everything, reason);
            }
        }
    }
}
