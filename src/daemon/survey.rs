//! Looking at the repository and at pg_wal together: what is stored, what is missing and still here (R9), what is gone.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::coverage::Coverage;
use super::outage::{Outage, Task};
use super::pusher::Pusher;
use super::shared::Shared;
use super::state::Survey;
use crate::archive::wal_end_on_disk;
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
/// DBState (pg_control.h) DB_SHUTDOWNED; DB_SHUTDOWNED_IN_RECOVERY and DB_IN_ARCHIVE_RECOVERY.
const SHUT_DOWN: u32 = 1;
const RECOVERING: [u32; 2] = [2, 5];
/// Bytes of the header of a segment's first page, where its first record begins.
const LONG_HEADER: u64 = 40;
/// Newest segments that are asked for the time of their last commit.
const SUMMARIES: usize = 4;

/// Survey for ever.
pub(super) async fn run(shared: Arc<Shared>, pusher: Arc<Pusher>) {
    let mut last: Option<(Instant, Vec<BackupId>)> = None;
    let mut outage = Outage::new("the repository cannot be read");
    loop {
        let pause = match survey(&shared, &pusher).await {
            Ok(backups) => {
                outage.succeeded(Instant::now());
                shared.store_served(Task::Survey);
                last = Some((Instant::now(), backups));
                BACKUPS
            }
            Err(error) => {
                if !shared.store_failed(Task::Survey, &error) {
                    outage.failed(Instant::now(), &error);
                }
                shared.survey_failed(&error);
                AGAIN
            }
        };
        // Woken: the server writes another timeline, or has become a primary.
        while tokio::time::timeout(pause, shared.survey.notified()).await.is_err() {
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
async fn survey(shared: &Shared, pusher: &Pusher) -> Result<Vec<BackupId>> {
    let repository = &pusher.repository;
    shared.survey_begins();
    // The end first, then pg_wal, then the repository: WAL goes that way, and what has moved on in between is met
    // further down, and not missing.
    let (sample, end) = shared.server_now();
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
    let bytes = super::usage::of(coverage.catalog());
    sweep_tails(repository, &coverage).await;
    shared.surveyed(Survey { coverage, unknown, last_time, bytes });
    pusher.add(missing);
    Ok(backups)
}

/// The history of `timeline`: the server's own copy first, for the repository may not have it yet.
fn history(pusher: &Pusher, timeline: TimelineId, catalog: &Catalog) -> Result<History> {
    if timeline == TimelineId::FIRST {
        return Ok(History::root(timeline));
    }
    let path = pusher.pg_wal.file(&WalName::History(timeline));
    match std::fs::read_to_string(&path) {
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

/// What a server that does not run has left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct LeftBehind {
    /// The timeline that it wrote.
    pub(super) timeline: TimelineId,
    /// Where the WAL on its disk ends. What it had not flushed counts: it replays that too when it starts again.
    pub(super) end: Lsn,
    /// It was a standby, or had not recovered yet.
    pub(super) recovering: bool,
}

/// Where WAL on disk ends, when the server does not run; `None` when it does, or when that cannot be told.
pub(super) fn left_behind(pusher: &Pusher, last: Option<(TimelineId, Lsn)>) -> Option<LeftBehind> {
    let data_dir = crate::cluster::DataDir::open(pusher.pg_wal.path().parent()?).ok()?;
    if data_dir.server_is_running().ok()? {
        return None;
    }
    let control = data_dir.control().ok()?;
    let recovering = RECOVERING.contains(&control.state);
    if control.state == SHUT_DOWN {
        // Nothing but the checkpoint of the shutdown follows: no commit is in it.
        let start = control.checkpoint.segment_start(control.segment_size);
        let first = control.checkpoint.offset_from(start) <= LONG_HEADER;
        let end = if first { start } else { control.checkpoint };
        return Some(LeftBehind { timeline: control.timeline, end, recovering });
    }
    let (timeline, from) = last
        .filter(|(timeline, _)| *timeline >= control.timeline)
        .unwrap_or((control.timeline, control.checkpoint));
    wal_end_on_disk(&pusher.pg_wal, control.segment_size, timeline, from)
        .inspect_err(|error| tracing::debug!(%error, "cannot tell where WAL on disk ends"))
        .ok()
        .map(|end| LeftBehind { timeline, end, recovering })
}
