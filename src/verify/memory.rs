//! What was opened when, so that a run goes on where an earlier one stopped. An object is known by key, size and time of
//! its put: one that was put again is opened again. What was damaged is never remembered.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use jiff::Timestamp;

use crate::error::Result;
use crate::format::{ObjectKey, VerifyRecord};
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

/// See the top of the file.
#[derive(Debug)]
pub(super) struct Memory {
    seen: HashMap<Unit, u32>,
    run: VerifyRecord,
    earlier: Vec<VerifyRecord>,
    saved: Instant,
    now: u32,
}

impl Memory {
    /// What was opened in the last `age`.
    pub(super) async fn load(repository: &Repository, listing: &Listing, age: Duration) -> Result<Self> {
        let now = u32::try_from(Timestamp::now().as_second()).unwrap_or(u32::MAX);
        let horizon = now.saturating_sub(u32::try_from(age.as_secs()).unwrap_or(u32::MAX)).saturating_add(1);
        let (mut seen, mut earlier) = (HashMap::new(), Vec::new());
        for listed in &listing.objects {
            let ObjectKey::Verify(record @ VerifyRecord::Seen(_)) = listed.key else { continue };
            earlier.push(record);
            let Some(plain) = repository.get_verify_record(record).await? else { continue };
            let (entries, _) = plain.as_chunks::<12>();
            for entry in entries {
                let hash = entry.first_chunk().map_or(0, |hash| u64::from_le_bytes(*hash));
                let at = entry.last_chunk().map_or(0, |at| u32::from_le_bytes(*at));
                // A time to come is of a clock that was wrong.
                if (horizon..=now).contains(&at) {
                    seen.insert(Unit(hash), at);
                }
            }
        }
        Ok(Self { seen, run: VerifyRecord::new_run()?, earlier, saved: Instant::now(), now })
    }

    pub(super) fn knows(&self, unit: Unit) -> bool {
        self.seen.contains_key(&unit)
    }

    /// Note that a unit is sound, and save now and then.
    pub(super) async fn note(&mut self, repository: &Repository, unit: Unit) -> Result<()> {
        self.seen.insert(unit, self.now);
        if self.saved.elapsed() >= SAVE { self.save(repository).await } else { Ok(()) }
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

    /// Save, and delete what earlier runs saved: it is all in here.
    pub(super) async fn finish(mut self, repository: &Repository) -> Result<()> {
        self.save(repository).await?;
        repository.delete_verify_records(&self.earlier).await
    }
}
