//! What the repository alone tells, where no daemon runs: on a staging host, or when the daemon is down.

use std::time::Duration;

use super::problems;
use super::snapshot::{Problem, Role, Severity, Snapshot};
use super::state::backup_line;
use crate::error::Result;
use crate::postgres::PgTime;
use crate::repository::Repository;
use crate::window::{Branch, Catalog, Cut, Records, RecoveryWindow, WalTimes, look};

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
    let listing = repository.list().await?;
    let (mut records, mut times) = (Records::default(), WalTimes::default());
    let (catalog, window) = look(repository, &listing, &mut records, &mut times).await?;
    let branch = window.last_writer();
    let newest = branch.and_then(Branch::farthest);
    let missing = branch.map_or(0, |branch| gap_segments(&catalog, branch));
    let instants = branch.map(RecoveryWindow::instants).unwrap_or_default();
    let mut snapshot = Snapshot {
        taken_at: PgTime::now(),
        daemon_since: None,
        cluster: repository.identity().cluster.to_string(),
        system_identifier: repository.identity().system_identifier.to_string(),
        pg_version: catalog.backups.last().map(|backup| backup.pg_version()).unwrap_or_default(),
        timeline: branch.map(|branch| branch.timeline().get()),
        role: Role::Down,
        repository: repository.store().to_string(),
        rpo_seconds: None,
        rpo_objective: promises.rpo,
        rto_objective: promises.rto,
        rto_estimate_seconds: None,
        flushed: None,
        stored: newest.map(|span| span.record_end),
        archived: newest.map(|span| span.end),
        ready: 0,
        oldest_ready: None,
        gap_segments: missing,
        last_push: catalog.last_push(),
        tail: None,
        backups: catalog.backups.iter().map(|backup| backup_line(backup)).collect(),
        backup_failed_at: None,
        window: instants.last().map(|instants| (instants.start, instants.end)),
        retention_window: promises.retention_window,
        repository_bytes: Some(super::usage::of(&catalog)),
        store_up: Some(true),
        recent: Vec::new(),
        problems: Vec::new(),
    };
    let damage = newest.and_then(|span| match &span.cut {
        Cut::Unusable(_, error) => Some(error.to_string()),
        Cut::End | Cut::Missing(_) => None,
    });
    snapshot.problems = problems::of_repository(&snapshot, &catalog.damaged);
    snapshot.problems.extend(offline_problems(&snapshot, damage.as_deref(), daemon_expected, why));
    snapshot.problems.sort_by_key(|problem| std::cmp::Reverse(problem.severity));
    Ok(snapshot)
}

/// Segments that are missing behind what can be reached although later ones are there.
fn gap_segments(catalog: &Catalog, branch: &Branch) -> u64 {
    let size = catalog.segment_size;
    let farthest = branch.farthest().map(|span| span.end);
    let pairs = branch.spans.iter().zip(branch.spans.iter().skip(1));
    let behind = pairs.filter(|(before, _)| Some(before.end) >= farthest);
    behind.map(|(before, after)| after.begin.offset_from(before.end.segment_start(size)) / size.bytes()).sum()
}

fn offline_problems(
    snapshot: &Snapshot,
    damage: Option<&str>,
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
    if let Some(damage) = damage {
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
