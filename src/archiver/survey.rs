//! Looking at the repository and at pg_wal together: what is stored, what is missing and still here (R9), what is gone.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::coverage::Coverage;
use super::event::{Event, Now, Survey};
use super::handle::LedgerHandle;
use super::pusher::Pusher;
use crate::error::{Kind, Result};
use crate::postgres::{History, Lsn, PgTime, SegmentName, SegmentSize, TimelineId, WalName};
use crate::repository::{BackupId, Repository};
use crate::window::{Catalog, Records};

/// Between two looks at everything.
const WHOLE: Duration = Duration::from_mins(15);
/// Between two looks whether there is a new backup: one listing.
const BACKUPS: Duration = Duration::from_mins(1);
/// After a look that failed.
const AGAIN: Duration = Duration::from_secs(5);
/// Newest segments that are asked for the time of their last commit.
const SUMMARIES: usize = 4;

/// Survey for ever.
pub(super) async fn run(ledger: LedgerHandle, pusher: Arc<Pusher>) {
    let mut last: Option<(Instant, Vec<BackupId>)> = None;
    loop {
        let pause = match survey(&ledger, &pusher).await {
            Ok(backups) => {
                last = Some((Instant::now(), backups));
                BACKUPS
            }
            Err(error) => {
                ledger.apply(Event::SurveyFailed(error), Now::read());
                AGAIN
            }
        };
        // Woken: the server writes another timeline, or has become a primary.
        while tokio::time::timeout(pause, ledger.survey_wanted()).await.is_err() {
            let is_due = last.as_ref().is_none_or(|(at, _)| at.elapsed() >= WHOLE);
            if is_due || pause == AGAIN {
                break;
            }
            let ids = pusher.repository.list_backup_ids().await;
            if !matches!((&ids, &last), (Ok(ids), Some((_, known))) if ids == known) {
                break;
            }
        }
    }
}

/// One look. The ids of the backups that there are, sorted.
async fn survey(ledger: &LedgerHandle, pusher: &Pusher) -> Result<Vec<BackupId>> {
    let repository = &pusher.repository;
    ledger.apply(Event::SurveyBegan, Now::read());
    // The end first, then pg_wal, then the repository: WAL goes that way, and what has moved on in between is met
    // further down, and not missing.
    let (sample, end) = ledger.read(|ledger| (ledger.sample(), ledger.end_of_wal()));
    let files = pusher.pg_wal.files()?;
    let ready = pusher.pg_wal.ready()?;
    // Tails of earlier lives are not counted: what this daemon ships, it knows.
    let (listing, mut records) = (repository.list().await?, Records::default());
    records.read(repository, &listing).await?;
    let catalog = Catalog::of(&listing, &records, repository.identity().segment_size()?);
    let timeline = sample.and_then(|sample| sample.status.timeline).unwrap_or(pusher.control.timeline);
    let history = history(pusher, timeline, &catalog)?;
    let size = catalog.segment_size;
    let standby = sample.is_some_and(|sample| sample.status.in_recovery);
    let missing = match end.filter(|_| !standby) {
        Some(end) => missing(&files, &history, end, &catalog),
        None => Vec::new(),
    };
    if !missing.is_empty() {
        tracing::info!(files = missing.len(), first = %missing[0], "files in pg_wal are not in the repository yet");
    }
    let oldest_here = oldest_here(&ready, &missing, end, size);
    let mut coverage = Coverage::new(catalog, history, oldest_here);
    let holes = end.filter(|_| !standby).map(|end| holes(&coverage, &files, end, size)).unwrap_or_default();
    if let Some(first) = holes.first() {
        tracing::error!(segments = holes.len(), %first, "WAL is missing and no longer here; a new backup closes the hole");
    }
    coverage.set_holes(holes);
    let usable = coverage.catalog().backups.iter().map(|backup| &backup.id);
    let damaged = coverage.catalog().damaged.iter().map(|backup| &backup.id);
    let mut backups: Vec<BackupId> = usable.chain(damaged).cloned().collect();
    backups.sort_unstable();
    let last_time = last_time(repository, &coverage).await?;
    let unknown = unknown_age(pusher, last_time);
    let bytes = coverage.catalog().usage;
    sweep_tails(repository, &coverage).await;
    let survey = Box::new(Survey { coverage, unknown, last_time, bytes });
    ledger.apply(Event::Surveyed(survey), Now::read());
    pusher.add(missing);
    Ok(backups)
}

/// The history of `timeline`: the server's own copy first, for the repository may not have it yet.
fn history(pusher: &Pusher, timeline: TimelineId, catalog: &Catalog) -> Result<History> {
    if timeline == TimelineId::FIRST {
        return Ok(History::root(timeline));
    }
    let path = pusher.pg_wal.file(&WalName::History(timeline));
    match std::fs::read(&path) {
        Ok(text) => History::parse(timeline, &text),
        Err(_) => catalog.history(timeline),
    }
}

/// R9: finished files in pg_wal that the repository does not have, on the lineage of the timeline that is written:
/// a primary that is gone may never have shipped them.
fn missing(files: &[WalName], history: &History, end: Lsn, catalog: &Catalog) -> Vec<WalName> {
    let size = catalog.segment_size;
    let is_finished = |segment: &SegmentName| {
        let Some(stretch) = history.stretch(segment.timeline) else { return false };
        // Behind a switch PostgreSQL goes on in a file of the new timeline, and archives the old one as .partial.
        let until = stretch.end.map_or(end, |switch| switch.min(end));
        segment.end(size) <= until && segment.end(size) > stretch.begin
    };
    let wanted = |name: &&WalName| match name {
        WalName::Segment(segment) => is_finished(segment) && !catalog.has(segment),
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

/// The latest commit in the newest stored segments.
async fn last_time(repository: &Repository, coverage: &Coverage) -> Result<Option<PgTime>> {
    let (segments, _) = coverage.catalog().stored_from(coverage.history(), coverage.base());
    for segment in segments.iter().rev().take(SUMMARIES) {
        let name = WalName::Segment(*segment);
        let Some(file) = coverage.catalog().versions(&name).next() else { continue };
        match repository.wal_summary(file).await {
            Ok(summary) if summary.times.is_some() => return Ok(summary.times.map(|(_, last)| last)),
            Err(error) if error.kind() != Kind::Corrupt => return Err(error),
            _ => {}
        }
    }
    Ok(None)
}

/// How old flushed WAL may be that is not stored: whatever is not stored came after the last commit that is. Where none
/// is, it may be as old as the cluster.
fn unknown_age(pusher: &Pusher, last_time: Option<PgTime>) -> Duration {
    let since = last_time.or_else(|| {
        let made = pusher.pg_wal.path().parent()?.join("PG_VERSION").metadata().ok()?.modified().ok()?;
        jiff::Timestamp::try_from(made).ok().map(PgTime::from)
    });
    // A clock that went back makes it negative; how far is as good a guess as there is.
    let seconds = since.map_or(0.0, |since| PgTime::now().seconds_since(since).abs());
    Duration::try_from_secs_f64(seconds).unwrap_or_default()
}

/// Delete what is left of tails whose segments are stored. One that stays costs space only.
async fn sweep_tails(repository: &Repository, coverage: &Coverage) {
    let Ok(pieces) = repository.list_tail_pieces(None).await else { return };
    for piece in pieces.iter().filter(|piece| coverage.has(&piece.name.segment)) {
        if let Err(error) = repository.delete_tail_piece(&piece.name).await {
            tracing::debug!(%error, "a piece of an old tail is left over");
        }
    }
}
