//! The plan: every object of the repository stays for a reason, or goes for one.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::backups::Decisions;
use super::facts::Facts;
use super::wal::{KeptWal, kept, range_text};
use crate::format::{BackupId, ObjectKey, PackList, PackName};
use crate::postgres::{PgTime, SegmentName, WalName};
use crate::repository::{Listed, Listing, REPORTS_KEPT};

/// An object that no backup names and that is younger may belong to one that has just begun.
const ORPHAN_AGE: Duration = Duration::from_hours(1);

/// Between the store's clock, by which reports are put, and those of the hosts that write and read them.
const REPORTS_MARGIN: Duration = Duration::from_hours(24);

const OVER: &str =
    "a newer database of this name covers the whole window, and nothing else is left of this one";

/// What becomes of an object, or of several that belong together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// What it is.
    pub object: String,
    /// Bytes as stored.
    pub bytes: u64,
    /// Why it stays, or goes.
    pub reason: String,
}

/// What stays and what goes.
#[derive(Debug, Clone, Default)]
pub struct Plan {
    /// What stays.
    pub keep: Vec<Line>,
    /// What goes.
    pub delete: Vec<Line>,
    /// What to delete, in the order of R23.
    pub(super) steps: Steps,
}

/// An object to delete.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Doomed {
    pub(super) key: ObjectKey,
    pub(super) bytes: u64,
}

/// Manifests; what only they named; WAL and tails; reports, which go one by one.
pub(super) type Steps = [Vec<Doomed>; 4];

/// The step of reports: if a chain were cut off in the middle, nobody could tell who did it.
pub(super) const REPORTS: usize = 3;

impl Plan {
    /// Objects to delete.
    pub fn deletes(&self) -> usize {
        self.steps.iter().map(Vec::len).sum()
    }

    /// Bytes of what goes.
    pub fn deleted_bytes(&self) -> u64 {
        self.delete.iter().map(|line| line.bytes).sum()
    }
}

/// The kept backups whose pack lists tell which packs of others are needed: those that use packs of backups that go.
pub(super) fn lists_needed(facts: &Facts<'_>, decisions: &Decisions) -> Vec<BackupId> {
    let stays = |id: &BackupId| decisions.get(id).is_some_and(|decision| decision.needs.is_some());
    let kept = facts.catalog.manifests().filter(|backup| stays(&backup.id));
    kept.filter(|backup| backup.packs.iter().any(|packs| packs.backup != backup.id && !stays(&packs.backup)))
        .map(|backup| backup.id.clone())
        .collect()
}

/// Make the plan. `lists`: the pack lists of [`lists_needed`].
pub(super) fn plan(
    facts: &Facts<'_>,
    listing: &Listing,
    decisions: &Decisions,
    lists: &BTreeMap<BackupId, PackList>,
) -> Plan {
    let reports = Reports::of(facts, listing);
    let keeps = decisions.values().any(|decision| decision.needs.is_some());
    let mut planner = Planner {
        facts,
        decisions,
        is_over: facts.superseded && !keeps && reports.stays == 0 && facts.leases.is_empty(),
        reports,
        wal: kept(facts, decisions),
        used: lists.values().flat_map(|list| list.0.iter().map(|pack| pack.name.clone())).collect(),
        unreadable: facts
            .catalog
            .damaged
            .iter()
            .any(|damaged| decisions.get(&damaged.id).is_some_and(|decision| decision.needs.is_some())),
        groups: BTreeMap::new(),
        steps: Default::default(),
    };
    for listed in &listing.objects {
        planner.judge(listed);
    }
    planner.finish()
}

/// Which reports of drills go: those at the beginning of their chain, so that what stays follows on without a gap. Whoever
/// reads it knows that they were due by the time that the first one that stays says of the one before it.
#[derive(Debug, Default)]
struct Reports {
    /// The number of the last one that goes.
    until: Option<u32>,
    /// How many stay.
    stays: usize,
}

impl Reports {
    fn of(facts: &Facts<'_>, listing: &Listing) -> Self {
        let mut reports: Vec<(u32, PgTime)> = Vec::new();
        for listed in &listing.objects {
            if let ObjectKey::Report(number, _) = listed.key {
                reports.push((number, PgTime::from(listed.modified)));
            }
        }
        reports.sort_unstable();
        let old = |at: PgTime| facts.now.seconds_since(at) > (REPORTS_KEPT + REPORTS_MARGIN).as_secs_f64();
        let due = reports.iter().take_while(|(_, put)| old(*put)).count();
        // Of several under one number all go, or none; and the newest stays: the head names it.
        let newest = reports.last().map(|(number, _)| *number).filter(|_| !facts.superseded);
        let blocked = reports.get(due).map(|(number, _)| *number).or(newest);
        let going = |(number, _): &&(u32, PgTime)| blocked.is_none_or(|blocked| *number < blocked);
        let until = reports[..due].iter().take_while(going).last().map(|(number, _)| *number);
        let stays = reports.iter().filter(|(number, _)| until.is_none_or(|until| *number > until)).count();
        Self { until, stays }
    }

    fn goes(&self, number: u32) -> bool {
        self.until.is_some_and(|until| number <= until)
    }
}

/// Objects that one line of the plan is about.
type Group = (u8, String, Option<String>);

struct Planner<'a> {
    facts: &'a Facts<'a>,
    decisions: &'a Decisions,
    /// Nothing of the repository is needed any more.
    is_over: bool,
    reports: Reports,
    wal: KeptWal,
    /// Packs of backups that go, which backups that stay use.
    used: BTreeSet<PackName>,
    /// A backup stays that cannot be read: which packs it uses is not known.
    unreadable: bool,
    groups: BTreeMap<Group, Found>,
    steps: Steps,
}

#[derive(Debug, Default)]
struct Found {
    delete: bool,
    objects: u64,
    bytes: u64,
    runs: Vec<(SegmentName, SegmentName, u64)>,
    reason: String,
}

impl Planner<'_> {
    fn stays(&self, id: &BackupId) -> bool {
        self.decisions.get(id).is_some_and(|decision| decision.needs.is_some())
    }

    /// Whether a running backup writes under this id.
    fn is_leased(&self, id: &BackupId) -> bool {
        self.facts.leases.iter().any(|lease| lease.protects.backups.contains(id))
    }

    fn is_young(&self, listed: &Listed) -> bool {
        let age = self.facts.now.seconds_since(PgTime::from(listed.modified));
        age < ORPHAN_AGE.as_secs_f64()
    }

    fn judge(&mut self, listed: &Listed) {
        match &listed.key {
            ObjectKey::Manifest(id) => {
                let decision = self.decisions.get(id);
                let delete = decision.is_some_and(|decision| decision.needs.is_none());
                let reason = decision.map_or("just taken", |decision| decision.reason.as_str()).to_owned();
                self.note(listed, (0, format!("backup {id}"), None), delete.then_some(0), reason);
            }
            ObjectKey::Pack(name) => self.judge_pack(listed, &name.clone()),
            ObjectKey::FileTable(id, _) | ObjectKey::PackList(id) => {
                let id = id.clone();
                let keep = self.stays(&id) || self.orphan_stays(listed, &id);
                let reason = self.owner_reason(&id, keep);
                self.note(
                    listed,
                    (1, format!("file tables of backup {id}"), None),
                    (!keep).then_some(1),
                    reason,
                );
            }
            ObjectKey::Wal(name, _) => self.judge_wal(listed, *name),
            ObjectKey::Tail(name) => {
                let number = name.segment.number(self.facts.catalog.segment_size);
                let needed = self.wal.reason(name.segment.timeline, number);
                let catalog = self.facts.catalog;
                let is_archived = catalog.has(&name.segment);
                let (delete, reason) = match needed {
                    Some(_) if is_archived && catalog.settles(name) => (true, "its segment is archived"),
                    // It may hold what another life of the server flushed, and nothing else does.
                    Some(_) if is_archived => (false, "the daemon compares it with its segment"),
                    Some(_) => (false, "the newest WAL"),
                    None => (true, "no kept backup needs it"),
                };
                let (group, reason) = ((3, "tails".to_owned(), Some(reason.to_owned())), reason.to_owned());
                self.note(listed, group, delete.then_some(2), reason);
            }
            ObjectKey::Hold(id) => {
                let there = self.decisions.contains_key(id);
                let reason = if there { "it keeps a backup" } else { "its backup is gone" };
                self.note(
                    listed,
                    (4, format!("hold on backup {id}"), None),
                    (!there).then_some(2),
                    reason.to_owned(),
                );
            }
            ObjectKey::Identity => {
                let reason = if self.is_over { OVER } else { "without it nothing can be opened" };
                self.note(
                    listed,
                    (6, "identity".to_owned(), None),
                    self.is_over.then_some(2),
                    reason.to_owned(),
                );
            }
            ObjectKey::Report(number, _) => {
                let goes = self.reports.goes(*number);
                let reason = if goes { "older than 13 months" } else { "evidence is kept for 13 months" };
                let group = (5, "reports of drills".to_owned(), Some(goes.to_string()));
                self.note(listed, group, goes.then_some(REPORTS), reason.to_owned());
            }
            ObjectKey::ReportHead => {
                let reason = if self.is_over { OVER } else { "it names the newest report" };
                let group = (5, "head of the reports".to_owned(), None);
                self.note(listed, group, self.is_over.then_some(REPORTS), reason.to_owned());
            }
            ObjectKey::Attempt => {
                let reason = if self.is_over { OVER } else { "the last try to take a backup" };
                let group = (5, "record of the last backup".to_owned(), None);
                self.note(listed, group, self.is_over.then_some(2), reason.to_owned());
            }
            ObjectKey::Expiry => {
                let reason = if self.is_over { OVER } else { "what retention did last" };
                let group = (5, "record of retention".to_owned(), None);
                self.note(listed, group, self.is_over.then_some(2), reason.to_owned());
            }
            ObjectKey::Verify(_) => {
                let group = (5, "results of verify".to_owned(), None);
                self.note(listed, group, None, "each run replaces those of the run before".to_owned());
            }
            ObjectKey::Lease(_) | ObjectKey::Probe(_) => {
                let group = (5, "leases and probes".to_owned(), None);
                self.note(listed, group, None, "they end by themselves".to_owned());
            }
        }
    }

    fn judge_pack(&mut self, listed: &Listed, name: &PackName) {
        let id = &name.backup;
        if self.stays(id) || self.used.contains(name) || self.orphan_stays(listed, id) {
            let reason = self.owner_reason(id, true);
            let kept_by = if self.stays(id) { None } else { Some("used".to_owned()) };
            self.note(listed, (1, format!("packs of backup {id}"), kept_by), None, reason);
            return;
        }
        if self.unreadable {
            let reason = "a backup that stays cannot be read, and may need them".to_owned();
            self.note(listed, (1, format!("packs of backup {id}"), None), None, reason);
            return;
        }
        let reason = self.owner_reason(id, false);
        self.note(listed, (1, format!("packs of backup {id}"), Some("unused".to_owned())), Some(1), reason);
    }

    /// Whether an object of a backup without a manifest stays: one that is being taken.
    fn orphan_stays(&self, listed: &Listed, id: &BackupId) -> bool {
        !self.decisions.contains_key(id) && (self.is_leased(id) || self.is_young(listed))
    }

    fn owner_reason(&self, id: &BackupId, keep: bool) -> String {
        match (self.decisions.get(id), keep) {
            (Some(decision), true) if decision.needs.is_some() => decision.reason.clone(),
            (Some(_), true) => "backups that stay use them".to_owned(),
            (Some(_), false) => "no backup that stays uses them".to_owned(),
            (None, true) if self.is_leased(id) => "a backup is being taken".to_owned(),
            (None, true) => "they may belong to a backup that has just begun".to_owned(),
            (None, false) => "left behind by a backup that did not finish".to_owned(),
        }
    }

    fn judge_wal(&mut self, listed: &Listed, name: WalName) {
        let size = self.facts.catalog.segment_size;
        let Some(segment) = name.segment() else {
            let reason =
                if self.is_over { OVER } else { "they are small, and tell how timelines belong together" };
            let group = (2, "histories of timelines".to_owned(), None);
            return self.note(listed, group, self.is_over.then_some(2), reason.to_owned());
        };
        let reason = self.wal.reason(segment.timeline, segment.number(size)).map(str::to_owned);
        let delete = reason.is_none();
        let reason = reason.unwrap_or_else(|| "no kept backup needs it".to_owned());
        let kind =
            if matches!(name, WalName::Segment(_)) { "wal" } else { "partial segments and backup histories" };
        let group = (2, kind.to_owned(), Some(reason.clone()));
        let is_segment = kind == "wal";
        self.note(listed, group.clone(), delete.then_some(2), reason);
        if is_segment && let Some(found) = self.groups.get_mut(&group) {
            match found.runs.last_mut() {
                Some((_, last, _)) if *last == segment => {}
                Some((_, last, count)) if last.timeline == segment.timeline && last.next(size) == segment => {
                    (*last, *count) = (segment, *count + 1);
                }
                _ => found.runs.push((segment, segment, 1)),
            }
        }
    }

    fn note(&mut self, listed: &Listed, group: Group, step: Option<usize>, reason: String) {
        if let Some(step) = step {
            self.steps[step].push(Doomed { key: listed.key.clone(), bytes: listed.size });
        }
        let found = self.groups.entry(group).or_default();
        found.delete = step.is_some();
        found.objects += 1;
        found.bytes += listed.size;
        found.reason = reason;
    }

    fn finish(self) -> Plan {
        let mut plan = Plan { steps: self.steps, ..Plan::default() };
        // Without it the rest could not be opened.
        let wal = std::mem::take(&mut plan.steps[2]);
        let (identity, wal): (Vec<_>, Vec<_>) =
            wal.into_iter().partition(|doomed| doomed.key == ObjectKey::Identity);
        // A segment covers its tail, and may end a branch that the tail would lead on: killed in between, the branch would
        // seem to reach farther than it did, and what is left of it would stay. The last tail goes first for the same reason: a
        // timeline without its beginning goes on in what the older one has of that segment.
        let (tails, rest): (Vec<_>, Vec<_>) =
            wal.into_iter().partition(|doomed| matches!(doomed.key, ObjectKey::Tail(_)));
        plan.steps[2] = tails.into_iter().rev().chain(rest).collect();
        plan.steps[REPORTS].extend(identity);
        for ((_, name, _), found) in self.groups {
            let Found { delete, objects, bytes, runs, reason } = found;
            let lines = if delete { &mut plan.delete } else { &mut plan.keep };
            if runs.is_empty() {
                let object = if name.starts_with("backup ") || name.starts_with("hold ") {
                    name
                } else {
                    format!("{name} ({objects} objects)")
                };
                lines.push(Line { object, bytes, reason });
                continue;
            }
            let segments: u64 = runs.iter().map(|(.., count)| count).sum();
            for (first, last, count) in runs {
                // The bytes of a run are its share: segments are alike.
                let bytes = bytes / segments.max(1) * count;
                lines.push(Line { object: range_text(first, last, count), bytes, reason: reason.clone() });
            }
        }
        plan
    }
}
