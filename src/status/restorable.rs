//! What can be restored, as a snapshot shows it: lines of backups and branches, and what a restore would trip over (R31).

use std::time::Duration;

use crate::error::Error;
use crate::format::Manifest;
use crate::postgres::PgTime;
use crate::problem::{Code, Trouble};
use crate::repository::Hold;
use crate::retention::{Policy, held_bytes, next};
use crate::snapshot::{
    BackupLine, Backups, BranchLine, HoldLine, NextLine, RepositoryBytes, Retention, Window,
};
use crate::window::{Branch, Catalog, Cut, Lack, RecoveryWindow, Usage};

/// The backups of the repository that count, and those of `branch` that cannot be made consistent: no claim rests on them.
pub fn backups(catalog: &Catalog, branch: Option<&Branch>, counts: impl Fn(&Manifest) -> bool) -> Backups {
    let unread = catalog.damaged.iter().map(|backup| Trouble::new(Code::BackupDamaged, &backup.error));
    let harmed = catalog.harmed.iter().filter(|(backup, _)| counts(backup));
    let harmed = harmed.map(|(backup, error)| (&backup.id, error.clone()));
    // Of WAL that is missing or damaged the window tells by itself.
    let stranded = branch.into_iter().flat_map(|branch| &branch.stranded);
    let replaced = stranded.filter(|stranded| stranded.lack != Lack::Whole);
    let replaced = replaced.map(|stranded| (&stranded.backup.id, Error::corrupt(stranded.lack.to_string())));
    let lost = harmed.chain(replaced).map(|(id, error)| {
        Trouble::new(Code::BackupDamaged, &error.context(format!("backup {id} cannot be restored")))
    });
    let damaged: Vec<Trouble> = unread.chain(lost).collect();
    let is_stranded = |backup: &Manifest| branch.is_some_and(|branch| branch.lack_of(&backup.id).is_some());
    Backups {
        finished: catalog
            .backups
            .iter()
            .filter(|backup| counts(backup) && !is_stranded(backup))
            .map(|backup| backup_line(backup))
            .collect(),
        damaged_backups: damaged,
        ..Backups::default()
    }
}

impl Backups {
    /// The same with when a backup failed last, as this host saw it or as its own record in the repository tells.
    #[must_use]
    pub fn with_failure(self, catalog: Option<&Catalog>, seen_at: Option<PgTime>, now: PgTime) -> Self {
        let noted = catalog.and_then(|catalog| catalog.backup_failure(now.timestamp()));
        let (at, why) = noted.map(|(at, why)| (PgTime::from(at), why)).unzip();
        let backup_succeeded_at = catalog.and_then(Catalog::backup_success).map(PgTime::from);
        // The record is put before this host is told: what it saw long after that failed before it could leave one.
        let backup_failure =
            why.filter(|_| seen_at.zip(at).is_none_or(|(seen, at)| seen.seconds_since(at) < 60.0));
        Self { backup_failed_at: at.max(seen_at), backup_failure, backup_succeeded_at, ..self }
    }
}

fn backup_line(backup: &Manifest) -> BackupLine {
    BackupLine {
        id: backup.id.to_string(),
        started_at: backup.started_at,
        finished_at: backup.finished_at,
        size_bytes: backup.size_bytes,
        stored_bytes: backup.stored_bytes,
        new_bytes: backup.new_bytes,
        page_errors: backup.page_errors.len() as u64,
    }
}

/// What can be reached on `branch`, and everything that a default restore would trip over.
pub fn window(window: &RecoveryWindow, branch: Option<&Branch>) -> Window {
    let instants = branch.map(RecoveryWindow::instants).unwrap_or_default();
    let pairs = instants.iter().zip(instants.iter().skip(1));
    Window {
        window: instants.first().zip(instants.last()).map(|(first, last)| (first.start, last.end)),
        window_gaps: pairs.map(|(before, after)| (before.end, after.start)).collect(),
        branches: window.tips().map(branch_line).collect(),
        window_faults: faults(window, branch),
    }
}

fn branch_line(branch: &Branch) -> BranchLine {
    BranchLine {
        timeline: branch.timeline().get(),
        fork_lsn: branch.fork().map(|(_, at)| at),
        newest_backup: branch.newest_backup().map(|backup| backup.id.to_string()),
        last_commit: branch.last_commit(),
        last_written: branch.last_written.map(PgTime::from),
        writer: branch.writer.clone(),
    }
}

fn faults(window: &RecoveryWindow, branch: Option<&Branch>) -> Vec<Trouble> {
    let mut found = Vec::new();
    if let Err(error) = window.default_branch()
        && !window.branches.is_empty()
    {
        found.push(Trouble::new(Code::ForeignTimeline, &error));
    }
    for (_, error) in &window.unreadable {
        found.push(Trouble::new(Code::HistoryUnreadable, error));
    }
    if let Some(first) = window.conflicts.first() {
        let more = match window.conflicts.len() - 1 {
            0 => String::new(),
            more => format!(", and under {more} more"),
        };
        let error = crate::repository::conflict(first);
        let text = format!("{error}{more}");
        found.push(Trouble { text, ..Trouble::new(Code::Conflict, &error) });
    }
    if let Some(Cut::Unusable(segment, error)) = branch.and_then(Branch::farthest).map(|span| &span.cut) {
        found.push(Trouble::new(Code::WalDamaged, &unusable(&segment.to_string(), error)));
    }
    found
}

fn unusable(segment: &str, error: &Error) -> Error {
    error.clone().context(format!("WAL from segment {segment} on cannot be restored"))
}

/// What retention did, what it keeps past the window, and what goes next.
pub fn retention(catalog: &Catalog, window: &RecoveryWindow, promised: Duration, now: PgTime) -> Retention {
    let hold = |hold: &Hold| HoldLine {
        backup: hold.backup.to_string(),
        reason: hold.reason.clone(),
        finished_at: catalog
            .manifests()
            .find(|backup| backup.id == hold.backup)
            .map(|backup| backup.finished_at),
        bytes: held_bytes(catalog, hold),
    };
    Retention {
        expiry: Some(catalog.expiry.clone()),
        holds: catalog.holds.iter().map(hold).collect(),
        expires_next: next(catalog, window, Policy { window: promised }, now).map(|next| NextLine {
            at: next.at,
            backups: next.backups.iter().map(ToString::to_string).collect(),
            bytes: next.bytes,
        }),
    }
}

/// Bytes by what they are for.
pub const fn bytes(usage: Usage) -> RepositoryBytes {
    RepositoryBytes { pack: usage.pack, wal: usage.wal, tail: usage.tail, other: usage.other }
}
