//! What is known: all events, added up. A pure value: no I/O, and time is passed in, so that any course of events can be
//! replayed in a test.

mod claims;
mod tails;
mod times;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use super::beside::grew_beside;
use super::coverage::Coverage;
use super::entry::{Attempt, Doubt, Role, StoredTail, Wanted};
use super::event::{Event, LeftBehind, Now, Obstacle, Sample, ServerFacts, Survey};
use super::rpo::FlushHistory;
use super::stored::StoredEnd;
use crate::archive::Pushed;
use crate::error::{Error, Kind};
use crate::format::TailGeneration;
use crate::postgres::{Lsn, PgTime, SegmentName, TimelineId, WalName};
use crate::present::Counts;
use crate::problem::Trouble;
use crate::repository::WalFile;
use crate::store::Outcome;
use crate::window::{RecoveryWindow, Usage};

/// A sample that is older says nothing of now.
const STALE: Duration = Duration::from_secs(3);
/// An outage lasts at least this long; a request that fails and is repeated is not one.
const CUT_OFF: Duration = Duration::from_secs(5);
/// Looking at a disk may mean reading a segment of up to 1 GiB: at most a twentieth of the time goes into it.
const LOOKS_APART: u32 = 20;

/// Everything that is known. Fields may be read; [`Ledger::apply`] alone changes them.
#[derive(Debug)]
pub struct Ledger {
    /// Of the data directory.
    pub system_identifier: Option<u64>,
    /// What stands in the way of beginning.
    pub obstacle: Option<Obstacle>,
    /// `wal-push` means another repository.
    pub misdirected: bool,
    /// What the server is like, as of the last connection.
    pub facts: ServerFacts,
    /// Why the server could not be asked the last time.
    pub server_error: Option<Error>,
    /// Files that wait in `archive_status`, and since when the oldest one does.
    pub ready: (u64, Option<PgTime>),
    /// Files that failed the last time.
    pub failing: BTreeMap<WalName, Error>,
    /// The last tries, newest first.
    pub recent: VecDeque<Attempt>,
    /// When a file was last archived.
    pub last_push: Option<PgTime>,
    /// The newest piece of a tail.
    pub tail: Option<StoredTail>,
    /// Why the tail could not be stored the last time.
    pub tail_error: Option<Error>,
    /// Why the repository could not be surveyed the last time.
    pub survey_error: Option<Trouble>,
    /// When a backup last failed on this host.
    pub backup_failed_at: Option<PgTime>,
    /// The server that answers is not the one that runs in the data directory.
    pub wrong_server: bool,
    /// What can be restored, as of the last survey.
    pub window: Option<RecoveryWindow>,
    /// What is stored.
    pub bytes: Option<Usage>,
    /// Whether the last request to the store was answered.
    pub store_up: Option<bool>,
    /// Since when no request to the store was answered.
    cut_off_since: Option<Instant>,
    /// What was counted.
    pub counts: Counts,
    sample: Option<Sample>,
    /// Where WAL on disk ends, since the server went down.
    left_behind: Option<LeftBehind>,
    /// When to look at the disk of a server that does not answer.
    next_look: Option<Instant>,
    coverage: Option<Coverage>,
    /// What was stored since the survey that is under way began to list.
    stored_since: Vec<WalFile>,
    /// What was stored between the last survey that came to its end and the one that is under way.
    expected_files: Vec<WalFile>,
    /// The last time in what was stored up to a position since it was surveyed.
    last_times: BTreeMap<(TimelineId, Lsn), PgTime>,
    /// Tails that were shipped, of segments that are not stored yet.
    shipped: BTreeMap<SegmentName, (TailGeneration, u32)>,
    /// Those of them that the survey that is under way has to find.
    expected: BTreeMap<SegmentName, (TailGeneration, u32)>,
    /// Those that a survey did not find, whole or in part.
    lost_tails: BTreeSet<(SegmentName, TailGeneration)>,
    /// Up to where WAL of the server's timeline is stored.
    stored_end: Option<StoredEnd>,
    /// Up to where tails reach that hold something else than the server has written.
    other_tails: BTreeMap<SegmentName, Lsn>,
    /// The same of those that nobody has compared yet.
    suspected_tails: BTreeMap<SegmentName, Lsn>,
    /// Another writer's tail of this segment is newer than ours.
    second_writer: Option<SegmentName>,
    /// The timeline of a branch beside the server's own that has grown since the survey before, and up to where.
    beside: Option<(TimelineId, Lsn)>,
    /// The server has flushed past what another life stored. Which of it is whose, the next look compares.
    doubt: Option<Doubt>,
    /// Where backups begin that end behind what the server had flushed when it was asked later: they are another life's,
    /// whatever becomes of that life's WAL.
    overtaken: BTreeSet<Lsn>,
    /// Of what is stored up to here, or farther, `flushes` knows the age of what is not.
    known_from: Lsn,
    flushes: FlushHistory,
}

impl Ledger {
    /// Nothing is known at `now`.
    pub fn new(now: Now) -> Self {
        Self {
            system_identifier: None,
            obstacle: None,
            misdirected: false,
            facts: ServerFacts::default(),
            server_error: None,
            ready: (0, None),
            failing: BTreeMap::new(),
            recent: VecDeque::new(),
            last_push: None,
            tail: None,
            tail_error: None,
            survey_error: None,
            backup_failed_at: None,
            wrong_server: false,
            window: None,
            bytes: None,
            store_up: None,
            cut_off_since: None,
            counts: Counts::default(),
            sample: None,
            left_behind: None,
            next_look: None,
            coverage: None,
            stored_since: Vec::new(),
            expected_files: Vec::new(),
            last_times: BTreeMap::new(),
            shipped: BTreeMap::new(),
            expected: BTreeMap::new(),
            lost_tails: BTreeSet::new(),
            stored_end: None,
            other_tails: BTreeMap::new(),
            suspected_tails: BTreeMap::new(),
            second_writer: None,
            beside: None,
            doubt: None,
            overtaken: BTreeSet::new(),
            known_from: Lsn::INVALID,
            flushes: FlushHistory::new(now.instant, Duration::ZERO),
        }
    }

    /// Note what was found out at `now`; what has to be looked at because of it.
    pub fn apply(&mut self, event: Event, now: Now) -> Option<Wanted> {
        match event {
            Event::ClusterFound { system_identifier } => self.system_identifier = Some(system_identifier),
            Event::BeganAnew => self.begin_anew(now),
            Event::Obstructed(obstacle) => self.obstacle = Some(obstacle),
            Event::Misdirected(misdirected) => self.misdirected = misdirected,
            Event::Unobstructed => self.obstacle = None,
            Event::Connected(facts) => self.facts = facts,
            Event::Sampled(sample) => return self.sampled(sample),
            Event::ServerFailed(error) => return self.server_failed(error, false, now),
            Event::WrongServer(error) => return self.server_failed(error, true, now),
            Event::DiskRead { left, took } => return self.disk_read(left, took, now),
            Event::ReadyListed { count, oldest } => self.ready = (count, oldest),
            Event::Pushed { file, took } => {
                self.pushed(&file, took, now);
                // From now on a restore follows it.
                return matches!(file.name, WalName::History(_)).then_some(Wanted::Survey);
            }
            Event::PushFailed { name, error, took } => {
                self.push_failed(name, error, took, now);
                return (self.doubt == Some(Doubt::New)).then_some(Wanted::Survey);
            }
            Event::FileGone(name) => drop(self.failing.remove(&name)),
            Event::TailStored { segment, generation, len, end, last_time } => {
                let begun = self.shipped.get(&segment).is_none_or(|(known, _)| *known != generation);
                self.tail_stored(segment, (generation, len, end), last_time, now);
                // It takes the place of another one, which may have led farther; or it is what a restore has to see of a
                // new timeline, so as to follow it.
                return (begun && (generation.count > 0 || !self.is_followed())).then_some(Wanted::Survey);
            }
            Event::TailsCompared { segment, other } => self.tails_compared(segment, other),
            Event::TailCurrent => self.tail_error = None,
            Event::TailFailed(error) => {
                self.counts.tail_failures += 1;
                self.tail_error = Some(error);
            }
            Event::SurveyBegan => {
                self.expected_files.append(&mut self.stored_since);
                self.expected.clone_from(&self.shipped);
                self.doubt = self.doubt.map(|_| Doubt::LookedAt);
            }
            Event::Surveyed(survey) => self.surveyed(*survey, now),
            Event::SurveyFailed { error, code } => {
                let trouble = code.map(|code| Trouble::new(code, &error));
                self.survey_error = Some(trouble.unwrap_or_else(|| Trouble::of_repository(&error)));
            }
            Event::BackupMade => return Some(Wanted::Survey),
            Event::BackupFailed => self.backup_failed_at = Some(now.time),
            Event::Requested { verb, outcome, elapsed } => {
                self.counts.request(verb, outcome == Outcome::Answered, elapsed);
                return self.requested(outcome, now);
            }
        }
        None
    }

    /// A daemon that was cut off for a while does not know whether another took over in the
    /// meantime.
    fn requested(&mut self, outcome: Outcome, now: Now) -> Option<Wanted> {
        self.store_up = Some(outcome == Outcome::Answered);
        if outcome == Outcome::Failed {
            self.cut_off_since.get_or_insert(now.instant);
            return None;
        }
        let since = self.cut_off_since.take()?;
        (now.instant.saturating_duration_since(since) >= CUT_OFF).then_some(Wanted::Survey)
    }

    /// The repository has to be surveyed when the server writes another timeline than before, or began to write.
    fn sampled(&mut self, sample: Sample) -> Option<Wanted> {
        self.server_error = None;
        self.wrong_server = false;
        self.left_behind = None;
        self.next_look = None;
        if !sample.status.in_recovery {
            self.flushes.saw(sample.asked_at, sample.status.flushed);
        }
        let restarted = self.sample.is_some_and(|before| before.status.started != sample.status.started);
        let diverged = self.divergence().is_some();
        let writes = |sample: Option<Sample>| sample.and_then(|sample| sample.status.timeline);
        let changed = writes(Some(sample)) != writes(self.sample);
        self.sample = Some(sample);
        let is_ahead = self.divergence().is_some();
        if is_ahead {
            self.note_overtaken(sample.status.flushed);
            self.note_other_tail();
        }
        if restarted || is_ahead {
            // A data directory that was put back: what was shipped is of the life before.
            self.forget_tails();
        }
        let overtakes = diverged && !is_ahead;
        if restarted || overtakes {
            self.doubt = Some(Doubt::New);
        }
        (changed || restarted || overtakes).then_some(Wanted::Survey)
    }

    fn note_overtaken(&mut self, flushed: Lsn) {
        let Some(coverage) = &self.coverage else { return };
        let size = coverage.catalog().segment_size;
        let beyond = coverage.backups().filter(|backup| backup.stop_lsn > flushed);
        self.overtaken.extend(beyond.map(|backup| backup.start_lsn.segment_start(size)));
    }

    fn server_failed(&mut self, error: Error, wrong_server: bool, now: Now) -> Option<Wanted> {
        self.wrong_server = wrong_server;
        self.server_error = Some(error);
        self.next_look.is_none_or(|at| now.instant >= at).then_some(Wanted::DiskRead)
    }

    /// The next look has to wait [`LOOKS_APART`] times as long as this one took.
    fn disk_read(&mut self, left: Option<LeftBehind>, took: Duration, now: Now) -> Option<Wanted> {
        self.next_look = Some(now.instant + took * LOOKS_APART);
        // A segment may be finished, and the server died before it said so.
        (std::mem::replace(&mut self.left_behind, left) != left).then_some(Wanted::Survey)
    }

    fn pushed(&mut self, pushed: &Pushed, took: Duration, now: Now) {
        self.failing.remove(&pushed.name);
        self.last_push = Some(now.time);
        if let WalName::Segment(segment) = pushed.name {
            if let Some(coverage) = &self.coverage {
                let end = segment.end(coverage.catalog().segment_size);
                self.note_time(segment.timeline, end, pushed.last_time);
            }
            // Its tail is deleted now.
            self.shipped.remove(&segment);
            if let Some(stored_end) = &mut self.stored_end {
                stored_end.add_segment(segment, now.instant);
            }
        }
        let file = WalFile {
            name: pushed.name,
            digest: pushed.digest,
            stored_len: pushed.stored_len,
            modified: now.time.timestamp(),
        };
        if let Some(coverage) = &mut self.coverage {
            coverage.add(file.clone());
        }
        self.stored_since.push(file);
        self.prune();
        self.count_push(pushed, took);
        let bytes = (pushed.raw_len, pushed.stored_len);
        self.remember(Attempt { name: pushed.name, at: now.time, took, bytes, error: None });
    }

    fn push_failed(&mut self, name: WalName, error: Error, took: Duration, now: Now) {
        self.counts.push_failed += 1;
        // Known before the next look compares the two.
        if let (WalName::Segment(segment), Kind::Conflict, Some(coverage)) =
            (name, error.kind(), &mut self.coverage)
        {
            // Which others there are, and how old is what follows, the next look says.
            if coverage.add_other(segment) {
                self.doubt = Some(Doubt::New);
            }
        }
        self.failing.insert(name, error.clone());
        self.remember(Attempt { name, at: now.time, took, bytes: (0, 0), error: Some(error) });
    }

    /// Nothing that was known of the old one holds.
    fn begin_anew(&mut self, now: Now) {
        let (facts, counts) = (std::mem::take(&mut self.facts), std::mem::take(&mut self.counts));
        let (store_up, misdirected) = (self.store_up, self.misdirected);
        *self = Self { misdirected, facts, store_up, counts, ..Self::new(now) };
    }

    fn prune(&mut self) {
        if let Some(coverage) = &self.coverage {
            self.flushes.prune(coverage.stored());
        }
    }

    fn surveyed(&mut self, survey: Survey, now: Now) {
        let mut coverage = survey.coverage;
        let mut stored_end = survey.stored_end;
        for file in self.stored_since.drain(..) {
            if let WalName::Segment(segment) = file.name {
                stored_end.add_segment(segment, now.instant);
            }
            coverage.add(file);
        }
        self.drop_lost_tails(&survey.tails, &coverage, &stored_end);
        for (segment, tail) in &self.shipped {
            if !coverage.has(segment) {
                stored_end.add_tail(*segment, *tail, now.instant);
            }
            coverage.add_tail(*segment, tail.1);
        }
        // What was stored before and is no more: when it was flushed is forgotten.
        let stored = coverage.stored();
        let same = |before: &Coverage| before.history().timeline == coverage.history().timeline;
        if !self.coverage.as_ref().is_some_and(same) || stored < self.known_from {
            self.flushes.set_unknown(now.instant, survey.unknown);
            // The last commit that is stored may lie in a tail that is not counted.
            let branch = survey.window.branch(coverage.history().timeline);
            self.known_from = branch.and_then(|b| b.farthest()).map_or(stored, |span| span.end.max(stored));
        }
        let newer = |(segment, (ours, _)): (&SegmentName, &(TailGeneration, u32))| {
            let theirs = stored_end.tail(segment)?;
            (theirs > *ours && !coverage.has(segment)).then_some(*segment)
        };
        self.second_writer = self.shipped.iter().find_map(newer);
        for known in [&mut self.other_tails, &mut self.suspected_tails] {
            let is_there = |segment: &SegmentName| survey.tails.keys().any(|(of, _)| of == segment);
            known.retain(|segment, _| !coverage.has(segment) || is_there(segment));
        }
        self.stored_end = Some(stored_end.after(self.stored_end.as_ref()));
        let ours = coverage.history().timeline;
        self.beside = self.window.as_ref().and_then(|before| grew_beside(before, &survey.window, ours));
        self.window = Some(survey.window);
        self.last_push = self.last_push.max(coverage.catalog().last_push());
        self.bytes = Some(survey.bytes);
        self.coverage = Some(coverage);
        self.forget_times();
        self.survey_error = None;
        self.expected_files.clear();
        self.doubt = self.doubt.filter(|doubt| *doubt == Doubt::New);
        self.prune();
    }

    // --- what follows

    /// The last answer of the server.
    pub fn sample(&self) -> Option<Sample> {
        self.sample
    }

    /// What was stored between the last survey that came to its end and the one that is under way, which has to see it.
    pub fn expected_files(&self) -> Vec<WalFile> {
        self.expected_files.clone()
    }

    /// What is stored, once that was surveyed.
    pub fn coverage(&self) -> Option<&Coverage> {
        self.coverage.as_ref()
    }

    /// What the server is.
    pub fn role(&self) -> Role {
        match (&self.server_error, self.sample) {
            (None, Some(sample)) if sample.status.in_recovery => Role::Standby,
            (None, Some(_)) => Role::Primary,
            _ => Role::Down,
        }
    }

    /// What a primary that does not run has left.
    pub fn left_behind(&self) -> Option<LeftBehind> {
        let was_primary = |left: &LeftBehind| !left.recovering && !self.is_standby();
        self.left_behind.filter(|left| self.role() == Role::Down && was_primary(left))
    }

    /// Whether the server follows another one, by its last word or else by what it has left.
    fn is_standby(&self) -> bool {
        self.sample.map_or_else(
            || self.left_behind.is_some_and(|left| left.recovering),
            |sample| sample.status.in_recovery,
        )
    }

    /// The timeline and position that WAL was last known to be flushed to.
    pub fn last_flushed(&self) -> Option<(TimelineId, Lsn)> {
        let status = self.sample?.status;
        status.timeline.map(|timeline| (timeline, status.flushed))
    }

    /// Where WAL ends, as far as anybody knows.
    pub fn end_of_wal(&self) -> Option<Lsn> {
        let sampled = self.sample.filter(|sample| !sample.status.in_recovery);
        sampled.map(|sample| sample.status.flushed).max(self.left_behind.map(|left| left.end))
    }
}
