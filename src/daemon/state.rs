//! What is known, and what follows from it. No I/O; time is passed in.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use super::coverage::Coverage;
use super::problems::{self, Facts};
use super::queue::Failure;
use super::rpo::FlushHistory;
use super::server::{Sample, ServerFacts};
use super::shared::Setup;
use super::snapshot::{BackupLine, PushLine, RepositoryBytes, Role, Snapshot, TailLine};
use super::survey::LeftBehind;
use crate::archive::Pushed;
use crate::error::Error;
use crate::postgres::{Lsn, PgTime, SegmentName, WalName};
use crate::repository::{Manifest, WalFile};

/// Files that are remembered for the status page.
const RECENT: usize = 20;
/// A sample that is older says nothing of now.
const STALE: Duration = Duration::from_secs(3);

/// What one look at the repository and at pg_wal found.
#[derive(Debug)]
pub(super) struct Survey {
    pub(super) coverage: Coverage,
    /// Flushed WAL that is not stored may be this old, as far as anybody knows.
    pub(super) unknown: Duration,
    /// The latest commit that is stored.
    pub(super) last_time: Option<PgTime>,
    /// What is stored.
    pub(super) bytes: RepositoryBytes,
}

/// Everything that is known.
#[derive(Debug)]
pub(super) struct State {
    since: PgTime,
    /// Of the data directory.
    pub(super) system_identifier: Option<u64>,
    pub(super) obstacle: Option<Error>,
    pub(super) facts: ServerFacts,
    pub(super) sample: Option<Sample>,
    server_error: Option<String>,
    /// Where WAL on disk ends, since the server went down.
    left_behind: Option<LeftBehind>,
    /// When to look at the disk of a server that does not answer.
    next_look: Option<Instant>,
    coverage: Option<Coverage>,
    /// What was stored since the survey that is under way began to list.
    stored_since: Vec<WalFile>,
    /// Tails that were shipped, of segments that are not stored yet.
    shipped: BTreeMap<SegmentName, u32>,
    flushes: FlushHistory,
    window_start: Option<PgTime>,
    last_time: Option<PgTime>,
    bytes: Option<RepositoryBytes>,
    backups: Vec<BackupLine>,
    pub(super) backup_failed_at: Option<PgTime>,
    pub(super) survey_error: Option<String>,
    pub(super) ready: (u64, Option<PgTime>),
    recent: VecDeque<PushLine>,
    last_push: Option<PgTime>,
    tail: Option<TailLine>,
    pub(super) tail_error: Option<String>,
}

/// Looking at a disk may mean reading a segment of up to 1 GiB: at most a twentieth of the time goes into it.
const LOOKS_APART: u32 = 20;

impl State {
    pub(super) fn new(now: Instant, since: PgTime) -> Self {
        Self {
            since,
            system_identifier: None,
            obstacle: None,
            facts: ServerFacts::default(),
            sample: None,
            server_error: None,
            left_behind: None,
            next_look: None,
            coverage: None,
            stored_since: Vec::new(),
            shipped: BTreeMap::new(),
            flushes: FlushHistory::new(now, Duration::ZERO),
            window_start: None,
            last_time: None,
            bytes: None,
            backups: Vec::new(),
            backup_failed_at: None,
            survey_error: None,
            ready: (0, None),
            recent: VecDeque::new(),
            last_push: None,
            tail: None,
            tail_error: None,
        }
    }

    /// Whether the repository has to be surveyed: the server writes another timeline than before, or began to write.
    pub(super) fn server_said(&mut self, sample: Sample) -> bool {
        self.server_error = None;
        self.left_behind = None;
        self.next_look = None;
        if !sample.status.in_recovery {
            self.flushes.saw(sample.asked_at, sample.status.flushed);
        }
        let writes = |sample: Option<Sample>| sample.and_then(|sample| sample.status.timeline);
        let changed = writes(Some(sample)) != writes(self.sample);
        self.sample = Some(sample);
        changed
    }

    /// Whether to look where WAL on disk ends.
    pub(super) fn server_failed(&mut self, error: &Error) -> bool {
        self.server_error = Some(error.to_string());
        self.next_look.is_none_or(|at| Instant::now() >= at)
    }

    /// Whether that is news. The next look has to wait [`LOOKS_APART`] times as long as this one `took`.
    pub(super) fn set_left_behind(&mut self, found: Option<LeftBehind>, took: Duration) -> bool {
        self.next_look = Some(Instant::now() + took * LOOKS_APART);
        std::mem::replace(&mut self.left_behind, found) != found
    }

    /// What a primary that does not run has left.
    pub(super) fn left_behind(&self) -> Option<LeftBehind> {
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
    pub(super) fn last_flushed(&self) -> Option<(crate::postgres::TimelineId, Lsn)> {
        let status = self.sample?.status;
        status.timeline.map(|timeline| (timeline, status.flushed))
    }

    /// Where WAL ends, as far as anybody knows.
    pub(super) fn end_of_wal(&self) -> Option<Lsn> {
        let sampled = self.sample.filter(|sample| !sample.status.in_recovery);
        sampled.map(|sample| sample.status.flushed).max(self.left_behind.map(|left| left.end))
    }

    pub(super) fn pushed(&mut self, pushed: &Pushed, took: Duration) {
        self.last_push = Some(PgTime::now());
        if let WalName::Segment(_) = pushed.name {
            self.last_time = self.last_time.max(pushed.last_time);
        }
        let file = WalFile {
            name: pushed.name,
            digest: pushed.digest,
            stored_len: pushed.stored_len,
            modified: jiff::Timestamp::now(),
        };
        if let Some(coverage) = &mut self.coverage {
            coverage.add(file.clone());
        }
        self.stored_since.push(file);
        if let Some(bytes) = self.bytes.as_mut().filter(|_| !pushed.already_there) {
            bytes.wal += pushed.stored_len;
        }
        self.prune();
        self.note(&pushed.name, took, (pushed.raw_len, pushed.stored_len), None);
    }

    pub(super) fn push_failed(&mut self, name: &WalName, error: &Error, took: Duration) {
        self.note(name, took, (0, 0), Some(error.to_string()));
    }

    fn note(&mut self, name: &WalName, took: Duration, (raw, stored): (u64, u64), error: Option<String>) {
        self.recent.truncate(RECENT - 1);
        self.recent.push_front(PushLine {
            name: name.to_string(),
            at: PgTime::now(),
            seconds: took.as_secs_f64(),
            raw_bytes: raw,
            stored_bytes: stored,
            error,
        });
    }

    pub(super) fn tail_stored(
        &mut self,
        segment: SegmentName,
        len: u32,
        end: Lsn,
        last_time: Option<PgTime>,
    ) {
        self.tail = Some(TailLine { segment: segment.to_string(), end, at: PgTime::now() });
        self.last_time = self.last_time.max(last_time);
        self.shipped.insert(segment, len);
        if let Some(coverage) = &mut self.coverage {
            coverage.add_tail(segment, len);
            self.shipped.retain(|segment, _| !coverage.has(segment));
        }
        self.prune();
    }

    /// A survey begins: what is stored from now on its listing may or may not show.
    pub(super) fn survey_begins(&mut self) {
        self.stored_since.clear();
    }

    fn prune(&mut self) {
        if let Some(coverage) = &self.coverage {
            self.flushes.prune(coverage.stored());
        }
    }

    pub(super) fn surveyed(&mut self, survey: Survey, now: Instant) {
        let mut coverage = survey.coverage;
        let same = |before: &Coverage| before.history().timeline == coverage.history().timeline;
        if !self.coverage.as_ref().is_some_and(same) {
            self.flushes.set_unknown(now, survey.unknown);
        }
        for file in self.stored_since.drain(..) {
            coverage.add(file);
        }
        for (segment, len) in &self.shipped {
            coverage.add_tail(*segment, *len);
        }
        self.window_start = coverage.window_start();
        self.backups = coverage.backups().map(|backup| backup_line(backup)).collect();
        self.last_push = self.last_push.max(coverage.catalog().last_push());
        self.last_time = self.last_time.max(survey.last_time);
        self.bytes = Some(survey.bytes);
        self.coverage = Some(coverage);
        self.survey_error = None;
        self.prune();
    }

    fn role(&self) -> Role {
        match (&self.server_error, self.sample) {
            (None, Some(sample)) if sample.status.in_recovery => Role::Standby,
            (None, Some(_)) => Role::Primary,
            _ => Role::Down,
        }
    }

    /// Seconds of flushed WAL that would be lost now; `None` where nothing can be claimed.
    fn rpo(&self, now: Instant) -> Option<f64> {
        let coverage = self.coverage.as_ref()?;
        let stored = coverage.stored();
        let sample = self.sample.filter(|sample| !sample.status.in_recovery);
        if sample.is_some_and(|sample| sample.status.timeline != Some(coverage.history().timeline)) {
            // Promoted: what is stored of the timeline before says nothing of this one.
            return None;
        }
        if self.is_standby() {
            // Its WAL is its primary's to archive.
            return None;
        }
        let fresh = sample.is_some_and(|sample| now.saturating_duration_since(sample.asked_at) < STALE);
        let end = match (self.role(), self.left_behind) {
            // Nobody writes: what the disk holds is all there is.
            (Role::Down, Some(left)) => {
                Some(sample.map_or(left.end, |sample| left.end.max(sample.status.flushed)))
            }
            (Role::Primary, _) if fresh => sample.map(|sample| sample.status.flushed),
            _ => None,
        };
        if end.is_some_and(|end| end <= stored) {
            return Some(0.0);
        }
        Some(self.flushes.age(now, stored).as_secs_f64())
    }

    /// All of it, as plain values.
    pub(super) fn snapshot(
        &self,
        setup: &Setup,
        store_up: Option<bool>,
        failures: &[(WalName, Failure)],
        now: Instant,
    ) -> Snapshot {
        let coverage = self.coverage.as_ref();
        let rpo_seconds = self.rpo(now);
        let role = self.role();
        let mut snapshot = Snapshot {
            taken_at: PgTime::now(),
            daemon_since: Some(self.since),
            cluster: setup.namespace.cluster().to_string(),
            system_identifier: self.system_identifier.map(|id| id.to_string()).unwrap_or_default(),
            pg_version: self.facts.version.clone(),
            timeline: coverage.map(|coverage| coverage.history().timeline.get()),
            role,
            repository: setup.repository.clone(),
            rpo_seconds,
            rpo_objective: setup.rpo_objective,
            rto_objective: setup.rto_objective,
            rto_estimate_seconds: None,
            flushed: self.end_of_wal(),
            stored: coverage.map(Coverage::stored),
            archived: coverage.map(Coverage::archived),
            ready: self.ready.0,
            oldest_ready: self.ready.1,
            gap_segments: coverage.map_or(0, |coverage| coverage.holes().len() as u64),
            last_push: self.last_push,
            tail: self
                .tail
                .clone()
                .filter(|tail| coverage.is_none_or(|coverage| tail.end > coverage.archived())),
            backups: self.backups.clone(),
            backup_failed_at: self.backup_failed_at,
            window: self.window_start.map(|start| (start, self.last_time.unwrap_or(start).max(start))),
            retention_window: setup.retention_window,
            repository_bytes: self.bytes,
            store_up,
            recent: self.recent.iter().cloned().collect(),
            problems: Vec::new(),
        };
        snapshot.problems = problems::of(&Facts {
            snapshot: &snapshot,
            obstacle: self.obstacle.as_ref(),
            server_error: self.server_error.as_deref(),
            survey_error: self.survey_error.as_deref(),
            tail_error: self.tail_error.as_deref(),
            server: &self.facts,
            failures,
            damaged_backups: coverage.map(|coverage| &*coverage.catalog().damaged).unwrap_or_default(),
            first_hole: coverage.and_then(|coverage| coverage.holes().first().copied()),
        });
        snapshot
    }
}

pub(super) fn backup_line(backup: &Manifest) -> BackupLine {
    BackupLine {
        id: backup.id.to_string(),
        started_at: backup.started_at,
        finished_at: backup.finished_at,
        size_bytes: backup.size_bytes,
        stored_bytes: backup.stored_bytes,
        new_bytes: backup.new_bytes,
        page_errors: backup.page_errors.len() as u64,
    }
}
