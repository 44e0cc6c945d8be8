//! A daemon without its tasks' waiting: what they would find out and when, by the pauses that they keep, goes into the real
//! ledger; what a scrape says of it comes from the real desk.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::server::{Key, Server};
use super::vault::Vault;
use super::{Clock, START};
use crate::archive::{Destination, Pushed};
use crate::archiver::{self, Archiver};
use crate::daemon::drills;
use crate::daemon::snapshot::{Desk, Place};
use crate::error::Error;
use crate::format::{TailGeneration, WalDigest};
use crate::ledger::{Event, Ledger, LeftBehind, Sample, Seen, ServerFacts, Survey, Wanted};
use crate::postgres::{Lsn, PgTime, TimelineId, WalName};
use crate::repository::fixture;
use crate::status::Promises;
use crate::store::Outcome;
use crate::wal::Links;
use crate::world::{Commit, SIZE, StoredTail, name, seconds, size};

/// The pauses of the daemon's tasks, milliseconds.
const RESCAN: i64 = millis(archiver::RESCAN);
const SURVEY: i64 = millis(archiver::NEXT_SURVEY);
const REPORTS: i64 = millis(drills::PAUSE);
/// The default of `archive.tail_interval`.
const TAIL: i64 = 5000;
/// Segments that are pushed at a time.
const CONCURRENCY: usize = 4;
/// What was promised, by default.
pub(super) const PROMISES: Promises = Promises {
    rpo_objective: Duration::from_mins(15),
    rto_objective: Duration::from_hours(1),
    retention_window: Duration::from_hours(7 * 24),
    drill_every: Duration::from_hours(31 * 24),
};

#[allow(clippy::cast_possible_truncation, reason = "a pause of minutes")]
const fn millis(pause: Duration) -> i64 {
    pause.as_millis() as i64
}

/// A request to the store that is under way, and what follows from its answer.
enum Work {
    Found,
    Survey(Box<Survey>, Vec<WalName>),
    Tail { key: Key, len: u32, count: u32, commits: Vec<Commit> },
    Segment(Key),
    History,
}

pub(super) struct Agent {
    desk: Desk,
    clock: Clock,
    /// By when it ends; each with its beginning.
    work: BTreeMap<(i64, u64), (i64, Work)>,
    begun: u64,
    found: bool,
    connected: bool,
    survey: Pause,
    /// An event asks for a look.
    wanted: bool,
    tail: Pause,
    rescan_at: i64,
    reports_at: i64,
    /// The tail that grows: of which segment, its generation, how much of it is stored.
    growing: Option<(Key, u32, u32)>,
    pushing: BTreeSet<Key>,
}

/// When to do it next; `None`: it is under way.
type Pause = Option<i64>;

impl Agent {
    /// A daemon that starts at `ms`, at a store that answers that much slower than usual.
    pub(super) async fn start(clock: Clock, ms: i64, slower: i64) -> Self {
        let (namespace, _) = fixture::memory().await;
        let setup = archiver::Setup {
            namespace,
            data_dir: "/nowhere".into(),
            conninfo: String::new(),
            tail_interval: Duration::from_secs(5),
            heartbeat_interval: Duration::from_secs(10),
            concurrency: CONCURRENCY,
            archive_timeout: Duration::from_mins(1),
        };
        // Its work is not begun: whatever it would do, `step` does.
        let (archiver, _) = Archiver::new(setup);
        let place = Place {
            cluster: "main".into(),
            repository: "s3://backups".into(),
            destination: Destination::of("s3://backups"),
            pg_wal: "/nowhere".into(),
        };
        let mut agent = Self {
            desk: Desk::new(archiver, place, PROMISES),
            clock,
            work: BTreeMap::new(),
            begun: 0,
            found: false,
            connected: false,
            survey: Some(ms),
            wanted: false,
            tail: Some(ms),
            rescan_at: ms,
            reports_at: ms,
            growing: None,
            pushing: BTreeSet::new(),
        };
        agent.apply(Event::BeganAnew, ms);
        agent.apply(Event::ClusterFound { system_identifier: fixture::SYSTEM }, ms);
        agent.begin(ms, 100 * slower, Work::Found);
        agent
    }

    fn begin(&mut self, ms: i64, takes: i64, work: Work) {
        self.begun += 1;
        self.work.insert((ms + takes, self.begun), (ms, work));
    }

    fn apply(&mut self, event: Event, ms: i64) -> Option<Wanted> {
        let wanted = self.desk.archiver().ledger().apply(event, self.clock.at(ms));
        if wanted == Some(Wanted::Survey) {
            // What comes while one is under way is not lost.
            self.wanted = true;
        }
        wanted
    }

    fn read<T>(&self, what: impl FnOnce(&Ledger) -> T) -> T {
        self.desk.archiver().ledger().read(what)
    }

    fn answered(&mut self, verb: &'static str, begun: i64, ms: i64) {
        let elapsed = Duration::from_millis(u64::try_from(ms - begun).unwrap());
        self.apply(Event::Requested { verb, outcome: Outcome::Answered, elapsed }, ms);
    }

    /// A second of the day.
    pub(super) fn step(&mut self, ms: i64, server: &mut Server, vault: &mut Vault) {
        while let Some(((ends, _), _)) = self.work.first_key_value().filter(|((ends, _), _)| *ends <= ms) {
            let ends = *ends;
            let (_, (begun, work)) = self.work.pop_first().unwrap();
            if vault.away {
                self.fail(&work, begun, ends);
            } else {
                self.finish(work, begun, ends, server, vault);
            }
        }
        self.sample(ms, server);
        if !self.found {
            return;
        }
        if ms >= self.rescan_at {
            self.rescan_at = ms + RESCAN;
            let oldest = server.ready.values().min().map(|since| self.clock.at(*since).time);
            self.apply(Event::ReadyListed { count: server.ready.len() as u64, oldest }, ms);
        }
        self.push(ms, server, vault);
        self.ship(ms, server, vault);
        if self.survey.is_some_and(|at| at <= ms || self.wanted) {
            self.look(ms, server, vault);
        }
        if ms >= self.reports_at && !vault.away {
            self.reports_at = ms + REPORTS;
            self.desk.drills_handle().know(&vault.drills);
            self.desk.verifications_handle().know(vault.verifications.clone());
        }
    }

    fn sample(&mut self, ms: i64, server: &Server) {
        if server.up {
            if !self.connected {
                self.connected = true;
                let facts = ServerFacts {
                    version: "15.18".into(),
                    archive_mode: "on".into(),
                    calls_us: true,
                    archiver_failure: None,
                };
                self.apply(Event::Connected(facts), ms);
            }
            let asked_at = self.clock.at(ms).instant;
            self.apply(Event::Sampled(Sample { asked_at, status: server.status() }), ms);
            return;
        }
        self.connected = false;
        let error = Error::server("connect to socket port 5432: Connection refused");
        if self.apply(Event::ServerFailed(error), ms) == Some(Wanted::DiskRead) {
            let timeline = TimelineId::new(server.timeline).unwrap();
            let left = LeftBehind { timeline, end: Lsn::new(server.lsn), recovering: server.standby };
            self.apply(Event::DiskRead { left: Some(left), took: Duration::from_millis(20) }, ms);
        }
    }

    fn push(&mut self, ms: i64, server: &Server, vault: &Vault) {
        let history = (server.timeline, u64::MAX);
        if server.history_ready && self.pushing.insert(history) {
            self.begin(ms, vault.small(), Work::History);
        }
        for key in server.ready.keys() {
            if self.pushing.len() < CONCURRENCY && self.pushing.insert(*key) {
                self.begin(ms, vault.large(), Work::Segment(*key));
            }
        }
    }

    fn ship(&mut self, ms: i64, server: &Server, vault: &Vault) {
        if self.tail.is_none_or(|at| at > ms) {
            return;
        }
        self.tail = Some(ms + TAIL);
        let follows = server.up && server.standby;
        if follows || (!server.up && self.read(Ledger::left_behind).is_none()) {
            self.growing = self.growing.filter(|_| !follows);
            return;
        }
        let (key, len) = server.growing();
        let count = match self.growing {
            Some((growing, _, stored)) if growing == key && stored == len => {
                self.apply(Event::TailCurrent, ms);
                return;
            }
            Some((growing, count, stored)) if growing == key && stored < len => count,
            _ if len == 0 => return,
            _ => vault.world.tails.get(&key).map_or(0, |tail| tail.generation + 1),
        };
        self.tail = None;
        self.begin(ms, vault.small(), Work::Tail { key, len, count, commits: server.open.clone() });
    }

    /// A look at the repository, as the survey takes it.
    fn look(&mut self, ms: i64, server: &Server, vault: &mut Vault) {
        (self.survey, self.wanted) = (None, false);
        self.apply(Event::SurveyBegan, ms);
        let (sample, end) = self.read(|ledger| (ledger.sample(), ledger.end_of_wal()));
        let timeline = sample.and_then(|sample| sample.status.timeline);
        let timeline = timeline.unwrap_or_else(|| TimelineId::new(server.timeline).unwrap());
        let segment = |key: &Key| WalName::Segment(name(key.0, key.1));
        let mut files: Vec<WalName> = server.here.keys().map(segment).collect();
        files.extend(server.history_ready.then_some(WalName::History(timeline)));
        let ready: Vec<WalName> = server.ready.keys().map(segment).collect();
        let (listing, catalog, window) = vault.listed();
        let differs = |(key, commits): (&Key, &Vec<Commit>)| {
            vault
                .world
                .segments
                .get(key)
                .filter(|stored| stored.commits != *commits)
                .map(|_| name(key.0, key.1))
        };
        let standby = sample.is_some_and(|sample| sample.status.in_recovery);
        let seen = Seen {
            timeline,
            history: vault.world.history(timeline.get()),
            end: end.filter(|_| !standby),
            files: &files,
            ready: &ready,
            others: server.here.iter().filter_map(differs).collect(),
            listing: &listing,
            listed_at: self.clock.at(ms + vault.list()).instant,
        };
        let now = self.clock.at(ms).time;
        let unknown = |last: Option<PgTime>| {
            let passed = last.map_or(0.0, |last| now.seconds_since(last).abs());
            Duration::try_from_secs_f64(passed).unwrap()
        };
        let (survey, missing) = Survey::of(seen, catalog, window, unknown);
        self.begin(ms, vault.list(), Work::Survey(Box::new(survey), missing));
    }

    fn finish(&mut self, work: Work, begun: i64, ms: i64, server: &mut Server, vault: &mut Vault) {
        vault.world.now = START + ms.div_euclid(1000);
        let now = self.clock.at(ms).time;
        let took = Duration::from_millis(u64::try_from(ms - begun).unwrap());
        match work {
            Work::Found => {
                self.answered("get", begun, ms);
                self.apply(Event::Unobstructed, ms);
                self.found = true;
            }
            Work::Survey(survey, missing) => {
                self.answered("list", begun, ms);
                self.survey = Some(ms + SURVEY);
                self.apply(Event::Surveyed(survey), ms);
                for wal in missing {
                    if let WalName::Segment(segment) = wal {
                        let key = (segment.timeline.get(), segment.number(size()));
                        server.ready.entry(key).or_insert(ms);
                    }
                }
            }
            Work::Tail { key, len, count, commits } => {
                self.answered("put", begun, ms);
                self.tail = Some(ms.max(begun + TAIL));
                self.growing = Some((key, count, len));
                let last_time = commits.last().map(|(_, time)| seconds(*time));
                if !vault.world.segments.contains_key(&key) {
                    let (modified, links) = (vault.world.now, Links::UNKNOWN);
                    let tail = StoredTail { len, modified, commits, generation: count, links };
                    vault.world.tails.insert(key, tail);
                }
                let segment = name(key.0, key.1);
                let generation = TailGeneration { count, writer: 0 };
                let end = segment.position(len.into(), size());
                self.apply(Event::TailStored { segment, generation, len, end, last_time }, ms);
                self.apply(Event::TailCurrent, ms);
            }
            Work::Segment(key) => {
                self.answered("put", begun, ms);
                self.pushing.remove(&key);
                // A rewind may have taken it away.
                let Some(commits) = server.here.get(&key) else { return };
                let last_time = commits.last().map(|(_, time)| seconds(*time)).or(Some(now));
                let wal = WalName::Segment(name(key.0, key.1));
                let event = match server.archive(key, &mut vault.world) {
                    Some(before) => Event::Pushed { file: pushed(wal, before, last_time), took },
                    None => Event::PushFailed { name: wal, error: crate::repository::conflict(&wal), took },
                };
                self.apply(event, ms);
            }
            Work::History => {
                self.answered("put", begun, ms);
                self.pushing.remove(&(server.timeline, u64::MAX));
                server.history_ready = false;
                vault.world.hidden.remove(&server.timeline);
                let wal = WalName::History(TimelineId::new(server.timeline).unwrap());
                self.apply(Event::Pushed { file: pushed(wal, false, None), took }, ms);
            }
        }
    }

    /// The store does not answer.
    fn fail(&mut self, work: &Work, begun: i64, ms: i64) {
        let error = || Error::new(crate::error::Kind::Unreachable, "the store does not answer");
        let took = Duration::from_millis(u64::try_from(ms - begun).unwrap());
        self.apply(Event::Requested { verb: "put", outcome: Outcome::Failed, elapsed: took }, ms);
        match work {
            Work::Found => self.begin(ms, 2000, Work::Found),
            Work::Survey(..) => {
                self.survey = Some(ms + 5000);
                self.apply(Event::SurveyFailed { error: error(), code: None }, ms);
            }
            Work::Tail { .. } => {
                self.tail = Some(ms.max(begun + TAIL));
                self.apply(Event::TailFailed(error()), ms);
            }
            Work::Segment(key) => {
                self.pushing.remove(key);
                let name = WalName::Segment(name(key.0, key.1));
                self.apply(Event::PushFailed { name, error: error(), took }, ms);
            }
            Work::History => self.pushing.clear(),
        }
    }

    /// A backup ended on this host, and told so.
    pub(super) fn backup_made(&mut self, ms: i64) {
        self.apply(Event::BackupMade, ms);
    }

    /// What is flushed goes out before the end.
    pub(super) fn stop(mut self, ms: i64, server: &mut Server, vault: &mut Vault) {
        if !server.standby && !vault.away {
            let (key, len) = server.growing();
            let count = vault.world.tails.get(&key).map_or(0, |tail| tail.generation + 1);
            let work = Work::Tail { key, len, count, commits: server.open.clone() };
            self.finish(work, ms, ms, server, vault);
        }
    }

    /// What a scrape says.
    pub(super) fn metrics(&self, ms: i64) -> String {
        let mut snapshot = self.read(|ledger| self.desk.of(ledger, self.clock.at(ms)));
        snapshot.wal.disk_free = Some(20 << 30);
        crate::status::metrics(&snapshot, crate::status::Format::Classic)
    }
}

fn pushed(name: WalName, already_there: bool, last_time: Option<PgTime>) -> Pushed {
    Pushed {
        name,
        already_there,
        raw_len: SIZE.into(),
        stored_len: u64::from(SIZE) / 4,
        digest: WalDigest::from_bytes([1; 16]),
        last_time,
    }
}
