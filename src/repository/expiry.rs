//! What retention and backups did last: kept in the repository, so that whoever shows it needs no memory of its own.

use jiff::Timestamp;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::attempt::{AttemptEnd, BackupAttempt};
use super::expiry_record::ExpiryRecord;
use super::namespace::Repository;
use crate::disk::host_name;
use crate::error::{Error, Kind, Result, ResultExt};
use crate::format::ObjectKey;
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

    /// The last try to take a backup; `None` where there is no record, or none that can be read.
    pub async fn get_attempt(&self) -> Result<Option<BackupAttempt>> {
        self.get_record(ObjectKind::Expiry, &ObjectKey::Attempt).await.context("read the last try to back up")
    }

    /// Note that a backup begins: one that is killed from here on shows by that. The backup does not depend on it.
    pub async fn note_backup_begun(&self) {
        let attempt = BackupAttempt { begun_at: Timestamp::now(), host: host_name(), ended: None };
        if let Err(error) = self.put_attempt(&attempt).await {
            tracing::warn!(%error, "it would not show if this backup were killed");
        }
    }

    /// Note that a backup ended, or why it failed.
    pub async fn note_backup_ended(&self, failure: Option<String>) -> Result<()> {
        let at = Timestamp::now();
        let begun_at = self.get_attempt().await?.map_or(at, |begun| begun.begun_at);
        let ended = Some(AttemptEnd { at, failure });
        self.put_attempt(&BackupAttempt { begun_at, host: host_name(), ended }).await
    }

    async fn put_attempt(&self, attempt: &BackupAttempt) -> Result<()> {
        self.put_record(ObjectKind::Expiry, &ObjectKey::Attempt, attempt).await.context("note the backup")
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
    pub(super) async fn put_record(
        &self,
        kind: ObjectKind,
        key: &ObjectKey,
        record: &impl Serialize,
    ) -> Result<()> {
        let plain =
            serde_json::to_vec(record).map_err(|cause| Error::corrupt(format!("write {key}: {cause}")))?;
        self.put_sealed(kind, &key.to_string(), &plain).await.map(drop)
    }
}
