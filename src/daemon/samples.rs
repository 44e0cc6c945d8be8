//! Snapshots for tests: what an operator may meet.

use std::time::Duration;

use super::snapshot::{BackupLine, Problem, PushLine, RepositoryBytes, Role, Severity, Snapshot, TailLine};
use crate::postgres::{Lsn, PgTime};

const NOW: i64 = 1_795_329_667_000_000;
const MIB: u64 = 1 << 20;

fn ago(seconds: i64) -> PgTime {
    PgTime::from_unix_micros(NOW - seconds * 1_000_000)
}

fn push(number: u64, seconds_ago: i64, stored_bytes: u64) -> PushLine {
    PushLine {
        name: format!("0000000100000A2F{number:08X}"),
        at: ago(seconds_ago),
        seconds: 0.184,
        raw_bytes: 16 * MIB,
        stored_bytes,
        error: None,
    }
}

fn backup(days: i64) -> BackupLine {
    let begin = days * 86_400 + 6 * 3600;
    BackupLine {
        id: format!("202611{:02}T023004Z-8f3a1c", 22 - days),
        started_at: ago(begin),
        finished_at: ago(begin - 1384),
        size_bytes: 412 << 30,
        stored_bytes: 118 << 30,
        new_bytes: if days == 7 { 118 << 30 } else { 9 << 30 },
        page_errors: 0,
    }
}

fn problem(severity: Severity, text: &str, hint: Option<&str>) -> Problem {
    Problem { severity, text: text.to_owned(), hint: hint.map(ToOwned::to_owned) }
}

/// A primary that writes, and whose promises hold.
pub(super) fn busy() -> Snapshot {
    Snapshot {
        taken_at: ago(0),
        daemon_since: Some(ago(3 * 86_400)),
        cluster: "roadwave".to_owned(),
        system_identifier: "7432109876543210987".to_owned(),
        pg_version: "15.18".to_owned(),
        timeline: Some(1),
        role: Role::Primary,
        repository: "s3://roadwave-backups/pg".to_owned(),
        rpo_seconds: Some(3.4),
        rpo_objective: Duration::from_mins(15),
        rto_objective: Duration::from_hours(1),
        rto_estimate_seconds: Some(1560.0),
        flushed: Some(Lsn::new(0x0A2F_8E50_4AE0)),
        stored: Some(Lsn::new(0x0A2F_8E47_0000)),
        archived: Some(Lsn::new(0x0A2F_8E00_0000)),
        ready: 0,
        oldest_ready: None,
        gap_segments: 0,
        last_push: Some(ago(9)),
        tail: Some(TailLine {
            segment: "0000000100000A2F0000008E".to_owned(),
            end: Lsn::new(0x0A2F_8E47_0000),
            at: ago(3),
        }),
        backups: (0..8).rev().map(backup).collect(),
        backup_failed_at: None,
        window: Some((ago(7 * 86_400 + 6 * 3600 - 1384), ago(4))),
        retention_window: Duration::from_hours(7 * 24),
        repository_bytes: Some(RepositoryBytes {
            pack: 181 << 30,
            wal: 64 << 30,
            tail: 5 * MIB,
            other: 3 * MIB,
        }),
        store_up: Some(true),
        recent: (0..10_u64)
            .map(|at| push(0x8D - at, 9 + 11 * i64::try_from(at).unwrap(), (5 + at % 3) * MIB))
            .collect(),
        problems: Vec::new(),
    }
}

/// A primary whose store has not answered for longer than was promised.
pub(super) fn store_down() -> Snapshot {
    let mut snapshot = busy();
    let why = "put wal: the store cannot be reached: connect to s3.gra.io.cloud.ovh.net: timed out after 5 s";
    snapshot.rpo_seconds = Some(1384.0);
    snapshot.stored = Some(Lsn::new(0x0A2F_3047_0000));
    snapshot.archived = Some(Lsn::new(0x0A2F_3000_0000));
    (snapshot.ready, snapshot.oldest_ready) = (94, Some(ago(1376)));
    snapshot.last_push = Some(ago(1390));
    snapshot.store_up = Some(false);
    snapshot.window = Some((ago(7 * 86_400 + 6 * 3600 - 1384), ago(1384)));
    if let Some(tail) = &mut snapshot.tail {
        tail.at = ago(1385);
        tail.segment = "0000000100000A2F00000030".to_owned();
        tail.end = Lsn::new(0x0A2F_3047_0000);
    }
    let failed = (0..3_i64).map(|at| PushLine {
        seconds: 60.0,
        error: Some(why.to_owned()),
        ..push(0x30, 12 + 61 * at, 0)
    });
    let stored = (0..5_u64).map(|at| push(0x2F - at, 1390 + 11 * i64::try_from(at).unwrap(), 6 * MIB));
    snapshot.recent = failed.chain(stored).collect();
    snapshot.problems = vec![
        problem(
            Severity::Failure,
            "the RPO is 23 min 4 s, beyond the objective of 15 min",
            Some("does the store answer? is the network of this host up?"),
        ),
        problem(
            Severity::Failure,
            "the store does not answer: connect to s3.gra.io.cloud.ovh.net: timed out after 5 s",
            Some("does `walproof check` reach it from here? is there an incident at the provider?"),
        ),
        problem(
            Severity::Warning,
            "94 files wait to be archived, the oldest for 22 min 56 s",
            Some("has pg_wal room for them? `df -h` on its file system tells"),
        ),
    ];
    snapshot
}

/// Set up a minute ago.
pub(super) fn brand_new() -> Snapshot {
    let mut snapshot = busy();
    snapshot.daemon_since = Some(ago(0));
    snapshot.pg_version = String::new();
    snapshot.timeline = None;
    snapshot.rpo_seconds = None;
    snapshot.rto_estimate_seconds = None;
    (snapshot.flushed, snapshot.stored, snapshot.archived) = (None, None, None);
    (snapshot.last_push, snapshot.tail, snapshot.window) = (None, None, None);
    snapshot.repository_bytes = None;
    snapshot.store_up = None;
    snapshot.backups.clear();
    snapshot.recent.clear();
    snapshot.problems = vec![problem(
        Severity::Failure,
        "there is no backup",
        Some("take one: sudo systemctl start walproof-backup, or walproof backup-push"),
    )];
    snapshot
}

/// A standby on the repository of its primary.
pub(super) fn standby() -> Snapshot {
    let mut snapshot = busy();
    snapshot.role = Role::Standby;
    snapshot.rpo_seconds = None;
    (snapshot.tail, snapshot.last_push) = (None, None);
    snapshot.recent.clear();
    snapshot
}

/// Nothing but characters that HTML gives a meaning, wherever a text comes from outside.
pub(super) fn hostile() -> Snapshot {
    let evil = || "<script>alert('x')</script>\"&".to_owned();
    let mut snapshot = store_down();
    snapshot.cluster = evil();
    snapshot.system_identifier = evil();
    snapshot.pg_version = evil();
    snapshot.repository = evil();
    if let Some(tail) = &mut snapshot.tail {
        tail.segment = evil();
    }
    for backup in &mut snapshot.backups {
        backup.id = evil();
    }
    for line in &mut snapshot.recent {
        (line.name, line.error) = (evil(), Some(evil()));
    }
    for problem in &mut snapshot.problems {
        (problem.text, problem.hint) = (evil(), Some(evil()));
    }
    snapshot
}
