//! For tests: catalogs made from names, and windows made from them.

use std::sync::Arc;

use jiff::Timestamp;

use super::Catalog;
use super::recovery::RecoveryWindow;
use super::times::{Need, WalTimes};
use crate::error::{Error, Result};
use crate::format::{Manifest, Summary, WalDigest};
use crate::postgres::{History, Lsn, PgTime, SegmentSize, TimelineId};
use crate::repository::{UnfinishedScan, WalFile};
use crate::wal::WalScanner;

/// A WAL file whose digest is all `digest`.
pub(crate) fn file(name: &str, digest: u8) -> WalFile {
    let digest = WalDigest::from_bytes([digest; 16]);
    WalFile { name: name.parse().unwrap(), digest, stored_len: 1, modified: Timestamp::UNIX_EPOCH }
}

/// A catalog of WAL files.
pub(crate) fn catalog(segment_size: u32, names: &[&str]) -> Catalog {
    let mut catalog = Catalog::empty(SegmentSize::new(segment_size).unwrap());
    for name in names {
        catalog.add(file(name, 1));
    }
    catalog
}

/// A manifest of a backup between two positions.
pub(crate) fn manifest(start: Lsn, stop: Lsn, timeline: u32) -> Manifest {
    let text = include_str!("../format/FORMAT.md");
    let json = text.split("```json manifest\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
    let mut manifest = Manifest::parse(json.as_bytes()).unwrap();
    manifest.start_lsn = start;
    manifest.stop_lsn = stop;
    manifest.timeline = TimelineId::new(timeline).unwrap();
    manifest.page_errors.clear();
    manifest
}

/// A history by its text.
pub(crate) fn history(timeline: u32, text: &str) -> History {
    History::parse(TimelineId::new(timeline).unwrap(), text.as_bytes()).unwrap()
}

impl Catalog {
    /// The same catalog with a history.
    pub(crate) fn with_history(mut self, timeline: u32, history: Result<History>) -> Self {
        self.add_history(TimelineId::new(timeline).unwrap(), history);
        self
    }
}

/// The window of `catalog`, whose segments answer as `summary` says, or are damaged; `before` says when the last commit of
/// a segment before a position was.
pub(crate) fn window(
    catalog: &Catalog,
    mut before: impl FnMut(crate::postgres::SegmentName, Lsn) -> Option<PgTime>,
    mut summary: impl FnMut(crate::postgres::SegmentName, WalDigest) -> Result<Summary>,
    mut tail: impl FnMut(crate::postgres::SegmentName, u32) -> (Lsn, Option<PgTime>),
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
                        Need::Before(segment, digest, until) => {
                            let time = before(segment, until);
                            times.before.insert((segment, digest, until), Ok(time));
                        }
                        Need::Tail(segment, generation, len) => {
                            let (end, last_time) = tail(segment, len);
                            let mut summary = WalScanner::new(end, catalog.segment_size).finish();
                            summary.last_time = last_time;
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
