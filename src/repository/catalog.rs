//! What one listing of the repository says now: backups, and archived WAL as runs and gaps.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tokio::sync::Mutex;

use super::backup_store::{Backups, DamagedBackup};
use super::manifest::Manifest;
use super::namespace::Repository;
use super::tail_segment::UnfinishedScan;
use super::tail_store::{Tail, TailPiece};
use super::wal_store::WalFile;
use crate::error::Result;
use crate::postgres::{Lsn, PgTime, SegmentName, SegmentSize, TimelineId, WalName};

/// A maximal contiguous range of archived segments on one timeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// Its first segment.
    pub first: SegmentName,
    /// Its last segment.
    pub last: SegmentName,
    /// How many there are.
    pub segments: u64,
}

/// Segments that are missing between two runs of one timeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gap {
    /// The first missing segment.
    pub first: SegmentName,
    /// The last missing segment.
    pub last: SegmentName,
}

/// The repository's content.
#[derive(Debug, Clone)]
pub struct Catalog {
    /// Finished backups, oldest first.
    pub backups: Vec<Manifest>,
    /// Backups that cannot be read.
    pub damaged: Vec<DamagedBackup>,
    /// Archived WAL files, histories included.
    pub wal: Vec<WalFile>,
    /// Segment size of the cluster.
    pub segment_size: SegmentSize,
    segments: BTreeSet<SegmentName>,
    /// Of segments that are not archived.
    tails: BTreeMap<SegmentName, Tail>,
    /// What was read of them: many backups ask for the same.
    scans: Arc<Mutex<BTreeMap<SegmentName, Arc<UnfinishedScan>>>>,
}

impl Catalog {
    /// List the repository.
    pub async fn read(repository: &Repository) -> Result<Self> {
        // Backups first: WAL that a listed backup needs was stored before it. Tails before WAL: a segment is stored
        // before its tail goes, so one of the two is seen.
        let backups = repository.list_backups().await?;
        let pieces = repository.list_tail_pieces(None).await?;
        Ok(Self::listed(repository, backups).await?.with_tails(&pieces))
    }

    /// List the repository, but for the tails.
    pub async fn read_archived(repository: &Repository) -> Result<Self> {
        // Backups first, as above.
        let backups = repository.list_backups().await?;
        Self::listed(repository, backups).await
    }

    async fn listed(repository: &Repository, backups: Backups) -> Result<Self> {
        let wal = repository.list_wal().await?;
        let catalog = Self::new(backups.usable, wal, repository.identity().segment_size()?);
        Ok(Self { damaged: backups.damaged, ..catalog })
    }

    /// A catalog of these backups and files.
    pub fn new(backups: Vec<Manifest>, wal: Vec<WalFile>, segment_size: SegmentSize) -> Self {
        let segments = wal.iter().filter_map(|file| match file.name {
            WalName::Segment(segment) => Some(segment),
            _ => None,
        });
        let segments = segments.collect();
        let (tails, scans) = (BTreeMap::new(), Arc::default());
        Self { backups, damaged: Vec::new(), wal, segment_size, segments, tails, scans }
    }

    /// The same catalog with the tails that these pieces make; those of archived segments are garbage.
    #[must_use]
    pub fn with_tails(mut self, pieces: &[TailPiece]) -> Self {
        let names: BTreeSet<SegmentName> = pieces.iter().map(|piece| piece.name.segment).collect();
        let missing = names.into_iter().filter(|segment| !self.segments.contains(segment));
        self.tails = missing.filter_map(|segment| Some((segment, Tail::among(pieces, &segment)?))).collect();
        self
    }

    /// When the newest WAL file was archived, by the store's clock.
    pub fn last_push(&self) -> Option<PgTime> {
        self.wal.iter().map(|file| PgTime::from(file.modified)).max()
    }

    /// The tail of a segment that is not archived.
    pub fn tail(&self, segment: &SegmentName) -> Option<&Tail> {
        self.tails.get(segment)
    }

    /// The tail that continues the newest run, and up to where the WAL then reaches.
    pub fn newest_tail(&self) -> Option<(&Tail, Lsn)> {
        let last = self.runs().last()?.last;
        let timeline = self.newest_timeline();
        // A timeline that has nothing archived yet began somewhere in the WAL of an older one, or right behind it.
        let first = if last.timeline == timeline {
            self.tail(&last.next(self.segment_size))?
        } else {
            let number = last.number(self.segment_size);
            let near = |tail: &&Tail| {
                tail.segment.timeline == timeline && tail.segment.number(self.segment_size) <= number + 1
            };
            self.tails.values().rfind(near)?
        };
        let mut tail = first;
        while self.is_whole(tail) {
            let Some(next) = self.tail(&tail.segment.next(self.segment_size)) else { break };
            tail = next;
        }
        Some((tail, tail.end(self.segment_size)))
    }

    /// Whether WAL goes on behind this tail.
    pub(super) fn is_whole(&self, tail: &Tail) -> bool {
        u64::from(tail.len) >= self.segment_size.bytes()
    }

    /// What the tail of `segment` holds; read once.
    pub(super) async fn scan_tail(
        &self,
        repository: &Repository,
        segment: &SegmentName,
    ) -> Result<Arc<UnfinishedScan>> {
        let mut scans = self.scans.lock().await;
        if let Some(scan) = scans.get(segment) {
            return Ok(Arc::clone(scan));
        }
        let scan = Arc::new(repository.scan_unfinished(segment).await?);
        scans.insert(*segment, Arc::clone(&scan));
        Ok(scan)
    }

    /// Note a file that was stored since.
    pub fn add(&mut self, file: WalFile) {
        if let WalName::Segment(segment) = file.name {
            self.segments.insert(segment);
        }
        if !self.wal.iter().rev().any(|known| known.name == file.name && known.digest == file.digest) {
            self.wal.push(file);
        }
    }

    /// Whether a segment is archived, in any version.
    pub fn has(&self, segment: &SegmentName) -> bool {
        self.segments.contains(segment)
    }

    /// The runs, by timeline and position.
    pub fn runs(&self) -> Vec<Run> {
        let mut runs: Vec<Run> = Vec::new();
        for segment in &self.segments {
            match runs.last_mut() {
                Some(run)
                    if run.last.timeline == segment.timeline
                        && run.last.next(self.segment_size) == *segment =>
                {
                    run.last = *segment;
                    run.segments += 1;
                }
                _ => runs.push(Run { first: *segment, last: *segment, segments: 1 }),
            }
        }
        runs
    }

    /// The gaps between the runs.
    pub fn gaps(&self) -> Vec<Gap> {
        let runs = self.runs();
        let pairs = runs.iter().zip(runs.iter().skip(1)).filter(|(a, b)| a.last.timeline == b.first.timeline);
        let gap = |(before, after): (&Run, &Run)| Gap {
            first: before.last.next(self.segment_size),
            last: SegmentName::from_number(
                after.first.timeline,
                after.first.number(self.segment_size) - 1,
                self.segment_size,
            ),
        };
        pairs.map(gap).collect()
    }

    /// Names under which different contents are stored. `.partial` files may differ (R2).
    pub fn conflicts(&self) -> Vec<WalName> {
        let mut versions: BTreeMap<WalName, usize> = BTreeMap::new();
        for file in self.wal.iter().filter(|file| !matches!(file.name, WalName::Partial(_))) {
            *versions.entry(file.name).or_default() += 1;
        }
        versions.into_iter().filter(|(_, count)| *count > 1).map(|(name, _)| name).collect()
    }

    /// The newest timeline that anything is known of. Tails do not count: one of a timeline whose history is not archived
    /// is of no use yet.
    pub fn newest_timeline(&self) -> TimelineId {
        let archived = self.wal.iter().map(|file| file.name.timeline());
        let backed_up = self.backups.iter().map(|backup| backup.timeline);
        archived.chain(backed_up).max().unwrap_or(TimelineId::FIRST)
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::repository::WalDigest;

    fn file(name: &str, digest: u8) -> WalFile {
        let digest = WalDigest::from_bytes([digest; 16]);
        WalFile { name: name.parse().unwrap(), digest, stored_len: 1, modified: Timestamp::UNIX_EPOCH }
    }

    #[test]
    fn runs_gaps_and_conflicts_follow_from_the_names() {
        let names = [
            "0000000100000000000000FE",
            "0000000100000000000000FF",
            "000000010000000100000000",
            "000000010000000100000003",
            "000000020000000100000003",
            "00000002.history",
        ];
        let mut wal: Vec<WalFile> = names.iter().map(|name| file(name, 1)).collect();
        wal.push(file("000000010000000100000003", 2));
        wal.push(file("000000010000000100000004.partial", 1));
        wal.push(file("000000010000000100000004.partial", 2));
        let catalog = Catalog::new(Vec::new(), wal, SegmentSize::new(1 << 24).unwrap());
        let runs = catalog.runs();
        assert_eq!(runs.iter().map(|run| run.segments).collect::<Vec<_>>(), [3, 1, 1]);
        let gaps = catalog.gaps();
        assert_eq!(gaps.len(), 1);
        assert_eq!(gaps[0].first.to_string(), "000000010000000100000001");
        assert_eq!(gaps[0].last.to_string(), "000000010000000100000002");
        assert_eq!(
            catalog.conflicts().iter().map(ToString::to_string).collect::<Vec<_>>(),
            ["000000010000000100000003"]
        );
        assert_eq!(catalog.newest_timeline().get(), 2);
    }
}
