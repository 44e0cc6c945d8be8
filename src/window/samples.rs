//! For tests: windows made from catalogs, manifests and summaries.

use std::sync::Arc;

use super::Catalog;
use super::recovery::RecoveryWindow;
use super::times::{Need, WalTimes};
pub(crate) use crate::catalog::samples::{catalog, file};
use crate::error::{Error, Result};
use crate::format::{Summary, WalDigest};
use crate::postgres::{History, Lsn, PgTime, TimelineId};
use crate::repository::UnfinishedScan;
use crate::wal::{Links, WalScanner};
pub(crate) use crate::world::manifest;

/// A history by its text.
pub(crate) fn history(timeline: u32, text: &str) -> History {
    History::parse(TimelineId::new(timeline).unwrap(), text.as_bytes()).unwrap()
}

/// The window of `catalog`, whose segments answer as `summary` says, or are damaged; `before` says when the last commit of
/// a segment before a position was, and `twins` whether a newer timeline's file repeats an older one's.
pub(crate) fn window(
    catalog: &Catalog,
    mut before: impl FnMut(crate::postgres::SegmentName, Lsn) -> Option<PgTime>,
    mut summary: impl FnMut(crate::postgres::SegmentName, WalDigest) -> Result<Summary>,
    mut tail: impl FnMut(crate::postgres::SegmentName, u32) -> (Lsn, Option<PgTime>, Links),
    mut twins: impl FnMut(crate::postgres::SegmentName, crate::postgres::SegmentName, Lsn) -> bool,
) -> (RecoveryWindow, WalTimes) {
    let mut times = WalTimes::default();
    loop {
        match RecoveryWindow::of(catalog, &times) {
            Ok(window) => return (window, times),
            Err(needs) => {
                for need in needs {
                    match need {
                        Need::Summary(segment, digest) => {
                            let known = times.summaries.insert((segment, digest), summary(segment, digest));
                            assert!(known.is_none(), "{segment} is asked for twice");
                        }
                        Need::Genuine(segment) => {
                            let name = crate::postgres::WalName::Segment(segment);
                            let digests = catalog.versions(&name).map(|file| file.digest).collect();
                            times.genuine.insert((segment, digests), Err(Error::corrupt("two versions")));
                        }
                        Need::Twins(two) => {
                            let same = twins(
                                two.older.0,
                                two.newer,
                                two.newer.position(two.shared, catalog.segment_size),
                            );
                            times.twins.insert(two, Ok(same));
                        }
                        Need::Before(segment, digest, until) => {
                            let time = before(segment, until);
                            times.before.insert((segment, digest, until), Ok(time));
                        }
                        Need::Tail(segment, generation, len) => {
                            let (end, last_time, links) = tail(segment, len);
                            let mut summary = WalScanner::new(end, catalog.segment_size).finish();
                            (summary.last_time, summary.links) = (last_time, links);
                            let scan = UnfinishedScan { end, summary };
                            times.tails.insert((segment, generation, len), Ok(Arc::new(scan)));
                        }
                    }
                }
            }
        }
    }
}

/// A summary with one commit at `second`, whose records end at `end`.
pub(crate) fn summary(end: Lsn, second: i64) -> Summary {
    let time = PgTime::from_unix_micros(second * 1_000_000);
    Summary { end, times: Some((time, time)), commits: 1, complete: true, ..Summary::default() }
}
