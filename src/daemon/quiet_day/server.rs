//! PostgreSQL, as far as a daemon sees it: WAL that grows, pg_wal, what waits to be archived.

use std::collections::{BTreeMap, BTreeSet};

use crate::cluster::WalStatus;
use crate::postgres::{Lsn, PgTime, TimelineId};
use crate::wal::Links;
use crate::world::{Commit, SIZE, Stored, World};

/// A file of pg_wal: its timeline, and its number.
pub(super) type Key = (u32, u64);

/// Archived segments that stay in pg_wal.
const KEPT: usize = 30;

pub(super) struct Server {
    pub(super) up: bool,
    pub(super) standby: bool,
    /// The second of the day in which it was started.
    pub(super) started: i64,
    pub(super) timeline: u32,
    pub(super) lsn: u64,
    /// Finished segments in pg_wal, and the commits in them.
    pub(super) here: BTreeMap<Key, Vec<Commit>>,
    /// The commits in the segment that is not finished.
    pub(super) open: Vec<Commit>,
    /// What waits to be archived, and since when, in milliseconds of the day.
    pub(super) ready: BTreeMap<Key, i64>,
    /// The history that waits, too.
    pub(super) history_ready: bool,
}

impl Server {
    pub(super) fn new(timeline: u32, lsn: u64, standby: bool) -> Self {
        Self {
            up: true,
            standby,
            started: -86_400,
            timeline,
            lsn,
            here: BTreeMap::new(),
            open: Vec::new(),
            ready: BTreeMap::new(),
            history_ready: false,
        }
    }

    /// The segment that is written, and how far.
    pub(super) fn growing(&self) -> (Key, u32) {
        let size = u64::from(SIZE);
        ((self.timeline, self.lsn / size), u32::try_from(self.lsn % size).unwrap())
    }

    /// WAL up to a commit was written, or received, in this second of the day.
    pub(super) fn grow(&mut self, (lsn, at): Commit, second: i64) {
        while lsn / u64::from(SIZE) > self.lsn / u64::from(SIZE) {
            let (key, _) = self.growing();
            self.here.insert(key, std::mem::take(&mut self.open));
            // What a standby receives it marks as done.
            if !self.standby {
                self.ready.insert(key, second * 1000);
            }
            self.lsn = (key.1 + 1) * u64::from(SIZE);
        }
        self.lsn = lsn;
        self.open.push((lsn, at));
        while self.here.len() > KEPT {
            let Some(oldest) = self.here.keys().find(|key| !self.ready.contains_key(key)).copied() else {
                return;
            };
            self.here.remove(&oldest);
        }
    }

    pub(super) fn status(&self) -> WalStatus {
        WalStatus {
            in_recovery: self.standby,
            flushed: Lsn::new(self.lsn),
            timeline: TimelineId::new(self.timeline).ok().filter(|_| !self.standby),
            started: PgTime::from_unix_micros(self.started),
        }
    }

    /// A segment that waits is in the repository. Whether it had been before; `None`: other bytes are there.
    pub(super) fn archive(&mut self, key: Key, world: &mut World) -> Option<bool> {
        let commits = self.here.get(&key).unwrap();
        let before = match world.segments.get(&key) {
            Some(stored) if stored.commits != *commits => return None,
            Some(_) => true,
            None => {
                let (modified, commits, links) = (world.now, commits.clone(), Links::UNKNOWN);
                let stored = Stored { modified, versions: vec![1], damaged: false, commits, links };
                world.segments.insert(key, stored);
                world.tails.remove(&key);
                false
            }
        };
        self.ready.remove(&key);
        Some(before)
    }

    /// Everything that waits, by `wal-push` alone.
    pub(super) fn archive_all(&mut self, world: &mut World) {
        for key in self.ready.keys().copied().collect::<BTreeSet<_>>() {
            self.archive(key, world).unwrap();
        }
        if std::mem::take(&mut self.history_ready) {
            world.hidden.remove(&self.timeline);
        }
    }
}
