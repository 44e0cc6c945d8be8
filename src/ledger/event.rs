//! What the tasks find out.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::coverage::Coverage;
use super::stored::StoredEnd;
use crate::archive::Pushed;
use crate::cluster::{ServerInfo, WalStatus};
use crate::error::Error;
use crate::format::TailGeneration;
use crate::postgres::{Lsn, PgTime, SegmentName, TimelineId, WalName, version_text};
use crate::problem::Code;
use crate::store::Outcome;
use crate::window::{RecoveryWindow, Usage};

/// An instant on both clocks: the one that only goes forward, and the one that people read.
#[derive(Debug, Clone, Copy)]
pub struct Now {
    /// For ages and pauses.
    pub instant: Instant,
    /// For people.
    pub time: PgTime,
}

impl Now {
    /// By the host's clocks.
    pub fn read() -> Self {
        Self { instant: Instant::now(), time: PgTime::now() }
    }
}

/// One finding of one task.
#[derive(Debug)]
pub enum Event {
    /// The data directory is there, and this cluster's.
    ClusterFound {
        /// Of its `pg_control`.
        system_identifier: u64,
    },
    /// The cluster or its repository has been replaced by another.
    BeganAnew,
    /// This stands in the way of beginning.
    Obstructed(Obstacle),
    /// Nothing stands in the way any more.
    Unobstructed,
    /// Whether `wal-push` is configured for a different repository than we are.
    Misdirected(bool),
    /// A connection to the server was made, and the server is the configured one.
    Connected(ServerFacts),
    /// The server answered.
    Sampled(Sample),
    /// The server did not answer, or is another one.
    ServerFailed(Error),
    /// The server that answers is not the one that runs in the data directory (R10).
    WrongServer(Error),
    /// The disk of a server that does not answer was read.
    DiskRead {
        /// Where its WAL ends, if that can be told.
        left: Option<LeftBehind>,
        /// How long that took.
        took: Duration,
    },
    /// `archive_status` was listed.
    ReadyListed {
        /// Files that wait.
        count: u64,
        /// Since when the oldest one does.
        oldest: Option<PgTime>,
    },
    /// A file is durable in the repository.
    Pushed {
        /// Which.
        file: Pushed,
        /// How long that took.
        took: Duration,
    },
    /// A file could not be archived, and will be tried again.
    PushFailed {
        /// Which.
        name: WalName,
        /// Why.
        error: Error,
        /// How long that took.
        took: Duration,
    },
    /// A file is no longer in `pg_wal`.
    FileGone(WalName),
    /// A piece of a tail is durable.
    TailStored {
        /// Of which segment.
        segment: SegmentName,
        /// Which tail of it.
        generation: TailGeneration,
        /// The first so many bytes of it are stored.
        len: u32,
        /// WAL up to here.
        end: Lsn,
        /// The latest commit in it.
        last_time: Option<PgTime>,
    },
    /// What is stored as tails of a segment was compared with what the server has written of it.
    TailsCompared {
        /// Of which.
        segment: SegmentName,
        /// Up to where a tail reaches that holds something else.
        other: Option<Lsn>,
    },
    /// All that is flushed is stored, as far as the tail goes.
    TailCurrent,
    /// The tail could not be stored.
    TailFailed(Error),
    /// A survey begins to list: what is stored from now on it may or may not see.
    SurveyBegan,
    /// A survey ended.
    Surveyed(Box<Survey>),
    /// A survey could not be finished.
    SurveyFailed {
        /// Why.
        error: Error,
        /// What it is about, where that is not the repository.
        code: Option<Code>,
    },
    /// A backup was taken on this host.
    BackupMade,
    /// A backup on this host failed.
    BackupFailed,
    /// One try of a request to the store ended.
    Requested {
        /// put, get, get_range, list, delete.
        verb: &'static str,
        /// How.
        outcome: Outcome,
        /// After how long.
        elapsed: Duration,
    },
}

/// What stands in the way of archiving at all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Obstacle {
    /// Of what.
    pub stage: Stage,
    /// Why.
    pub error: Error,
}

/// What is looked for before archiving begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// `cluster.data_dir` and its `pg_control`.
    DataDirectory,
    /// The repository of that cluster.
    Repository,
}

/// One answer of the server.
#[derive(Debug, Clone, Copy)]
pub struct Sample {
    /// Just before it was asked.
    pub asked_at: Instant,
    /// What it said.
    pub status: WalStatus,
}

/// What stays the same while a connection lives.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ServerFacts {
    /// Such as "15.18".
    pub version: String,
    /// `off`, `on` or `always`.
    pub archive_mode: String,
    /// Whether archive_command calls this program.
    pub calls_us: bool,
    /// What it failed on last, unless it has succeeded since.
    pub archiver_failure: Option<String>,
}

impl From<&ServerInfo> for ServerFacts {
    fn from(info: &ServerInfo) -> Self {
        Self {
            version: version_text(info.version_num),
            archive_mode: info.archive_mode.clone(),
            calls_us: info.archives_through_us(),
            archiver_failure: info.archiver_failure.clone(),
        }
    }
}

/// What a server that does not run has left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeftBehind {
    /// The timeline that it wrote.
    pub timeline: TimelineId,
    /// Where the WAL on its disk ends. What it had not flushed counts: it replays that too when it starts again.
    pub end: Lsn,
    /// It was a standby, or had not recovered yet.
    pub recovering: bool,
}

/// What one look at the repository and at pg_wal found.
#[derive(Debug)]
pub struct Survey {
    pub(super) coverage: Coverage,
    /// What can be restored.
    pub(super) window: RecoveryWindow,
    /// Up to where WAL of the server's timeline is stored.
    pub(super) stored_end: StoredEnd,
    /// The tails that are listed, and how many bytes of their segments each holds.
    pub(super) tails: BTreeMap<(SegmentName, TailGeneration), u32>,
    /// Flushed WAL that is not stored may be this old, as far as anybody knows.
    pub(super) unknown: Duration,
    /// What is stored.
    pub(super) bytes: Usage,
}
