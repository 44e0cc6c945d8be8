//! What retention did last: kept in the repository, so that whoever shows it needs no memory of its own.

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::namespace::Repository;
use crate::error::{Error, Kind, Result, ResultExt};
use crate::format::{ExpiryRecord, ObjectKey};
use crate::seal::ObjectKind;

impl Repository {
    /// What retention did last; nothing where it has not run, or where that cannot be read.
    pub async fn get_expiry(&self) -> Result<ExpiryRecord> {
        self.get_record(ObjectKind::Expiry, &ObjectKey::Expiry).await.context("read what retention did last")
    }

    /// Note what retention did.
    pub async fn put_expiry(&self, record: &ExpiryRecord) -> Result<()> {
        self.put_record(ObjectKind::Expiry, &ObjectKey::Expiry, record).await.context("note the expiry")
    }

    /// A record in JSON; the default where there is none, or none that can be opened and understood.
    async fn get_record<T: DeserializeOwned + Default>(
        &self,
        kind: ObjectKind,
        key: &ObjectKey,
    ) -> Result<T> {
        match self.get_sealed(kind, &key.to_string()).await {
            Ok(plain) => Ok(serde_json::from_slice(&plain).unwrap_or_default()),
            Err(error) if error.kind().is_unreadable() || error.kind() == Kind::NotFound => Ok(T::default()),
            Err(error) => Err(error),
        }
    }

    /// Put a record in JSON, over the one before it.
    async fn put_record(&self, kind: ObjectKind, key: &ObjectKey, record: &impl Serialize) -> Result<()> {
        let plain =
            serde_json::to_vec(record).map_err(|cause| Error::corrupt(format!("write {key}: {cause}")))?;
        self.put_sealed(kind, &key.to_string(), &plain).await.map(drop)
    }
}
