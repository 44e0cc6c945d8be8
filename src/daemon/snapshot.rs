//! Everything that is known at one instant: what metrics, health, the status page and `status` show. Plain values, so
//! that showing asks neither the store nor the server.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::postgres::{Lsn, PgTime};

/// What the server is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Writes WAL, and archives it.
    Primary,
    /// Replays WAL; the primary's host archives it.
    Standby,
    /// Does not answer.
    Down,
}

impl Role {
    /// As labels and pages show it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Primary => "primary",
            Self::Standby => "standby",
            Self::Down => "down",
        }
    }
}

/// How bad a problem is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Worth knowing; `/healthz` still says that all is well.
    Warning,
    /// What was promised does not hold now.
    Failure,
}

/// Something that needs attention.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// How bad it is.
    pub severity: Severity,
    /// One line.
    pub text: String,
    /// The question that finds the cause.
    pub hint: Option<String>,
}

/// A finished backup.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BackupLine {
    /// Its id.
    pub id: String,
    /// When it began, by the server's clock.
    pub started_at: PgTime,
    /// When it ended, by the server's clock.
    pub finished_at: PgTime,
    /// Bytes of data.
    pub size_bytes: u64,
    /// Bytes of all the extents that it points at.
    pub stored_bytes: u64,
    /// Bytes that it added.
    pub new_bytes: u64,
    /// Pages that failed their checksum.
    pub page_errors: u64,
}

/// A file that was archived lately.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PushLine {
    /// Its name.
    pub name: String,
    /// When that ended.
    pub at: PgTime,
    /// Seconds that it took.
    pub seconds: f64,
    /// Bytes of the file.
    pub raw_bytes: u64,
    /// Bytes of the object; 0 when it failed.
    pub stored_bytes: u64,
    /// Why it failed, if it did.
    pub error: Option<String>,
}

/// The tail as it is stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TailLine {
    /// The unfinished segment.
    pub segment: String,
    /// WAL is stored up to here.
    pub end: Lsn,
    /// When it was put.
    pub at: PgTime,
}

/// Bytes in the repository, by what they are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct RepositoryBytes {
    /// Packs.
    pub pack: u64,
    /// Segments and histories.
    pub wal: u64,
    /// Tails.
    pub tail: u64,
    /// Manifests, leases and the rest.
    pub other: u64,
}

/// What is known now. Times are by the host's clock unless said otherwise.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Snapshot {
    /// When it was taken.
    pub taken_at: PgTime,
    /// When the daemon started; `None` when it does not run.
    pub daemon_since: Option<PgTime>,
    /// `cluster.name`.
    pub cluster: String,
    /// PostgreSQL's system identifier; a decimal text, since JSON numbers lose digits.
    pub system_identifier: String,
    /// Such as "15.18"; empty while the server was never reached.
    pub pg_version: String,
    /// The timeline that WAL is written on.
    pub timeline: Option<u32>,
    /// What the server is.
    pub role: Role,
    /// Where backups go.
    pub repository: String,
    /// Seconds of flushed WAL that would be lost if the host vanished now; `None` where none can be claimed.
    pub rpo_seconds: Option<f64>,
    /// What was promised.
    pub rpo_objective: Duration,
    /// What was promised.
    pub rto_objective: Duration,
    /// What a restore of the newest state would take now, from measured rates; `None` before anything was measured.
    pub rto_estimate_seconds: Option<f64>,
    /// WAL is on the server's disk up to here.
    pub flushed: Option<Lsn>,
    /// WAL is in the repository up to here without a gap, tail included.
    pub stored: Option<Lsn>,
    /// WAL is in the repository as whole segments up to here without a gap.
    pub archived: Option<Lsn>,
    /// Files that wait to be archived.
    pub ready: u64,
    /// Since when the oldest of them waits.
    pub oldest_ready: Option<PgTime>,
    /// Segments that are missing on the way from the newest backup to now.
    pub gap_segments: u64,
    /// When a file was last archived.
    pub last_push: Option<PgTime>,
    /// The tail.
    pub tail: Option<TailLine>,
    /// Finished backups, oldest first.
    pub backups: Vec<BackupLine>,
    /// When a backup last failed on this host.
    pub backup_failed_at: Option<PgTime>,
    /// The earliest and the latest instant that can be restored to, by the server's clock.
    pub window: Option<(PgTime, PgTime)>,
    /// How far back every instant shall stay restorable.
    pub retention_window: Duration,
    /// What is stored.
    pub repository_bytes: Option<RepositoryBytes>,
    /// Whether the last request to the store succeeded; `None` before the first.
    pub store_up: Option<bool>,
    /// Files that were archived lately, newest first.
    pub recent: Vec<PushLine>,
    /// What needs attention, worst first.
    pub problems: Vec<Problem>,
}

impl Snapshot {
    /// Whether everything that was promised holds: then, and only then, a heartbeat goes out.
    pub fn is_healthy(&self) -> bool {
        self.problems.iter().all(|problem| problem.severity < Severity::Failure)
    }

    /// Bytes of flushed WAL that are not stored.
    pub fn lag_bytes(&self) -> Option<u64> {
        self.flushed.zip(self.stored).map(|(flushed, stored)| flushed.offset_from(stored))
    }
}
