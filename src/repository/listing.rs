//! A listing: one pass over the keys of a repository, parsed. Everything else that is known of it follows from one.

use std::ops::ControlFlow;

use jiff::Timestamp;

use super::namespace::Repository;
use crate::error::{Result, ResultExt};
use crate::format::{Harm, IDENTITY, ObjectKey, ObjectUse, WalDigest};
use crate::postgres::{TimelineId, WalName};
use crate::store::Object;

/// An object of the repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// What it is.
    pub key: ObjectKey,
    /// Bytes.
    pub size: u64,
    /// When it was put, by the store's clock.
    pub modified: Timestamp,
}

impl Listed {
    /// As a WAL file, if it is one.
    pub fn wal_file(&self) -> Option<WalFile> {
        match self.key {
            ObjectKey::Wal(name, digest) => {
                Some(WalFile { name, digest, stored_len: self.size, modified: self.modified })
            }
            _ => None,
        }
    }
}

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

/// The objects of a repository, in the order of their keys as text.
#[derive(Debug, Clone, Default)]
pub struct Listing {
    /// Those that walproof knows.
    pub objects: Vec<Listed>,
    /// Those below the repository's root that it does not: not made by this version, or by another program.
    pub foreign: Vec<Object>,
}

impl Listing {
    /// The bytes of all objects for `purpose`.
    pub fn bytes(&self, purpose: ObjectUse) -> u64 {
        let of_purpose = self.objects.iter().filter(|listed| listed.key.purpose() == purpose);
        of_purpose.map(|listed| listed.size).sum()
    }

    /// An object of it.
    pub fn get(&self, key: &ObjectKey) -> Option<&Listed> {
        let text = key.to_string();
        let at = self.objects.partition_point(|listed| listed.key.to_string() < text);
        self.objects.get(at).filter(|listed| listed.key == *key)
    }

    /// An object's bytes, and when it was put; `None`: it is not there.
    pub fn state(&self, key: &ObjectKey) -> Option<(u64, Timestamp)> {
        self.get(key).map(|listed| (listed.size, listed.modified))
    }

    /// Whether what was found damaged is still as it was then.
    pub fn has_still(&self, harm: &Harm) -> bool {
        harm.key().is_some_and(|key| self.state(&key) == harm.state)
    }

    /// The key of the newest segment.
    fn newest_segment(&self) -> Option<String> {
        let is_segment = |listed: &&Listed| matches!(listed.key, ObjectKey::Wal(WalName::Segment(_), _));
        self.objects.iter().rfind(is_segment).map(|listed| listed.key.to_string())
    }

    fn insert(&mut self, listed: Listed) {
        let text = listed.key.to_string();
        let at = self.objects.partition_point(|other| other.key.to_string() < text);
        if self.objects.get(at).is_none_or(|other| other.key != listed.key) {
            self.objects.insert(at, listed);
        }
    }
}

impl Repository {
    /// List everything.
    ///
    /// WAL is stored before the backup that needs it, and before its tail is deleted, but it sorts before both. So the
    /// newest WAL is listed again behind them: what a listed backup needs, and what was a tail a moment ago, is seen.
    pub async fn list(&self) -> Result<Listing> {
        let objects = self.store().list(&self.root).await.context("list the repository")?;
        let mut listing = self.parse_listing(objects);
        let needs_wal = |listed: &Listed| matches!(listed.key, ObjectKey::Manifest(_) | ObjectKey::Tail(_));
        if listing.objects.iter().any(needs_wal) {
            let after = listing.newest_segment();
            for listed in self.list_behind(after.as_deref().unwrap_or(IDENTITY)).await?.objects {
                if matches!(listed.key, ObjectKey::Wal(..)) {
                    listing.insert(listed);
                }
            }
        }
        Ok(listing)
    }

    /// The WAL files of one timeline behind the key `after`: what comes behind them is not read.
    pub async fn list_of_timeline(&self, timeline: TimelineId, after: &str) -> Result<Vec<Listed>> {
        let mut found = Vec::new();
        let see = |page| {
            let objects = self.parse_listing(page).objects;
            let is_its = |listed: &Listed| listed.key.wal_timeline() == Some(timeline);
            let all = objects.iter().all(is_its);
            found.extend(objects.into_iter().filter(is_its));
            if all { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        };
        let listed = self.store().list_pages(&self.root, Some(&self.key(after)), see).await;
        listed.with_context(|| format!("list what is new of timeline {timeline}"))?;
        Ok(found)
    }

    /// Everything behind the key `after`.
    pub async fn list_behind(&self, after: &str) -> Result<Listing> {
        let objects = self.store().list_after(&self.root, &self.key(after)).await;
        Ok(self.parse_listing(objects.context("list what is new in the repository")?))
    }

    pub(super) fn parse_listing(&self, objects: Vec<Object>) -> Listing {
        let mut listing = Listing::default();
        for object in objects {
            match self.relative(&object.key).and_then(|key| key.parse().ok()) {
                Some(key) => {
                    listing.objects.push(Listed { key, size: object.size, modified: object.modified });
                }
                None => listing.foreign.push(object),
            }
        }
        listing
    }
}
