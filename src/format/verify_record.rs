//! Which object of a verification's memory: its results, and what was opened when.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::backup_id::BackupId;
use crate::error::{Error, Result};
use crate::seal::fill_random;

/// An object that verifications write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum VerifyRecord {
    /// The result of the last one by a listing.
    Listing,
    /// The result of the last one by content.
    Content,
    /// The damage that the last ones found.
    Harm,
    /// What one run opened; the number is the run's own.
    Seen(u64),
}

impl VerifyRecord {
    /// For a new run.
    pub fn new_run() -> Result<Self> {
        let mut random = [0; 8];
        fill_random(&mut random)?;
        Ok(Self::Seen(u64::from_le_bytes(random)))
    }
}

/// Damage that a verification found, FORMAT.md "Verification": nothing counts on the object as long as it is as it was then.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Harm {
    /// The object's key.
    pub object: String,
    /// Its bytes, and when it was put; `None`: it was missing.
    pub state: Option<(u64, Timestamp)>,
    /// What is wrong with it.
    pub why: String,
    /// The backups that cannot be restored without it.
    pub backups: Vec<BackupId>,
}

impl Harm {
    /// Why what needs it cannot be used.
    pub fn error(&self) -> Error {
        Error::corrupt(format!("a verification found: {}: {}", self.object, self.why)).hint(
            "bring the object back if there is a copy, then run `walproof verify --content`; else take a new backup now",
        )
    }
}
