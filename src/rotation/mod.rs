//! Changing the master key: what can be sealed again is, and for the rest it says how long older
//! keys are needed.
//!
//! What lasts longer than the retention window is sealed anew: the identity, the histories, holds, the reports of drills and
//! their head, and what retention and verifications note. Backups and WAL are not: they expire.

mod older;
#[cfg(test)]
mod tests;

use std::time::Duration;

pub use older::OlderKey;

use self::older::{Sealed, key_id};
use crate::error::{Error, Result};
use crate::format::{Inspect, ObjectKey, Protection, Purpose, Summary, seal_wal};
use crate::postgres::WalName;
use crate::repository::{Lease, Listed, Listing, Repository, WalFile};
use crate::seal::{Header, KeyId, MasterKey};

/// What a rotation did, and what it cannot do.
#[derive(Debug)]
pub struct Rotation {
    /// Of which repository.
    pub system_identifier: u64,
    /// The key that seals, first in the key file.
    pub key: KeyId,
    /// The key that the identity was sealed with before; `None` if it was this one already.
    pub identity_before: Option<KeyId>,
    /// Histories that were sealed anew.
    pub histories: u64,
    /// Holds, reports of drills and other records that were sealed anew.
    pub records: u64,
    /// Other keys that something still needs.
    pub older: Vec<OlderKey>,
}

/// Seal under the first key what lasts longer than the retention window. Killed anywhere, each object is sealed with the one
/// key or the other. `window` is that of the retention.
pub async fn rotate(repository: &Repository, window: Duration) -> Result<Rotation> {
    let Some(key) = repository.keys().sealing().map(MasterKey::id) else {
        return Err(Error::usage("the repository is not encrypted: there is no key to rotate"));
    };
    let identity_before = identity(repository, key).await?;
    let listing = repository.list().await?;
    let files = listing.objects.iter().filter_map(Listed::wal_file);
    let (history_files, wal): (Vec<_>, Vec<_>) =
        files.partition(|file| matches!(file.name, WalName::History(_)));
    let mut histories = 0;
    for file in &history_files {
        histories += u64::from(unless_unreadable(history(repository, key, file).await)?);
    }
    let sealed_anew = records(repository, key).await?;
    let mut kept = lasting(&listing);
    kept.extend(history_files.iter().map(|file| ObjectKey::Wal(file.name, file.digest)));
    let sealed = Sealed::of(repository, &listing, key, wal, &kept).await?;
    let older = sealed.older_keys(repository, key, window);
    let system_identifier = repository.identity().system_identifier;
    Ok(Rotation { system_identifier, key, identity_before, histories, records: sealed_anew, older })
}

async fn identity(repository: &Repository, key: KeyId) -> Result<Option<KeyId>> {
    let before = Header::parse(repository.sealed_identity())?.key_id;
    if before == key {
        return Ok(None);
    }
    repository.check_still_there().await?;
    repository.seal_anew(&ObjectKey::Identity).await?;
    let now = repository.namespace().open(repository.identity().system_identifier).await?;
    if now.identity() != repository.identity() {
        return Err(Error::corrupt("the identity was changed while it was sealed anew"));
    }
    Ok(Some(before))
}

/// Whether it was sealed with another key. The same content goes to the same key.
async fn history(repository: &Repository, key: KeyId, file: &WalFile) -> Result<bool> {
    if key_id(repository, &ObjectKey::Wal(file.name, file.digest)).await? == Some(key) {
        return Ok(false);
    }
    let (summary, plain) = repository.read_wal(file).await?;
    let (source, len) = (plain.as_slice(), plain.len() as u64);
    let level = (repository.level(), 1);
    let sealed =
        seal_wal(repository.keys(), repository.name(), &file.name, level, &source, len, Known(summary))?;
    repository.put_wal(&file.name, file.digest, sealed).await?;
    Ok(true)
}

/// Seal the records anew; how many. Under leases: a drill that ends meanwhile would find an older head over its own, and
/// what an expiry has just deleted would come back.
async fn records(repository: &Repository, key: KeyId) -> Result<u64> {
    let mut due = Vec::new();
    for record in lasting(&repository.list().await?) {
        if key_id(repository, &record).await?.is_some_and(|other| other != key) {
            due.push(record);
        }
    }
    if due.is_empty() {
        return Ok(0);
    }
    let drill = Lease::take(repository, Purpose::Drill, Protection::default()).await?;
    let done = match Lease::take(repository, Purpose::Expire, Protection::default()).await {
        Ok(expiry) => {
            let work = drill.while_held(under_leases(repository, key, due));
            let done = expiry.while_held(work).await;
            release(expiry).await;
            done.flatten().flatten()
        }
        Err(error) => Err(error),
    };
    release(drill).await;
    done
}

async fn under_leases(repository: &Repository, key: KeyId, due: Vec<ObjectKey>) -> Result<u64> {
    let mut sealed = 0;
    for record in due {
        // It may have been deleted, or put again, before the leases were taken.
        if key_id(repository, &record).await?.is_none_or(|now| now == key) {
            continue;
        }
        sealed += u64::from(unless_unreadable(repository.seal_anew(&record).await.map(|()| true))?);
    }
    Ok(sealed)
}

async fn release(lease: Lease) {
    if let Err(error) = lease.release().await {
        tracing::warn!(%error, "a lease is left to age");
    }
}

/// What is kept for longer than the window, or says what no backup says again; reports in the order of their numbers.
fn lasting(listing: &Listing) -> Vec<ObjectKey> {
    let lasts = |key: &&ObjectKey| {
        matches!(
            key,
            ObjectKey::Hold(_)
                | ObjectKey::Report(..)
                | ObjectKey::ReportHead
                | ObjectKey::Verify(_)
                | ObjectKey::Expiry
        )
    };
    listing.objects.iter().map(|listed| &listed.key).filter(lasts).cloned().collect()
}

/// What is damaged, or waits for a key that is not at hand, stays as it is.
fn unless_unreadable(done: Result<bool>) -> Result<bool> {
    match done {
        Err(error) if error.kind().is_unreadable() => {
            tracing::warn!(%error, "an object cannot be sealed anew");
            Ok(false)
        }
        done => done,
    }
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
