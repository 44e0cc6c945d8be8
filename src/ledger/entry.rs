//! Words of the ledger.

use std::time::Duration;

use crate::error::Error;
use crate::postgres::{Lsn, PgTime, SegmentName, WalName};

/// What an event asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// Look at the repository again.
    Survey,
    /// Look where WAL ends on the disk of a server that does not answer.
    DiskRead,
}

/// What the server is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Writes WAL.
    Primary,
    /// Replays WAL.
    Standby,
    /// Does not answer.
    Down,
}

/// One try to archive a file.
#[derive(Debug, Clone)]
pub struct Attempt {
    /// Which file.
    pub name: WalName,
    /// When it ended.
    pub at: PgTime,
    /// How long it took.
    pub took: Duration,
    /// Bytes of the file and of its object.
    pub bytes: (u64, u64),
    /// Why it failed, if it did.
    pub error: Option<Error>,
}

/// The newest piece of a tail that is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoredTail {
    /// Of this segment.
    pub segment: SegmentName,
    /// Up to here.
    pub end: Lsn,
    /// Since then.
    pub at: PgTime,
}

/// How far a doubt is from being cleared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Doubt {
    /// No look has begun since it arose.
    New,
    /// One has.
    LookedAt,
}
