//! R29: stored WAL counts only with the digest of the local file, where that is here. What was compared once is not read
//! again, so that a look costs what is new.

use std::collections::{BTreeMap, BTreeSet};

use super::pusher::{Fate, Pusher};
use super::queue::FileMark;
use crate::disk::digest_of;
use crate::error::Result;
use crate::format::WalDigest;
use crate::postgres::{History, Lsn, SegmentName, WalName};
use crate::window::Catalog;

/// Bytes that one look reads at most, of the newest files first: where a data directory was put back, those differ. The
/// others are read by the next looks.
const MOST: u64 = 4 << 30;

/// What comparisons said, of a file and of what is stored under its name.
#[derive(Debug, Default)]
pub(super) struct Compared(BTreeMap<SegmentName, (FileMark, WalDigest, bool)>);

impl Compared {
    /// The segments among `files`, up to the one that holds `end`, that are stored with other bytes than the file has: what
    /// is stored was listed after `end` was asked for, so the file of a genuine one is finished. A file that cannot be read,
    /// or changes meanwhile, says nothing.
    pub(super) async fn others(
        &mut self,
        pusher: &Pusher,
        catalog: &Catalog,
        history: &History,
        (files, end): (&[WalName], Lsn),
    ) -> Result<BTreeSet<SegmentName>> {
        let size = catalog.segment_size;
        let ours = |segment: &SegmentName| {
            let stretch = history.stretch(segment.timeline);
            stretch.is_some_and(|stretch| stretch.end.is_none_or(|switch| segment.end(size) <= switch))
                && segment.start(size) < end
        };
        let mut known = std::mem::take(&mut self.0);
        let mut left = MOST;
        for name in files.iter().rev() {
            let WalName::Segment(segment) = name else { continue };
            let Some(stored) = catalog.versions(name).next().filter(|_| ours(segment)) else { continue };
            let Some(mark) = pusher.mark(name) else { continue };
            let before =
                known.remove(segment).filter(|(of, digest, _)| (*of, *digest) == (mark, stored.digest));
            let same = match before {
                // One of several is not what the file holds.
                _ if catalog.is_doubled(segment) => Some(false),
                Some((.., same)) => Some(same),
                // The push compared it.
                None if matches!(pusher.fate(name, &mark), Fate::Stored) => Some(true),
                None if left < size.bytes() => None,
                None => {
                    left -= size.bytes();
                    let hash = digest_of(pusher.pg_wal.file(name)).await?;
                    let identity = pusher.repository.identity();
                    let digest = hash.map(|hash| identity.wal_digest(hash.as_bytes())).transpose()?;
                    let unchanged = pusher.mark(name) == Some(mark);
                    digest.filter(|_| unchanged).map(|digest| digest == stored.digest.content())
                }
            };
            if let Some(same) = same {
                self.0.insert(*segment, (mark, stored.digest, same));
            }
        }
        // What was another life's stays so, also when the file here is recycled.
        for (segment, (mark, digest, same)) in known {
            let mut versions = catalog.versions(&WalName::Segment(segment));
            if !same && versions.any(|file| file.digest == digest) && !self.0.contains_key(&segment) {
                self.0.insert(segment, (mark, digest, same));
            }
        }
        Ok(self.0.iter().filter(|(_, (.., same))| !same).map(|(segment, _)| *segment).collect())
    }
}
