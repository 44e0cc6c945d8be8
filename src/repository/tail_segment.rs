//! The unfinished segment as recovery gets it: its tail, checked, and zeros behind it.

use super::namespace::Repository;
use super::tail_store::Tail;
use super::wal_store::conflict;
use crate::error::{Error, Result, ResultExt};
use crate::postgres::{Lsn, SegmentName, SegmentSize, WAL_PAGE_SIZE, WalName};
use crate::wal::{SegmentChecker, SegmentContent, WalScanner, WalSummary};

/// Bytes of the shortest page header: of a page that ends within it nothing can be read.
const PAGE_HEADER: usize = 24;

/// What is there of a segment that a listing of the WAL did not show. Both hold a whole segment's bytes.
#[derive(Debug)]
pub enum Unfinished {
    /// Its tail, and zeros.
    Tail(Tail, Vec<u8>),
    /// It was archived meanwhile.
    Archived(Vec<u8>),
}

/// What an unfinished segment holds.
#[derive(Debug)]
pub struct UnfinishedScan {
    /// Up to where there is WAL.
    pub end: Lsn,
    /// Of that WAL, with all ends of transactions.
    pub summary: WalSummary,
}

/// The segment that `bytes` begin: zeros behind them, and every page that is there checked (R7).
///
/// Corrupt if they are not what the name claims, Server if another cluster or an unknown version wrote them.
pub fn fill_segment(
    segment: &SegmentName,
    mut bytes: Vec<u8>,
    size: SegmentSize,
    system_identifier: u64,
) -> Result<Vec<u8>> {
    let fill = || {
        if bytes.len() as u64 > size.bytes() {
            return Err(Error::corrupt(format!("it has {} bytes, more than a segment", bytes.len())));
        }
        let begun = bytes.len() % WAL_PAGE_SIZE;
        if begun < PAGE_HEADER {
            bytes.truncate(bytes.len() - begun);
        }
        bytes.resize(usize::try_from(size.bytes()).unwrap_or_default(), 0);
        let mut checker = SegmentChecker::new(*segment, size, system_identifier, SegmentContent::Partial);
        checker.feed(&bytes)?;
        let valid_end = checker.finish()?.valid_end;
        let valid = usize::try_from(valid_end.offset_from(segment.start(size))).unwrap_or_default();
        // Recovery would take a malformed page for the end of the WAL, and say nothing.
        if bytes.iter().skip(valid).any(|byte| *byte != 0) {
            return Err(Error::corrupt(format!("the page at {valid_end} is not of this segment")).hint(
                "was the file recycled while it was read, or do two primaries archive to this repository?",
            ));
        }
        Ok(bytes)
    };
    fill().with_context(|| format!("check the tail of {segment}"))
}

impl Repository {
    /// What is there of `segment`, which a listing that has ended before did not show: its tail, else the segment after
    /// all. `None` proves that it is absent.
    pub async fn read_unfinished(&self, segment: &SegmentName) -> Result<Option<Unfinished>> {
        if let Some((tail, bytes)) = self.read_tail(segment).await? {
            let identity = self.identity();
            let filled = fill_segment(segment, bytes, identity.segment_size()?, identity.system_identifier)?;
            return Ok(Some(Unfinished::Tail(tail, filled)));
        }
        // A segment is put before its tail goes. The listing without it may be older than that; this one is not.
        let name = WalName::Segment(*segment);
        let files = self.namespace().wal_versions(self.identity().system_identifier, &name).await?;
        match files.as_slice() {
            [] => Ok(None),
            [file] => Ok(Some(Unfinished::Archived(self.read_wal(file).await?.1))),
            [_, _, ..] => Err(conflict(&name)),
        }
    }

    /// Scan what [`Repository::read_unfinished`] reads of a segment whose tail a listing showed.
    pub async fn scan_unfinished(&self, segment: &SegmentName) -> Result<UnfinishedScan> {
        let size = self.identity().segment_size()?;
        let (end, bytes) = match self.read_unfinished(segment).await? {
            Some(Unfinished::Tail(tail, bytes)) => (tail.end(size), bytes),
            Some(Unfinished::Archived(bytes)) => (segment.end(size), bytes),
            None => return Err(Error::corrupt(format!("the tail of {segment} has vanished"))),
        };
        let mut scanner = WalScanner::new(segment.start(size), size).until(end).collecting();
        scanner.feed(&bytes);
        Ok(UnfinishedScan { end, summary: scanner.finish() })
    }
}

#[cfg(test)]
mod tests;
