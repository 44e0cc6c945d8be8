//! The small objects that a listing names: manifests and histories. Read once, kept from one look to the next (R34).

use std::collections::BTreeMap;
use std::sync::Arc;

use futures_util::{StreamExt, stream};
use jiff::Timestamp;

use crate::error::{Error, Kind, Result};
use crate::format::{BackupId, Harm, Manifest, ObjectKey, VerifyRecord, WalDigest};
use crate::postgres::{History, TimelineId, WalName};
use crate::repository::{BackupAttempt, ExpiryRecord, Hold, Listing, Repository, WalFile};

/// Objects that are read at a time.
const CONCURRENT: usize = 8;

/// What manifests and histories say. An error is damage: of an object that cannot be opened, or not understood.
#[derive(Debug, Clone, Default)]
pub struct Records {
    pub(crate) manifests: BTreeMap<BackupId, Result<Arc<Manifest>>>,
    pub(crate) histories: BTreeMap<(TimelineId, WalDigest), Result<History>>,
    pub(crate) holds: Known<Vec<Hold>>,
    pub(crate) expiry: Known<ExpiryRecord>,
    pub(crate) attempt: Known<Option<BackupAttempt>>,
    pub(crate) harm: Known<Vec<Harm>>,
    /// For whoever is to find out anew what is damaged.
    ignores_harm: bool,
}

/// What objects said that may be put again under the same key: with how long each is, and when it was put. Stores say that to
/// the second.
#[derive(Debug, Clone, Default)]
pub(crate) struct Known<T> {
    listed: Vec<(ObjectKey, u64, Timestamp)>,
    pub(crate) value: T,
}

impl<T> Known<T> {
    /// Note which of the objects are listed now; whether they have to be read.
    fn is_news(&mut self, listing: &Listing, wanted: impl Fn(&ObjectKey) -> bool) -> bool {
        let wanted = listing.objects.iter().filter(|listed| wanted(&listed.key));
        let listed: Vec<_> =
            wanted.map(|listed| (listed.key.clone(), listed.size, listed.modified)).collect();
        let news = listed != self.listed;
        self.listed = listed;
        news
    }
}

impl Records {
    /// Records that leave out what verifications found.
    pub fn without_harm() -> Self {
        Self { ignores_harm: true, ..Self::default() }
    }

    /// The same, heeding what verifications found.
    #[must_use]
    pub fn with_harm(self) -> Self {
        Self { ignores_harm: false, ..self }
    }

    /// Read what `listing` names and is not known yet, and forget what it no longer names. What was damaged is read
    /// again: another key may be at hand by now.
    pub async fn read(&mut self, repository: &Repository, listing: &Listing) -> Result<()> {
        let mut manifests = BTreeMap::new();
        let mut histories = BTreeMap::new();
        let mut wanted = Vec::new();
        for listed in &listing.objects {
            match &listed.key {
                ObjectKey::Manifest(id) => match self.manifests.remove(id) {
                    Some(Ok(manifest)) => drop(manifests.insert(id.clone(), Ok(manifest))),
                    _ => wanted.push(id.clone()),
                },
                ObjectKey::Wal(WalName::History(timeline), digest) => {
                    let known = self.histories.remove(&(*timeline, *digest));
                    let history = match (known, listed.wal_file()) {
                        (Some(Ok(history)), _) => Ok(history),
                        (_, Some(file)) => match read_history(repository, *timeline, &file).await {
                            Err(error) if !is_damage(&error) => return Err(error),
                            result => result,
                        },
                        (_, None) => continue,
                    };
                    histories.insert((*timeline, *digest), history);
                }
                _ => {}
            }
        }
        let requests = wanted.into_iter().map(|id| async {
            let manifest = repository.get_manifest(&id).await;
            (id, manifest)
        });
        let mut read = stream::iter(requests).buffered(CONCURRENT);
        while let Some((id, manifest)) = read.next().await {
            match manifest {
                Ok(manifest) => drop(manifests.insert(id, Ok(Arc::new(manifest)))),
                // It was deleted after it was listed.
                Err(error) if error.kind() == Kind::Impossible => {}
                Err(error) if is_damage(&error) => drop(manifests.insert(id, Err(error))),
                Err(error) => return Err(error),
            }
        }
        (self.manifests, self.histories) = (manifests, histories);
        self.read_holds(repository, listing).await
    }
}

impl Records {
    async fn read_holds(&mut self, repository: &Repository, listing: &Listing) -> Result<()> {
        if self.holds.is_news(listing, |key| matches!(key, ObjectKey::Hold(_))) {
            let holds = repository.holds(listing).await;
            // Asked again the next time.
            self.holds.value = holds.inspect_err(|_| self.holds.listed.clear())?;
        }
        if self.expiry.is_news(listing, |key| *key == ObjectKey::Expiry) {
            let expiry = repository.get_expiry().await;
            self.expiry.value = expiry.inspect_err(|_| self.expiry.listed.clear())?;
        }
        if self.attempt.is_news(listing, |key| *key == ObjectKey::Attempt) {
            let attempt = repository.get_attempt().await;
            self.attempt.value = attempt.inspect_err(|_| self.attempt.listed.clear())?;
        }
        let is_harm = |key: &ObjectKey| *key == ObjectKey::Verify(VerifyRecord::Harm);
        if !self.ignores_harm && self.harm.is_news(listing, is_harm) {
            let harm = repository.get_harm().await.or_else(without_key);
            self.harm.value = harm.inspect_err(|_| self.harm.listed.clear())?;
        }
        Ok(())
    }
}

/// Where the damage that is known cannot be read for want of its key, that alone must not stand in the way of a restore.
fn without_key(error: Error) -> Result<Vec<Harm>> {
    if error.kind() != Kind::KeyMissing {
        return Err(error);
    }
    tracing::warn!(%error, "damage that verifications found is not known here");
    Ok(Vec::new())
}

async fn read_history(repository: &Repository, timeline: TimelineId, file: &WalFile) -> Result<History> {
    History::parse(timeline, &repository.read_wal(file).await?.1)
}

/// The backups that verifications found harmed, as far as that still holds, with what is wrong. Only where there is harm
/// does that cost a listing.
pub async fn harmed_backups(repository: &Repository) -> Result<Vec<(BackupId, Error)>> {
    let harm = repository.get_harm().await?;
    if harm.iter().all(|harm| harm.backups.is_empty()) {
        return Ok(Vec::new());
    }
    let listing = repository.list().await?;
    let stands = harm.iter().filter(|harm| listing.has_still(harm));
    let of = |harm: &Harm| {
        let why = |id: &BackupId| harm.error().context(format!("backup {id} cannot be restored"));
        harm.backups.iter().map(|id| (id.clone(), why(id))).collect::<Vec<_>>()
    };
    Ok(stands.flat_map(of).collect())
}

/// Whether an object is to blame, and not the way to it. Kind Server: WAL of another cluster.
pub(crate) const fn is_damage(error: &Error) -> bool {
    error.kind().is_unreadable() || matches!(error.kind(), Kind::Conflict | Kind::NotFound | Kind::Server)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::repository::Listed;

    #[test]
    fn what_is_put_twice_within_a_second_is_read_twice() {
        let modified = Timestamp::UNIX_EPOCH;
        let listing = |size| Listing {
            objects: vec![Listed { key: ObjectKey::Expiry, size, modified }],
            ..Listing::default()
        };
        let mut known = Known::<ExpiryRecord>::default();
        let is_expiry = |key: &ObjectKey| *key == ObjectKey::Expiry;
        assert!(known.is_news(&listing(209), is_expiry));
        assert!(!known.is_news(&listing(209), is_expiry));
        assert!(known.is_news(&listing(350), is_expiry));
    }
}
