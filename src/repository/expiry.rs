//! What retention did last: kept in the repository, so that whoever shows it needs no memory of its own.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::namespace::Repository;
use crate::error::{Error, Kind, Result, ResultExt};
use crate::format::ObjectKey;
use crate::seal::ObjectKind;
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

impl Repository {
    /// What retention did last; nothing where it has not run, or where that cannot be read.
    pub async fn get_expiry(&self) -> Result<ExpiryRecord> {
        let plain = match self.get_sealed(ObjectKind::Expiry, &ObjectKey::Expiry.to_string()).await {
            Ok(plain) => plain,
            Err(error) if error.kind().is_unreadable() || error.kind() == Kind::NotFound => {
                return Ok(ExpiryRecord::default());
            }
            Err(error) => return Err(error.context("read what retention did last")),
        };
        Ok(serde_json::from_slice(&plain).unwrap_or_default())
    }

    /// Note what retention did.
    pub async fn put_expiry(&self, record: &ExpiryRecord) -> Result<()> {
        let plain =
            serde_json::to_vec(record).map_err(|cause| Error::corrupt(format!("write expiry: {cause}")))?;
        let key = ObjectKey::Expiry.to_string();
        self.put_sealed(ObjectKind::Expiry, &key, &plain).await.context("note the expiry").map(|_| ())
    }
}
