//! What still needs an older key, and until when: told from headers and manifests.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures_util::{StreamExt, TryStreamExt, stream};
use jiff::Timestamp;

use crate::error::{Kind, Result};
use crate::format::{BackupId, ObjectKey};
use crate::postgres::WalName;
use crate::repository::{Listing, Repository, WalFile};
use crate::seal::{Header, KeyId};

/// Headers that are fetched at a time.
const CONCURRENT_HEADERS: usize = 32;

/// A key that seals no longer, and what was sealed with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OlderKey {
    /// Which one.
    pub key: KeyId,
    /// Whether it is in the key file.
    pub at_hand: bool,
    /// Backups that need it.
    pub backups: u64,
    /// The newest of them.
    pub newest_backup: Option<BackupId>,
    /// Of them, those that are held: they need it for as long.
    pub held: Vec<BackupId>,
    /// The newest WAL that needs it.
    pub newest_wal: Option<WalName>,
    /// Holds, reports and other records that could not be sealed anew.
    pub records: u64,
    /// From when on nothing in the retention window needs it. `None` while there is no good backup without it, while
    /// a held backup needs it, or a record does.
    pub needed_until: Option<Timestamp>,
}

/// What older keys sealed.
#[derive(Debug, Default)]
pub(super) struct Sealed {
    /// In the order of their end.
    backups: Vec<BackupKeys>,
    newest_wal: BTreeMap<KeyId, WalFile>,
    records: BTreeMap<KeyId, u64>,
}

/// A backup, and all keys that restoring it takes.
#[derive(Debug)]
struct BackupKeys {
    id: BackupId,
    began: Timestamp,
    ended: Timestamp,
    /// It can be restored, and no page of it is damaged.
    is_good: bool,
    is_held: bool,
    keys: BTreeSet<KeyId>,
}

impl Sealed {
    /// Look at what `listing` shows. `records`: what is sealed anew by now, or could not be.
    pub(super) async fn of(
        repository: &Repository,
        listing: &Listing,
        key: KeyId,
        wal: Vec<WalFile>,
        records: &[ObjectKey],
    ) -> Result<Self> {
        let mut sealed = Self {
            backups: backup_keys(repository, listing).await?,
            newest_wal: newest_wal_of_older_keys(repository, key, wal).await?,
            records: BTreeMap::new(),
        };
        for record in records {
            if let Some(other) = key_id(repository, record).await?.filter(|other| *other != key) {
                *sealed.records.entry(other).or_default() += 1;
            }
        }
        Ok(sealed)
    }

    /// The keys beside `key` that something needs.
    pub(super) fn older_keys(&self, repository: &Repository, key: KeyId, window: Duration) -> Vec<OlderKey> {
        let of_backups = self.backups.iter().flat_map(|backup| &backup.keys);
        let others = self.newest_wal.keys().chain(self.records.keys());
        let mut keys: BTreeSet<KeyId> = of_backups.chain(others).copied().collect();
        keys.remove(&key);
        let older = keys.into_iter().map(|key| {
            let needing = || self.backups.iter().filter(|backup| backup.keys.contains(&key));
            let wal = self.newest_wal.get(&key);
            let held = held(key, &self.backups, wal.map(|file| file.modified));
            let records = self.records.get(&key).copied().unwrap_or_default();
            let until = needed_until(key, &self.backups, wal.map(|file| file.modified), window);
            OlderKey {
                key,
                at_hand: repository.keys().all().any(|known| known == key),
                backups: needing().count() as u64,
                newest_backup: needing().next_back().map(|backup| backup.id.clone()),
                newest_wal: wal.map(|file| file.name),
                records,
                needed_until: until.filter(|_| held.is_empty() && records == 0),
                held,
            }
        });
        older.collect()
    }
}

async fn backup_keys(repository: &Repository, listing: &Listing) -> Result<Vec<BackupKeys>> {
    let ids = listing.objects.iter().filter_map(|listed| match &listed.key {
        ObjectKey::Manifest(id) => Some(id.clone()),
        _ => None,
    });
    let requests = ids.map(|id| keys_of_backup(repository, id));
    let found: Vec<Option<BackupKeys>> =
        stream::iter(requests).buffered(CONCURRENT_HEADERS).try_collect().await?;
    let mut found: Vec<BackupKeys> = found.into_iter().flatten().collect();
    for backup in &mut found {
        backup.is_held = listing.get(&ObjectKey::Hold(backup.id.clone())).is_some();
    }
    found.sort_by_key(|backup| backup.ended);
    Ok(found)
}

/// `None` if it was deleted meanwhile. Of a manifest that does not open the header still tells the key.
async fn keys_of_backup(repository: &Repository, id: BackupId) -> Result<Option<BackupKeys>> {
    let header = key_id(repository, &ObjectKey::Manifest(id.clone())).await?;
    let mut keys: BTreeSet<KeyId> = header.into_iter().collect();
    match repository.get_manifest(&id).await {
        Ok(manifest) => {
            keys.extend(manifest.packs.iter().flat_map(|packs| &packs.key_ids));
            let (began, ended) = (manifest.started_at.timestamp(), manifest.finished_at.timestamp());
            let is_good = manifest.page_errors.is_empty();
            Ok(Some(BackupKeys { id, began, ended, is_good, is_held: false, keys }))
        }
        Err(error) if error.kind() == Kind::Impossible => Ok(None),
        Err(error) if error.kind().is_unreadable() => {
            tracing::warn!(%error, "a backup cannot be opened");
            let began = id.began().unwrap_or(Timestamp::MIN);
            Ok(Some(BackupKeys { id, began, ended: began, is_good: false, is_held: false, keys }))
        }
        Err(error) => Err(error),
    }
}

/// The newest WAL that each other key sealed. Reads headers from the newest file back, until every other key at hand was
/// met: what is older than that does not matter.
async fn newest_wal_of_older_keys(
    repository: &Repository,
    key: KeyId,
    mut files: Vec<WalFile>,
) -> Result<BTreeMap<KeyId, WalFile>> {
    files.sort_by_key(|file| std::cmp::Reverse((file.modified, file.name.to_string())));
    let mut not_met: BTreeSet<KeyId> = repository.keys().all().filter(|other| *other != key).collect();
    let stops_early = !not_met.is_empty();
    let mut newest = BTreeMap::new();
    let requests = files.into_iter().map(|file| async {
        let key = key_id(repository, &ObjectKey::Wal(file.name, file.digest)).await;
        key.map(|key| (key, file))
    });
    let mut headers = stream::iter(requests).buffered(CONCURRENT_HEADERS);
    while let Some((found, file)) = headers.try_next().await? {
        let Some(found) = found.filter(|found| *found != key) else { continue };
        newest.entry(found).or_insert(file);
        not_met.remove(&found);
        if stops_early && not_met.is_empty() {
            break;
        }
    }
    Ok(newest)
}

/// The key in the header of an object; `None` if that was deleted meanwhile, is damaged, or not encrypted.
pub(super) async fn key_id(repository: &Repository, key: &ObjectKey) -> Result<Option<KeyId>> {
    let Some(bytes) = repository.get_header(key).await? else { return Ok(None) };
    match Header::parse(&bytes) {
        Ok(header) => Ok(Some(header.key_id).filter(|key| *key != KeyId::NONE)),
        Err(error) => {
            tracing::warn!(%error, %key, "an object is left out");
            Ok(None)
        }
    }
}

/// The held backups that need `key`, for themselves or for WAL from their beginning on.
fn held(key: KeyId, backups: &[BackupKeys], newest_wal: Option<Timestamp>) -> Vec<BackupId> {
    let needs = |backup: &&BackupKeys| {
        backup.keys.contains(&key) || newest_wal.is_some_and(|stored| stored >= backup.began)
    };
    let held = backups.iter().filter(|backup| backup.is_held).filter(needs);
    held.map(|backup| backup.id.clone()).collect()
}

/// From when on nothing in the window needs `key`: when a good backup has left it that needs the key no more, nor does
/// any after it, nor WAL from its beginning on. `backups` are in the order of their end.
fn needed_until(
    key: KeyId,
    backups: &[BackupKeys],
    newest_wal: Option<Timestamp>,
    window: Duration,
) -> Option<Timestamp> {
    let free = backups.iter().rev().take_while(|backup| !backup.keys.contains(&key));
    let free = free.take_while(|backup| newest_wal.is_none_or(|stored| stored < backup.began));
    let first = free.filter(|backup| backup.is_good).last()?;
    first.ended.checked_add(window).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: KeyId = KeyId::from_bytes([1; 8]);
    const NEW: KeyId = KeyId::from_bytes([2; 8]);
    const WINDOW: Duration = Duration::from_secs(1000);

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    /// A backup from `second` on, ten seconds long.
    fn backup(second: i64, keys: &[KeyId]) -> BackupKeys {
        let id = "20261122T130000Z-00000001".parse().unwrap();
        let keys = keys.iter().copied().collect();
        BackupKeys { id, began: at(second), ended: at(second + 10), is_good: true, is_held: false, keys }
    }

    #[test]
    fn a_key_is_needed_until_a_backup_without_it_has_left_the_window() {
        let until = |backups: &[BackupKeys], wal: Option<i64>| {
            needed_until(OLD, backups, wal.map(at), WINDOW).map(Timestamp::as_second)
        };
        assert_eq!(until(&[], Some(5)), None);
        assert_eq!(until(&[backup(100, &[OLD])], None), None);
        let mut backups =
            vec![backup(100, &[OLD]), backup(200, &[NEW]), backup(300, &[OLD, NEW]), backup(400, &[NEW])];
        assert_eq!(until(&backups, Some(50)), Some(1410), "an incremental one needs old packs");
        assert_eq!(until(&backups, Some(405)), None, "the old key still sealed WAL");
        backups.push(backup(500, &[NEW]));
        assert_eq!(until(&backups, Some(50)), Some(1410));
        assert_eq!(until(&backups, Some(405)), Some(1510));
        backups[3].is_good = false;
        assert_eq!(until(&backups, Some(50)), Some(1510), "a damaged one does not count");
    }

    #[test]
    fn a_held_backup_needs_its_key_for_as_long_as_it_is_held() {
        let mut backups = vec![backup(100, &[OLD]), backup(200, &[NEW])];
        let held = |backups: &[BackupKeys], wal: Option<i64>| held(OLD, backups, wal.map(at)).len();
        assert_eq!(held(&backups, Some(50)), 0);
        backups[0].is_held = true;
        assert_eq!(held(&backups, Some(50)), 1);
        (backups[0].is_held, backups[1].is_held) = (false, true);
        assert_eq!(held(&backups, Some(50)), 0);
        assert_eq!(held(&backups, Some(205)), 1, "WAL that it needs was sealed with the old key");
    }
}
