//! What segments and tails say about themselves: where their records end, and which times lie in them. Looked up by
//! content, so that nothing is read twice, whatever asks.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures_util::{StreamExt, TryStreamExt, stream};

use crate::catalog::Catalog;
use crate::error::{Error, Kind, Result};
use crate::format::{Summary, TailGeneration, WalDigest};
use crate::postgres::{Lsn, PgTime, SegmentName, WalName};
use crate::records::is_damage;
use crate::repository::{Repository, Unfinished, UnfinishedScan, WalFile};
use crate::wal::{WalScanner, WalSummary};

/// Objects that are read at a time.
const CONCURRENT: usize = 16;

/// What has to be read before the window is known.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Need {
    /// The summary of a segment.
    Summary(SegmentName, WalDigest),
    /// The tail of a segment.
    Tail(SegmentName, TailGeneration, u32),
    /// Which of several versions of a segment is what its key promises.
    Genuine(SegmentName),
    /// The last commit of a segment before a position in it, at which a timeline ends.
    Before(SegmentName, WalDigest, Lsn),
    /// Whether two files begin with the same bytes.
    Twins(Twins),
}

/// A file that serves in the place of an older timeline's, which it has to repeat up to where its own timeline begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Twins {
    /// The older timeline's.
    pub(super) older: (SegmentName, WalDigest),
    /// The one that serves.
    pub(super) newer: SegmentName,
    pub(super) newer_is: Stored,
    /// Bytes up to where its timeline begins, as far as they are there.
    pub(super) shared: u64,
}

/// What is stored of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Stored {
    Whole(WalDigest),
    Tail(TailGeneration),
}

/// What is known of the WAL in a repository, by content. An error is damage.
#[derive(Debug, Clone, Default)]
pub struct WalTimes {
    pub(super) summaries: BTreeMap<(SegmentName, WalDigest), Result<Summary>>,
    pub(super) tails: BTreeMap<(SegmentName, TailGeneration, u32), Result<Arc<UnfinishedScan>>>,
    /// For segments of which there are several versions: the one that is genuine, or why there is none.
    pub(super) genuine: BTreeMap<(SegmentName, Vec<WalDigest>), Result<WalDigest>>,
    /// The last commit of a segment before a position in it.
    pub(super) before: BTreeMap<(SegmentName, WalDigest, Lsn), Result<Option<PgTime>>>,
    /// Whether two files begin with the same bytes.
    pub(super) twins: BTreeMap<Twins, Result<bool>>,
}

impl WalTimes {
    /// Note what a segment says that was just sealed.
    pub fn note(&mut self, segment: SegmentName, digest: WalDigest, summary: Summary) {
        self.summaries.insert((segment, digest), Ok(summary));
    }

    /// Note that a segment was read as a whole and cannot be used.
    pub fn note_damage(&mut self, segment: SegmentName, digest: WalDigest, error: Error) {
        self.summaries.insert((segment, digest), Err(error));
    }

    /// Why something that had to be read could not be: its key is not at hand.
    pub fn without_key(&self) -> Option<&Error> {
        let summaries = self.summaries.values().filter_map(|known| known.as_ref().err());
        let tails = self.tails.values().filter_map(|known| known.as_ref().err());
        let genuine = self.genuine.values().filter_map(|known| known.as_ref().err());
        let before = self.before.values().filter_map(|known| known.as_ref().err());
        let twins = self.twins.values().filter_map(|known| known.as_ref().err());
        let mut all = summaries.chain(tails).chain(genuine).chain(before).chain(twins);
        all.find(|error| error.kind() == Kind::KeyMissing)
    }

    /// Read what is needed.
    pub(super) async fn learn(
        &mut self,
        repository: &Repository,
        catalog: &Catalog,
        needs: Vec<Need>,
    ) -> Result<()> {
        let mut summaries = Vec::new();
        for need in needs {
            match need {
                Need::Summary(segment, digest) => summaries.push((segment, digest)),
                Need::Tail(segment, generation, len) => {
                    let scan = damage(repository.scan_unfinished(&segment).await.map(Arc::new))?;
                    self.tails.insert((segment, generation, len), scan);
                }
                Need::Before(segment, digest, until) => {
                    let scan = damage(scan_until(repository, catalog, segment, digest, until).await)?;
                    self.before.insert((segment, digest, until), scan.map(|scan| scan.last_time));
                }
                Need::Twins(twins) => {
                    let same = damage(are_same(repository, catalog, twins).await)?;
                    self.twins.insert(twins, same);
                }
                Need::Genuine(segment) => {
                    let files: Vec<WalFile> = catalog.versions(&WalName::Segment(segment)).cloned().collect();
                    let genuine = repository.genuine_wal(&WalName::Segment(segment), &files).await;
                    let digests = files.iter().map(|file| file.digest).collect();
                    self.genuine.insert((segment, digests), damage(genuine.map(|file| file.digest))?);
                }
            }
        }
        let requests = summaries.into_iter().map(|(segment, digest)| async move {
            let mut versions = catalog.versions(&WalName::Segment(segment));
            let Some(file) = versions.find(|file| file.digest == digest) else { return Ok(None) };
            let summary = damage(repository.wal_summary(file).await)?;
            Ok::<_, Error>(Some(((segment, digest), summary)))
        });
        let mut read = stream::iter(requests).buffered(CONCURRENT);
        while let Some(found) = read.try_next().await? {
            self.summaries.extend(found);
        }
        Ok(())
    }

    /// Forget what the catalog no longer names.
    pub(super) fn prune(&mut self, catalog: &Catalog) {
        let there = |segment: &SegmentName, digest: &WalDigest| {
            catalog.versions(&WalName::Segment(*segment)).any(|file| file.digest == *digest)
        };
        self.summaries.retain(|(segment, digest), _| there(segment, digest));
        self.before.retain(|(segment, digest, _), _| there(segment, digest));
        self.tails.retain(|(segment, generation, len), _| {
            catalog.tail(segment).is_some_and(|tail| tail.generation == *generation && tail.len == *len)
        });
        self.twins.retain(|twins, _| {
            let is_newer = match twins.newer_is {
                Stored::Whole(digest) => there(&twins.newer, &digest),
                Stored::Tail(of) => catalog.tail(&twins.newer).is_some_and(|tail| tail.generation == of),
            };
            is_newer && there(&twins.older.0, &twins.older.1)
        });
        self.genuine.retain(|(segment, digests), _| {
            let versions = catalog.versions(&WalName::Segment(*segment));
            versions.map(|file| file.digest).eq(digests.iter().copied())
        });
    }
}

/// Read a segment whole, up to `until`.
pub(super) async fn scan_until(
    repository: &Repository,
    catalog: &Catalog,
    segment: SegmentName,
    digest: WalDigest,
    until: Lsn,
) -> Result<WalSummary> {
    let plain = read(repository, catalog, segment, digest).await?;
    let size = catalog.segment_size;
    let mut scanner = WalScanner::new(segment.start(size), size).collecting().until(until);
    scanner.feed(&plain);
    Ok(scanner.finish())
}

async fn read(
    repository: &Repository,
    catalog: &Catalog,
    segment: SegmentName,
    digest: WalDigest,
) -> Result<Vec<u8>> {
    let name = WalName::Segment(segment);
    let file = catalog.versions(&name).find(|file| file.digest == digest);
    let file = file.ok_or_else(|| Error::corrupt(format!("{name} is no longer in the repository")))?;
    Ok(repository.read_wal(file).await?.1)
}

/// Whether the newer file begins as the older one does. One after the other: a segment may have a gigabyte.
async fn are_same(repository: &Repository, catalog: &Catalog, twins: Twins) -> Result<bool> {
    let begins = |bytes: Vec<u8>| bytes.get(..usize::try_from(twins.shared).ok()?).map(blake3::hash);
    let newer = match twins.newer_is {
        Stored::Whole(digest) => begins(read(repository, catalog, twins.newer, digest).await?),
        Stored::Tail(_) => match repository.read_unfinished(&twins.newer).await? {
            Some(Unfinished::Tail(_, bytes) | Unfinished::Archived(bytes)) => begins(bytes),
            None => return Err(Error::corrupt(format!("the tail of {} has vanished", twins.newer))),
        },
    };
    Ok(begins(read(repository, catalog, twins.older.0, twins.older.1).await?) == newer)
}

/// An error that an object is to blame for is an answer; any other is not.
fn damage<T>(result: Result<T>) -> Result<Result<T>> {
    match result {
        Err(error) if !is_damage(&error) => Err(error),
        result => Ok(result),
    }
}
