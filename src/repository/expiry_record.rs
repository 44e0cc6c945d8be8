//! What retention did last, as it is left in the repository.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::store::OldVersions;

/// What retention did last, FORMAT.md "Expiry". JSON, sealed. A statistic: nothing is decided by it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExpiryRecord {
    /// When everything that was to go was last deleted, by the clock of the host that did.
    pub completed_at: Option<Timestamp>,
    /// Objects deleted since the repository was made.
    pub deleted_objects: u64,
    /// What the store refused to delete the last time.
    pub refused: Option<Refused>,
    /// What the store keeps of objects that were deleted or overwritten; `None`: nothing, as far as it says.
    pub old_versions: Option<OldVersions>,
    /// Why the last expiry failed, if it did.
    pub failure: Option<ExpiryFailure>,
}

/// Objects that are expired and stay, since the store refuses to delete them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    /// How many.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
    /// The store's words about the first.
    pub reason: String,
}

/// An expiry that did not reach its end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExpiryFailure {
    /// When, by the clock of its host.
    pub at: Timestamp,
    /// Why.
    pub reason: String,
}
