//! R28 as a property: whatever happens to a server and its repository, when the ledger claims an RPO, a default restore
//! loses no more, or refuses. Histories are random; the world knows what was committed, and what recovery would read.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use super::{Event, Ledger, Now, Seen, Survey, Wanted};
use crate::format::BackupId;
use crate::postgres::{Lsn, PgTime, SegmentName, TimelineId, WalName};
use crate::window::{Cut, RecoveryWindow, WalTimes};
use crate::world::{Commit, SIZE, Stored, StoredTail, World, name, seconds, seed, size};

/// A sample may be so old, and claims count as of now all the same; and a second for the world's whole seconds.
const SLACK: i64 = 4;

/// A file of pg_wal.
pub(super) type Key = (u32, u64);

pub(super) struct Life {
    pub(super) world: World,
    pub(super) ledger: Ledger,
    pub(super) began: (Instant, i64),
    /// Finished segments in pg_wal, and those of them that wait to be archived.
    pub(super) here: BTreeSet<Key>,
    pub(super) ready: BTreeSet<Key>,
    /// The history that waits to be archived.
    pub(super) history_ready: Option<u32>,
    /// The tail that grows.
    pub(super) growing: Option<(Key, u32)>,
    /// What each backup holds.
    pub(super) held: BTreeMap<BackupId, Vec<Commit>>,
    pub(super) up: bool,
    /// How often it was started.
    pub(super) lives: i64,
    /// The server was asked since it began this life.
    pub(super) asked: bool,
    /// Nobody but this daemon changed the repository since it last looked.
    pub(super) looked: bool,
    /// While a look is under way: how many more have to follow it.
    looks_due: Option<u32>,
    /// What happened, for whoever reads a failure.
    pub(super) log: Vec<String>,
    pub(super) claims: u64,
    pub(super) zeros: u64,
}

impl Life {
    pub(super) fn begin(seed: u64) -> Self {
        let world = World::grow(seed, 0);
        let began = (Instant::now(), world.now);
        let ledger = Ledger::new(Now { instant: began.0, time: seconds(world.now) });
        let mut life = Self {
            world,
            ledger,
            began,
            here: BTreeSet::new(),
            ready: BTreeSet::new(),
            history_ready: None,
            growing: None,
            held: BTreeMap::new(),
            up: true,
            lives: 0,
            asked: false,
            looked: false,
            looks_due: None,
            log: Vec::new(),
            claims: 0,
            zeros: 0,
        };
        for backup in life.world.backups.clone() {
            let upto = backup.stop_lsn.get();
            let held = life.truth().into_iter().filter(|(lsn, _)| *lsn <= upto).collect();
            life.held.insert(backup.id.clone(), held);
        }
        life
    }

    pub(super) fn chance(&mut self, percent: u64) -> bool {
        self.world.random.chance(percent)
    }

    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.world.random.below(bound)
    }

    pub(super) fn now(&self) -> Now {
        let passed = u64::try_from(self.world.now - self.began.1).unwrap();
        Now { instant: self.began.0 + Duration::from_secs(passed), time: seconds(self.world.now) }
    }

    pub(super) fn apply(&mut self, event: Event) {
        if self.ledger.apply(event, self.now()) != Some(Wanted::Survey) {
            return;
        }
        match &mut self.looks_due {
            Some(due) => *due = 1,
            None => self.look(),
        }
    }

    /// What the server has committed, in its present life.
    fn truth(&self) -> Vec<Commit> {
        let mut all = Vec::new();
        for stretch in self.world.history(self.world.timeline).lineage() {
            let end = stretch.end.map_or(u64::MAX, Lsn::get);
            let own = self.world.commits.get(&stretch.timeline.get()).into_iter().flatten();
            all.extend(own.filter(|(lsn, _)| *lsn > stretch.begin.get() && *lsn <= end));
        }
        all
    }

    // --- the server

    pub(super) fn commit(&mut self) {
        self.world.now += 1 + i64::try_from(self.below(20)).unwrap();
        if !self.up {
            return;
        }
        let from = self.world.lsn;
        self.world.lsn += 8 + self.below(u64::from(SIZE) / 2);
        let commit = (self.world.lsn, self.world.now);
        self.world.commits.entry(self.world.timeline).or_default().push(commit);
        self.finish(from);
    }

    /// The segments between `from` and now are finished.
    fn finish(&mut self, from: u64) {
        for number in from / u64::from(SIZE)..self.world.lsn / u64::from(SIZE) {
            self.here.insert((self.world.timeline, number));
            self.ready.insert((self.world.timeline, number));
        }
    }

    /// What was said of the server before says nothing of it now.
    pub(super) fn new_life(&mut self) {
        // What was shipped is not what the file holds: the shipper begins anew.
        self.growing = None;
        self.lives += 1;
        self.asked = false;
        self.up = true;
    }

    pub(super) fn backup(&mut self) {
        if !self.up {
            return;
        }
        let (begun, start) = (self.world.now, self.world.lsn);
        self.commit();
        let (stop, finished) = (self.world.lsn, self.world.now);
        self.world.lsn = (stop / u64::from(SIZE) + 1) * u64::from(SIZE) + 40;
        self.finish(stop);
        for _ in 0..2 * self.ready.len() {
            self.push();
        }
        self.world.now += 1;
        // R14
        let whole = |number: u64| {
            let key = (self.world.timeline, number);
            let stored = self.world.segments.get(&key);
            stored.is_some_and(|s| s.versions.len() == 1 && s.commits == self.world.file(key.0, key.1))
        };
        if !(start / u64::from(SIZE)..=stop / u64::from(SIZE)).all(whole)
            || self.history_ready.is_some_and(|timeline| !self.is_taken(timeline))
        {
            return;
        }
        let id = self.world.note_backup((begun, finished), start, stop);
        let held = self.truth().into_iter().filter(|(lsn, _)| *lsn <= stop).collect();
        self.held.insert(id, held);
        self.apply(Event::BackupMade);
    }

    // --- the daemon

    fn look(&mut self) {
        let mut due = 1;
        while due > 0 {
            self.looks_due = Some(0);
            self.look_once();
            due = self.looks_due.take().unwrap_or_default();
        }
    }

    /// A look at the repository, as the survey takes it.
    fn look_once(&mut self) {
        let now = self.now();
        self.ledger.apply(Event::SurveyBegan, now);
        let (sample, end) = (self.ledger.sample(), self.ledger.end_of_wal());
        let timeline = sample.and_then(|sample| sample.status.timeline);
        let timeline = timeline.unwrap_or_else(|| TimelineId::new(self.world.timeline).unwrap());
        let mut files: Vec<WalName> =
            self.here.iter().map(|key| WalName::Segment(name(key.0, key.1))).collect();
        files.extend(self.history_ready.map(|of| WalName::History(TimelineId::new(of).unwrap())));
        let ready: Vec<WalName> = self.ready.iter().map(|key| WalName::Segment(name(key.0, key.1))).collect();
        let (catalog, window, _) = self.world.window();
        let (listing, listed) = (self.world.listing(), self.world.clone());
        // What goes on meanwhile.
        self.looked = true;
        for _ in 0..self.below(3) {
            match self.below(3) {
                0 => self.commit(),
                1 => self.push(),
                _ => self.ship(),
            }
        }
        let world = &self.world;
        let unfinished = (world.timeline, world.lsn / u64::from(SIZE));
        let others = self.here.iter().chain([&unfinished]).filter(|key| {
            let stored = listed.segments.get(key);
            stored
                .is_some_and(|stored| stored.versions.len() > 1 || stored.commits != world.file(key.0, key.1))
        });
        let seen = Seen {
            timeline,
            history: world.history(timeline.get()),
            end,
            files: &files,
            ready: &ready,
            others: others.map(|key| name(key.0, key.1)).collect(),
            listing: &listing,
            listed_at: now.instant,
        };
        let unknown = |last: Option<PgTime>| {
            let passed = seconds(world.now).seconds_since(last.unwrap_or(seconds(1_800_000_000)));
            Duration::try_from_secs_f64(passed.abs()).unwrap()
        };
        let (survey, missing) = Survey::of(seen, catalog, window, unknown);
        self.ledger.apply(Event::Surveyed(Box::new(survey)), self.now());
        for wal in missing {
            if let WalName::Segment(segment) = wal {
                self.ready.insert((segment.timeline.get(), segment.number(size())));
            }
        }
    }

    fn step(&mut self) {
        let what = self.below(100);
        self.log.push(format!("{what} at {:X} of {}", self.world.lsn, self.world.timeline));
        if self.chance(10) {
            self.other_writes_on();
        }
        match what {
            0..=29 => self.commit(),
            30..=49 => self.sample(),
            50..=64 => self.push(),
            65..=76 => self.ship(),
            77..=83 => self.look(),
            84..=85 => self.backup(),
            86 => self.put_back(),
            87 => {
                let behind = self.below(u64::from(SIZE) / 4);
                self.promote(behind);
            }
            88 if self.chance(30) => self.promote_to_a_name_that_is_taken(),
            88 => {
                let behind = self.below(3 * u64::from(SIZE));
                self.promote(behind);
            }
            89 => self.restart(),
            // It is asked every second, up or down.
            90 => (self.up, self.asked) = (!self.up, false),
            91 => self.second_writer(),
            92 => self.foreign(World::rehearse),
            93 => self.foreign(World::second_writer),
            94 => self.foreign(World::damage),
            95 if self.chance(50) => self.foreign(World::lose_tail),
            95 => self.foreign(World::lose),
            96 if self.chance(30) => self.made_anew(),
            97 if self.chance(30) => self.lose_here(),
            98 => self.recycle(),
            _ => self.world.now += i64::try_from(self.below(30)).unwrap(),
        }
    }

    fn state(&self) -> String {
        let (_, window, _) = self.world.window();
        let branch = window.default_branch().map(|branch| (branch.timeline(), branch.spans.clone()));
        let stored = |(key, stored): (&Key, &Stored)| format!("{key:X?}{:?}", stored.versions);
        let tail = |(key, tail): (&Key, &StoredTail)| format!("{key:X?}{:X} #{}", tail.len, tail.generation);
        format!(
            "flushed {:X}, stored {:?}, here {:X?}, ready {:X?}\nsegments {:?} tails {:?}\n{branch:X?}",
            self.world.lsn,
            self.ledger.coverage().map(super::Coverage::stored),
            self.here,
            self.ready,
            self.world.segments.iter().map(stored).collect::<Vec<_>>(),
            self.world.tails.iter().map(tail).collect::<Vec<_>>(),
        )
    }

    // --- the claim, and what a restore gives

    fn check(&mut self) -> Result<(), String> {
        let Some(claim) = self.ledger.rpo(self.now().instant) else { return Ok(()) };
        if !self.asked || !self.looked {
            return Ok(());
        }
        let (_, window, times) = self.world.window();
        let now = self.restored(&window, &times);
        self.claims += u64::from(now.is_some());
        self.zeros += u64::from(now.is_some() && claim == 0.0);
        // Or a moment later, when another server that is alive has stored something.
        let later = window.in_a_moment().filter_map(|window| self.restored(&window, &times));
        for restored in now.into_iter().chain(later) {
            let lost = self.truth().into_iter().find(|commit| !restored.contains(commit));
            let Some((lsn, time)) = lost else { continue };
            let age = self.world.now - time;
            #[expect(clippy::cast_precision_loss, reason = "seconds")]
            if age as f64 > claim + SLACK as f64 {
                return Err(format!(
                    "{claim} s are claimed, and the commit at {lsn:X}, {age} s old, is lost"
                ));
            }
        }
        Ok(())
    }

    /// What a default restore gives; `None`: it refuses.
    fn restored(&self, window: &RecoveryWindow, times: &WalTimes) -> Option<Vec<Commit>> {
        let branch = window.default_branch().ok()?;
        let end = branch.farthest()?.end;
        let leads = || branch.reaches.iter().rev().filter(|reach| branch.span_of(reach).end == end);
        let first = leads().next()?;
        if matches!(branch.span_of(first).cut, Cut::Unusable(..)) {
            return None;
        }
        let clean = leads().find(|reach| reach.backup.page_errors.is_empty());
        let backup = &clean.unwrap_or(first).backup;
        let known = |segment: SegmentName| times.is_known_damage(segment);
        let (replayed, _) = self.world.recover(backup, &branch.history, &known)?;
        Some(self.held.get(&backup.id).into_iter().flatten().copied().chain(replayed).collect())
    }
}

/// The claims of one history, and how many of them were 0.
fn live(seed: u64) -> (u64, u64) {
    let mut life = Life::begin(seed);
    for step in 0..20 + seed % 60 {
        life.step();
        if let Err(wrong) = life.check() {
            panic!("seed {seed}, step {step}: {wrong}\n{}\n{}", life.state(), life.log.join("\n"));
        }
    }
    (life.claims, life.zeros)
}

#[test]
fn r28_no_claim_is_better_than_what_a_default_restore_gives() {
    let base = seed();
    let (mut claims, mut zeros) = (0, 0);
    for round in 0..1_500 {
        let (more, of_them) = live(base.wrapping_add(round));
        (claims, zeros) = (claims + more, zeros + of_them);
    }
    // Where it claims nothing it cannot be wrong.
    assert!(claims > 5_000 && zeros > 500, "{claims} claims, {zeros} of them 0");
}
