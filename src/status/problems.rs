//! What needs attention, in words that say what to do: a pure function of a snapshot.

use super::found::Found;
use super::{restores, verifications};
use crate::postgres::PgTime;
use crate::present::{age, seconds, size};
use crate::problem::{Code, Problem, Severity};
use crate::snapshot::{BackupLine, Daemon, Role, Snapshot};

/// A backup that is older than a day and a bit was not taken by the daily timer.
const OLDEST_BACKUP_SECONDS: f64 = 26.0 * 3600.0;
/// Backups and the timer expire once a day at least.
const LONGEST_UNEXPIRED_SECONDS: f64 = 3.0 * 86_400.0;
/// Files that wait longer than this without the RPO telling (the tail covers for them) are worth a word.
const LONGEST_WAIT_SECONDS: f64 = 300.0;
/// Files that fail are named up to so many.
const NAMED: usize = 3;

impl Snapshot {
    /// The same with the problems that follow from it.
    #[must_use]
    pub fn judged(mut self) -> Self {
        self.problems = of(&self);
        self
    }
}

/// The problems, worst first.
fn of(snapshot: &Snapshot) -> Vec<Problem> {
    let mut found = Found(Vec::new());
    of_start(snapshot, &mut found);
    of_server(snapshot, &mut found);
    of_rpo(snapshot, &mut found);
    of_archiving(snapshot, &mut found);
    of_wal(snapshot, &mut found);
    if snapshot.store.repository_bytes.is_some() {
        of_backups(snapshot, &mut found);
        of_retention(snapshot, &mut found);
    }
    of_verifications(snapshot, &mut found);
    restores::problems(snapshot, &mut found);
    found.0.sort_by_key(|problem| std::cmp::Reverse(problem.severity));
    found.0
}

fn of_start(snapshot: &Snapshot, found: &mut Found) {
    match snapshot.teller.daemon {
        Daemon::Missing => {
            let why = snapshot.teller.daemon_error.as_deref().unwrap_or("no answer");
            found.critical(
                Code::DaemonDown,
                format!("the daemon cannot be asked ({why}): how much would be lost now is not known"),
                "is it running? systemctl status walproof",
            );
        }
        Daemon::Absent => found.warning(
            Code::DaemonDown,
            "no daemon runs here: how much would be lost now is not known",
            "start it (systemctl enable --now walproof) to bound that to seconds",
        ),
        Daemon::Runs | Daemon::NotHere => {}
    }
    if let Some(obstacle) = &snapshot.teller.obstacle {
        found.trouble(Severity::Critical, "", obstacle, None);
    }
    if let Some(error) = &snapshot.store.survey_error {
        let (what, hint) = match error.code {
            Code::DataDirectory => ("the data directory cannot be read: ", "is its file system mounted?"),
            _ => {
                ("the repository could not be read: ", "`walproof check` shows what is wrong with the store")
            }
        };
        found.trouble(Severity::Critical, what, error, Some(hint));
    } else if snapshot.store.store_up == Some(false) {
        found.warning(
            Code::StoreDown,
            "the last request to the store failed",
            "is the store down, or the network? WAL stays in pg_wal until it is back",
        );
    }
}

fn of_server(snapshot: &Snapshot, found: &mut Found) {
    let server = &snapshot.server;
    if let Some(error) = &server.server_error {
        let hint = "is it running? WAL that it finished is archived anyway";
        found.trouble(Severity::Critical, "the server cannot be asked: ", error, Some(hint));
    }
    if server.archive_mode == "off" {
        found.critical(
            Code::ArchiveModeOff,
            "the server's archive_mode is off: it removes WAL before it is archived",
            "set archive_mode = on and restart the server",
        );
    } else if !server.archive_mode.is_empty() && !server.calls_us {
        found.warning(
            Code::ArchiveCommand,
            "the server's archive_command does not call `walproof wal-push`",
            "set archive_command = 'walproof wal-push %p' and reload the server",
        );
    }
}

fn of_rpo(snapshot: &Snapshot, found: &mut Found) {
    let objective = snapshot.promises.rpo_objective;
    match snapshot.estimates.rpo_seconds {
        Some(rpo) if rpo > objective.as_secs_f64() => found.add(
            Severity::Critical,
            Code::RpoExceeded,
            format!("{rpo:.0} s of WAL would be lost now; {} s were promised", objective.as_secs()),
            None,
        ),
        // Without a daemon nothing has asked the server.
        None if snapshot.teller.daemon_since.is_none() => {}
        // Why is said already.
        None if !snapshot.window.window_faults.is_empty() => {}
        None if !snapshot.backups.damaged_backups.is_empty() && snapshot.backups.finished.is_empty() => {}
        None if snapshot.server.role == Role::Primary || snapshot.wal.stored.is_none() => found.add(
            Severity::Critical,
            Code::RpoUnknown,
            "how much would be lost is not known: the repository has not been read yet for this timeline",
            None,
        ),
        _ => {}
    }
}

fn of_archiving(snapshot: &Snapshot, found: &mut Found) {
    let wal = &snapshot.wal;
    for file in wal.failing.iter().take(NAMED) {
        found.trouble(
            Severity::Critical,
            &format!("{} cannot be archived: ", file.name),
            &file.trouble,
            None,
        );
    }
    if wal.failing.len() > NAMED {
        let more = format!("and {} more files", wal.failing.len() - NAMED);
        found.add(Severity::Critical, Code::ArchivingFailed, more, None);
    }
    if let Some(error) = &wal.tail_error {
        found.add(
            Severity::Warning,
            Code::TailFailed,
            format!("the tail could not be stored: {error}"),
            None,
        );
    }
    let waits = wal.oldest_ready.map(|since| snapshot.taken_at.seconds_since(since));
    if let Some(seconds) = waits.filter(|seconds| *seconds > LONGEST_WAIT_SECONDS && wal.failing.is_empty()) {
        of_waiting(snapshot, seconds, found);
    }
}

/// Files that have waited for so long, though none fails here.
fn of_waiting(snapshot: &Snapshot, seconds: f64, found: &mut Found) {
    let ready = snapshot.wal.ready;
    // Whatever is not stored is younger than the oldest file that waits.
    let stored = snapshot.estimates.rpo_seconds.is_some_and(|rpo| rpo < seconds);
    let server = &snapshot.server;
    match server.archiver_failure.as_ref().filter(|_| stored && server.server_error.is_none()) {
        Some(failure) => found.critical(
            Code::ArchiveCommandFails,
            format!("archive_command fails ({failure}): the daemon stores WAL all the same, but {ready} files stay in pg_wal, which grows until its disk is full"),
            "does the program that it names exist, and can it read its configuration? the server's log says why, and so does `walproof check`",
        ),
        None => found.warning(
            Code::ArchivingSlow,
            format!("{ready} files wait to be archived, the oldest for {seconds:.0} s"),
            "is the store slow, or does the server's archiver fail? its log says why",
        ),
    }
}

fn of_wal(snapshot: &Snapshot, found: &mut Found) {
    let wal = &snapshot.wal;
    for fault in &snapshot.window.window_faults {
        found.trouble(Severity::Critical, "", fault, None);
    }
    if wal.gap_segments > 0 {
        let first = wal.first_gap.as_ref().map(|first| format!(" from {first} on")).unwrap_or_default();
        found.critical(
            Code::WalGap,
            format!(
                "{} WAL segments are missing{first}: what comes after them cannot be restored",
                wal.gap_segments
            ),
            "take a backup now (`walproof backup-push`): it does not need them",
        );
    }
}

fn of_backups(snapshot: &Snapshot, found: &mut Found) {
    for damaged in &snapshot.backups.damaged_backups {
        found.trouble(Severity::Critical, "", damaged, None);
    }
    // Also where no backup is left, or there never was one.
    if snapshot.backups.last_try_failed_at().is_some() {
        let why = snapshot.backups.backup_failure.as_ref().map_or_else(String::new, |why| format!(": {why}"));
        let text = format!("the last backup failed{why}");
        found.critical(Code::BackupFailed, text, "journalctl -u walproof-backup says why");
    }
    let Some(newest) = snapshot.backups.finished.last() else {
        return found.critical(
            Code::NoBackup,
            if snapshot.backups.damaged_backups.is_empty() {
                "there is no backup: WAL alone restores nothing"
            } else {
                "there is no backup that can be restored"
            },
            "take one with `walproof backup-push`",
        );
    };
    if snapshot.window.window.is_none() && snapshot.teller.daemon_since.is_none() {
        let timeline = snapshot.server.timeline.unwrap_or_default();
        found.critical(
            Code::BackupUnreachable,
            format!("no backup leads to timeline {timeline}"),
            "take a new backup; `walproof wal-list` shows gaps",
        );
    }
    of_newest_backup(snapshot, newest, found);
}

fn of_newest_backup(snapshot: &Snapshot, newest: &BackupLine, found: &mut Found) {
    let age = snapshot.taken_at.seconds_since(newest.finished_at);
    if age > OLDEST_BACKUP_SECONDS {
        found.warning(
            Code::BackupOld,
            format!(
                "the newest backup is {:.0} hours old: a restore has to replay all WAL since then",
                age / 3600.0
            ),
            "does walproof-backup.timer run (systemctl list-timers)?",
        );
    }
    if newest.page_errors > 0 {
        found.critical(
            Code::PageErrors,
            format!("{} pages of the newest backup fail their checksum", newest.page_errors),
            &format!(
                "`walproof backup-show {}` names them; the server's disk is the first suspect",
                newest.id
            ),
        );
    }
}

fn of_verifications(snapshot: &Snapshot, found: &mut Found) {
    if let Some(since) = verifications::overdue(snapshot) {
        found.warning(
            Code::VerifyOverdue,
            format!("something that is stored was last opened, or put, {}: nobody knows whether it can still be read", age(since, snapshot.taken_at)),
            "does walproof-verify-content.timer run (systemctl list-timers), and is --max-bytes large enough?",
        );
    }
    let lines = snapshot.verifications.verifications.iter();
    let Some(worst) = lines.max_by_key(|line| line.problems).filter(|line| line.problems > 0) else { return };
    let more = if worst.problems > 1 { format!(", and {} more", worst.problems - 1) } else { String::new() };
    let first = worst.first.as_deref().unwrap_or("a problem");
    let loses = worst.loses.as_deref().map_or_else(String::new, |loses| format!("; lost: {loses}"));
    let content = if worst.level == "content" { " --content" } else { "" };
    found.critical(
        Code::VerifyFailed,
        format!("the last verification ({}) found: {first}{more}{loses}", worst.level),
        &format!("`walproof verify{content} --restorable` says what each means and what to do"),
    );
}

fn of_retention(snapshot: &Snapshot, found: &mut Found) {
    let Some(expiry) = &snapshot.retention.expiry else { return };
    if let Some(failure) = &expiry.failure {
        found.warning(
            Code::RetentionFailed,
            format!("the last expiry failed: {}", failure.reason),
            "nothing is lost by it; `walproof expire` tries again, and what is older is paid for until then",
        );
    }
    if let Some(refused) = &expiry.refused {
        return found.warning(
            Code::DeletesRefused,
            format!(
                "the store refuses to delete {} expired objects ({}), which are still paid for: {}",
                refused.objects,
                size(refused.bytes),
                refused.reason
            ),
            "may these credentials delete, and does an Object Lock or a retention rule hold the objects?",
        );
    }
    // Where it never ran, since something was there that should have gone.
    let oldest = snapshot.backups.finished.first().map(|backup| backup.finished_at);
    let window = snapshot.promises.retention_window.as_secs_f64();
    let waits = match (expiry.completed_at, oldest) {
        (Some(at), _) => snapshot.taken_at.seconds_since(PgTime::from(at)),
        (None, Some(oldest)) => snapshot.taken_at.seconds_since(oldest) - window,
        (None, None) => return,
    };
    if waits > LONGEST_UNEXPIRED_SECONDS {
        found.warning(
            Code::RetentionOverdue,
            format!(
                "nothing has been expired for {}: what is older than the window is still paid for",
                seconds(waits)
            ),
            "are backups taken, and does walproof-expire.timer run (systemctl list-timers)?",
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::postgres::PgTime;
    use crate::status::samples;

    /// Of files that wait for so many seconds.
    fn waiting(seconds: i64, rpo: f64, failure: Option<&str>) -> Vec<(Code, Severity)> {
        let mut snapshot = samples::busy();
        let since = snapshot.taken_at.unix_micros() - seconds * 1_000_000;
        (snapshot.wal.ready, snapshot.wal.oldest_ready) = (94, Some(PgTime::from_unix_micros(since)));
        snapshot.estimates.rpo_seconds = Some(rpo);
        snapshot.server.archiver_failure = failure.map(str::to_owned);
        snapshot.judged().problems.iter().map(|problem| (problem.code, problem.severity)).collect()
    }

    /// The RPO is 0 then, and says nothing of the disk that fills.
    #[test]
    fn a_command_that_fails_beside_a_daemon_that_stores_is_critical_before_the_disk_is_full() {
        let failure = Some("000000010000000000000042 failed at 13:00:00, 7 failures in all");
        assert_eq!(waiting(301, 0.0, failure), [(Code::ArchiveCommandFails, Severity::Critical)]);
        // PostgreSQL tries again after a minute; a restart of the store is not worth an alarm.
        assert_eq!(waiting(299, 0.0, failure), []);
        // What is not stored either waits for the store, and what the command then says is no news.
        assert_eq!(waiting(301, 302.0, failure), [(Code::ArchivingSlow, Severity::Warning)]);
        assert_eq!(waiting(301, 0.0, None), [(Code::ArchivingSlow, Severity::Warning)]);
    }
}
