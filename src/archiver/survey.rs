//! Looking at the repository and at pg_wal together: what is stored, what is missing and still here (R9), what is gone.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::compare::Compared;
use super::handle::LedgerHandle;
use super::news::{Since, has_all, list_news};
use super::older_tails::{Leftovers, drop_covered};
use super::pusher::Pusher;
use crate::cluster::DataDir;
use crate::error::{Error, Result};
use crate::format::{ObjectKey, TailGeneration, VerifyRecord};
use crate::ledger::{Coverage, Event, Ledger, Now, Seen, Survey, tails};
use crate::postgres::{History, PgTime, SegmentName, TimelineId, WalName};
use crate::problem::Code;
use crate::repository::{Listed, Listing, Repository, WalFile};
use crate::window::{Catalog, Records, WalTimes, look};

/// Between two listings of everything; other looks list what is new.
const WHOLE: Duration = Duration::from_hours(24);
/// Between two looks.
pub(crate) const NEXT: Duration = Duration::from_mins(1);
/// After a look that failed.
const AGAIN: Duration = Duration::from_secs(5);
/// After a delete that was refused.
const DELETE_AGAIN: Duration = Duration::from_mins(30);
/// Segments that are listed again behind those that may be on their way together.
const MARGIN: u64 = 16;
/// What is kept from one look to the next (R34).
#[derive(Default)]
struct Looks {
    listing: Listing,
    records: Records,
    times: WalTimes,
    compared: Compared,
    leftovers: Leftovers,
    /// When the store last refused to delete a tail.
    refused_at: Option<Instant>,
    /// When everything was listed, and of which timeline the server was then.
    whole: Option<(Instant, TimelineId)>,
}

/// Survey for ever.
pub(super) async fn run(ledger: LedgerHandle, pusher: Arc<Pusher>) {
    let mut looks = Looks::default();
    loop {
        let pause = match survey(&ledger, &pusher, &mut looks).await {
            Ok(()) => NEXT,
            Err(Failed { error, code }) => {
                ledger.apply(Event::SurveyFailed { error, code }, Now::read());
                AGAIN
            }
        };
        // Woken: the server writes another timeline, or has become a primary; or a backup was made.
        let _ = tokio::time::timeout(pause, ledger.survey_wanted()).await;
    }
}

/// A look that did not come to its end.
struct Failed {
    error: Error,
    /// What it is about, where that is not the repository.
    code: Option<Code>,
}

impl Failed {
    fn of(code: Code) -> impl Fn(Error) -> Self {
        move |error| Self { error, code: Some(code) }
    }
}

impl From<Error> for Failed {
    fn from(error: Error) -> Self {
        Self { error, code: None }
    }
}

/// One look.
async fn survey(ledger: &LedgerHandle, pusher: &Pusher, looks: &mut Looks) -> Result<(), Failed> {
    let repository = &pusher.repository;
    ledger.apply(Event::SurveyBegan, Now::read());
    // The end first, then pg_wal, then the repository: WAL goes that way, and what has moved on in between is met
    // further down, and not missing.
    let (sample, end) = ledger.read(|ledger| (ledger.sample(), ledger.end_of_wal()));
    let files = pusher.pg_wal.files().map_err(Failed::of(Code::DataDirectory))?;
    let ready = pusher.pg_wal.ready().map_err(Failed::of(Code::DataDirectory))?;
    // A standby follows its primary to another timeline.
    let timeline = sample.and_then(|sample| sample.status.timeline).unwrap_or_else(|| timeline_here(pusher));
    // An unmounted disk leaves an empty directory behind, in which nothing is listed.
    repository.check_still_there().await?;
    let (open, stored) =
        ledger.read(|ledger| (ledger.coverage().map(Coverage::next), ledger.expected_files()));
    let since = Since { open, margin: pusher.concurrency() + MARGIN, size: pusher.control.segment_size };
    list(repository, looks, timeline, (since, &stored)).await?;
    let expected = ledger.read(Ledger::expected_tails);
    list_tails_again(repository, &mut looks.listing, &expected).await?;
    let listed_at = Instant::now();
    let (catalog, window) = look(repository, &looks.listing, &mut looks.records, &mut looks.times).await?;
    let history = history(pusher, timeline, &catalog).map_err(Failed::of(Code::HistoryUnreadable))?;
    let standby = sample.is_some_and(|sample| sample.status.in_recovery);
    let end = end.filter(|_| !standby);
    let others = match end {
        Some(end) => looks.compared.others(pusher, &catalog, &history, (&files, end)).await?,
        None => BTreeSet::new(),
    };
    let (garbage, found) = looks.leftovers.find(repository, &looks.listing, &catalog, &expected).await;
    let seen = Seen {
        timeline,
        history,
        end,
        files: &files,
        ready: &ready,
        others,
        listing: &looks.listing,
        listed_at,
    };
    let (survey, missing) =
        Survey::of(seen, Arc::unwrap_or_clone(catalog), window, |last| unknown_age(pusher, last));
    if let Some(first) = missing.first() {
        tracing::info!(files = missing.len(), %first, "files in pg_wal are not in the repository yet");
    }
    if let Some(first) = survey.holes().first() {
        tracing::error!(segments = survey.holes().len(), %first, "WAL is missing and no longer here; a new backup closes the hole");
    }
    for event in found {
        ledger.apply(event, Now::read());
    }
    ledger.apply(Event::Surveyed(Box::new(survey)), Now::read());
    pusher.add(missing);
    // Last, and not each time: a store that does not delete holds up nothing else.
    if looks.refused_at.is_none_or(|at| at.elapsed() >= DELETE_AGAIN) {
        looks.refused_at = (!drop_covered(repository, &garbage).await).then(Instant::now);
    }
    Ok(())
}

/// Everything at the start, once a day, when the server writes another timeline, and when what is known to be stored is not
/// among what is new; else what is new.
async fn list(
    repository: &Repository,
    looks: &mut Looks,
    timeline: TimelineId,
    (since, stored): (Since, &[WalFile]),
) -> Result<()> {
    let is_due = |(at, of): (Instant, TimelineId)| at.elapsed() >= WHOLE || of != timeline;
    let mut is_whole = looks.whole.is_none_or(is_due);
    if !is_whole {
        // What a verification found is about objects as they are now.
        let harm = |listing: &Listing| listing.state(&ObjectKey::Verify(VerifyRecord::Harm));
        let harm_before = harm(&looks.listing);
        let does = list_news(repository, &mut looks.listing, timeline, since).await?;
        // Another host may have filled a hole, or the store may have gone back.
        is_whole = !does || !has_all(&looks.listing, stored) || harm(&looks.listing) != harm_before;
    }
    if is_whole {
        looks.listing = repository.list().await?;
        looks.whole = Some((Instant::now(), timeline));
    }
    Ok(())
}

/// A piece that is replaced while its directory is read may seem to be gone, and so may what takes its place: what was
/// `expected` and is not listed is asked for once more, by itself.
async fn list_tails_again(
    repository: &Repository,
    listing: &mut Listing,
    expected: &BTreeMap<(SegmentName, TailGeneration), u32>,
) -> Result<()> {
    let listed = tails(listing);
    for ((segment, _), _) in expected.iter().filter(|(tail, len)| listed.get(tail) < Some(len)) {
        let pieces = repository.list_tail_pieces(Some(segment)).await?;
        listing
            .objects
            .retain(|listed| !matches!(listed.key, ObjectKey::Tail(piece) if piece.segment == *segment));
        listing.objects.extend(pieces.iter().map(|piece| Listed {
            key: ObjectKey::Tail(piece.name),
            size: piece.stored_len,
            modified: piece.modified,
        }));
        listing.objects.sort_by_cached_key(|listed| listed.key.to_string());
    }
    Ok(())
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
