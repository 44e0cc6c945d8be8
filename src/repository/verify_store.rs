//! What verifications leave in the repository: their results, and what was opened when. What it means is theirs.

use super::namespace::Repository;
use crate::error::{Error, Kind, Result, ResultExt};
use crate::format::{Harm, ObjectKey, VerifyRecord};
use crate::seal::ObjectKind;

impl Repository {
    /// The damage that verifications found; none where there is no record, or where it is damaged itself.
    pub async fn get_harm(&self) -> Result<Vec<Harm>> {
        let key = ObjectKey::Verify(VerifyRecord::Harm).to_string();
        match self.get_sealed(ObjectKind::Verify, &key).await {
            Ok(plain) => Ok(serde_json::from_slice(&plain).unwrap_or_default()),
            Err(error) if matches!(error.kind(), Kind::NotFound | Kind::Corrupt) => Ok(Vec::new()),
            Err(error) => Err(error.context("read which damage is known")),
        }
    }

    /// Note the damage that there is.
    pub async fn put_harm(&self, found: &[Harm]) -> Result<()> {
        let plain =
            serde_json::to_vec(found).map_err(|cause| Error::corrupt(format!("write harm: {cause}")))?;
        self.put_verify_record(VerifyRecord::Harm, &plain).await
    }

    /// Put a record, over the one before it.
    pub async fn put_verify_record(&self, record: VerifyRecord, plain: &[u8]) -> Result<()> {
        let key = ObjectKey::Verify(record).to_string();
        let put = self.put_sealed(ObjectKind::Verify, &key, plain).await;
        put.map(|_| ()).context("put what was verified")
    }

    /// A record, if there is one that can be opened: it is only ever a reason to read less.
    pub async fn get_verify_record(&self, record: VerifyRecord) -> Result<Option<Vec<u8>>> {
        match self.get_sealed(ObjectKind::Verify, &ObjectKey::Verify(record).to_string()).await {
            Ok(plain) => Ok(Some(plain)),
            Err(error) if error.kind().is_unreadable() || error.kind() == Kind::NotFound => Ok(None),
            Err(error) => Err(error.context("read what was verified")),
        }
    }

    /// Delete records; a store that refuses keeps them.
    pub async fn delete_verify_records(&self, records: &[VerifyRecord]) -> Result<()> {
        let keys: Vec<ObjectKey> = records.iter().map(|record| ObjectKey::Verify(*record)).collect();
        for (_, result) in self.delete_objects(&keys).await {
            result.or_else(|error: Error| if error.kind() == Kind::Denied { Ok(()) } else { Err(error) })?;
        }
        Ok(())
    }
}
