//! Changing the master key: what can be sealed anew is, and of the rest it is told how long it needs older keys.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use jiff::Timestamp;
use zeroize::Zeroizing;

use super::listing::{Listed, Listing, WalFile};
use super::namespace::Repository;
use crate::error::{Error, Kind, Result, ResultExt};
use crate::format::{BackupId, Inspect, ObjectKey, Summary, layout, seal_wal};
use crate::postgres::WalName;
use crate::seal::{Context, HEADER_LEN, Header, KeyId, ObjectKind, open_object, seal_object};

/// Headers that are fetched at a time.
const CONCURRENT_HEADERS: usize = 32;

/// What a rotation did, and what it cannot do.
#[derive(Debug)]
pub struct Rotation {
    /// The key that seals, first in the key file.
    pub key: KeyId,
    /// The key that the identity was sealed with before; `None` if it was this one already.
    pub identity_before: Option<KeyId>,
    /// Histories that were sealed anew.
    pub histories: u64,
    /// Other keys that something still needs.
    pub older: Vec<OlderKey>,
}

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
    /// The newest WAL that needs it.
    pub newest_wal: Option<WalName>,
    /// From when on nothing in the retention window needs it; `None` while there is no good backup without it.
    pub needed_until: Option<Timestamp>,
}

/// A backup, and all keys that restoring it takes.
struct BackupKeys {
    id: BackupId,
    began: Timestamp,
    ended: Timestamp,
    /// It can be restored, and no page of it is damaged.
    is_good: bool,
    keys: BTreeSet<KeyId>,
}

impl Repository {
    /// Seal under the first key what lasts longer than the retention window: the identity, and the histories. Killed
    /// anywhere, each of them is sealed with the one key or the other. `window` is that of the retention.
    pub async fn rotate(&self, window: Duration) -> Result<Rotation> {
        let Some(key) = self.keys().sealing().map(crate::seal::MasterKey::id) else {
            return Err(Error::usage("the repository is not encrypted: there is no key to rotate"));
        };
        let identity_before = self.seal_identity_anew(key).await?;
        let listing = self.list().await?;
        let files = listing.objects.iter().filter_map(Listed::wal_file);
        let (histories, wal): (Vec<_>, Vec<_>) =
            files.partition(|file| matches!(file.name, WalName::History(_)));
        let mut sealed_anew = 0;
        for file in histories {
            match self.seal_history_anew(key, &file).await {
                Ok(is_anew) => sealed_anew += u64::from(is_anew),
                Err(error) if error.kind() == Kind::Corrupt => {
                    tracing::warn!(%error, "a history cannot be sealed anew");
                }
                Err(error) => return Err(error),
            }
        }
        let backups = self.backup_keys(&listing).await?;
        let newest_wal = self.newest_wal_of_older_keys(key, wal).await?;
        Ok(Rotation {
            key,
            identity_before,
            histories: sealed_anew,
            older: self.older_keys(key, &backups, &newest_wal, window),
        })
    }

    async fn seal_identity_anew(&self, key: KeyId) -> Result<Option<KeyId>> {
        let before = Header::parse(self.sealed_identity())?.key_id;
        if before == key {
            return Ok(None);
        }
        let context = Context { kind: ObjectKind::Identity, identity: self.name(), name: layout::IDENTITY };
        // The plaintext as it is: a newer version may have put fields there that this one does not know.
        let plain = Zeroizing::new(open_object(self.keys(), context, self.sealed_identity())?);
        self.check_still_there().await?;
        let sealed = seal_object(self.keys(), context, self.level(), &plain)?;
        self.store()
            .put(&self.key(layout::IDENTITY), vec![Bytes::from(sealed)])
            .await
            .context("seal the identity")?;
        let now = self.namespace().open(self.identity().system_identifier).await?;
        if now.identity() != self.identity() {
            return Err(Error::corrupt("the identity was changed while it was sealed anew"));
        }
        Ok(Some(before))
    }

    /// Whether it was sealed with another key. The same content goes to the same key.
    async fn seal_history_anew(&self, key: KeyId, file: &WalFile) -> Result<bool> {
        if self.wal_key_id(file).await? == Some(key) {
            return Ok(false);
        }
        let (summary, plain) = self.read_wal(file).await?;
        let (source, len) = (plain.as_slice(), plain.len() as u64);
        let level = (self.level(), 1);
        let sealed = seal_wal(self.keys(), self.name(), &file.name, level, &source, len, Known(summary))?;
        self.put_wal(&file.name, file.digest, sealed).await?;
        Ok(true)
    }

    async fn backup_keys(&self, listing: &Listing) -> Result<Vec<BackupKeys>> {
        let ids = listing.objects.iter().filter_map(|listed| match &listed.key {
            ObjectKey::Manifest(id) => Some(id.clone()),
            _ => None,
        });
        let requests = ids.map(|id| self.keys_of_backup(id));
        let found: Vec<Option<BackupKeys>> =
            stream::iter(requests).buffered(CONCURRENT_HEADERS).try_collect().await?;
        let mut found: Vec<BackupKeys> = found.into_iter().flatten().collect();
        found.sort_by_key(|backup| backup.ended);
        Ok(found)
    }

    /// `None` if it was deleted meanwhile. Of a manifest that does not open the header still tells the key.
    async fn keys_of_backup(&self, id: BackupId) -> Result<Option<BackupKeys>> {
        let header = self.key_id(&layout::manifest_key(&id)).await?;
        let mut keys: BTreeSet<KeyId> = header.into_iter().collect();
        match self.get_manifest(&id).await {
            Ok(manifest) => {
                keys.extend(manifest.packs.iter().flat_map(|packs| &packs.key_ids));
                let (began, ended) = (manifest.started_at.timestamp(), manifest.finished_at.timestamp());
                let is_good = manifest.page_errors.is_empty();
                Ok(Some(BackupKeys { id, began, ended, is_good, keys }))
            }
            Err(error) if error.kind() == Kind::Impossible => Ok(None),
            Err(error) if error.kind() == Kind::Corrupt => {
                tracing::warn!(%error, "a backup cannot be opened");
                let began = id.began().unwrap_or(Timestamp::MIN);
                Ok(Some(BackupKeys { id, began, ended: began, is_good: false, keys }))
            }
            Err(error) => Err(error),
        }
    }

    /// The newest WAL that each other key sealed. Reads headers from the newest file back, until every other key at
    /// hand was met: what is older than that does not matter.
    async fn newest_wal_of_older_keys(
        &self,
        key: KeyId,
        mut files: Vec<WalFile>,
    ) -> Result<BTreeMap<KeyId, WalFile>> {
        files.sort_by_key(|file| std::cmp::Reverse((file.modified, file.name.to_string())));
        let mut not_met: BTreeSet<KeyId> = self.keys().all().filter(|other| *other != key).collect();
        let stops_early = !not_met.is_empty();
        let mut newest = BTreeMap::new();
        let requests = files.into_iter().map(|file| async {
            let key = self.wal_key_id(&file).await;
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

    fn older_keys(
        &self,
        key: KeyId,
        backups: &[BackupKeys],
        newest_wal: &BTreeMap<KeyId, WalFile>,
        window: Duration,
    ) -> Vec<OlderKey> {
        let of_backups = backups.iter().flat_map(|backup| &backup.keys);
        let mut keys: BTreeSet<KeyId> = of_backups.chain(newest_wal.keys()).copied().collect();
        keys.remove(&key);
        let older = keys.into_iter().map(|key| {
            let needing = || backups.iter().filter(|backup| backup.keys.contains(&key));
            let wal = newest_wal.get(&key);
            OlderKey {
                key,
                at_hand: self.keys().all().any(|known| known == key),
                backups: needing().count() as u64,
                newest_backup: needing().next_back().map(|backup| backup.id.clone()),
                newest_wal: wal.map(|file| file.name),
                needed_until: needed_until(key, backups, wal.map(|file| file.modified), window),
            }
        });
        older.collect()
    }

    async fn wal_key_id(&self, file: &WalFile) -> Result<Option<KeyId>> {
        self.key_id(&layout::wal_key(&file.name, file.digest)).await
    }

    /// The key in the header of an object; `None` if that was deleted meanwhile, is damaged, or not encrypted.
    async fn key_id(&self, relative: &str) -> Result<Option<KeyId>> {
        let bytes = match self.store().get_range(&self.key(relative), 0..HEADER_LEN as u64).await {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == Kind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        match Header::parse(&bytes) {
            Ok(header) => Ok(Some(header.key_id).filter(|key| *key != KeyId::NONE)),
            Err(error) => {
                tracing::warn!(%error, key = relative, "an object is left out");
                Ok(None)
            }
        }
    }
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

/// The summary of content that was inspected when it was first sealed.
struct Known(Summary);

impl Inspect for Known {
    fn feed(&mut self, _: &[u8]) -> Result<()> {
        Ok(())
    }

    fn finish(self, _: u64) -> Result<Summary> {
        Ok(self.0)
    }
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
        BackupKeys { id, began: at(second), ended: at(second + 10), is_good: true, keys }
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
}
