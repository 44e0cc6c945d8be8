//! Looking at the repository and at pg_wal together: what is stored, what is missing and still here (R9), what is gone.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::coverage::Coverage;
use super::event::{Event, Now, Survey};
use super::handle::LedgerHandle;
use super::pusher::Pusher;
use super::stored::StoredEnd;
use crate::cluster::DataDir;
use crate::error::Result;
use crate::format::ObjectKey;
use crate::postgres::{History, Lsn, PgTime, SegmentName, SegmentSize, TimelineId, WalName};
use crate::repository::{Listing, Repository};
use crate::window::{Branch, Catalog, Records, WalTimes, look};

/// Between two listings of everything; other looks list what is new.
const WHOLE: Duration = Duration::from_hours(24);
/// Between two looks.
const NEXT: Duration = Duration::from_mins(1);
/// After a look that failed.
const AGAIN: Duration = Duration::from_secs(5);
/// What is kept from one look to the next (R34).
#[derive(Default)]
struct Looks {
    listing: Listing,
    records: Records,
    times: WalTimes,
    /// When everything was listed, and of which timeline the server was then.
    whole: Option<(Instant, TimelineId)>,
}

/// Survey for ever.
pub(super) async fn run(ledger: LedgerHandle, pusher: Arc<Pusher>) {
    let mut looks = Looks::default();
    loop {
        let pause = match survey(&ledger, &pusher, &mut looks).await {
            Ok(()) => NEXT,
            Err(error) => {
                ledger.apply(Event::SurveyFailed(error), Now::read());
                AGAIN
            }
        };
        // Woken: the server writes another timeline, or has become a primary; or a backup was made.
        let _ = tokio::time::timeout(pause, ledger.survey_wanted()).await;
    }
}

/// One look.
async fn survey(ledger: &LedgerHandle, pusher: &Pusher, looks: &mut Looks) -> Result<()> {
    let repository = &pusher.repository;
    ledger.apply(Event::SurveyBegan, Now::read());
    // The end first, then pg_wal, then the repository: WAL goes that way, and what has moved on in between is met
    // further down, and not missing.
    let (sample, end) = ledger.read(|ledger| (ledger.sample(), ledger.end_of_wal()));
    let files = pusher.pg_wal.files()?;
    let ready = pusher.pg_wal.ready()?;
    // A standby follows its primary to another timeline.
    let timeline = sample.and_then(|sample| sample.status.timeline).unwrap_or_else(|| timeline_here(pusher));
    list(repository, looks, timeline).await?;
    let listed_at = Instant::now();
    let (catalog, window) = look(repository, &looks.listing, &mut looks.records, &mut looks.times).await?;
    let history = history(pusher, timeline, &catalog)?;
    let size = catalog.segment_size;
    let standby = sample.is_some_and(|sample| sample.status.in_recovery);
    let end = end.filter(|_| !standby);
    let missing = end.map(|end| missing(&files, &history, end, &catalog)).unwrap_or_default();
    if let Some(first) = missing.first() {
        tracing::info!(files = missing.len(), %first, "files in pg_wal are not in the repository yet");
    }
    let oldest_here = oldest_here(&ready, &missing, end, size);
    let stored_end = StoredEnd::of(&looks.listing, timeline, size, listed_at);
    sweep_tails(repository, &looks.listing, &catalog).await;
    // Tails of earlier lives are not counted: what this daemon ships, it knows.
    let mut coverage = Coverage::new(Arc::unwrap_or_clone(catalog), history, oldest_here);
    let branch = window.branch(timeline);
    if let Some(branch) = branch {
        coverage.limit_to(branch);
    }
    let holes = end.map(|end| holes(&coverage, &files, end, size)).unwrap_or_default();
    if let Some(first) = holes.first() {
        tracing::error!(segments = holes.len(), %first, "WAL is missing and no longer here; a new backup closes the hole");
    }
    coverage.set_holes(holes);
    let last_time = branch.and_then(Branch::last_commit);
    let unknown = unknown_age(pusher, last_time);
    let bytes = coverage.catalog().usage;
    let survey = Survey { coverage, window, stored_end, unknown, last_time, bytes };
    ledger.apply(Event::Surveyed(Box::new(survey)), Now::read());
    pusher.add(missing);
    Ok(())
}

/// Everything at the start, once a day, and when the server writes another timeline; else what is new.
async fn list(repository: &Repository, looks: &mut Looks, timeline: TimelineId) -> Result<()> {
    let is_due = |(at, of): (Instant, TimelineId)| at.elapsed() >= WHOLE || of != timeline;
    if looks.whole.is_none_or(is_due) {
        looks.listing = repository.list().await?;
        looks.whole = Some((Instant::now(), timeline));
        return Ok(());
    }
    repository.list_news(&mut looks.listing, timeline).await
}

/// What the data directory says; at the start it was `pusher.control`'s.
fn timeline_here(pusher: &Pusher) -> TimelineId {
    let control = pusher.pg_wal.path().parent().and_then(|path| DataDir::open(path).ok()?.control().ok());
    control.map_or(pusher.control.timeline, |control| control.timeline)
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
async fn sweep_tails(repository: &Repository, listing: &Listing, catalog: &Catalog) {
    for listed in &listing.objects {
        if let ObjectKey::Tail(piece) = &listed.key
            && catalog.has(&piece.segment)
            && let Err(error) = repository.delete_tail_piece(piece).await
        {
            tracing::debug!(%error, "a piece of an old tail is left over");
        }
    }
}
