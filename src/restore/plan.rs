//! Which backup, which timeline, how much WAL: decided and checked before the disk is touched (R16).

use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::postgres::{History, Lsn, PgTime, RecoveryTarget, TargetAction, TimelineId};
use crate::repository::{BackupId, Catalog, Manifest, Reach, Repository};

/// What the operator asks for.
#[derive(Debug, Clone)]
pub struct RestoreRequest {
    /// The new data directory.
    pub to: PathBuf,
    /// Where recovery ends.
    pub target: RecoveryTarget,
    /// What the server does there.
    pub action: TargetAction,
    /// The timeline to follow; by default the newest.
    pub timeline: Option<TimelineId>,
    /// The backup to start from; by default the newest that stopped before the target.
    pub backup: Option<BackupId>,
    /// Tablespaces by their old location, and where they go.
    pub tablespaces: Vec<(PathBuf, PathBuf)>,
}

/// What will be done.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The new data directory.
    pub to: PathBuf,
    /// The backup to start from.
    pub backup: Manifest,
    /// The timeline to follow.
    pub timeline: TimelineId,
    /// Where recovery ends.
    pub target: RecoveryTarget,
    /// What the server does there.
    pub action: TargetAction,
    /// How far the WAL reaches.
    pub reach: Reach,
    /// Where each tablespace goes, by oid.
    pub tablespaces: Vec<(u32, PathBuf)>,
}

/// Decide how to restore what `request` asks for.
pub async fn plan(repository: &Repository, request: &RestoreRequest) -> Result<Plan> {
    let catalog = Catalog::read(repository).await?;
    if let ([], [damaged, ..]) = (&*catalog.backups, &*catalog.damaged) {
        return Err(damaged.error.clone());
    }
    for damaged in &catalog.damaged {
        tracing::warn!(error = %damaged.error, "a backup is left out");
    }
    if catalog.backups.is_empty() {
        return Err(Error::impossible(format!("there is no backup in {}", repository.store()))
            .hint("take one with `walproof backup-push`"));
    }
    let timeline = request.timeline.unwrap_or_else(|| catalog.newest_timeline());
    let history = repository.history(timeline, &catalog.wal).await?;
    let (backup, reach) =
        Chooser { repository, catalog: &catalog, history: &history }.choose(request).await?;
    let tablespaces = map_tablespaces(&backup, &request.tablespaces)?;
    Ok(Plan {
        to: request.to.clone(),
        backup,
        timeline,
        target: request.target.clone(),
        action: request.action,
        reach,
        tablespaces,
    })
}

/// Whether a backup serves a target.
enum Fit {
    Yes,
    /// The target lies before the end of the backup: an older one is needed.
    TooYoung,
    /// The target lies beyond the WAL that follows.
    TooFar,
}

struct Chooser<'a> {
    repository: &'a Repository,
    catalog: &'a Catalog,
    history: &'a History,
}

impl Chooser<'_> {
    /// The newest backup that serves the target; for the newest state, the one that leads farthest.
    async fn choose(&self, request: &RestoreRequest) -> Result<(Manifest, Reach)> {
        let mut usable: Vec<(&Manifest, Reach)> = Vec::new();
        let mut unusable = None;
        // What ends last does not always lead farthest: there may be a gap behind it (a backup of a standby that lags).
        let mut farthest: Option<(&Manifest, Reach)> = None;
        // Backups from here back follow the same WAL, or end before it.
        let mut too_far: Option<Lsn> = None;
        for backup in self.candidates(request.backup.as_ref())? {
            if farthest.as_ref().is_some_and(|(known, _)| backup.start_lsn <= known.start_lsn) {
                continue;
            }
            let Some(reach) = self.catalog.reach(self.repository, backup, self.history).await? else {
                continue;
            };
            if !reach.covers(backup) {
                tracing::warn!(backup = %backup.id, missing = %reach.path.end, damage = reach.damage, "the WAL of this backup is incomplete");
                unusable = unusable.or(reach.damage);
                continue;
            }
            if too_far.is_some_and(|known| backup.start_lsn <= known) {
                usable.push((backup, reach));
                continue;
            }
            match self.fit(backup, &reach, &request.target).await? {
                Fit::Yes if request.target == RecoveryTarget::Latest => {
                    if farthest.as_ref().is_none_or(|(_, known)| known.end < reach.end) {
                        farthest = Some((backup, reach));
                    }
                }
                Fit::Yes => return Ok((backup.clone(), reach)),
                Fit::TooYoung => usable.push((backup, reach)),
                Fit::TooFar => {
                    too_far = Some(backup.start_lsn);
                    usable.push((backup, reach));
                }
            }
        }
        if let Some((backup, reach)) = farthest {
            return Ok((backup.clone(), reach));
        }
        match unusable {
            Some(damage) if usable.is_empty() => {
                Err(Error::corrupt(format!("no backup can be made consistent: {damage}"))
                    .hint("was an object of the repository changed, or two clusters archived to it?"))
            }
            _ => Err(self.unreachable(request, &usable).await?),
        }
    }

    /// Backups to consider, newest first.
    fn candidates(&self, wanted: Option<&BackupId>) -> Result<Vec<&Manifest>> {
        let all = self.catalog.backups.iter().rev();
        let Some(wanted) = wanted else { return Ok(all.collect()) };
        let found: Vec<&Manifest> = all.filter(|backup| backup.id == *wanted).collect();
        if let Some(damaged) = self.catalog.damaged.iter().find(|damaged| damaged.id == *wanted) {
            return Err(damaged.error.clone());
        }
        if found.is_empty() {
            return Err(Error::impossible(format!("there is no backup {wanted}"))
                .hint("`walproof backup-list` shows those that there are"));
        }
        Ok(found)
    }

    async fn fit(&self, backup: &Manifest, reach: &Reach, target: &RecoveryTarget) -> Result<Fit> {
        Ok(match target {
            RecoveryTarget::Immediate => Fit::Yes,
            RecoveryTarget::Latest => match &reach.damage {
                None => Fit::Yes,
                // The newest state is there and cannot be had: less must be asked for, not given silently.
                Some(damage) => return Err(damaged(reach, damage)),
            },
            RecoveryTarget::Time { time, .. } if *time <= backup.finished_at => Fit::TooYoung,
            RecoveryTarget::Time { time, exclusive } => {
                // PostgreSQL stops at the first commit beyond the target, so there must be one.
                let reached = reach.end_time.is_some_and(|end| *time < end || *exclusive && *time == end);
                if reached { Fit::Yes } else { Fit::TooFar }
            }
            RecoveryTarget::Lsn { target, .. } if *target < backup.stop_lsn => Fit::TooYoung,
            RecoveryTarget::Lsn { target, .. } => {
                let last = self.catalog.last_record(self.repository, &reach.path).await?;
                if last.is_some_and(|last| *target <= last) { Fit::Yes } else { Fit::TooFar }
            }
            RecoveryTarget::Xid { xid, .. } => {
                let found = self.catalog.locate_xid(self.repository, &reach.path, *xid).await?;
                // Found before the end of this backup, or not at all: an older backup sees more WAL.
                if found.is_some_and(|(end, _)| end > backup.stop_lsn) { Fit::Yes } else { Fit::TooYoung }
            }
            RecoveryTarget::Name(name) => {
                let path = &reach.path;
                let found =
                    self.catalog.locate_restore_point(self.repository, path, name, backup.stop_lsn).await?;
                if found.is_some() { Fit::Yes } else { Fit::TooYoung }
            }
        })
    }

    /// The error that names what can be reached instead.
    async fn unreachable(&self, request: &RestoreRequest, usable: &[(&Manifest, Reach)]) -> Result<Error> {
        let timeline = self.history.timeline;
        let Some((oldest, _)) = usable.last() else {
            return Ok(Error::impossible(format!("no backup can be restored along timeline {timeline}")).hint(
                "`walproof wal-list` shows gaps in the WAL and `walproof backup-list` the backups' timelines",
            ));
        };
        let newest = usable.iter().map(|(_, reach)| reach).max_by_key(|reach| reach.end);
        let end_time = newest.and_then(|reach| reach.end_time).unwrap_or(oldest.finished_at);
        let range = match (&request.target, newest) {
            (RecoveryTarget::Lsn { .. }, Some(reach)) => {
                let last = self.catalog.last_record(self.repository, &reach.path).await?;
                format!("from {} to {}", oldest.stop_lsn, last.unwrap_or(oldest.stop_lsn))
            }
            _ => format!("after {} and before {end_time}", oldest.finished_at),
        };
        let with = request.backup.as_ref().map(|id| format!(" with backup {id}")).unwrap_or_default();
        Ok(Error::impossible(format!(
            "{} is outside the recovery window{with}; reachable on timeline {timeline}: {range}",
            request.target
        ))
        .hint(Self::window_hint(request, end_time)))
    }

    fn window_hint(request: &RestoreRequest, end: PgTime) -> &'static str {
        match request.target {
            RecoveryTarget::Time { time, .. } if time >= end => {
                "for the newest state leave out the target; was the WAL after that instant archived (a switch or archive_timeout finishes a segment)?"
            }
            RecoveryTarget::Time { .. } | RecoveryTarget::Lsn { .. } => {
                "is another timeline meant (--target-timeline)? `walproof backup-list` shows when backups ended"
            }
            _ => "was it archived, and did it end after the oldest backup did?",
        }
    }
}

fn damaged(reach: &Reach, damage: &str) -> Error {
    let before = reach.end_time.map_or_else(|| reach.end.to_string(), |time| time.to_string());
    Error::corrupt(format!("the newest WAL cannot be read: {damage}")).hint(format!(
        "everything before {before} can be reached: ask for it with --target-time or --target-lsn"
    ))
}

/// Where each tablespace goes: as asked for, else where it was.
fn map_tablespaces(backup: &Manifest, wanted: &[(PathBuf, PathBuf)]) -> Result<Vec<(u32, PathBuf)>> {
    for (from, to) in wanted {
        if !backup.tablespaces.iter().any(|tablespace| Path::new(&tablespace.location) == from) {
            let known: Vec<&str> =
                backup.tablespaces.iter().map(|tablespace| tablespace.location.as_str()).collect();
            return Err(Error::usage(format!("the backup has no tablespace at {}", from.display())).hint(
                format!("it has: {}", if known.is_empty() { "none".to_owned() } else { known.join(", ") }),
            ));
        }
        if !to.is_absolute() {
            return Err(Error::usage(format!("{} is not an absolute path", to.display())));
        }
    }
    let place = |location: &str| {
        let mapped = wanted.iter().find(|(from, _)| from == Path::new(location)).map(|(_, to)| to.clone());
        mapped.unwrap_or_else(|| PathBuf::from(location))
    };
    Ok(backup.tablespaces.iter().map(|tablespace| (tablespace.oid, place(&tablespace.location))).collect())
}
