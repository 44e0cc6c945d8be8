//! What the repository alone tells, where no daemon runs: on a staging host, or when the daemon is down.

use std::time::Duration;

use super::problems;
use super::snapshot::{Problem, Role, Severity, Snapshot};
use super::state::backup_line;
use crate::error::{Kind, Result};
use crate::postgres::{Lsn, PgTime};
use crate::repository::{Catalog, Manifest, Reach, Repository};

/// What was promised, from the configuration.
#[derive(Debug, Clone, Copy)]
pub struct Promises {
    /// How much may be lost.
    pub rpo: Duration,
    /// How long a restore may take.
    pub rto: Duration,
    /// How far back every instant shall stay restorable.
    pub retention_window: Duration,
}

/// The snapshot that follows from the repository. It claims no RPO: how far the server has flushed is not known here.
/// `daemon_expected`: this is the database host, so a daemon should run, and `why` says why it could not be asked.
pub async fn repository_snapshot(
    repository: &Repository,
    promises: Promises,
    daemon_expected: bool,
    why: &str,
) -> Result<Snapshot> {
    let catalog = Catalog::read(repository).await?;
    let timeline = catalog.newest_timeline();
    let history = match repository.history(timeline, &catalog.wal).await {
        Ok(history) => Some(history),
        // Nothing is archived of it yet, or the history is missing: what there is on it cannot be judged.
        Err(error) if error.kind() == Kind::Impossible => None,
        Err(error) => return Err(error),
    };
    let mut reaches: Vec<(Manifest, Reach)> = Vec::new();
    if let Some(history) = history {
        for backup in &catalog.backups {
            if let Some(reach) = catalog.reach(repository, backup, &history).await?
                && reach.covers(backup)
            {
                reaches.push((backup.clone(), reach));
            }
        }
    }
    // The last to end is not always the one that leads farthest: there may be a gap behind it.
    let newest = reaches.iter().max_by_key(|(_, reach)| reach.end);
    let end = newest.map(|(_, reach)| reach.end);
    let end_time = newest.and_then(|(backup, reach)| reach.end_time.or(Some(backup.finished_at)));
    // Only backups from which WAL leads up to the newest state: between others there are gaps.
    let start =
        reaches.iter().find(|(_, reach)| Some(reach.end) >= end).map(|(backup, _)| backup.finished_at);
    let missing = end.map_or(0, |end| gap_segments(&catalog, end));
    let mut snapshot = Snapshot {
        taken_at: PgTime::now(),
        daemon_since: None,
        cluster: repository.identity().cluster.to_string(),
        system_identifier: repository.identity().system_identifier.to_string(),
        pg_version: catalog.backups.last().map(Manifest::pg_version).unwrap_or_default(),
        timeline: Some(timeline.get()),
        role: Role::Down,
        repository: repository.store().to_string(),
        rpo_seconds: None,
        rpo_objective: promises.rpo,
        rto_objective: promises.rto,
        rto_estimate_seconds: None,
        flushed: None,
        stored: end,
        archived: newest.map(|(_, reach)| reach.path.end),
        ready: 0,
        oldest_ready: None,
        gap_segments: missing,
        last_push: catalog.last_push(),
        tail: None,
        backups: catalog.backups.iter().map(backup_line).collect(),
        backup_failed_at: None,
        window: start.zip(end_time).map(|(start, end)| (start, end.max(start))),
        retention_window: promises.retention_window,
        repository_bytes: Some(super::usage::of(repository).await?),
        store_up: Some(true),
        recent: Vec::new(),
        problems: Vec::new(),
    };
    let reach = newest.map(|(_, reach)| reach);
    snapshot.problems = problems::of_repository(&snapshot, &catalog.damaged);
    snapshot.problems.extend(offline_problems(&snapshot, reach, daemon_expected, why));
    snapshot.problems.sort_by_key(|problem| std::cmp::Reverse(problem.severity));
    Ok(snapshot)
}

/// Segments that are missing behind `end` although later ones are there, on the newest timeline.
fn gap_segments(catalog: &Catalog, end: Lsn) -> u64 {
    let size = catalog.segment_size;
    let timeline = catalog.newest_timeline();
    let gaps =
        catalog.gaps().into_iter().filter(|gap| gap.first.timeline == timeline && gap.first.end(size) > end);
    gaps.map(|gap| gap.last.number(size) - gap.first.number(size) + 1).sum()
}

fn offline_problems(
    snapshot: &Snapshot,
    reach: Option<&Reach>,
    daemon_expected: bool,
    why: &str,
) -> Vec<Problem> {
    let mut found = Vec::new();
    let mut add = |severity, text: String, hint: &str| {
        found.push(Problem { severity, text, hint: Some(hint.to_owned()) });
    };
    let severity = if daemon_expected { Severity::Failure } else { Severity::Warning };
    add(
        severity,
        format!("the daemon cannot be asked ({why}): how much would be lost now is not known"),
        "on the database host: systemctl status walproof",
    );
    if let Some(damage) = reach.and_then(|reach| reach.damage.as_deref()) {
        add(
            Severity::Failure,
            format!("the newest WAL cannot be read: {damage}"),
            "was an object of the repository changed, or did two clusters archive to it?",
        );
    }
    if !snapshot.backups.is_empty() && snapshot.window.is_none() {
        add(
            Severity::Failure,
            format!("no backup leads to timeline {}", snapshot.timeline.unwrap_or_default()),
            "take a new backup; `walproof wal-list` shows gaps",
        );
    }
    if snapshot.gap_segments > 0 {
        add(
            Severity::Failure,
            format!(
                "{} WAL segments are missing: what comes after them cannot be restored",
                snapshot.gap_segments
            ),
            "take a backup now (`walproof backup-push`): it does not need them",
        );
    }
    found
}
