//! What needs attention, in words that say what to do.

use super::queue::Failure;
use super::server::ServerFacts;
use super::snapshot::{Problem, Role, Severity, Snapshot};
use crate::error::Error;
use crate::postgres::{SegmentName, WalName};
use crate::repository::DamagedBackup;

/// A backup that is older than a day and a bit was not taken by the daily timer.
const OLDEST_BACKUP_SECONDS: f64 = 26.0 * 3600.0;
/// Files that wait longer than this without the RPO telling (the tail covers for them) are worth a word.
const LONGEST_WAIT_SECONDS: f64 = 300.0;

/// What the problems follow from.
pub(super) struct Facts<'a> {
    pub(super) snapshot: &'a Snapshot,
    pub(super) obstacle: Option<&'a Error>,
    pub(super) server_error: Option<&'a str>,
    pub(super) survey_error: Option<&'a str>,
    pub(super) tail_error: Option<&'a str>,
    pub(super) server: &'a ServerFacts,
    pub(super) failures: &'a [(WalName, Failure)],
    pub(super) first_hole: Option<SegmentName>,
    pub(super) damaged_backups: &'a [DamagedBackup],
}

struct Found(Vec<Problem>);

impl Found {
    fn add(&mut self, severity: Severity, text: impl Into<String>, hint: impl Into<Option<String>>) {
        self.0.push(Problem { severity, text: text.into(), hint: hint.into() });
    }
}

/// The problems, worst first.
pub(super) fn of(facts: &Facts<'_>) -> Vec<Problem> {
    let mut found = Found(Vec::new());
    of_start(facts, &mut found);
    of_server(facts, &mut found);
    of_archiving(facts, &mut found);
    if facts.snapshot.stored.is_some() {
        of_backups(facts.snapshot, facts.damaged_backups, &mut found);
    }
    found.0.sort_by_key(|problem| std::cmp::Reverse(problem.severity));
    found.0
}

fn of_start(facts: &Facts<'_>, found: &mut Found) {
    if let Some(error) = facts.obstacle {
        found.add(Severity::Failure, error.to_string(), error.hint_text().map(str::to_owned));
    }
    if let Some(error) = facts.survey_error {
        found.add(
            Severity::Failure,
            format!("the repository could not be read: {error}"),
            Some("`walproof check` tells what is wrong with the store".to_owned()),
        );
    }
    if facts.snapshot.store_up == Some(false) {
        found.add(
            Severity::Warning,
            "the last request to the store failed",
            Some("is the store down, or the network? WAL stays in pg_wal until it is back".to_owned()),
        );
    }
}

fn of_server(facts: &Facts<'_>, found: &mut Found) {
    if let Some(error) = facts.server_error {
        found.add(
            Severity::Failure,
            format!("the server cannot be asked: {error}"),
            Some("does it run? WAL that it finished is archived all the same".to_owned()),
        );
    }
    let server = facts.server;
    if server.archive_mode == "off" {
        found.add(
            Severity::Failure,
            "the server's archive_mode is off: it throws WAL away that is not archived yet",
            Some("set archive_mode = on and restart the server".to_owned()),
        );
    } else if !server.archive_mode.is_empty() && !server.calls_us {
        found.add(
            Severity::Warning,
            "the server's archive_command does not call `walproof wal-push`",
            Some("set archive_command = 'walproof wal-push %p' and reload the server".to_owned()),
        );
    }
}

fn of_archiving(facts: &Facts<'_>, found: &mut Found) {
    let snapshot = facts.snapshot;
    match snapshot.rpo_seconds {
        Some(rpo) if rpo > snapshot.rpo_objective.as_secs_f64() => found.add(
            Severity::Failure,
            format!(
                "{rpo:.0} s of WAL would be lost now; {} s were promised",
                snapshot.rpo_objective.as_secs()
            ),
            None,
        ),
        None if snapshot.role == Role::Primary || snapshot.stored.is_none() => found.add(
            Severity::Failure,
            "how much would be lost is not known: the repository has not been read yet for this timeline",
            None,
        ),
        _ => {}
    }
    for (name, failure) in facts.failures.iter().take(3) {
        found.add(
            Severity::Failure,
            format!("{name} cannot be archived: {}", failure.error),
            failure.error.hint_text().map(str::to_owned),
        );
    }
    if facts.failures.len() > 3 {
        found.add(Severity::Failure, format!("and {} more files", facts.failures.len() - 3), None);
    }
    if let Some(error) = facts.tail_error {
        found.add(Severity::Warning, format!("the tail could not be stored: {error}"), None);
    }
    if let Some(hole) = facts.first_hole {
        found.add(
            Severity::Failure,
            format!(
                "{} WAL segments are missing from {hole} on, and no longer here: what comes after cannot be restored",
                snapshot.gap_segments
            ),
            Some("take a backup now (`walproof backup-push`): it does not need them".to_owned()),
        );
    }
    let waits = snapshot.oldest_ready.map(|since| snapshot.taken_at.seconds_since(since));
    if waits.is_some_and(|seconds| seconds > LONGEST_WAIT_SECONDS) && facts.failures.is_empty() {
        found.add(
            Severity::Warning,
            format!(
                "{} files wait to be archived, the oldest for {:.0} s",
                snapshot.ready,
                waits.unwrap_or(0.0)
            ),
            Some("is the store slow, or does the server's archiver fail? its log says why".to_owned()),
        );
    }
}

/// What the repository alone tells.
pub(super) fn of_repository(snapshot: &Snapshot, damaged: &[DamagedBackup]) -> Vec<Problem> {
    let mut found = Found(Vec::new());
    of_backups(snapshot, damaged, &mut found);
    found.0
}

fn of_backups(snapshot: &Snapshot, damaged: &[DamagedBackup], found: &mut Found) {
    for DamagedBackup { error, .. } in damaged {
        found.add(Severity::Failure, error.to_string(), error.hint_text().map(str::to_owned));
    }
    let Some(newest) = snapshot.backups.last() else {
        return found.add(
            Severity::Failure,
            "there is no backup: WAL alone restores nothing",
            Some("take one with `walproof backup-push`".to_owned()),
        );
    };
    let age = snapshot.taken_at.seconds_since(newest.finished_at);
    if age > OLDEST_BACKUP_SECONDS {
        found.add(
            Severity::Warning,
            format!(
                "the newest backup is {:.0} hours old: a restore has to replay all WAL since then",
                age / 3600.0
            ),
            Some("does walproof-backup.timer run (systemctl list-timers)?".to_owned()),
        );
    }
    if newest.page_errors > 0 {
        found.add(
            Severity::Failure,
            format!("{} pages of the newest backup fail their checksum", newest.page_errors),
            Some(format!(
                "`walproof backup-show {}` names them; the server's disk is the first suspect",
                newest.id
            )),
        );
    }
    if snapshot.backup_failed_at.is_some_and(|failed| failed > newest.finished_at) {
        found.add(
            Severity::Failure,
            "the last backup failed",
            Some("journalctl -u walproof-backup says why".to_owned()),
        );
    }
}
