//! The last try to take a backup, as it is left in the repository.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// The last try to take a backup, FORMAT.md "Attempts". JSON, sealed. A statistic: nothing is decided by it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupAttempt {
    /// When it began, by the clock of its host.
    pub begun_at: Timestamp,
    /// Its host.
    pub host: String,
    /// `None`: it is under way, or was killed.
    pub ended: Option<AttemptEnd>,
}

/// How it ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttemptEnd {
    /// When, by the clock of its host.
    pub at: Timestamp,
    /// Why there is no backup, if there is none.
    pub failure: Option<String>,
}
