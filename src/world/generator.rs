//! For tests: random histories of a repository, and what PostgreSQL would make of them. Nothing here knows the window: the
//! world keeps what was committed where, and `recover` reads the stored objects one by one as recovery does.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::Timestamp;
use rand_xoshiro::SplitMix64;
use rand_xoshiro::rand_core::{Rng, SeedableRng};

use super::manifest;
use crate::format::{BackupId, ContentDigest, Manifest, PacksRecord, WalDigest, WalRecord};
use crate::postgres::{History, HistoryEntry, Lsn, PgTime, SegmentName, TimelineId};
pub(crate) use crate::repository::{fixture::SIZE, fixture::size};
use crate::wal::Links;

/// Numbers from a seed, the same on every machine.
#[derive(Debug, Clone)]
pub(crate) struct Random(SplitMix64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(SplitMix64::seed_from_u64(seed))
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0.next_u64()
    }

    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound.max(1)
    }

    pub(crate) fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}

/// The seed of this process: `WALPROOF_TEST_SEED`, a number, or `random` for the clock; printed, so that a failure can be run
/// again. The same one unless told otherwise: what is rare is looked for with other seeds, and not by who comes after.
#[expect(clippy::print_stderr, reason = "a failure must be repeatable")]
pub(crate) fn seed() -> u64 {
    let given = std::env::var("WALPROOF_TEST_SEED").ok();
    let seed = match given.as_deref() {
        None => 1_795_897_000_000_000,
        Some("random") => Timestamp::now().as_microsecond().unsigned_abs(),
        Some(text) => text.parse().unwrap_or_else(|_| panic!("WALPROOF_TEST_SEED={text} is no number")),
    };
    eprintln!("seed: run again with WALPROOF_TEST_SEED={seed}");
    seed
}

/// A commit: where it ended, and when.
pub(crate) type Commit = (u64, i64);

#[derive(Debug, Clone)]
pub(crate) struct Stored {
    pub(crate) modified: i64,
    /// Versions by the byte of their digest; the first is the one that was stored first.
    pub(crate) versions: Vec<u8>,
    pub(crate) damaged: bool,
    /// The commits in it.
    pub(crate) commits: Vec<Commit>,
    pub(crate) links: Links,
}

impl Stored {
    /// The digests of its versions.
    pub(crate) fn digests(&self) -> impl Iterator<Item = WalDigest> + use<'_> {
        let own = self
            .commits
            .iter()
            .fold(0, |sum: u64, (lsn, time)| Random::new(sum ^ lsn ^ time.unsigned_abs()).next());
        let content = move |version: &u8| (u128::from(*version) << 64 | u128::from(own)).to_be_bytes();
        self.versions
            .iter()
            .map(move |version| ContentDigest::from_bytes(content(version)).linked(self.links))
    }
}

#[derive(Debug, Clone)]
pub(crate) struct StoredTail {
    pub(crate) len: u32,
    pub(crate) modified: i64,
    pub(crate) commits: Vec<Commit>,
    pub(crate) generation: u32,
    pub(crate) links: Links,
}

/// A server and its repository.
#[derive(Debug, Clone)]
pub(crate) struct World {
    pub(crate) random: Random,
    pub(crate) now: i64,
    /// How far the store's clock is ahead of the hosts'.
    pub(crate) skew: i64,
    /// Own commits of each timeline, behind where it began.
    pub(crate) commits: BTreeMap<u32, Vec<Commit>>,
    pub(crate) histories: BTreeMap<u32, (History, i64)>,
    pub(crate) segments: BTreeMap<(u32, u64), Stored>,
    /// Histories that are not archived yet.
    pub(crate) hidden: BTreeSet<u32>,
    /// Histories that another life of the cluster archived under the name of this one's.
    pub(crate) foreign: BTreeMap<u32, (History, i64)>,
    pub(crate) tails: BTreeMap<(u32, u64), StoredTail>,
    pub(crate) backups: Vec<Arc<Manifest>>,
    pub(crate) unreadable: Vec<BackupId>,
    /// A verification found that they lack a pack.
    pub(crate) harmed: BTreeSet<BackupId>,
    pub(crate) packs: BTreeMap<BackupId, u32>,
    pub(crate) timeline: u32,
    pub(crate) lsn: u64,
    archived: u64,
    /// PGDATA was put back to an older copy at least once.
    pub(crate) was_put_back: bool,
}

pub(crate) fn timeline(number: u32) -> TimelineId {
    TimelineId::new(number).unwrap()
}

pub(crate) fn name(of: u32, number: u64) -> SegmentName {
    SegmentName::from_number(timeline(of), number, size())
}

pub(crate) fn seconds(time: i64) -> PgTime {
    PgTime::from_unix_micros(time * 1_000_000)
}

impl World {
    /// A new cluster with one backup in most worlds, and what happens to it in `steps` steps.
    pub(crate) fn grow(seed: u64, steps: u64) -> Self {
        let mut world = Self {
            random: Random::new(seed),
            now: 1_800_000_000,
            skew: 0,
            commits: BTreeMap::from([(1, Vec::new())]),
            histories: BTreeMap::new(),
            segments: BTreeMap::new(),
            hidden: BTreeSet::new(),
            foreign: BTreeMap::new(),
            tails: BTreeMap::new(),
            backups: Vec::new(),
            unreadable: Vec::new(),
            harmed: BTreeSet::new(),
            packs: BTreeMap::new(),
            timeline: 1,
            lsn: 3 * u64::from(SIZE) + 40,
            archived: 3,
            was_put_back: false,
        };
        world.write(1);
        if world.random.chance(90) {
            world.backup();
        }
        for _ in 0..steps {
            world.step();
        }
        world
    }

    pub(crate) fn step(&mut self) {
        match self.random.below(100) {
            0..=54 => {
                let much = 1 + self.random.below(4);
                self.write(much);
            }
            55..=74 => self.backup(),
            75..=80 => self.fail_over(),
            81..=84 => self.restore_in_place(),
            85..=86 => self.rehearse(),
            87 => self.fail_over_to_a_name_that_is_taken(),
            88..=90 => self.second_writer(),
            91..=93 => self.damage(),
            94..=95 => self.lose(),
            96..=97 => self.roll_back(),
            _ => self.now += i64::try_from(self.random.below(100_000)).unwrap(),
        }
    }

    /// Commit a few times, `much` quarters of a segment apart, and archive what is finished.
    pub(crate) fn write(&mut self, much: u64) {
        for _ in 0..much {
            self.lsn += 8 + self.random.below(u64::from(SIZE) / 2);
            self.now += 1 + i64::try_from(self.random.below(4000)).unwrap();
            let commit = (self.lsn, self.now);
            self.commits.entry(self.timeline).or_default().push(commit);
            self.archive();
        }
        // The daemon's tail.
        if self.random.chance(70) {
            let number = self.lsn / u64::from(SIZE);
            let len = u32::try_from(self.lsn % u64::from(SIZE)).unwrap();
            if len > 0 {
                self.put_tail((self.timeline, number), len, 0);
            }
        }
    }

    pub(crate) fn put_tail(&mut self, key: (u32, u64), len: u32, generation: u32) {
        let (commits, links) = (self.file(key.0, key.1), self.links(key));
        self.tails.insert(key, StoredTail { len, modified: self.now, commits, generation, links });
    }

    fn archive(&mut self) {
        while self.archived < self.lsn / u64::from(SIZE) {
            self.now += 1;
            let key = (self.timeline, self.archived);
            if self.random.chance(98) {
                self.store(key);
            }
            self.archived += 1;
        }
    }

    fn store(&mut self, key: (u32, u64)) {
        self.tails.remove(&key);
        let stored = self.finished(key);
        match self.segments.get_mut(&key) {
            // Another server was here before: other bytes under this name are refused (R2).
            Some(_) => {}
            None => drop(self.segments.insert(key, stored)),
        }
    }

    /// The segment as the server that writes now would store it.
    pub(crate) fn finished(&self, key: (u32, u64)) -> Stored {
        let (commits, links) = (self.file(key.0, key.1), self.links(key));
        Stored { modified: self.now, versions: vec![1], damaged: false, commits, links }
    }

    pub(crate) fn backup(&mut self) {
        let begun = self.now;
        let start = self.lsn;
        self.write(1);
        let stop = self.lsn;
        // The end of a backup switches to a new segment.
        self.lsn = (self.lsn / u64::from(SIZE) + 1) * u64::from(SIZE) + 40;
        self.archive();
        self.now += 1;
        self.note_backup((begun, self.now), start, stop);
    }

    /// A backup has ended now.
    pub(crate) fn note_backup(&mut self, (begun, finished): (i64, i64), start: u64, stop: u64) -> BackupId {
        let digits = Timestamp::from_second(begun).unwrap().strftime("%Y%m%dT%H%M%SZ").to_string();
        let id: BackupId = format!("{digits}-{:08x}", self.random.below(1 << 32)).parse().unwrap();
        let mut made = manifest(Lsn::new(start), Lsn::new(stop), self.timeline);
        made.id = id.clone();
        made.finished_at = seconds(finished);
        // R14: what is stored under their names is the server's own.
        let wal = [start, stop - 1].map(|at| {
            let key = (self.timeline, at / u64::from(SIZE));
            let digest = self.finished(key).digests().map(WalDigest::content).next().unwrap();
            WalRecord { segment: name(key.0, key.1), digest }
        });
        made.wal = wal.into();
        made.wal.dedup();
        made.packs = vec![PacksRecord {
            backup: id.clone(),
            key_ids: Vec::new(),
            packs: 3,
            bytes: 300,
            live_bytes: 300,
        }];
        if self.random.chance(10) {
            let text = r#"{"path":"base/1/2","block":7}"#;
            made.page_errors = serde_json::from_str(&format!("[{text}]")).unwrap_or_default();
        }
        self.packs.insert(id.clone(), 3);
        if self.random.chance(4) {
            self.unreadable.push(id.clone());
        } else {
            self.backups.push(Arc::new(made));
        }
        id
    }

    /// A new timeline that leaves `from` at `at`.
    pub(crate) fn fork(&mut self, from: u32, at: u64) -> u32 {
        let next = self.commits.keys().max().unwrap() + 1;
        let mut entries = self.history(from).entries;
        entries.push(HistoryEntry { parent: timeline(from), switch: Lsn::new(at), reason: "x".into() });
        self.now += 2;
        self.histories.insert(next, (History { timeline: timeline(next), entries }, self.now));
        self.commits.insert(next, Vec::new());
        next
    }

    pub(crate) fn history(&self, of: u32) -> History {
        self.histories.get(&of).map_or_else(|| History::root(timeline(of)), |(history, _)| history.clone())
    }

    pub(crate) fn begin_of_timeline(&self) -> u64 {
        let history = self.history(self.timeline);
        history.entries.last().map_or(4 * u64::from(SIZE), |entry| entry.switch.get())
    }

    pub(crate) fn go_on(&mut self, of: u32, at: u64) {
        (self.timeline, self.lsn, self.archived) = (of, at, at / u64::from(SIZE));
    }

    /// A standby is promoted, a little behind what the old primary had written.
    fn fail_over(&mut self) {
        let behind = self.random.below(u64::from(SIZE) / 4);
        let begin = self.begin_of_timeline();
        let at = (self.lsn - behind.min(self.lsn)).max(begin + 8);
        if at > self.lsn {
            return;
        }
        let next = self.fork(self.timeline, at);
        self.go_on(next, at);
        self.write(1);
    }

    /// The operator restores to an earlier position of this timeline, and goes on there.
    fn restore_in_place(&mut self) {
        let begin = self.begin_of_timeline();
        if self.lsn <= begin + 100 {
            return;
        }
        let at = begin + 50 + self.random.below(self.lsn - begin - 60);
        let next = self.fork(self.timeline, at);
        self.go_on(next, at);
        self.write(1);
    }

    /// A restored copy archives by accident; the server goes on.
    pub(crate) fn rehearse(&mut self) {
        let (of, lsn, archived) = (self.timeline, self.lsn, self.archived);
        let next = self.fork(of, lsn);
        self.go_on(next, lsn);
        self.write(3);
        self.go_on(of, lsn);
        self.archived = archived;
        self.write(2);
    }

    /// A restored copy was promoted and archived before the server fails over, to a timeline of the same number: what is
    /// stored first stays, histories included.
    fn fail_over_to_a_name_that_is_taken(&mut self) {
        let (of, lsn, archived) = (self.timeline, self.lsn, self.archived);
        let taken = self.fork(of, lsn);
        self.go_on(taken, lsn);
        let much = 1 + self.random.below(6);
        self.write(much);
        self.go_on(of, lsn);
        self.archived = archived;
        let much = 1 + self.random.below(6);
        self.write(much);
        self.take_name(taken);
        let at = self.lsn;
        let next = self.fork(of, at);
        self.go_on(next, at);
        let much = 1 + self.random.below(6);
        self.write(much);
    }

    /// The history of `taken` stays in the repository, and its number is free: the next promotion takes it.
    pub(crate) fn take_name(&mut self, taken: u32) {
        self.commits.remove(&taken);
        let theirs = self.histories.remove(&taken);
        self.foreign.extend(theirs.map(|theirs| (taken, theirs)));
    }

    fn any_segment(&mut self) -> Option<(u32, u64)> {
        let keys: Vec<_> = self.segments.keys().copied().collect();
        (!keys.is_empty()).then(|| keys[usize::try_from(self.random.below(keys.len() as u64)).unwrap()])
    }

    pub(crate) fn second_writer(&mut self) {
        if let Some(key) = self.any_segment() {
            self.segments.get_mut(&key).unwrap().versions = vec![1, 2];
        }
    }

    /// Forget all damage: what is not read yet is not known, and what a later look reads differs from an earlier one.
    #[must_use]
    pub(crate) fn undamaged(mut self) -> Self {
        self.segments.values_mut().for_each(|stored| stored.damaged = false);
        self
    }

    pub(crate) fn damage(&mut self) {
        if let Some(key) = self.any_segment() {
            self.segments.get_mut(&key).unwrap().damaged = true;
        }
    }

    pub(crate) fn lose(&mut self) {
        if let Some(key) = self.any_segment() {
            self.segments.remove(&key);
        }
    }

    /// A lifecycle rule, or somebody who cleans up.
    pub(crate) fn lose_tail(&mut self) {
        let at = self.random.below(self.tails.len() as u64);
        let key = self.tails.keys().nth(usize::try_from(at).unwrap()).copied();
        key.map(|key| self.tails.remove(&key));
    }

    /// PGDATA is put back to an older copy: the server writes over positions that it had written before.
    fn roll_back(&mut self) {
        let begin = self.begin_of_timeline();
        let at = self.lsn.saturating_sub(self.random.below(2 * u64::from(SIZE))).max(begin + 8);
        self.was_put_back = true;
        self.commits.entry(self.timeline).or_default().retain(|(lsn, _)| *lsn <= at);
        self.go_on(self.timeline, at);
    }
}
