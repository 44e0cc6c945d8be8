//! WAL in the repository: put, list, get.

use futures_util::{StreamExt, TryStreamExt, stream};
use jiff::Timestamp;

use super::identity::WalDigest;
use super::layout;
use super::namespace::{Namespace, Repository};
use super::summary::Summary;
use super::wal_object::{LONGEST_SUMMARY_RANGE, SUMMARY_RANGE, SealedWal, open_summary, open_wal};
use crate::error::{Error, Kind, Result, ResultExt};
use crate::postgres::{History, TimelineId, WalName};
use crate::store::Object;

/// Summaries that are fetched at a time.
const CONCURRENT_SUMMARIES: usize = 16;

/// A WAL file in the repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WalFile {
    /// Its name.
    pub name: WalName,
    /// Which content.
    pub digest: WalDigest,
    /// Bytes as stored.
    pub stored_len: u64,
    /// When it was stored, by the store's clock.
    pub modified: Timestamp,
}

fn wal_file(relative: &str, object: &Object) -> Option<WalFile> {
    let (name, digest) = layout::parse_wal_key(relative)?;
    Some(WalFile { name, digest, stored_len: object.size, modified: object.modified })
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

    /// All archived WAL files, histories included, by name.
    pub async fn list_wal(&self) -> Result<Vec<WalFile>> {
        let mut files = Vec::new();
        for directory in [layout::HISTORY, layout::WAL] {
            let objects = self.store().list(&self.key(directory)).await.context("list the archived WAL")?;
            files.extend(objects.iter().filter_map(|object| wal_file(self.relative(&object.key)?, object)));
        }
        Ok(files)
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
        if self.identity().wal_digest(blake3::hash(&plain).as_bytes())? == file.digest {
            return Ok((summary, plain));
        }
        Err(Error::corrupt(format!("WAL file {} is not the content that its key promises", file.name))
            .hint("was an object of the repository renamed or swapped?"))
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

    /// The history of `timeline` among `files`; timeline 1 needs none.
    pub async fn history(&self, timeline: TimelineId, files: &[WalFile]) -> Result<History> {
        let name = layout::history_name(timeline);
        let versions: Vec<&WalFile> = files.iter().filter(|file| file.name == name).collect();
        match versions.as_slice() {
            [] if timeline.get() == 1 => Ok(History::root(timeline)),
            [] => {
                Err(Error::impossible(format!("the history of timeline {timeline} is not in the repository"))
                    .hint("does this timeline exist? `walproof wal-list` shows those that do"))
            }
            [file] => {
                let sealed = self.get_wal_sealed(file).await?;
                let (_, plain) = self.open_wal_file(file, &sealed)?;
                let text = String::from_utf8(plain)
                    .map_err(|_| Error::corrupt(format!("the history of timeline {timeline} is no text")))?;
                History::parse(timeline, &text)
            }
            [_, _, ..] => Err(conflict(&name)),
        }
    }
}

/// The error for two different contents of one name.
pub(crate) fn conflict(name: &WalName) -> Error {
    Error::new(Kind::Conflict, format!("different contents are stored under the name {name}"))
        .hint("do two primaries archive to this repository, or was one restored and started with archiving still on?")
}
