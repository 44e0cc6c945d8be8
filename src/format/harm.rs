//! Damage that verifications found, as it is left in the repository.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::backup_id::BackupId;
use super::key::ObjectKey;
use crate::error::Error;

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
    /// The object's key; `None` where a later version knows more kinds.
    pub fn key(&self) -> Option<ObjectKey> {
        self.object.parse().ok()
    }

    /// Why what needs it cannot be used.
    pub fn error(&self) -> Error {
        Error::corrupt(format!("a verification found: {}: {}", self.object, self.why)).hint(
            "bring the object back if there is a copy, then run `walproof verify --content`; otherwise take a new \
             backup now",
        )
    }
}
