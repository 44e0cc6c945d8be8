//! What was opened when, so that a run goes on where an earlier one stopped. An object is known by key, size and time of
//! its put: one that was put again is opened again. What was damaged is never remembered.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::time::{Duration, Instant};

use jiff::Timestamp;

use crate::error::Result;
use crate::format::{BackupId, ObjectKey, VerifyRecord};
use crate::repository::{Listed, Listing, Repository};

/// Between two saves: what a killed run loses.
const SAVE: Duration = Duration::from_secs(10);

/// An object, or a part of a backup in a pack.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Unit(u64);

impl Unit {
    pub(super) fn of(listed: &Listed) -> Self {
        Self::named("", listed)
    }

    /// What `user` needs of an object.
    pub(super) fn named(user: &str, listed: &Listed) -> Self {
        let text = format!("{user}\n{}\n{}\n{}", listed.key, listed.size, listed.modified.as_microsecond());
        let hash = blake3::hash(text.as_bytes());
        Self(u64::from_le_bytes(*hash.as_bytes().first_chunk().unwrap_or(&[0; 8])))
    }
}

/// A unit that this run met.
#[derive(Debug, Clone, Copy)]
struct Met {
    /// When its object was put, by the store's clock.
    put: u32,
    bytes: u64,
}

/// How old what is known of the content is, when a run has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Age {
    /// Of everything that is stored, what was opened longest ago: when, or when it was put, if it never was. Of what is
    /// damaged nothing counts.
    pub(super) oldest: Option<Timestamp>,
    /// What was not opened within the window.
    pub(super) overdue: u64,
}

/// See the top of the file.
#[derive(Debug)]
pub(super) struct Memory {
    seen: HashMap<Unit, u32>,
    met: HashMap<Unit, Met>,
    /// Backups of which all that they use was opened within the window.
    backups: BTreeSet<BackupId>,
    /// Damaged ones.
    damaged: HashSet<Unit>,
    /// What was opened since then is not opened again.
    fresh: u32,
    /// When the window begins.
    horizon: u32,
    /// If not everything that is due may be opened: what may.
    granted: Option<HashSet<Unit>>,
    run: VerifyRecord,
    earlier: Vec<VerifyRecord>,
    saved: Instant,
    now: u32,
}

fn seconds(at: Timestamp) -> u32 {
    u32::try_from(at.as_second()).unwrap_or(u32::MAX)
}

impl Memory {
    /// What earlier runs opened. What was opened in the last `age` is not due.
    pub(super) async fn load(
        repository: &Repository,
        listing: &Listing,
        (window, age): (Duration, Duration),
    ) -> Result<Self> {
        let now = seconds(Timestamp::now());
        let ago = |age: Duration| now.saturating_sub(u32::try_from(age.as_secs()).unwrap_or(u32::MAX));
        let (mut seen, mut earlier): (HashMap<Unit, u32>, _) = (HashMap::new(), Vec::new());
        for listed in &listing.objects {
            let ObjectKey::Verify(record @ VerifyRecord::Seen(_)) = listed.key else { continue };
            earlier.push(record);
            let Some(plain) = repository.get_verify_record(record).await? else { continue };
            let (entries, _) = plain.as_chunks::<12>();
            for entry in entries {
                let hash = entry.first_chunk().map_or(0, |hash| u64::from_le_bytes(*hash));
                let at = entry.last_chunk().map_or(0, |at| u32::from_le_bytes(*at));
                // A time to come is of a clock that was wrong.
                if at <= now {
                    let known = seen.entry(Unit(hash)).or_default();
                    *known = at.max(*known);
                }
            }
        }
        Ok(Self {
            seen,
            met: HashMap::new(),
            backups: BTreeSet::new(),
            damaged: HashSet::new(),
            fresh: ago(age).saturating_add(1),
            horizon: ago(window),
            granted: None,
            run: VerifyRecord::new_run()?,
            earlier,
            saved: Instant::now(),
            now,
        })
    }

    /// Note that there is this unit, of an object of the listing.
    pub(super) fn meet(&mut self, unit: Unit, listed: &Listed) {
        self.met.insert(unit, Met { put: seconds(listed.modified), bytes: listed.size });
    }

    /// Whether it was opened so lately that it need not be again.
    pub(super) fn knows(&self, unit: Unit) -> bool {
        self.seen.get(&unit).is_some_and(|at| *at >= self.fresh)
    }

    /// Whether it was opened within the window, now or earlier, and is sound.
    pub(super) fn is_verified(&self, unit: Unit) -> bool {
        self.seen.get(&unit).is_some_and(|at| *at >= self.horizon)
    }

    /// Note that all that a backup uses was opened within the window.
    pub(super) fn note_backup(&mut self, id: &BackupId) {
        self.backups.insert(id.clone());
    }

    /// Whether all that a backup uses was opened within the window.
    pub(super) fn is_backup_verified(&self, id: &BackupId) -> bool {
        self.backups.contains(id)
    }

    /// Whether it is to be opened now.
    pub(super) fn opens(&self, unit: Unit) -> bool {
        !self.knows(unit) && self.granted.as_ref().is_none_or(|granted| granted.contains(&unit))
    }

    /// Open so many bytes only. Everything has to be met by now. What was opened longest ago, or put and never opened,
    /// comes first, so that whatever the budget is, nothing is left out for ever. What is larger than what is left of the
    /// budget is opened all the same: otherwise nothing ever would be that is larger than all of it.
    pub(super) fn limit(&mut self, budget: u64) {
        let mut due: Vec<(u32, Unit, u64)> = self
            .met
            .iter()
            .filter(|(unit, _)| !self.knows(**unit))
            .map(|(unit, met)| (self.seen.get(unit).copied().unwrap_or(met.put), *unit, met.bytes))
            .collect();
        due.sort_unstable();
        let mut left = budget;
        let granted = due.into_iter().take_while(|(_, _, bytes)| {
            let granted = left > 0;
            left = left.saturating_sub(*bytes);
            granted
        });
        self.granted = Some(granted.map(|(_, unit, _)| unit).collect());
    }

    /// Note that a unit is damaged.
    pub(super) fn note_damage(&mut self, unit: Unit) {
        self.seen.remove(&unit);
        self.damaged.insert(unit);
    }

    /// Note that a unit is sound, and save now and then.
    pub(super) async fn note(&mut self, repository: &Repository, unit: Unit) -> Result<()> {
        self.seen.insert(unit, self.now);
        if self.saved.elapsed() >= SAVE { self.save(repository).await } else { Ok(()) }
    }

    /// How old what is known is now.
    pub(super) fn age(&self) -> Age {
        let sound = self.met.iter().filter(|(unit, _)| !self.damaged.contains(unit));
        let times = sound.map(|(unit, met)| self.seen.get(unit).copied().unwrap_or(met.put));
        let (oldest, overdue) = times.fold((None::<u32>, 0), |(oldest, overdue), at| {
            (Some(oldest.map_or(at, |oldest| oldest.min(at))), overdue + u64::from(at < self.horizon))
        });
        let oldest = oldest.and_then(|at| Timestamp::from_second(at.into()).ok());
        Age { oldest, overdue }
    }

    async fn save(&mut self, repository: &Repository) -> Result<()> {
        let mut entries: Vec<(Unit, u32)> = self.seen.iter().map(|(unit, at)| (*unit, *at)).collect();
        entries.sort_unstable();
        let plain: Vec<u8> = entries
            .iter()
            .flat_map(|(Unit(hash), at)| [&hash.to_le_bytes()[..], &at.to_le_bytes()].concat())
            .collect();
        repository.put_verify_record(self.run, &plain).await?;
        self.saved = Instant::now();
        Ok(())
    }

    /// Save, and delete what earlier runs saved: it is all in here, but for what is no longer there.
    pub(super) async fn finish(mut self, repository: &Repository) -> Result<()> {
        let met = std::mem::take(&mut self.met);
        self.seen.retain(|unit, _| met.contains_key(unit));
        self.save(repository).await?;
        repository.delete_verify_records(&self.earlier).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::repository::fixture::memory;

    const DAY: u32 = 86_400;

    fn wal(number: u64, size: u64, put: u32) -> Listed {
        let name = format!("{:08X}{number:016X}", 1).parse().unwrap();
        let digest = crate::format::WalDigest::from_bytes([1; 16]);
        let modified = Timestamp::from_second(put.into()).unwrap();
        Listed { key: ObjectKey::Wal(name, digest), size, modified }
    }

    async fn loaded(repository: &Repository) -> Memory {
        let week = Duration::from_hours(7 * 24);
        Memory::load(repository, &Listing::default(), (week, week.mul_f64(0.75))).await.unwrap()
    }

    /// A run a day with a budget for two of ten objects, while new ones arrive that sort before them.
    #[tokio::test]
    async fn a_budget_leaves_out_nothing_for_ever_and_what_it_leaves_shows() {
        let (_, repository) = memory().await;
        let mut memory = loaded(&repository).await;
        let begin = memory.now;
        let mut there: Vec<Listed> = (100..110).map(|number| wal(number, 10, begin - DAY)).collect();
        for day in 0..30 {
            memory.now = begin + day * DAY;
            (memory.fresh, memory.horizon) = (memory.now - 5 * DAY, memory.now - 7 * DAY);
            memory.met.clear();
            if day % 6 == 0 {
                there.push(wal(99 - u64::from(day), 10, memory.now));
            }
            for listed in &there {
                memory.meet(Unit::of(listed), listed);
            }
            memory.limit(20);
            let opened: Vec<Unit> = there.iter().map(Unit::of).filter(|unit| memory.opens(*unit)).collect();
            assert!(opened.len() <= 2, "day {day}");
            for unit in opened {
                memory.note(&repository, unit).await.unwrap();
            }
            let Age { oldest, overdue } = memory.age();
            let days = (memory.now - seconds(oldest.unwrap())) / DAY;
            assert!(days <= 8 && (overdue > 0) == (days > 7), "day {day}: {days}, {overdue}");
        }
    }

    #[tokio::test]
    async fn what_does_not_fit_the_budget_is_overdue_and_the_oldest_comes_first() {
        let (_, repository) = memory().await;
        let mut memory = loaded(&repository).await;
        let now = memory.now;
        let there = [wal(1, 50, now - 9 * DAY), wal(2, 50, now - 10 * DAY), wal(3, 50, now)];
        let units = [0, 1, 2].map(|at: usize| Unit::of(&there[at]));
        for listed in &there {
            memory.meet(Unit::of(listed), listed);
        }
        assert_eq!(memory.age().overdue, 2);
        memory.limit(1);
        assert_eq!(units.map(|unit| memory.opens(unit)), [false, true, false]);
        memory.note(&repository, units[1]).await.unwrap();
        let age = memory.age();
        assert_eq!((age.overdue, age.oldest.map(seconds)), (1, Some(now - 9 * DAY)));
        // What is damaged is a problem of its own, and is opened again.
        memory.note_damage(units[0]);
        assert_eq!((memory.age().overdue, memory.knows(units[0])), (0, false));
        memory.finish(&repository).await.unwrap();
    }
}
