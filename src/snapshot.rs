//! Everything that is known at one instant, in groups: what metrics, health, the status page and `status` show. Plain
//! values, so that showing asks neither the store nor the server. Over the socket the groups are one flat object.

mod proofs;

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::postgres::{Lsn, PgTime};
use crate::present::Counts;
use crate::problem::{Problem, Severity, Trouble};
use crate::repository::ExpiryRecord;
pub use proofs::{DrillLine, Drills, Verifications, VerifyLine};

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

/// What was promised, from the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Promises {
    /// How much may be lost.
    pub rpo_objective: Duration,
    /// How long a restore may take.
    pub rto_objective: Duration,
    /// How far back every instant must stay restorable.
    pub retention_window: Duration,
    /// How often a drill shall prove it.
    pub drill_every: Duration,
}

/// Whether a daemon tells, or should.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Daemon {
    /// It tells.
    Runs,
    /// It has served on this host, and cannot be asked.
    Missing,
    /// None serves on the cluster's host.
    Absent,
    /// This is another host.
    #[default]
    NotHere,
}

/// The process that tells.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Teller {
    /// Whether a daemon tells, or should.
    pub daemon: Daemon,
    /// When the daemon started; `None` when none was asked.
    pub daemon_since: Option<PgTime>,
    /// Why the daemon that should run here could not be asked.
    pub daemon_error: Option<String>,
    /// What stands in the way of archiving at all.
    pub obstacle: Option<Trouble>,
}

/// The server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Server {
    /// PostgreSQL's system identifier; a decimal text, since JSON numbers lose digits.
    pub system_identifier: String,
    /// Such as "15.18"; empty while the server was never reached.
    pub pg_version: String,
    /// The timeline that WAL is written on.
    pub timeline: Option<u32>,
    /// What the server is.
    pub role: Role,
    /// `off`, `on`, `always`; empty while the server was never reached.
    pub archive_mode: String,
    /// Whether archive_command calls this program.
    pub calls_us: bool,
    /// What archive_command failed on last, unless it has succeeded since.
    #[serde(default)]
    pub archiver_failure: Option<String>,
    /// Why it could not be asked.
    pub server_error: Option<Trouble>,
}

/// WAL on its way.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Wal {
    /// WAL is on the server's disk up to here.
    pub flushed: Option<Lsn>,
    /// WAL is in the repository up to here without a gap, tail included.
    pub stored: Option<Lsn>,
    /// WAL is in the repository as whole segments up to here without a gap.
    pub archived: Option<Lsn>,
    /// Free bytes where the server writes WAL.
    pub disk_free: Option<u64>,
    /// Files that wait to be archived.
    pub ready: u64,
    /// Since when the oldest of them waits.
    pub oldest_ready: Option<PgTime>,
    /// Segments that are missing on the way from the newest backup to now.
    pub gap_segments: u64,
    /// The first of them.
    pub first_gap: Option<String>,
    /// When a file was last archived.
    pub last_push: Option<PgTime>,
    /// Files that could not be archived the last time, and why.
    pub failing: Vec<Failing>,
    /// Files that were archived lately, newest first.
    pub recent: Vec<PushLine>,
    /// The tail.
    pub tail: Option<TailLine>,
    /// Why the tail could not be stored the last time.
    pub tail_error: Option<String>,
}

/// A file that cannot be archived.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failing {
    /// Its name.
    pub name: String,
    /// Why.
    pub trouble: Trouble,
}

/// What would be lost, and how long a restore would take.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Estimates {
    /// Seconds of flushed WAL that would be lost if the host vanished now; `None` where none can be claimed.
    pub rpo_seconds: Option<f64>,
    /// What a restore of the newest state would take now, from measured rates; `None` before anything was measured.
    pub rto_estimate_seconds: Option<f64>,
    /// The same if a backup had just been taken: what no backup makes shorter.
    #[serde(default)]
    pub rto_after_backup_seconds: Option<f64>,
}

/// Backups.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Backups {
    /// Finished ones, oldest first.
    #[serde(rename = "backups")]
    pub finished: Vec<BackupLine>,
    /// Why others cannot be read.
    pub damaged_backups: Vec<Trouble>,
    /// When a backup last failed.
    pub backup_failed_at: Option<PgTime>,
    /// Why.
    #[serde(default)]
    pub backup_failure: Option<String>,
    /// When the last try ended, if that one succeeded: its backup may be harmed or gone by now.
    #[serde(default)]
    pub backup_succeeded_at: Option<PgTime>,
    /// The last one that the daemon took ahead of the timer.
    #[serde(default)]
    pub early_backup: Option<EarlyLine>,
}

impl Backups {
    /// When the last try failed, if none has succeeded since.
    pub fn last_try_failed_at(&self) -> Option<PgTime> {
        let newest = self.finished.last().map(|newest| newest.finished_at);
        let succeeded_at = newest.max(self.backup_succeeded_at);
        self.backup_failed_at.filter(|failed_at| Some(*failed_at) > succeeded_at)
    }
}

/// A backup that the daemon took ahead of the timer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EarlyLine {
    /// When it began.
    pub began_at: PgTime,
    /// Why.
    pub because: String,
    /// What came of it; `None` while it is under way.
    pub outcome: Option<String>,
}

/// A lineage that could be restored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BranchLine {
    /// Its newest timeline.
    pub timeline: u32,
    /// Where it left another branch.
    pub fork_lsn: Option<Lsn>,
    /// Its newest backup.
    pub newest_backup: Option<String>,
    /// The latest commit that is stored of it.
    pub last_commit: Option<PgTime>,
    /// When something of it was last stored, by the store's clock.
    pub last_written: Option<PgTime>,
    /// The server that fills it.
    pub writer: Option<String>,
}

/// What can be restored.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Window {
    /// The earliest and the latest instant that can be restored to, by the server's clock.
    pub window: Option<(PgTime, PgTime)>,
    /// Spans between them that cannot.
    pub window_gaps: Vec<(PgTime, PgTime)>,
    /// All lineages that nothing continues.
    pub branches: Vec<BranchLine>,
    /// What a restore would trip over.
    pub window_faults: Vec<Trouble>,
}

/// A backup that is kept past the window.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HoldLine {
    /// Its id.
    pub backup: String,
    /// Why, in the operator's words; may be empty.
    pub reason: String,
    /// When the backup ended; `None` if it is gone or cannot be read.
    pub finished_at: Option<PgTime>,
    /// Bytes that it costs once it is older than the window, at most.
    pub bytes: u64,
}

/// What expires next.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NextLine {
    /// From when on.
    pub at: PgTime,
    /// Backups.
    pub backups: Vec<String>,
    /// Bytes that become free, about, WAL included.
    pub bytes: u64,
}

/// Retention, as the repository tells.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Retention {
    /// What it did last; `None` before the repository was read.
    pub expiry: Option<ExpiryRecord>,
    /// Holds.
    pub holds: Vec<HoldLine>,
    /// What goes next, if anything ever does.
    pub expires_next: Option<NextLine>,
}

impl Retention {
    /// Bytes that a bucket with versioning keeps of what was deleted.
    pub fn old_bytes(&self) -> u64 {
        self.expiry.as_ref().and_then(|expiry| expiry.old_versions).map_or(0, |old| old.bytes)
    }
}

/// The repository's store.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Store {
    /// Where backups go.
    pub repository: String,
    /// What is stored.
    pub repository_bytes: Option<RepositoryBytes>,
    /// Whether the last request to the store succeeded; `None` before the first.
    pub store_up: Option<bool>,
    /// Why the repository could not be read.
    pub survey_error: Option<Trouble>,
}

/// What is known now. Times are by the host's clock unless said otherwise.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Snapshot {
    /// When it was taken.
    pub taken_at: PgTime,
    /// `cluster.name`.
    pub cluster: String,
    /// What was promised.
    #[serde(flatten)]
    pub promises: Promises,
    /// The process that tells.
    #[serde(flatten)]
    pub teller: Teller,
    /// The server.
    #[serde(flatten)]
    pub server: Server,
    /// WAL on its way.
    #[serde(flatten)]
    pub wal: Wal,
    /// What would be lost, and how long a restore would take.
    #[serde(flatten)]
    pub estimates: Estimates,
    /// Backups.
    #[serde(flatten)]
    pub backups: Backups,
    /// What can be restored.
    #[serde(flatten)]
    pub window: Window,
    /// Verifications.
    #[serde(flatten)]
    pub verifications: Verifications,
    /// Retention.
    #[serde(flatten)]
    pub retention: Retention,
    /// Drills.
    #[serde(flatten)]
    pub drills: Drills,
    /// The repository's store.
    #[serde(flatten)]
    pub store: Store,
    /// What a daemon counted since it started.
    pub counts: Option<Counts>,
    /// What needs attention, worst first.
    pub problems: Vec<Problem>,
}

impl Snapshot {
    /// Whether everything that was promised holds: then, and only then, a heartbeat goes out.
    pub fn is_healthy(&self) -> bool {
        self.problems.iter().all(|problem| problem.severity < Severity::Critical)
    }

    /// Bytes of flushed WAL that are not stored.
    pub fn lag_bytes(&self) -> Option<u64> {
        self.wal.flushed.zip(self.wal.stored).map(|(flushed, stored)| flushed.offset_from(stored))
    }
}
