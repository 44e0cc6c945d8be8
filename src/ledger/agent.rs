//! For tests: what the daemon's tasks do, and say to the ledger.

use std::time::Duration;

use super::histories::Life;
use crate::archive::Pushed;
use crate::cluster::WalStatus;
use crate::error::Error;
use crate::format::{TailGeneration, WalDigest};
use crate::ledger::{Coverage, Event, LeftBehind, Sample, Wanted};
use crate::postgres::{Lsn, PgTime, TimelineId, WalName};
use crate::world::{SIZE, StoredTail, name, seconds, size};

impl Life {
    pub(super) fn sample(&mut self) {
        if !self.up {
            self.asked = true;
            let now = self.now();
            if self.ledger.apply(Event::ServerFailed(Error::server("down")), now) == Some(Wanted::DiskRead) {
                let timeline = TimelineId::new(self.world.timeline).unwrap();
                let end = Lsn::new(self.world.lsn);
                let left = Some(LeftBehind { timeline, end, recovering: false });
                self.apply(Event::DiskRead { left, took: Duration::ZERO });
            }
            return;
        }
        let status = WalStatus {
            in_recovery: false,
            flushed: Lsn::new(self.world.lsn),
            timeline: TimelineId::new(self.world.timeline).ok(),
            started: PgTime::from_unix_micros(self.lives),
        };
        let asked_at = self.now().instant;
        self.asked = true;
        self.apply(Event::Sampled(Sample { asked_at, status }));
    }

    /// Push what waits: the history first, then a segment, mostly the oldest.
    pub(super) fn push(&mut self) {
        let (now, took) = (self.now(), Duration::ZERO);
        let history = self.history_ready.map(|of| (of, WalName::History(TimelineId::new(of).unwrap())));
        match history {
            // What follows is stored all the same.
            Some((of, name)) if self.is_taken(of) => {
                let error = crate::repository::conflict(&name);
                self.apply(Event::PushFailed { name, error, took });
            }
            Some((of, name)) => {
                self.history_ready = None;
                self.world.hidden.remove(&of);
                self.world.histories.get_mut(&of).unwrap().1 = self.world.now;
                let file = pushed(name, WalDigest::from_bytes([1; 16]), false, now.time);
                return self.apply(Event::Pushed { file, took });
            }
            None => {}
        }
        let at = if self.chance(60) { 0 } else { self.below(self.ready.len() as u64) };
        let Some(key) = self.ready.iter().nth(usize::try_from(at).unwrap()).copied() else { return };
        self.ready.remove(&key);
        let wal = WalName::Segment(name(key.0, key.1));
        let commits = self.world.file(key.0, key.1);
        let race = self.chance(20);
        match self.world.segments.get_mut(&key) {
            Some(stored) if stored.commits == commits => {
                let file = pushed(wal, stored.digests().next().unwrap(), true, now.time);
                self.apply(Event::Pushed { file, took });
            }
            Some(stored) => {
                if race {
                    // Neither saw the other.
                    stored.versions = vec![1, 2];
                }
                self.ready.insert(key);
                let error = crate::repository::conflict(&wal);
                self.apply(Event::PushFailed { name: wal, error, took });
            }
            None => {
                let stored = self.world.finished(key);
                let file = pushed(wal, stored.digests().next().unwrap(), false, now.time);
                self.world.segments.insert(key, stored);
                self.world.tails.remove(&key);
                self.apply(Event::Pushed { file, took });
            }
        }
    }

    pub(super) fn ship(&mut self) {
        if !self.up {
            return;
        }
        // The shipper asks first.
        self.sample();
        let key = (self.world.timeline, self.world.lsn / u64::from(SIZE));
        let len = u32::try_from(self.world.lsn % u64::from(SIZE)).unwrap();
        if len == 0 {
            return;
        }
        let segment = name(key.0, key.1);
        let stored = self.world.tails.get(&key).cloned();
        let before = stored.as_ref().map(|tail| tail.generation);
        let is_lost = |count| self.ledger.is_lost(&segment, TailGeneration { count, writer: 0 });
        let count = match self.growing {
            Some((growing, count)) if growing == key && !is_lost(count) => count,
            _ => {
                if !self.compare_tail(key, stored) {
                    return;
                }
                // Two that nobody sees together differ by their writers; here, by their count.
                let lost = self.growing.filter(|(growing, _)| *growing == key).map(|(_, count)| count);
                before.max(lost).map_or(0, |count| count + 1)
            }
        };
        // Where the beginning is gone, what follows it makes no tail.
        let goes_on = self.growing.replace((key, count)) == Some((key, count));
        if before.map_or(!goes_on, |theirs| theirs <= count) {
            self.world.put_tail(key, len, count);
        }
        let last_time = self.world.file(key.0, key.1).last().map(|(_, time)| seconds(*time));
        self.apply(Event::TailStored {
            segment,
            generation: TailGeneration { count, writer: 0 },
            len,
            end: segment.position(len.into(), size()),
            last_time,
        });
    }
}

impl Life {
    /// Compare the tail that is stored with the file; whether ours may take its place.
    fn compare_tail(&mut self, key: (u32, u64), stored: Option<StoredTail>) -> bool {
        let segment = name(key.0, key.1);
        let Some(stored) = stored else {
            self.apply(Event::TailsCompared { segment, other: None });
            return true;
        };
        let end = segment.position(stored.len.into(), size());
        let mut file = self.world.file(key.0, key.1);
        file.retain(|(lsn, _)| *lsn <= end.get());
        let differs = file != stored.commits || end.get() > self.world.lsn;
        self.apply(Event::TailsCompared { segment, other: Some(end).filter(|_| differs) });
        end.get() <= self.world.lsn
    }
}

fn pushed(name: WalName, digest: WalDigest, already_there: bool, time: PgTime) -> Pushed {
    Pushed { name, already_there, raw_len: 1, stored_len: 1, digest, last_time: Some(time) }
}

#[test]
fn r28_the_window_ends_with_the_last_commit_that_a_restore_reaches() {
    let mut life = Life::begin(7);
    life.sample();
    life.backup();
    let number = life.world.lsn / u64::from(SIZE);
    let (segment, now) = (|ahead| name(1, number + ahead), life.world.now);
    let archived = |life: &Life| life.ledger.coverage().map(Coverage::archived);
    assert_eq!(archived(&life), Some(segment(0).start(size())), "everything is stored");
    let push = |life: &mut Life, ahead: u64, time: i64| {
        let name = WalName::Segment(segment(ahead));
        let file = pushed(name, WalDigest::from_bytes([1; 16]), false, seconds(now + time));
        life.ledger.apply(Event::Pushed { file, took: Duration::ZERO }, life.now());
        life.ledger.last_time().map(|last| last.seconds_since(seconds(now)))
    };
    // The clock was a day ahead for a minute.
    assert_eq!(push(&mut life, 0, 86_400), Some(86_400.0));
    assert_eq!(push(&mut life, 1, 60), Some(60.0));
    // After an outage: several are on their way.
    assert_eq!(push(&mut life, 3, 600), Some(60.0));
    assert_eq!(push(&mut life, 2, 120), Some(600.0));
}
