//! Backups in the repository: packs, file tables, manifests.

use std::ops::Range;

use bytes::Bytes;
use futures_util::{StreamExt, stream};

use super::namespace::Repository;
use crate::error::{Error, Kind, Result, ResultExt};
use crate::format::{
    BackupId, FileTable, Manifest, ObjectKey, PackList, PackName, PartRecord, SealedPack, layout,
};
use crate::seal::{Context, ObjectKind, Sealer, fill_random};
use crate::store::Object;

/// Manifests that are fetched at a time.
const CONCURRENT_MANIFESTS: usize = 8;
const OTHERS: &str = "other backups are not affected; a new one (`walproof backup-push`) takes its place";

/// What a repository holds of backups.
#[derive(Debug, Default)]
pub struct Backups {
    /// Finished backups, oldest first.
    pub usable: Vec<Manifest>,
    /// Those whose manifest is damaged, forged, or sealed with a key that is not at hand.
    pub damaged: Vec<DamagedBackup>,
}

/// A backup that cannot be restored: nobody can tell what it holds. It does not stand in the way of the others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DamagedBackup {
    /// By its place in the repository.
    pub id: BackupId,
    /// What is wrong with it.
    pub error: Error,
}

impl Repository {
    /// Put a finished pack; its buffer comes back to be filled again, which spares the system clearing fresh memory.
    pub async fn put_pack(&self, pack: SealedPack) -> Result<Vec<u8>> {
        let bytes = Bytes::from(pack.bytes);
        self.store().put_cold(&self.key(&layout::pack_key(&pack.name)), vec![bytes.clone()]).await?;
        Ok(bytes.into())
    }

    /// A range of a pack's bytes. A pack that is not there means a damaged repository.
    pub async fn get_pack_range(&self, name: &PackName, range: Range<u64>) -> Result<Bytes> {
        self.store().get_range(&self.key(&layout::pack_key(name)), range).await
    }

    /// Put part `number` of the file table of `id`.
    pub async fn put_file_table(&self, id: &BackupId, number: u32, table: &FileTable) -> Result<PartRecord> {
        let table_bytes = self
            .put_sealed(ObjectKind::FileTable, &layout::file_table_key(id, number), &table.to_bytes()?)
            .await?;
        Ok(PartRecord {
            files: table.files.len() as u64,
            bytes: table.files.iter().map(|file| file.size).sum(),
            table_bytes,
        })
    }

    /// Put the pack list of `id`; bytes stored.
    pub async fn put_pack_list(&self, id: &BackupId, packs: &PackList) -> Result<u64> {
        self.put_sealed(ObjectKind::PackList, &layout::pack_list_key(id), &packs.to_bytes()).await
    }

    /// The packs that the backup `id` needs.
    pub async fn get_pack_list(&self, id: &BackupId) -> Result<PackList> {
        let plain = self.get_sealed(ObjectKind::PackList, &layout::pack_list_key(id)).await;
        PackList::parse(&plain.with_context(|| format!("read the pack list of backup {id}"))?)
    }

    /// Part `number` of the file table of `id`, without digests.
    pub async fn get_file_table(&self, id: &BackupId, number: u32) -> Result<FileTable> {
        let plain = self.get_sealed(ObjectKind::FileTable, &layout::file_table_key(id, number)).await;
        FileTable::parse(&plain.with_context(|| format!("read the file table of backup {id}"))?)
    }

    /// Put the manifest: the backup exists from here on. The commit point of a backup.
    pub async fn put_manifest(&self, manifest: &Manifest) -> Result<()> {
        let key = layout::manifest_key(&manifest.id);
        self.put_sealed(ObjectKind::Manifest, &key, &manifest.to_bytes()?).await.map(|_| ())
    }

    /// See that a backup that was listed is still there, for who has just taken the lease that keeps it: an expiry that had
    /// begun before may have been faster. Any other failure says nothing about the backup.
    pub async fn still_has(&self, id: &BackupId) -> Result<()> {
        match self.is_there(&ObjectKey::Manifest(id.clone())).await {
            Ok(false) => Err(Error::impossible(format!("backup {id} was deleted a moment ago")).hint(
                "did it expire? run the command again: the next backup that serves the target is chosen",
            )),
            Ok(true) | Err(_) => Ok(()),
        }
    }

    /// The manifest of the backup `id`.
    pub async fn get_manifest(&self, id: &BackupId) -> Result<Manifest> {
        let plain =
            self.get_sealed(ObjectKind::Manifest, &layout::manifest_key(id)).await.map_err(|error| {
                if error.kind() == Kind::NotFound {
                    return Error::impossible(format!("there is no backup {id}"))
                        .hint("`walproof backup-list` lists the existing ones");
                }
                error.context(format!("read backup {id}"))
            })?;
        let manifest = Manifest::parse(&plain).with_context(|| format!("read backup {id}"))?;
        if manifest.id == *id {
            return Ok(manifest);
        }
        Err(Error::corrupt(format!("read backup {id}: its manifest says that it is {}", manifest.id)))
    }

    /// The ids of all backups, sorted.
    pub async fn list_backup_ids(&self) -> Result<Vec<BackupId>> {
        let objects = self.store().list(&self.key(layout::BACKUPS)).await.context("list the backups")?;
        let id = |object: &Object| match self.relative(&object.key)?.parse().ok()? {
            ObjectKey::Manifest(id) => Some(id),
            _ => None,
        };
        Ok(objects.iter().filter_map(id).collect())
    }

    /// All backups.
    pub async fn list_backups(&self) -> Result<Backups> {
        let requests = self.list_backup_ids().await?.into_iter().map(|id| async {
            let manifest = self.get_manifest(&id).await;
            (id, manifest)
        });
        let mut found = Backups::default();
        let mut manifests = stream::iter(requests).buffered(CONCURRENT_MANIFESTS);
        while let Some((id, manifest)) = manifests.next().await {
            match manifest {
                Ok(manifest) => found.usable.push(manifest),
                // It was deleted after it was listed.
                Err(error) if error.kind() == Kind::Impossible => {}
                Err(error) if error.kind().is_unreadable() => {
                    let error = if error.hint_text().is_none() { error.hint(OTHERS) } else { error };
                    found.damaged.push(DamagedBackup { id, error });
                }
                Err(error) => return Err(error),
            }
        }
        found.usable.sort_by(|a, b| (a.finished_at, &a.id).cmp(&(b.finished_at, &b.id)));
        Ok(found)
    }

    /// Write, list, read back and delete an object of 1 MiB: what every other operation relies on. The store's
    /// clock when it was written.
    pub async fn probe(&self) -> Result<jiff::Timestamp> {
        let mut random = vec![0; 1 << 20];
        fill_random(&mut random)?;
        let name = format!("{:016x}", u64::from_le_bytes(*random.first_chunk().unwrap_or(&[0; 8])));
        let relative = layout::probe_key(&name);
        let context = Context { kind: ObjectKind::Probe, identity: self.name(), name: &relative };
        let sealer = Sealer::new(self.keys(), context, 0)?;
        random[..64].copy_from_slice(&sealer.header());
        let bytes = Bytes::from(random);
        self.store().put(&self.key(&relative), vec![bytes.clone()]).await?;
        let result = self.probe_reads(&relative, &bytes).await;
        self.store().delete(&self.key(&relative)).await?;
        result
    }

    async fn probe_reads(&self, relative: &str, bytes: &Bytes) -> Result<jiff::Timestamp> {
        let key = self.key(relative);
        let listed = self.store().list(&self.key("probes")).await?;
        let Some(object) = listed.into_iter().find(|object| object.key == key) else {
            return Err(Error::new(Kind::Unreachable, "an object that was just written is not listed")
                .hint("is this store strongly consistent?"));
        };
        let whole = self.store().get(&key).await?;
        let part = self.store().get_range(&key, 1000..5000).await?;
        if whole == *bytes && part == bytes[1000..5000] && object.size == bytes.len() as u64 {
            return Ok(object.modified);
        }
        Err(Error::corrupt("an object does not read back as it was written"))
    }
}
