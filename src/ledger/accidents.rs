//! For tests: what others do to a repository, and what is lost.

use super::histories::{Key, Life};
use crate::ledger::{Event, Ledger};
use crate::postgres::Lsn;
use crate::wal::Links;
use crate::world::{SIZE, Stored, World};

impl Life {
    /// A copy of this server writes to the repository, too: on this timeline, from here on.
    pub(super) fn second_writer(&mut self) {
        self.looked = false;
        let timeline = self.world.timeline;
        let number = self.world.lsn / u64::from(SIZE);
        let time = self.world.now;
        let key = |number| (timeline, number);
        let mut theirs = self.world.file(timeline, number);
        let mut previous = self.world.record_before(timeline, number);
        for ahead in 0..self.below(3) {
            theirs.push(((number + ahead) * u64::from(SIZE) + 12_345, time));
            let last = theirs.iter().map(|(lsn, _)| Lsn::new(*lsn)).max();
            let links = Links::new(previous, Some(last), (timeline, timeline));
            previous = last;
            let commits = std::mem::take(&mut theirs);
            let stored = Stored { modified: time, versions: vec![2], damaged: false, commits, links };
            self.world.segments.entry(key(number + ahead)).or_insert(stored);
        }
        if self.chance(50) {
            let count = self.world.tails.get(&key(number)).map_or(0, |tail| tail.generation + 1);
            self.world.put_tail(key(number), 20_000, count);
            let tail = self.world.tails.get_mut(&key(number)).unwrap();
            tail.commits.retain(|(lsn, _)| *lsn < number * u64::from(SIZE) + 20_000);
        }
    }

    pub(super) fn made_anew(&mut self) {
        self.world.segments.clear();
        self.world.tails.clear();
        self.world.backups.clear();
        self.world.unreadable.clear();
        self.world.packs.clear();
        self.world.foreign.clear();
        self.world.hidden.extend(self.world.histories.keys());
        self.history_ready = Some(self.world.timeline).filter(|of| *of > 1);
        self.growing = None;
        self.looked = false;
        self.apply(Event::BeganAnew);
    }

    /// The daemon is started again.
    pub(super) fn restart(&mut self) {
        self.ledger = Ledger::new(self.now());
        self.growing = None;
        self.looked = false;
    }

    /// A file is removed from pg_wal before it was archived.
    pub(super) fn lose_here(&mut self) {
        // Under whose name another one is stored, that would have shown by it.
        let key = self.ready.iter().find(|key| !self.world.segments.contains_key(*key)).copied();
        if let Some(key) = key {
            self.ready.remove(&key);
            self.here.remove(&key);
        }
    }

    pub(super) fn recycle(&mut self) {
        let oldest = self.here.iter().find(|key| !self.ready.contains(*key)).copied();
        if let Some(key) = oldest {
            self.here.remove(&key);
        }
    }

    pub(super) fn foreign(&mut self, does: impl FnOnce(&mut World)) {
        let (timeline, lsn, now) = (self.world.timeline, self.world.lsn, self.world.now);
        does(&mut self.world);
        if (self.world.timeline, self.world.lsn) != (timeline, lsn) {
            // What the world archived by itself while it went on, this server did not.
            self.world.commits.entry(timeline).or_default().retain(|(at, _)| *at <= lsn);
            let behind = |key: &Key| key.0 == timeline && key.1 >= lsn / u64::from(SIZE);
            self.world.segments.retain(|key, stored| !behind(key) || stored.modified <= now);
            self.world.tails.retain(|key, tail| !behind(key) || tail.modified <= now);
            self.world.go_on(timeline, lsn);
        }
        self.looked = false;
    }

    /// The server of another timeline is alive: a copy with archiving on, or the old primary after a failover. Whoever holds
    /// this one's tail loses it all the same when a restore follows the other's.
    pub(super) fn other_writes_on(&mut self) {
        let ours = self.world.timeline;
        let is_stored = |of: u32| of == 1 || !self.world.hidden.contains(&of) && !self.is_taken(of);
        let mut others = self.world.commits.iter().rev().filter(|(of, _)| **of != ours && is_stored(**of));
        let Some((of, last)) = others.find_map(|(of, all)| Some((*of, all.last()?.0))) else {
            return;
        };
        // Behind where this server left it.
        let left = self.world.history(ours).lineage().into_iter().find(|left| left.timeline.get() == of);
        let last = last.max(left.and_then(|left| left.end).map_or(0, Lsn::get));
        self.log.push(format!("timeline {of} is written behind {last:X}"));
        self.foreign(|world| {
            world.now += 1 + i64::try_from(world.random.below(5)).unwrap();
            world.go_on(of, last + 8);
            let (lsn, now) = (world.lsn, world.now);
            world.commits.entry(of).or_default().push((lsn, now));
            world.put_tail((of, lsn / u64::from(SIZE)), u32::try_from(lsn % u64::from(SIZE)).unwrap(), 0);
        });
    }

    /// PGDATA is put back to an older copy, and the server started again.
    pub(super) fn put_back(&mut self) {
        let begin = self.world.begin_of_timeline();
        let at = self.world.lsn.saturating_sub(self.below(3 * u64::from(SIZE))).max(begin + 8);
        if at > self.world.lsn {
            return;
        }
        let timeline = self.world.timeline;
        self.world.commits.entry(timeline).or_default().retain(|(lsn, _)| *lsn <= at);
        self.world.go_on(timeline, at);
        let number = at / u64::from(SIZE);
        self.here.retain(|key| key.1 < number);
        self.ready.retain(|key| key.1 < number);
        self.new_life();
    }

    /// A restored copy archives a timeline, and this server, which did not hear of it, is promoted to one of that number.
    pub(super) fn promote_to_a_name_that_is_taken(&mut self) {
        self.foreign(World::rehearse);
        let taken = *self.world.commits.keys().max().unwrap();
        for _ in 0..self.below(6) {
            self.commit();
            self.push();
        }
        let before = (self.world.commits.clone(), self.world.histories.clone(), self.world.foreign.clone());
        self.world.take_name(taken);
        let behind = self.below(u64::from(SIZE) / 4);
        self.promote(behind);
        if self.world.timeline != taken {
            (self.world.commits, self.world.histories, self.world.foreign) = before;
        }
    }

    /// Whether another life's history is stored under the name of a timeline.
    pub(super) fn is_taken(&self, timeline: u32) -> bool {
        let theirs = self.world.foreign.get(&timeline);
        theirs.is_some_and(|(theirs, _)| theirs.entries != self.world.history(timeline).entries)
    }

    /// This server is promoted: it was a standby of a primary that is gone, or was restored in place.
    pub(super) fn promote(&mut self, behind: u64) {
        let at = self.world.lsn.saturating_sub(behind).max(self.world.begin_of_timeline() + 8);
        if at > self.world.lsn {
            return;
        }
        let from = self.world.timeline;
        // What another life wrote up to the switch, only the files of the old timeline tell, which the new host need not have.
        let ours = |(key, stored): (&Key, &Stored)| {
            key.0 != from || stored.versions == [1] && stored.commits == self.world.file(key.0, key.1)
        };
        if !self.world.segments.iter().all(ours) {
            return;
        }
        let next = self.world.fork(from, at);
        self.world.hidden.insert(next);
        self.history_ready = Some(next);
        self.world.go_on(next, at);
        let number = at / u64::from(SIZE);
        self.here.retain(|key| key.1 < number);
        self.ready.retain(|key| key.1 < number);
        self.new_life();
        self.restart();
    }
}
