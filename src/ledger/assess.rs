//! One look at the repository and at pg_wal, added up: what is stored, what is missing and still here (R9), what is gone.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use super::coverage::Coverage;
use super::event::Survey;
use super::stored::StoredEnd;
use crate::format::{ObjectKey, TailGeneration};
use crate::postgres::{History, Lsn, PgTime, SegmentName, SegmentSize, TimelineId, WalName};
use crate::repository::Listing;
use crate::window::{Branch, Catalog, RecoveryWindow};

/// What was looked at.
#[derive(Debug)]
pub struct Seen<'a> {
    /// The timeline that the server writes.
    pub timeline: TimelineId,
    /// Its history.
    pub history: History,
    /// Where the server's WAL ended before anything was looked at; `None` of a standby.
    pub end: Option<Lsn>,
    /// What was in pg_wal.
    pub files: &'a [WalName],
    /// What was marked as ready there.
    pub ready: &'a [WalName],
    /// Segments in pg_wal under whose name the repository has other bytes.
    pub others: BTreeSet<SegmentName>,
    /// What the repository listed, after that.
    pub listing: &'a Listing,
    /// When it was listed.
    pub listed_at: Instant,
}

impl Survey {
    /// What follows from what was seen, and the files that have to be pushed. `unknown` says how old flushed WAL may be
    /// that is not stored, by the latest commit that is.
    pub fn of(
        seen: Seen<'_>,
        catalog: Catalog,
        window: RecoveryWindow,
        unknown: impl FnOnce(Option<PgTime>) -> Duration,
    ) -> (Self, Vec<WalName>) {
        let Seen { timeline, end, files, .. } = seen;
        let size = catalog.segment_size;
        let missing = end.map(|end| missing(files, &seen.history, end, &catalog)).unwrap_or_default();
        let oldest_here = oldest_here(seen.ready, &missing, end, size);
        let stored_end = StoredEnd::of(seen.listing, timeline, size, seen.listed_at);
        // Tails of earlier lives are not counted: what this daemon ships, it knows.
        let branch = window.branch(timeline);
        let mut coverage = Coverage::new(catalog.without_tails(), seen.history, oldest_here);
        if let Some(branch) = branch {
            coverage.limit_to(branch);
        }
        let stored_history = coverage.catalog().history(timeline);
        let parts = stored_history.is_ok_and(|stored| coverage.limit_to_stored(&stored));
        coverage.set_others(seen.others);
        coverage.set_holes(end.map(|end| holes(&coverage, files, end, size)).unwrap_or_default());
        let last_time = branch.and_then(Branch::last_commit);
        // The last commit that is stored may be another life's.
        let unknown = unknown(last_time.filter(|_| !parts && !coverage.is_shared()));
        let bytes = coverage.catalog().usage;
        let tails = tails(seen.listing);
        (Self { coverage, window, stored_end, tails, unknown, bytes }, missing)
    }

    /// Segments that are neither stored nor here any more.
    pub const fn holes(&self) -> &BTreeSet<SegmentName> {
        self.coverage.holes()
    }
}

/// The tails that `listing` shows, and how far each of them goes without a gap.
pub fn tails(listing: &Listing) -> BTreeMap<(SegmentName, TailGeneration), u32> {
    let mut tails = BTreeMap::new();
    for listed in &listing.objects {
        // By their names they come in order, and a longer piece after the shorter one in whose place it was put.
        if let ObjectKey::Tail(piece) = listed.key {
            let len = tails.entry((piece.segment, piece.generation)).or_insert(0);
            *len = if piece.start <= *len { piece.end.max(*len) } else { *len };
        }
    }
    tails
}

/// R9: finished files in pg_wal that the repository does not have, on the lineage of the timeline that is written:
/// a primary that is gone may never have shipped them. What is older than every backup leads nowhere, and retention may have
/// deleted it.
fn missing(files: &[WalName], history: &History, end: Lsn, catalog: &Catalog) -> Vec<WalName> {
    let size = catalog.segment_size;
    let oldest =
        catalog.backups.iter().map(|backup| backup.start_lsn).min().filter(|_| catalog.damaged.is_empty());
    let is_of_use = |segment: &SegmentName| oldest.is_none_or(|oldest| segment.end(size) > oldest);
    let is_finished = |segment: &SegmentName| {
        let Some(stretch) = history.stretch(segment.timeline) else { return false };
        // Behind a switch PostgreSQL goes on in a file of the new timeline, and archives the old one as .partial.
        let until = stretch.end.map_or(end, |switch| switch.min(end));
        segment.end(size) <= until && segment.end(size) > stretch.begin
    };
    let wanted = |name: &&WalName| match name {
        WalName::Segment(segment) => is_finished(segment) && is_of_use(segment) && !catalog.has(segment),
        WalName::History(timeline) => {
            history.stretch(*timeline).is_some() && catalog.versions(name).next().is_none()
        }
        WalName::Partial(_) | WalName::BackupHistory { .. } => false,
    };
    files.iter().filter(wanted).copied().collect()
}

/// Where WAL begins that this host has yet to push.
fn oldest_here(ready: &[WalName], missing: &[WalName], end: Option<Lsn>, size: SegmentSize) -> Lsn {
    let segments = ready.iter().chain(missing).filter_map(|name| match name {
        WalName::Segment(segment) => Some(segment.start(size)),
        _ => None,
    });
    segments.chain(end.map(|end| end.segment_start(size))).min().unwrap_or_default()
}

/// Segments between the prefix and the end of WAL that are neither stored nor in pg_wal.
fn holes(coverage: &Coverage, files: &[WalName], end: Lsn, size: SegmentSize) -> BTreeSet<SegmentName> {
    let here: BTreeSet<&WalName> = files.iter().collect();
    let mut holes = BTreeSet::new();
    for stretch in coverage.history().lineage() {
        let from = stretch.begin.max(coverage.archived()).get() / size.bytes();
        let until = stretch.end.map_or(end, |switch| switch.min(end)).get() / size.bytes();
        for number in from..until {
            let segment = SegmentName::from_number(stretch.timeline, number, size);
            if !coverage.has(&segment) && !here.contains(&WalName::Segment(segment)) {
                holes.insert(segment);
            }
        }
    }
    holes
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::world::manifest as sample_manifest;

    #[test]
    fn r9_what_is_older_than_every_backup_is_not_shipped_again() {
        let size = SegmentSize::new(1 << 24).unwrap();
        let start = |number: u64| Lsn::new(number << 24);
        let within = |offset: u64| Lsn::new((3 << 24) + offset);
        let files: Vec<WalName> = (1..=4)
            .map(|number| WalName::Segment(SegmentName::from_number(TimelineId::FIRST, number, size)))
            .collect();
        let mut catalog = Catalog::empty(size);
        let missing =
            |catalog: &Catalog| missing(&files, &History::root(TimelineId::FIRST), start(5), catalog);
        assert_eq!(missing(&catalog), files, "the first backup has yet to come");
        catalog.backups.push(Arc::new(sample_manifest(within(40), within(400), 1)));
        assert_eq!(missing(&catalog), files[2..]);
    }
}
