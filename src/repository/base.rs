//! The base: the backup whose extents a new one may reuse. It is found before the lease is taken, which then protects it,
//! and looked at again under the lease: an expiry looks at the leases before it lists, so what is there then stays there.

use std::collections::{HashMap, HashSet};
use std::ops::ControlFlow;

use futures_util::{StreamExt, TryStreamExt, stream};

use super::namespace::Repository;
use crate::error::{Error, Kind, Result, ResultExt};
use crate::format::{
    BackupId, Harm, Manifest, ObjectKey, PackList, PackName, PackRef, PackSizes, PackUse, layout,
};
use crate::seal::{Cipher, Header, MasterKey};
use crate::store::Object;

/// Listings under way at a time.
const LISTINGS: usize = 8;

/// What may be reused, before a lease protects it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Found {
    /// The newest backup that suits.
    pub backup: Option<BackupId>,
    /// Later ones that were interrupted: what they stored need not be stored again.
    pub unfinished: Vec<BackupId>,
}

impl Found {
    /// All of them, for a lease to protect.
    pub fn backups(&self) -> impl Iterator<Item = &BackupId> {
        self.backup.iter().chain(&self.unfinished)
    }
}

/// What may be reused.
#[derive(Debug, Clone, Default)]
pub struct Base {
    /// The base itself, if it is still there and can be read.
    pub manifest: Option<Manifest>,
    /// Which parts of whose file table to read, first those of an interrupted backup.
    parts: Vec<(BackupId, u32)>,
    /// The packs that are there, as long as they should be, and worth to be kept; with their bytes.
    packs: PackSizes,
    /// What verifications found damaged: it would harm the new backup as well.
    harmed: HashSet<ObjectKey>,
}

impl Repository {
    /// Find what a new backup may reuse: the newest backup that `suits`, and what was interrupted since.
    pub async fn find_base(&self, suits: impl Fn(&Manifest) -> bool) -> Result<Found> {
        let finished = self.list_backup_ids().await?;
        let mut found = Found::default();
        for id in finished.iter().rev() {
            match self.get_manifest(id).await {
                Ok(manifest) if suits(&manifest) => {
                    found.backup = Some(id.clone());
                    break;
                }
                Err(error) if error.kind() != Kind::Impossible && !error.kind().is_unreadable() => {
                    return Err(error);
                }
                // It suits not, or is damaged, or was deleted meanwhile.
                _ => {}
            }
        }
        let tables = self.store().list_directories(&self.key(layout::TABLES)).await;
        let begun = tables.context("look for interrupted backups")?;
        let begun = begun.iter().filter_map(|name| name.parse().ok());
        found.unfinished =
            begun.filter(|id| Some(id) > found.backup.as_ref() && !finished.contains(id)).collect();
        Ok(found)
    }

    /// What of `found` is there, now that a lease protects it.
    pub async fn confirm_base(&self, found: &Found) -> Result<Base> {
        let harmed: HashSet<_> = self.get_harm().await?.iter().filter_map(Harm::key).collect();
        let mut base = Base { harmed: harmed.clone(), ..Base::default() };
        if let Some(id) = &found.backup {
            match self.confirm_backup(id, &mut base).await {
                Ok(()) => {}
                Err(error)
                    if matches!(error.kind(), Kind::NotFound | Kind::Impossible)
                        || error.kind().is_unreadable() =>
                {
                    tracing::warn!(%error, "nothing from backup {id} is reused");
                    base = Base { harmed, ..Base::default() };
                }
                Err(error) => return Err(error),
            }
        }
        let mut most = Vec::new();
        for id in &found.unfinished {
            base.packs.append(self.pack_sizes(id).await?);
            let parts = self.stored_parts(id).await?;
            if parts.len() > most.len() {
                most = parts;
            }
        }
        base.parts.splice(0..0, most);
        Ok(base)
    }

    async fn confirm_backup(&self, id: &BackupId, base: &mut Base) -> Result<()> {
        let manifest = self.get_manifest(id).await?;
        let list = self.get_pack_list(id).await?;
        let worth = list.worth_keeping();
        let mut missing = 0;
        for (packs, there) in self.stored_of(&list).await? {
            for pack in packs {
                if there.get(&pack.name) != Some(pack.bytes)
                    || base.harmed.contains(&ObjectKey::Pack(pack.name.clone()))
                {
                    missing += 1;
                } else if worth(pack) {
                    base.packs.push(&pack.name, pack.bytes);
                }
            }
        }
        if missing > 0 {
            tracing::warn!(
                "{missing} packs of backup {id} are missing or damaged: what they hold is stored anew"
            );
        }
        let numbers = 0..u32::try_from(manifest.parts.len()).unwrap_or(u32::MAX);
        base.parts.extend(numbers.map(|number| (id.clone(), number)));
        base.manifest = Some(manifest);
        Ok(())
    }

    /// See that the packs of other backups are there and sound that a backup is about to name: a delete of someone who had lost
    /// its lease may have come late, and a verification may have found damage since. What was known before is not reused.
    pub(super) async fn check_reused(&self, manifest: &Manifest) -> Result<()> {
        if manifest.packs.iter().all(|packs| packs.backup == manifest.id) {
            return Ok(());
        }
        let list = self.get_pack_list(&manifest.id).await?;
        for (packs, there) in self.stored_of(&list).await? {
            for pack in packs {
                let key = ObjectKey::Pack(pack.name.clone());
                if there.get(&pack.name) != Some(pack.bytes) {
                    return Err(Error::corrupt(format!("{key}, which the backup reuses, was deleted meanwhile"))
                        .hint("was an expiry suspended, or does something else delete objects? run `walproof backup-push` again: it stores anew what is gone"));
                }
            }
        }
        self.check_unharmed(manifest).await
    }

    /// See that no verification found damage in a pack that a backup names. Before its manifest is there a verification does
    /// not know who needs the pack, and behind that this knows of everything that was found before.
    pub(super) async fn check_unharmed(&self, manifest: &Manifest) -> Result<()> {
        let found = self.get_harm().await?;
        let harmed: HashMap<_, _> = found.iter().filter_map(|harm| Some((harm.key()?, harm))).collect();
        if harmed.is_empty() {
            return Ok(());
        }
        let list = self.get_pack_list(&manifest.id).await?;
        let mut packs = list.0.iter().map(|pack| ObjectKey::Pack(pack.name.clone()));
        let Some(Harm { object, why, .. }) = packs.find_map(|key| harmed.get(&key)) else { return Ok(()) };
        let text =
            format!("a verification found meanwhile that what the backup reuses is damaged: {object}: {why}");
        Err(Error::corrupt(text).hint("run it again: what is damaged is stored anew"))
    }

    /// The packs of a list by the backups that wrote them, with all that is there of each.
    async fn stored_of<'a>(&self, list: &'a PackList) -> Result<Vec<(&'a [PackUse], PackSizes)>> {
        let of_backups = list.0.chunk_by(|a, b| a.name.backup == b.name.backup);
        let look =
            |packs: &'a [PackUse]| async move { Ok((packs, self.pack_sizes(&packs[0].name.backup).await?)) };
        stream::iter(of_backups).map(look).buffered(LISTINGS).try_collect().await
    }

    /// The packs that the backup `id` wrote, with their bytes.
    async fn pack_sizes(&self, id: &BackupId) -> Result<PackSizes> {
        let mut sizes = PackSizes::default();
        let key = |object: &Object| self.relative(&object.key)?.parse().ok();
        let see = |page: Vec<Object>| {
            sizes.add(page.iter().map(|object| (key(object), object.size)));
            ControlFlow::Continue(())
        };
        let listed = self.store().list_pages(&self.key(&layout::packs_of(id)), None, see).await;
        listed.context("list packs")?;
        Ok(sizes.sorted())
    }

    /// The parts of the file table that an interrupted backup stored: from the first one on, without a gap.
    async fn stored_parts(&self, id: &BackupId) -> Result<Vec<(BackupId, u32)>> {
        let objects = self.store().list(&self.key(&layout::tables_of(id))).await;
        let listing = self.parse_listing(objects.context("list the parts of an interrupted backup")?);
        let keys = listing.objects.into_iter().map(|listed| listed.key);
        let numbers = (0..).zip(keys.filter(|key| matches!(key, ObjectKey::FileTable(..))));
        let dense = numbers.take_while(|(at, key)| *key == ObjectKey::FileTable(id.clone(), *at));
        Ok(dense.map(|(number, _)| (id.clone(), number)).collect())
    }
}

impl Base {
    /// Whose file tables to read, in order; what a later one says of a path that an earlier one has passed is older.
    pub fn parts(&self) -> impl Iterator<Item = (BackupId, u32)> + use<'_> {
        self.parts.iter().cloned()
    }

    /// Whether there is nothing to reuse.
    pub const fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    /// Whether extents of this pack may be reused. Of a pack that is sealed with another key than new ones nothing is,
    /// so that the rotation of a key ends.
    pub fn may_reuse(&self, repository: &Repository, pack: &PackRef) -> bool {
        let sealing = repository.keys().sealing().map(MasterKey::id);
        let is_ours = |header: Header| (header.cipher != Cipher::None).then_some(header.key_id) == sealing;
        self.packs.get(&pack.name).is_some()
            && !self.harmed.contains(&ObjectKey::Pack(pack.name.clone()))
            && Header::parse(&pack.header).is_ok_and(is_ours)
    }

    /// Bytes of a pack that may be reused.
    pub fn pack_bytes(&self, name: &PackName) -> Option<u64> {
        self.packs.get(name).map(u64::from)
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixture::memory;
    use super::*;
    use crate::format::{FramePlace, PackWriter};

    #[tokio::test]
    async fn a_damaged_pack_is_not_reused_though_no_backup_counts_on_it() {
        let (_, repository) = memory().await;
        let id: BackupId = "20261122T130000Z-00000001".parse().unwrap();
        let name = PackName { backup: id.clone(), number: 0 };
        let writer = PackWriter::new(repository.keys(), repository.name(), name.clone(), 8192, Vec::new());
        let pack =
            PackRef { name: name.clone(), header: writer.unwrap().header(), digests: FramePlace::default() };
        let object = ObjectKey::Pack(name).to_string();
        repository.store().put(&repository.key(&object), vec!["pack".into()]).await.unwrap();
        let interrupted = Found { backup: None, unfinished: vec![id] };
        let may_reuse =
            async || repository.confirm_base(&interrupted).await.unwrap().may_reuse(&repository, &pack);
        assert!(may_reuse().await);
        let harm = Harm { object, state: None, why: "a frame is damaged".into(), backups: Vec::new() };
        repository.put_harm(&[harm]).await.unwrap();
        assert!(!may_reuse().await);
    }
}
