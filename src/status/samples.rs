//! Snapshots for tests: what an operator may meet.

use std::time::Duration;

use crate::postgres::{Lsn, PgTime};
use crate::present::Counts;
use crate::problem::{Code, Problem, Severity};
use crate::repository::ExpiryRecord;
use crate::snapshot::{
    BackupLine, Backups, Drills, Estimates, HoldLine, NextLine, Promises, PushLine, RepositoryBytes,
    Retention, Role, Server, Snapshot, Store, TailLine, Teller, VerifyLine, Wal, Window,
};
use crate::store::OldVersions;

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

pub(crate) fn backup(days: i64) -> BackupLine {
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

fn problem(code: Code, severity: Severity, text: &str, hint: Option<&str>) -> Problem {
    Problem { code, severity, text: text.to_owned(), hint: hint.map(ToOwned::to_owned) }
}

/// Of a daemon that has just started, or of none.
pub(crate) fn unknown() -> Snapshot {
    Snapshot {
        taken_at: at(1_760_000_000),
        cluster: "main".to_owned(),
        promises: Promises {
            rpo_objective: Duration::from_mins(15),
            rto_objective: Duration::from_hours(1),
            retention_window: Duration::from_hours(7 * 24),
            drill_every: Duration::from_hours(31 * 24),
        },
        teller: Teller::default(),
        server: Server {
            system_identifier: "7000000000000000001".to_owned(),
            pg_version: String::new(),
            timeline: None,
            role: Role::Down,
            archive_mode: String::new(),
            calls_us: false,
            archiver_failure: None,
            server_error: None,
        },
        wal: Wal::default(),
        estimates: Estimates::default(),
        backups: Backups::default(),
        window: Window::default(),
        verifications: crate::snapshot::Verifications::default(),
        retention: Retention::default(),
        drills: Drills::default(),
        store: Store { repository: "s3://b".to_owned(), ..Store::default() },
        counts: None,
        problems: Vec::new(),
    }
}

fn at(seconds: i64) -> PgTime {
    PgTime::from_unix_micros(seconds * 1_000_000)
}

/// Something of everything, in round numbers.
pub(super) fn filled() -> Snapshot {
    let backup = |id: &str, started_at, finished_at| BackupLine {
        id: id.to_owned(),
        started_at,
        finished_at,
        size_bytes: 5_000_000_000,
        stored_bytes: 2_000_000_000,
        new_bytes: 1_000_000,
        page_errors: 0,
    };
    let mut snapshot = unknown();
    snapshot.server.pg_version = "15.18".to_owned();
    snapshot.server.timeline = Some(3);
    snapshot.server.role = Role::Primary;
    snapshot.estimates =
        Estimates { rpo_seconds: Some(2.5), rto_estimate_seconds: Some(600.0), ..Estimates::default() };
    snapshot.wal = Wal {
        flushed: Some(Lsn::new(0x5_0000_1000)),
        stored: Some(Lsn::new(0x5_0000_0400)),
        archived: Some(Lsn::new(0x5_0000_0000)),
        disk_free: Some(5_000_000_000),
        ready: 2,
        oldest_ready: Some(at(1_760_000_001)),
        gap_segments: 1,
        last_push: Some(PgTime::from_unix_micros(1_760_000_002_250_000)),
        ..Wal::default()
    };
    snapshot.backups.finished = vec![
        backup("old", at(1_759_000_000), at(1_759_000_100)),
        backup("new", at(1_759_900_000), at(1_759_900_060)),
    ];
    snapshot.backups.backup_failed_at = Some(at(1_759_800_000));
    snapshot.window.window = Some((at(1_759_000_100), at(1_760_000_000)));
    snapshot.retention.expiry = Some(ExpiryRecord {
        completed_at: Some(at(1_759_990_000).timestamp()),
        deleted_objects: 77,
        old_versions: Some(OldVersions { objects: 5, bytes: 500, whole: true }),
        ..ExpiryRecord::default()
    });
    snapshot.store.repository_bytes = Some(RepositoryBytes { pack: 1, wal: 2, tail: 3, other: 4 });
    snapshot.store.store_up = Some(true);
    snapshot
}

/// What a daemon counted.
pub(super) fn counted() -> Counts {
    let mut counts = Counts {
        pushed: 7,
        already_there: 1,
        push_failed: 2,
        raw_bytes: 7 << 24,
        stored_bytes: 7 << 20,
        tail_uploads: 9,
        ..Counts::default()
    };
    counts.push_durations.observe(Duration::from_millis(30));
    counts.push_durations.observe(Duration::from_secs(90));
    counts.request("put", true, Duration::from_millis(250));
    counts.store[0].ok = 16;
    counts.store[0].failed = 4;
    counts
}

/// A verification that covers from so many days ago to so many.
pub(super) fn opened(from: i64, to: i64) -> VerifyLine {
    VerifyLine {
        level: "content".to_owned(),
        finished_at: ago(to * 86_400),
        last_success_at: Some(ago(to * 86_400)),
        problems: 0,
        left: 0,
        oldest: Some(ago(from * 86_400)),
        covered: vec![(ago(from * 86_400), ago(to * 86_400))],
        first: None,
        loses: None,
    }
}

/// A primary that writes, and whose promises hold.
pub(super) fn busy() -> Snapshot {
    let mut snapshot = unknown();
    snapshot.taken_at = ago(0);
    snapshot.cluster = "roadwave".to_owned();
    snapshot.teller.daemon_since = Some(ago(3 * 86_400));
    snapshot.server = Server {
        system_identifier: "7432109876543210987".to_owned(),
        pg_version: "15.18".to_owned(),
        timeline: Some(1),
        role: Role::Primary,
        archive_mode: "on".to_owned(),
        calls_us: true,
        archiver_failure: None,
        server_error: None,
    };
    snapshot.estimates =
        Estimates { rpo_seconds: Some(3.4), rto_estimate_seconds: Some(1560.0), ..Estimates::default() };
    snapshot.wal = Wal {
        flushed: Some(Lsn::new(0x0A2F_8E50_4AE0)),
        stored: Some(Lsn::new(0x0A2F_8E47_0000)),
        archived: Some(Lsn::new(0x0A2F_8E00_0000)),
        last_push: Some(ago(9)),
        recent: (0..10_u64)
            .map(|at| push(0x8D - at, 9 + 11 * i64::try_from(at).unwrap(), (5 + at % 3) * MIB))
            .collect(),
        tail: Some(TailLine {
            segment: "0000000100000A2F0000008E".to_owned(),
            end: Lsn::new(0x0A2F_8E47_0000),
            at: ago(3),
        }),
        ..Wal::default()
    };
    snapshot.backups.finished = (0..8).rev().map(backup).collect();
    snapshot.window.window = Some((ago(7 * 86_400 + 6 * 3600 - 1384), ago(4)));
    let held = backup(12);
    snapshot.retention = Retention {
        expiry: Some(ExpiryRecord {
            completed_at: Some(ago(10_000).timestamp()),
            deleted_objects: 18_211,
            ..ExpiryRecord::default()
        }),
        holds: vec![HoldLine {
            backup: held.id,
            reason: "audit of 2026".to_owned(),
            finished_at: Some(held.finished_at),
            bytes: 119 << 30,
        }],
        expires_next: Some(NextLine { at: ago(-64_800), backups: vec![backup(7).id], bytes: 41 << 30 }),
    };
    snapshot.store = Store {
        repository: "s3://roadwave-backups/pg".to_owned(),
        repository_bytes: Some(RepositoryBytes {
            pack: 181 << 30,
            wal: 64 << 30,
            tail: 5 * MIB,
            other: 3 * MIB,
        }),
        store_up: Some(true),
        survey_error: None,
    };
    snapshot
}

/// A primary whose store has not answered for longer than was promised.
pub(super) fn store_down() -> Snapshot {
    let mut snapshot = busy();
    let why = "put wal: the store cannot be reached: connect to s3.gra.io.cloud.ovh.net: timed out after 5 s";
    snapshot.estimates.rpo_seconds = Some(1384.0);
    snapshot.wal.stored = Some(Lsn::new(0x0A2F_3047_0000));
    snapshot.wal.archived = Some(Lsn::new(0x0A2F_3000_0000));
    (snapshot.wal.ready, snapshot.wal.oldest_ready) = (94, Some(ago(1376)));
    snapshot.wal.last_push = Some(ago(1390));
    snapshot.store.store_up = Some(false);
    snapshot.verifications.verifications = vec![opened(7, 1)];
    snapshot.window.window_gaps = vec![(ago(3 * 86_400), ago(2 * 86_400 + 20_000))];
    snapshot.window.window = Some((ago(7 * 86_400 + 6 * 3600 - 1384), ago(1384)));
    if let Some(tail) = &mut snapshot.wal.tail {
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
    snapshot.wal.recent = failed.chain(stored).collect();
    snapshot.problems = vec![
        problem(
            Code::RpoExceeded,
            Severity::Critical,
            "the RPO is 23 min 4 s, beyond the objective of 15 min",
            Some("does the store answer? is the network of this host up?"),
        ),
        problem(
            Code::StoreDown,
            Severity::Critical,
            "the store does not answer: connect to s3.gra.io.cloud.ovh.net: timed out after 5 s",
            Some("does `walproof check` reach it from here? is there an incident at the provider?"),
        ),
        problem(
            Code::ArchivingSlow,
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
    snapshot.teller.daemon_since = Some(ago(0));
    snapshot.server.pg_version = String::new();
    snapshot.server.timeline = None;
    snapshot.estimates.rpo_seconds = None;
    snapshot.estimates.rto_estimate_seconds = None;
    (snapshot.wal.flushed, snapshot.wal.stored, snapshot.wal.archived) = (None, None, None);
    (snapshot.wal.last_push, snapshot.wal.tail, snapshot.window.window) = (None, None, None);
    snapshot.retention = Retention::default();
    snapshot.store.repository_bytes = None;
    snapshot.store.store_up = None;
    snapshot.backups.finished.clear();
    snapshot.wal.recent.clear();
    snapshot.problems = vec![problem(
        Code::NoBackup,
        Severity::Critical,
        "there is no backup",
        Some("take one: sudo systemctl start walproof-backup, or walproof backup-push"),
    )];
    snapshot
}

/// A standby on the repository of its primary.
pub(super) fn standby() -> Snapshot {
    let mut snapshot = busy();
    snapshot.server.role = Role::Standby;
    snapshot.estimates.rpo_seconds = None;
    (snapshot.wal.tail, snapshot.wal.last_push) = (None, None);
    snapshot.wal.recent.clear();
    snapshot
}

/// Nothing but characters that HTML gives a meaning, wherever a text comes from outside.
pub(super) fn hostile() -> Snapshot {
    let evil = || "<script>alert('x')</script>\"&".to_owned();
    let mut snapshot = store_down();
    snapshot.cluster = evil();
    snapshot.server.system_identifier = evil();
    snapshot.server.pg_version = evil();
    snapshot.store.repository = evil();
    if let Some(tail) = &mut snapshot.wal.tail {
        tail.segment = evil();
    }
    for backup in &mut snapshot.backups.finished {
        backup.id = evil();
    }
    for hold in &mut snapshot.retention.holds {
        (hold.backup, hold.reason) = (evil(), evil());
    }
    if let Some(next) = &mut snapshot.retention.expires_next {
        next.backups = vec![evil()];
    }
    for line in &mut snapshot.wal.recent {
        (line.name, line.error) = (evil(), Some(evil()));
    }
    for problem in &mut snapshot.problems {
        (problem.text, problem.hint) = (evil(), Some(evil()));
    }
    snapshot
}
