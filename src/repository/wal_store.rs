//! WAL in the repository: put, list, get.

use futures_util::{StreamExt, TryStreamExt, stream};

use super::listing::{Listed, WalFile};
use super::namespace::{Namespace, Repository};
use crate::error::{Error, Kind, Result, ResultExt};
use crate::format::{
    LONGEST_SUMMARY_RANGE, SUMMARY_RANGE, SealedWal, Summary, WalDigest, layout, open_summary, open_wal,
};
use crate::postgres::WalName;
use crate::store::Object;

/// Summaries that are fetched at a time.
const CONCURRENT_SUMMARIES: usize = 16;

fn wal_file(relative: &str, object: &Object) -> Option<WalFile> {
    Listed { key: relative.parse().ok()?, size: object.size, modified: object.modified }.wal_file()
}

impl Namespace {
    /// The files stored under `name`, before the identity is known: none, one, or a conflict.
    pub async fn wal_versions(&self, system_identifier: u64, name: &WalName) -> Result<Vec<WalFile>> {
        let root = self.root(system_identifier);
        let directory = format!("{root}/{}", layout::wal_directory(name));
        // Mostly the newest file is asked for, behind which there is little.
        let objects = self.store().list_after(&directory, &format!("{directory}/{name}")).await?;
        let relative =
            |object: &Object| object.key.get(root.len() + 1..).and_then(|key| wal_file(key, object));
        Ok(objects.iter().filter_map(relative).filter(|file| file.name == *name).collect())
    }
}

impl Repository {
    /// Put a sealed WAL file. The commit point of archiving: durable when this returns. May be repeated.
    pub async fn put_wal(&self, name: &WalName, digest: WalDigest, sealed: SealedWal) -> Result<()> {
        self.store().put(&self.key(&layout::wal_key(name, digest)), sealed.parts).await
    }

    /// Make sure that a file that a listing has just shown is as durable as one that was put.
    pub async fn make_wal_durable(&self, file: &WalFile) -> Result<()> {
        self.store().make_durable(&self.key(&layout::wal_key(&file.name, file.digest))).await
    }

    /// The WAL files in the directory that `name` belongs to.
    pub async fn list_wal_beside(&self, name: &WalName) -> Result<Vec<WalFile>> {
        let objects = self.store().list(&self.key(&layout::wal_directory(name))).await?;
        Ok(objects.iter().filter_map(|object| wal_file(self.relative(&object.key)?, object)).collect())
    }

    /// The sealed bytes of a file that a listing showed.
    pub async fn get_wal_sealed(&self, file: &WalFile) -> Result<bytes::Bytes> {
        let key = self.key(&layout::wal_key(&file.name, file.digest));
        // A listing has just shown it.
        self.store().get(&key).await.map_err(Error::absence_proves_nothing)
    }

    /// Open sealed bytes as the file that they should be, authenticated and with the right digest (R7, R25).
    pub fn open_wal_file(&self, file: &WalFile, sealed: &[u8]) -> Result<(Summary, Vec<u8>)> {
        let (summary, plain) = open_wal(self.keys(), self.name(), &file.name, sealed)?;
        if self.identity().wal_digest(blake3::hash(&plain).as_bytes())?.linked(summary.links) == file.digest {
            return Ok((summary, plain));
        }
        Err(Error::corrupt(format!("the content of WAL file {} is not what its key promises", file.name))
            .hint("was an object of the repository renamed or swapped?"))
    }

    /// A file that a listing showed, opened.
    pub async fn read_wal(&self, file: &WalFile) -> Result<(Summary, Vec<u8>)> {
        self.open_wal_file(file, &self.get_wal_sealed(file).await?)
    }

    /// What a WAL object says about its segment.
    pub async fn wal_summary(&self, file: &WalFile) -> Result<Summary> {
        let key = self.key(&layout::wal_key(&file.name, file.digest));
        let head = |len: u64| self.store().get_range(&key, 0..len.min(file.stored_len));
        let bytes = head(SUMMARY_RANGE).await?;
        match open_summary(self.keys(), self.name(), &file.name, &bytes) {
            Err(_) if file.stored_len > SUMMARY_RANGE => {
                open_summary(self.keys(), self.name(), &file.name, &head(LONGEST_SUMMARY_RANGE).await?)
            }
            other => other,
        }
        .with_context(|| format!("open the summary of {}", file.name))
    }

    /// The summaries of `files`, in their order.
    pub async fn wal_summaries(&self, files: &[WalFile]) -> Result<Vec<Summary>> {
        let requests = files.iter().map(|file| self.wal_summary(file));
        stream::iter(requests).buffered(CONCURRENT_SUMMARIES).try_collect().await
    }

    /// Of the contents stored under one name, the one that is what its key promises: a copy that is not is damage, and
    /// no conflict. Conflict if more than one is genuine, Corrupt if none is.
    pub async fn genuine_wal(&self, name: &WalName, files: &[WalFile]) -> Result<WalFile> {
        let mut found: Option<&WalFile> = None;
        let mut damage = None;
        for file in files {
            let sealed = self.get_wal_sealed(file).await?;
            match self.open_wal_file(file, &sealed) {
                Ok(_) if found.is_some() => return Err(conflict(name)),
                Ok(_) => found = Some(file),
                Err(error) if error.kind() == Kind::Corrupt => damage = Some(error),
                Err(error) => return Err(error),
            }
        }
        match (found, damage) {
            (Some(file), _) => Ok(file.clone()),
            (None, Some(error)) => Err(error),
            (None, None) => Err(conflict(name)),
        }
    }
}

/// The error for two different contents of one name.
pub(crate) fn conflict(name: &WalName) -> Error {
    Error::new(Kind::Conflict, format!("different contents are stored under the name {name}"))
        .hint("do two primaries archive to this repository, or was one restored and started with archiving still on?")
}
