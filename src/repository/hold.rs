//! Holds: backups that are kept past the window.

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::time::sleep;

use super::lease::{HeldLease, Lease};
use super::listing::{Listed, Listing};
use super::namespace::Repository;
use crate::error::{Error, Kind, Result, ResultExt};
use crate::format::{BackupId, HOLDS, ObjectKey, Purpose};
use crate::postgres::Lsn;
use crate::seal::ObjectKind;

/// How long an expiry is waited for: it stops at the next batch when it sees a hold.
const PATIENCE: Duration = Duration::from_mins(5);
const PAUSE: Duration = Duration::from_secs(1);

/// That a backup is kept, FORMAT.md "Holds". JSON, sealed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hold {
    /// The backup.
    pub backup: BackupId,
    /// Why, in the operator's words; may be empty.
    pub reason: String,
    /// When it was placed, by the clock of the host that did.
    pub placed_at: Timestamp,
    /// Up to which position of the backup's timeline WAL is kept; `None`: to where the backup is consistent.
    pub until: Option<Lsn>,
}

impl Repository {
    /// Place a hold; one that is there is replaced.
    pub async fn put_hold(&self, hold: &Hold) -> Result<()> {
        let key = ObjectKey::Hold(hold.backup.clone());
        self.put_record(ObjectKind::Hold, &key, hold).await.context("place the hold")
    }

    /// Remove the hold on a backup; one that is not there is fine.
    pub async fn delete_hold(&self, id: &BackupId) -> Result<()> {
        let key = self.key(&ObjectKey::Hold(id.clone()).to_string());
        self.store().delete(&key).await.context("remove the hold")
    }

    /// Place a hold, and see that it counts: an expiry that had looked before may go on without it. Kind `Busy` if that
    /// does not end, `Impossible` if it deleted the backup.
    pub async fn hold_surely(&self, hold: &Hold) -> Result<()> {
        self.put_hold(hold).await?;
        let id = &hold.backup;
        let mut waited = Duration::ZERO;
        while let Some(expiry) = self.living_expiry().await? {
            if waited >= PATIENCE {
                let HeldLease { pid, host, .. } = expiry;
                return Err(Error::new(
                    Kind::Busy,
                    format!("the hold on backup {id} is placed, but an expiry is still under way (process {pid} on {host})"),
                )
                .hint("did it see the hold? run the command again when it has ended"));
            }
            if waited.is_zero() {
                tracing::warn!("an expiry is under way: waiting until it has ended");
            }
            sleep(PAUSE).await;
            waited += PAUSE;
        }
        if self.is_there(&ObjectKey::Manifest(id.clone())).await? {
            // A change of the key holds that lease, too, and may have put back what it had read before.
            if !waited.is_zero() && self.get_hold(id, hold.placed_at).await? != *hold {
                self.put_hold(hold).await?;
            }
            return Ok(());
        }
        self.delete_hold(id).await?;
        Err(Error::impossible(format!("backup {id} was deleted by an expiry that was under way"))
            .hint("`walproof backup-list` lists the existing ones"))
    }

    async fn living_expiry(&self) -> Result<Option<HeldLease>> {
        let mut held = Lease::held(self).await?.into_iter();
        Ok(held.find(|lease| lease.purpose == Purpose::Expire))
    }

    /// The holds that are there now, unread.
    pub async fn listed_holds(&self) -> Result<Vec<Listed>> {
        let objects = self.store().list(&self.key(HOLDS)).await.context("list the holds")?;
        let is_hold = |listed: &Listed| matches!(listed.key, ObjectKey::Hold(_));
        Ok(self.parse_listing(objects).objects.into_iter().filter(is_hold).collect())
    }

    /// All holds.
    pub async fn list_holds(&self) -> Result<Vec<Hold>> {
        let objects = self.store().list(&self.key(HOLDS)).await.context("list the holds")?;
        self.holds(&self.parse_listing(objects)).await
    }

    /// The holds that a listing shows. One that cannot be read still holds, without a reason.
    pub async fn holds(&self, listing: &Listing) -> Result<Vec<Hold>> {
        let mut found = Vec::new();
        for listed in &listing.objects {
            let ObjectKey::Hold(id) = &listed.key else { continue };
            match self.get_hold(id, listed.modified).await {
                Ok(hold) => found.push(hold),
                // It was removed after it was listed.
                Err(error) if error.kind() == Kind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(found)
    }

    async fn get_hold(&self, id: &BackupId, placed_at: Timestamp) -> Result<Hold> {
        let key = ObjectKey::Hold(id.clone()).to_string();
        let unknown = |error: Error| Hold {
            backup: id.clone(),
            reason: format!("the hold cannot be read: {error}"),
            placed_at,
            until: Some(Lsn::new(u64::MAX)),
        };
        let plain = match self.get_sealed(ObjectKind::Hold, &key).await {
            Ok(plain) => plain,
            Err(error) if error.kind().is_unreadable() => return Ok(unknown(error)),
            Err(error) => return Err(error),
        };
        match serde_json::from_slice::<Hold>(&plain) {
            Ok(hold) if hold.backup == *id => Ok(hold),
            Ok(hold) => Ok(unknown(Error::corrupt(format!("it says that it holds {}", hold.backup)))),
            Err(cause) => Ok(unknown(Error::corrupt(cause.to_string()))),
        }
    }
}
