//! Which backup, branch and timeline serve a target. Decided by the window alone, but for targets that have to be looked
//! for in the WAL.

use std::sync::Arc;

use super::branch::{Branch, Cut, Span, WalPath};
use super::locate::{Located, Locator};
use super::reach::{Lack, Reach, Stranded};
use super::recovery::RecoveryWindow;
use super::times::WalTimes;
use crate::catalog::Catalog;
use crate::error::{Error, Kind, Result};
use crate::format::{BackupId, Manifest};
use crate::postgres::{Lsn, PgTime, RecoveryTarget, TimelineId};
use crate::repository::Repository;

/// What is asked for.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// Where recovery ends.
    pub target: RecoveryTarget,
    /// The timeline to follow; by default the last writer's branch.
    pub timeline: Option<TimelineId>,
    /// The backup to start from; by default the newest good one that stopped before the target.
    pub backup: Option<BackupId>,
}

/// What serves it.
#[derive(Debug, Clone)]
pub struct Chosen {
    /// The backup to start from.
    pub backup: Arc<Manifest>,
    /// The branch.
    pub branch: TimelineId,
    /// The timeline that recovery follows: the one in which the target lies, which a later one may continue.
    pub timeline: TimelineId,
    /// The WAL from the backup's start to the end of what is there.
    pub path: WalPath,
    /// The end of the last whole record of it.
    pub end: Lsn,
    /// The latest commit in it.
    pub end_time: Option<PgTime>,
    /// Why that WAL ends where it does, when that is a fault.
    pub damage: Option<String>,
    /// What the operator should know before the restore begins.
    pub warnings: Vec<String>,
}

/// Looks for what serves a target.
pub struct Chooser<'a> {
    /// Where segments are read.
    pub repository: &'a Repository,
    /// What is listed.
    pub catalog: &'a Catalog,
    /// What follows from it.
    pub window: &'a RecoveryWindow,
    /// What was read of the WAL.
    pub times: &'a mut WalTimes,
    /// Hears (segments looked at, of how many) while a transaction or a restore point is looked for.
    pub progress: &'a (dyn Fn(usize, usize) + Sync),
}

impl std::fmt::Debug for Chooser<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Chooser").finish_non_exhaustive()
    }
}

/// Where the target lies, by what kind it is.
enum Place {
    /// The end of the WAL.
    End,
    /// The end of the backup.
    Backup,
    Time {
        time: PgTime,
        exclusive: bool,
    },
    Lsn(Lsn),
    /// Records in the WAL; recovery stops at the first one behind the backup's start.
    Records(Vec<Located>),
}

impl<'a> Chooser<'a> {
    /// What serves `wanted`. Impossible when nothing does, with what can be reached instead; Corrupt when it is there and
    /// cannot be read.
    pub async fn choose(&mut self, wanted: &Wanted) -> Result<Chosen> {
        let window = self.window;
        self.check_backups(wanted)?;
        let branch = self.branch(wanted)?;
        if let (RecoveryTarget::Time { time, .. }, None) = (&wanted.target, wanted.timeline)
            && let Some(other) = window.also_on(branch, *time)
        {
            return Err(also_on(*time, branch, other));
        }
        let place = self.place(branch, &wanted.target).await?;
        let candidates = candidates(self.catalog, branch, wanted.backup.as_ref())?;
        let mut serving: Vec<&Reach> = Vec::new();
        for reach in &candidates {
            if self.serves(branch, reach, &place).await? {
                serving.push(reach);
            }
        }
        if wanted.target == RecoveryTarget::Latest {
            let farthest = serving.iter().map(|reach| branch.span_of(reach).end).max();
            serving.retain(|reach| Some(branch.span_of(reach).end) == farthest);
            if let Some(damage) = serving.first().and_then(|reach| unreadable(branch.span_of(reach))) {
                return Err(damage);
            }
        }
        // R13: a backup with damaged pages only when no clean one leads there.
        let clean = serving.iter().find(|reach| reach.backup.page_errors.is_empty());
        let Some(reach) = clean.or(serving.first()) else {
            return Err(self.unreachable(branch, wanted, &candidates).await?);
        };
        self.chosen(branch, reach, &place, wanted, &serving)
    }

    fn check_backups(&self, wanted: &Wanted) -> Result<()> {
        if let Some(id) = &wanted.backup {
            if let Some(damaged) = self.catalog.damaged.iter().find(|damaged| damaged.id == *id) {
                return Err(damaged.error.clone());
            }
            if let Some((_, error)) = self.catalog.harmed.iter().find(|(backup, _)| backup.id == *id) {
                return Err(error.clone());
            }
            if !self.catalog.backups.iter().any(|backup| backup.id == *id) {
                return Err(Error::impossible(format!("there is no backup {id}"))
                    .hint("`walproof backup-list` lists the existing ones"));
            }
        }
        if let ([], Some((_, error))) = (&*self.catalog.backups, self.catalog.harmed.last()) {
            return Err(error.clone());
        }
        match (&*self.catalog.backups, &*self.catalog.damaged) {
            ([], [damaged, ..]) => Err(damaged.error.clone()),
            ([], []) => Err(Error::impossible(format!("there is no backup in {}", self.repository.store()))
                .hint("take one with `walproof backup-push`")),
            _ => Ok(()),
        }
    }

    fn branch(&self, wanted: &Wanted) -> Result<&'a Branch> {
        let Some(timeline) = wanted.timeline else { return self.window.default_branch() };
        let missing = || match self.catalog.history(timeline) {
            Err(error) => error,
            Ok(_) => Error::impossible(format!("nothing is stored for timeline {timeline}"))
                .hint("`walproof wal-list` shows which timelines exist"),
        };
        self.window.branch(timeline).ok_or_else(missing)
    }

    async fn place(&mut self, branch: &Branch, target: &RecoveryTarget) -> Result<Place> {
        Ok(match target {
            RecoveryTarget::Immediate => Place::Backup,
            RecoveryTarget::Latest => Place::End,
            RecoveryTarget::Time { time, exclusive } => Place::Time { time: *time, exclusive: *exclusive },
            RecoveryTarget::Lsn { target, .. } => Place::Lsn(*target),
            RecoveryTarget::Xid { xid, .. } => {
                let mut found = Vec::new();
                for path in self.whole_paths(branch) {
                    found.extend(self.locator().xid(&path, *xid).await?);
                }
                Place::Records(found)
            }
            RecoveryTarget::Name(name) => {
                let mut found = Vec::new();
                for path in self.whole_paths(branch) {
                    found.extend(self.locator().restore_points(&path, name).await?);
                }
                Place::Records(found)
            }
        })
    }

    /// For each span that a backup leads along, the path from the oldest such backup on.
    fn whole_paths(&self, branch: &Branch) -> Vec<WalPath> {
        let firsts = (0..branch.spans.len()).filter_map(|span| {
            let mut on_span = branch.reaches.iter().filter(|reach| reach.span == span);
            let first = on_span.clone().map(|reach| reach.backup.start_lsn).min()?;
            on_span.next().map(|_| first)
        });
        firsts.filter_map(|start| branch.path(self.catalog.segment_size, start)).collect()
    }

    fn locator(&mut self) -> Locator<'_> {
        Locator {
            repository: self.repository,
            catalog: self.catalog,
            times: self.times,
            progress: self.progress,
        }
    }

    /// Whether recovery from this backup along `branch` stops where it should.
    async fn serves(&mut self, branch: &Branch, reach: &Reach, place: &Place) -> Result<bool> {
        let (backup, span) = (&reach.backup, branch.span_of(reach));
        Ok(match place {
            Place::End | Place::Backup => true,
            // PostgreSQL stops at the first commit beyond the target, so there must be one.
            Place::Time { time, exclusive } => {
                let beyond = span.end_time.is_some_and(|end| *time < end || *exclusive && *time == end);
                *time > backup.finished_at && beyond
            }
            Place::Lsn(target) => {
                if *target < backup.stop_lsn || *target > span.end {
                    return Ok(false);
                }
                let Some(path) = branch.path(self.catalog.segment_size, backup.start_lsn) else {
                    return Ok(false);
                };
                let last = self.locator().last_record(&path).await?;
                last.is_some_and(|last| *target <= last)
            }
            // PostgreSQL stops at the first one that it replays, and cannot open what is not consistent by then.
            Place::Records(found) => {
                let replayed = found.iter().map(|located| located.lsn).filter(|lsn| *lsn > backup.start_lsn);
                let first = replayed.min();
                first.is_some_and(|lsn| lsn > backup.stop_lsn && lsn <= span.end && span.begin < lsn)
            }
        })
    }

    fn chosen(
        &self,
        branch: &Branch,
        reach: &Reach,
        place: &Place,
        wanted: &Wanted,
        serving: &[&Reach],
    ) -> Result<Chosen> {
        let backup = &reach.backup;
        let span = branch.span_of(reach);
        let path = branch.path(self.catalog.segment_size, backup.start_lsn);
        let path = path.ok_or_else(|| Error::corrupt("the WAL of the backup is gone"))?;
        let timeline = match wanted.timeline {
            Some(timeline) => timeline,
            None => self.timeline_of(branch, backup, place),
        };
        Ok(Chosen {
            backup: Arc::clone(backup),
            branch: branch.timeline(),
            timeline,
            path,
            end: span.record_end,
            end_time: span.end_time,
            damage: match &span.cut {
                Cut::Unusable(_, error) => Some(error.to_string()),
                Cut::End | Cut::Missing(_) => None,
            },
            warnings: self.warnings(branch, reach, wanted, serving),
        })
    }

    /// The oldest timeline of the branch that leads to the target before the next one takes over: to follow a younger one
    /// would make PostgreSQL write that one into the history of the timeline that it then begins.
    fn timeline_of(&self, branch: &Branch, backup: &Manifest, place: &Place) -> TimelineId {
        let lineage = branch.history.lineage();
        let older = lineage.iter().filter(|stretch| stretch.timeline >= backup.timeline);
        for (stretch, next) in older.clone().zip(older.skip(1)) {
            let Some(along) = self.window.branch(stretch.timeline) else { continue };
            let Some(reach) = along.reaches.iter().find(|reach| reach.backup.id == backup.id) else {
                continue;
            };
            let span = along.span_of(reach);
            let leads = match place {
                Place::End => false,
                Place::Backup => true,
                Place::Time { time, .. } => {
                    let before = self.window.fork_times.get(&next.timeline);
                    before.is_some_and(|before| time < before) && span.end_time.is_some_and(|end| *time < end)
                }
                // A record begins behind it, and before the next timeline does.
                Place::Lsn(target) => *target < span.record_end && *target < stretch.end.unwrap_or(span.end),
                Place::Records(found) => {
                    let first = found.iter().map(|located| located.lsn).find(|lsn| *lsn > backup.stop_lsn);
                    first.is_some_and(|lsn| lsn <= stretch.end.unwrap_or(span.end) && lsn <= span.end)
                }
            };
            if leads {
                return stretch.timeline;
            }
        }
        branch.timeline()
    }

    fn warnings(&self, branch: &Branch, reach: &Reach, wanted: &Wanted, serving: &[&Reach]) -> Vec<String> {
        let mut found = Vec::new();
        for damaged in &self.catalog.damaged {
            found.push(format!("backup {} is left out: {}", damaged.id, damaged.error));
        }
        for (harmed, error) in &self.catalog.harmed {
            found.push(format!("backup {} is left out: {error}", harmed.id));
        }
        for stranded in &branch.stranded {
            found.push(format!("backup {} is left out: {}", stranded.backup.id, stranded.lack));
        }
        let pages = reach.backup.page_errors.len();
        if pages > 0 {
            found.push(format!(
                "backup {} holds {pages} damaged pages, and no clean backup leads to the target",
                reach.backup.id
            ));
        }
        for other in serving.iter().take_while(|other| other.backup.id != reach.backup.id) {
            let pages = other.backup.page_errors.len();
            found.push(format!(
                "backup {} is newer, but left out because of its {pages} damaged pages",
                other.backup.id
            ));
        }
        let span = branch.span_of(reach);
        if let (RecoveryTarget::Latest, Cut::Missing(segment)) = (&wanted.target, &span.cut) {
            found.push(format!("segment {segment} is missing: what was archived after it cannot be reached"));
        }
        found
    }

    /// The error that names what can be reached instead.
    async fn unreachable(&mut self, branch: &Branch, wanted: &Wanted, candidates: &[Reach]) -> Result<Error> {
        let timeline = branch.timeline();
        if candidates.is_empty() {
            return Ok(nothing_restorable(branch, None));
        }
        let range = match wanted.target {
            RecoveryTarget::Lsn { .. } => self.lsn_ranges(branch, candidates).await?,
            _ => time_ranges(branch, candidates),
        };
        let with = wanted.backup.as_ref().map(|id| format!(" with backup {id}")).unwrap_or_default();
        let end = branch.last_commit();
        let hint = match wanted.target {
            RecoveryTarget::Time { time, .. } if end.is_some_and(|end| time >= end) => {
                "for the newest state leave out the target; was the WAL after that instant archived?"
            }
            RecoveryTarget::Time { .. } | RecoveryTarget::Lsn { .. } => {
                "do you mean another timeline (--target-timeline)? `walproof backup-list` shows when backups ended"
            }
            _ => "was it archived, and did it end after the oldest backup did?",
        };
        Ok(Error::impossible(format!(
            "{} is outside the recovery window{with}; reachable on timeline {timeline}: {range}",
            wanted.target
        ))
        .hint(hint))
    }

    async fn lsn_ranges(&mut self, branch: &Branch, candidates: &[Reach]) -> Result<String> {
        let mut ranges = Vec::new();
        for span in 0..branch.spans.len() {
            let on_span = candidates.iter().filter(|reach| reach.span == span);
            let Some(first) = on_span.min_by_key(|reach| reach.backup.stop_lsn) else { continue };
            let path = branch.path(self.catalog.segment_size, first.backup.start_lsn);
            let last = match path {
                Some(path) => self.locator().last_record(&path).await?,
                None => None,
            };
            let from = first.backup.stop_lsn;
            ranges.push(format!("from {from} to {}", last.unwrap_or(from).max(from)));
        }
        Ok(ranges.join(", and "))
    }
}

/// The backups to consider, newest first.
fn candidates(catalog: &Catalog, branch: &Branch, wanted: Option<&BackupId>) -> Result<Vec<Reach>> {
    let all = branch.reaches.iter().rev().cloned();
    let Some(wanted) = wanted else { return Ok(all.collect()) };
    let found: Vec<Reach> = all.filter(|reach| reach.backup.id == *wanted).collect();
    let backup = catalog.backups.iter().find(|backup| backup.id == *wanted);
    match backup.filter(|_| found.is_empty()) {
        Some(backup) if !Branch::leads_here(&branch.history, backup) => Err(Error::impossible(format!(
            "backup {wanted} is on timeline {}, which does not lead to timeline {}",
            backup.timeline,
            branch.timeline()
        ))
        .hint(format!("do you mean timeline {} (--target-timeline)?", backup.timeline))),
        Some(_) => Err(nothing_restorable(branch, Some(wanted))),
        None => Ok(found),
    }
}

/// Why none of the backups, or not the one that is wanted, can be restored along `branch`.
fn nothing_restorable(branch: &Branch, wanted: Option<&BackupId>) -> Error {
    let mut asked = branch.stranded.iter().rev();
    let newest = asked.find(|stranded| wanted.is_none_or(|wanted| stranded.backup.id == *wanted));
    if let Some(Stranded { backup, lack }) = newest.filter(|stranded| stranded.lack != Lack::Whole) {
        return Error::impossible(format!("backup {} cannot be restored: {lack}", backup.id))
            .hint("a new backup (`walproof backup-push`) of the server that writes now needs none of it");
    }
    let unusable = branch.unusable.first().map(|(_, error)| {
        Error::new(why_unusable(error), format!("no backup can be made consistent: {error}"))
            .hint("was an object of the repository changed, or do two clusters archive to it?")
    });
    unusable.unwrap_or_else(|| {
        Error::impossible(format!("no backup can be restored along timeline {}", branch.timeline())).hint(
            "`walproof wal-list` shows gaps in the WAL and `walproof backup-list` the backups' timelines",
        )
    })
}

/// The error for WAL that is there and cannot be read: less must be asked for, not given silently.
fn unreadable(span: &Span) -> Option<Error> {
    let Cut::Unusable(_, error) = &span.cut else { return None };
    let before = span.end_time.map_or_else(|| span.end.to_string(), |time| time.to_string());
    let told = format!("the newest WAL cannot be read: {error}");
    Some(Error::new(why_unusable(error), told).hint(format!(
        "everything before {before} can be reached: ask for it with --target-time or --target-lsn"
    )))
}

/// WAL that waits for a key that is not at hand is not damaged.
fn why_unusable(error: &Error) -> Kind {
    if error.kind() == Kind::KeyMissing { Kind::KeyMissing } else { Kind::Corrupt }
}

fn time_ranges(branch: &Branch, candidates: &[Reach]) -> String {
    let reachable = Branch { reaches: candidates.to_vec(), ..branch.clone() };
    let ranges = RecoveryWindow::instants(&reachable).into_iter().map(|instants| {
        if instants.start == instants.end {
            format!("{} (the end of a backup, with --target-immediate)", instants.start)
        } else {
            format!("after {} and before {}", instants.start, instants.end)
        }
    });
    ranges.collect::<Vec<_>>().join(", or ")
}

fn also_on(time: PgTime, branch: &Branch, other: &Branch) -> Error {
    Error::impossible(format!(
        "at {time} timeline {} was written, which timeline {} does not continue: the two led to different states",
        other.timeline(),
        branch.timeline()
    ))
    .hint(format!(
        "decide with --target-timeline {} (what was written then) or --target-timeline {} (what the present branch keeps of it)",
        other.timeline(),
        branch.timeline()
    ))
}
