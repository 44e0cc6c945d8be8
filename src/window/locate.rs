//! Where on a path a recovery target lies. At most one summary is read for each segment of the
//! path, and whole segments only where a summary says that they may hold it.

use super::branch::WalPath;
use super::times::{Need, WalTimes, scan_until};
use crate::catalog::Catalog;
use crate::error::Result;
use crate::format::WalDigest;
use crate::postgres::{Lsn, PgTime, SegmentName};
use crate::repository::Repository;
use crate::wal::WalSummary;

/// Segments whose summaries are read between two words about it.
const STEP: usize = 256;

/// A place in the WAL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Located {
    /// The end of its record.
    pub lsn: Lsn,
    /// Its time.
    pub time: PgTime,
}

/// Looks on paths of one catalog.
pub(super) struct Locator<'a> {
    pub(super) repository: &'a Repository,
    pub(super) catalog: &'a Catalog,
    pub(super) times: &'a mut WalTimes,
    /// Hears (segments looked at, of how many).
    pub(super) progress: &'a (dyn Fn(usize, usize) + Sync),
}

impl Locator<'_> {
    /// Where transaction `xid` ends.
    pub(super) async fn xid(&mut self, path: &WalPath, xid: u32) -> Result<Option<Located>> {
        self.read_summaries(path).await?;
        for (segment, digest) in &path.segments {
            let Some(Ok(summary)) = self.times.summaries.get(&(*segment, *digest)) else { continue };
            let may_be = summary.xids.is_some_and(|(min, max)| (min..=max).contains(&xid));
            if !may_be && summary.complete {
                continue;
            }
            let scan = self.scan(*segment, *digest, path.end).await?;
            if let Some(end) = scan.transactions.into_iter().find(|end| end.xid == xid) {
                return Ok(Some(Located { lsn: end.end, time: end.time }));
            }
        }
        for segment in &path.tails {
            let Some(scan) = self.tail(segment) else { continue };
            let mut ends = scan.transactions.iter();
            if let Some(end) = ends.find(|end| end.xid == xid && end.end <= path.end) {
                return Ok(Some(Located { lsn: end.end, time: end.time }));
            }
        }
        Ok(None)
    }

    /// Where restore points of this name are, in order.
    pub(super) async fn restore_points(&mut self, path: &WalPath, name: &str) -> Result<Vec<Located>> {
        self.read_summaries(path).await?;
        let mut found = Vec::new();
        for key in &path.segments {
            if let Some(Ok(summary)) = self.times.summaries.get(key) {
                found.extend(summary.restore_points.iter().filter(|point| point.name == name).cloned());
            }
        }
        for segment in &path.tails {
            let points = self.tail(segment).into_iter().flat_map(|scan| scan.restore_points.iter());
            found.extend(points.filter(|point| point.name == name).cloned());
        }
        found.retain(|point| point.lsn <= path.end);
        found.sort_by_key(|point| point.lsn);
        Ok(found.into_iter().map(|point| Located { lsn: point.lsn, time: point.time }).collect())
    }

    /// Where the last whole record of `path` begins: PostgreSQL stops at the first record that begins at an LSN target
    /// or behind it, so there must be one. `None` if no segment of the path has the beginning of a record.
    pub(super) async fn last_record(&self, path: &WalPath) -> Result<Option<Lsn>> {
        for (segment, digest) in path.backwards() {
            let last = match digest {
                Some(digest) => self.scan(segment, digest, path.end).await?.last_start,
                None => self.tail(&segment).and_then(|scan| scan.last_start),
            };
            if last.is_some() {
                return Ok(last);
            }
        }
        Ok(None)
    }

    fn tail(&self, segment: &SegmentName) -> Option<&WalSummary> {
        let mut of_segment = self.times.tails.iter().filter(|((name, ..), _)| name == segment);
        of_segment.find_map(|(_, scan)| scan.as_ref().ok()).map(|scan| &scan.summary)
    }

    async fn read_summaries(&mut self, path: &WalPath) -> Result<()> {
        let unknown = path.segments.iter().filter(|key| !self.times.summaries.contains_key(key));
        let needs: Vec<Need> = unknown.map(|(segment, digest)| Need::Summary(*segment, *digest)).collect();
        let total = needs.len();
        for (step, part) in needs.chunks(STEP).enumerate() {
            (self.progress)(step * STEP, total);
            self.times.learn(self.repository, self.catalog, part.to_vec()).await?;
        }
        Ok(())
    }

    async fn scan(&self, segment: SegmentName, digest: WalDigest, until: Lsn) -> Result<WalSummary> {
        scan_until(self.repository, self.catalog, segment, digest, until).await
    }
}
