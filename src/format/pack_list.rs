//! The packs that a backup needs, each with its bytes and those of them that are used, FORMAT.md "Pack list".
//!
//! An object of its own and not a field of the manifest: a backup of 10 TB has 300,000 packs, and manifests are read
//! whole by everything that looks for a backup. The manifest has the sums.

use std::collections::BTreeMap;

use super::backup_id::BackupId;
use super::key::ObjectKey;
use super::pack::PackName;
use crate::encoding::{put_bytes, put_u32, take_bytes, take_u32};
use crate::error::{Error, Result};

/// Of a pack that is used for less than one part in so many, nothing is reused: it is kept for little.
const LEAST_LIVE: u64 = 4;
/// Packs with fewer live bytes are small.
const SMALL: u32 = 1 << 20;
/// So many small packs are no harm; beyond that there may be one for so many live bytes.
const FEW_SMALL: usize = 128;
const BYTES_FOR_SMALL: u64 = 64 << 20;

/// What a backup uses of one pack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackUse {
    /// Its name.
    pub name: PackName,
    /// Its bytes.
    pub bytes: u32,
    /// Bytes of the frames that are used. The rest is dead, as far as this backup is concerned.
    pub live_bytes: u32,
}

/// All packs of a backup, sorted by name; none twice.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PackList(pub Vec<PackUse>);

impl PackList {
    /// The plaintext.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(64 + 12 * self.0.len());
        let backups: Vec<&[PackUse]> = self.0.chunk_by(|a, b| a.name.backup == b.name.backup).collect();
        put_u32(&mut out, backups.len());
        for packs in backups {
            put_bytes(&mut out, packs[0].name.backup.as_str().as_bytes());
            put_u32(&mut out, packs.len());
            for pack in packs {
                for word in [pack.name.number, pack.bytes, pack.live_bytes] {
                    out.extend_from_slice(&word.to_le_bytes());
                }
            }
        }
        out
    }

    /// Parse the plaintext.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let mut input = bytes;
        let list = Self::read(&mut input).filter(|list| input.is_empty() && list.is_sound());
        list.ok_or_else(|| Error::corrupt("a pack list is malformed"))
    }

    /// Whether extents in a pack may stay there, for a new backup to reuse. A pack that is mostly dead is kept for little; and
    /// many small packs, as backups leave them that changed little, make many requests of a restore.
    pub fn worth_keeping(&self) -> impl Fn(&PackUse) -> bool + use<> {
        let live: u64 = self.0.iter().map(|pack| u64::from(pack.live_bytes)).sum();
        let small = self.0.iter().filter(|pack| pack.live_bytes < SMALL).count();
        let too_many = small > FEW_SMALL + usize::try_from(live / BYTES_FOR_SMALL).unwrap_or(usize::MAX);
        move |pack| {
            u64::from(pack.live_bytes) * LEAST_LIVE >= u64::from(pack.bytes)
                && !(too_many && pack.live_bytes < SMALL)
        }
    }

    fn read(input: &mut &[u8]) -> Option<Self> {
        let mut list = Self::default();
        for _ in 0..take_u32(input)? {
            let backup: BackupId = std::str::from_utf8(take_bytes(input)?).ok()?.parse().ok()?;
            for _ in 0..take_u32(input)? {
                let name = PackName { backup: backup.clone(), number: take_u32(input)? };
                list.0.push(PackUse { name, bytes: take_u32(input)?, live_bytes: take_u32(input)? });
            }
        }
        Some(list)
    }

    fn is_sound(&self) -> bool {
        self.0.is_sorted_by(|a, b| a.name < b.name) && self.0.iter().all(|pack| pack.live_bytes <= pack.bytes)
    }
}

/// Packs that are stored, and their bytes. There may be a million: they take eight bytes each.
#[derive(Debug, Clone, Default)]
pub struct PackSizes(BTreeMap<BackupId, Vec<(u32, u32)>>);

impl PackSizes {
    /// Add the packs among objects of so many bytes.
    pub fn add(&mut self, objects: impl Iterator<Item = (Option<ObjectKey>, u64)>) {
        for (key, bytes) in objects {
            if let (Some(ObjectKey::Pack(name)), Ok(bytes)) = (key, bytes.try_into()) {
                self.push(&name, bytes);
            }
        }
    }

    /// Add a pack, in the order of their names, or `sorted` later.
    pub fn push(&mut self, name: &PackName, bytes: u32) {
        match self.0.get_mut(&name.backup) {
            Some(packs) => packs.push((name.number, bytes)),
            None => drop(self.0.insert(name.backup.clone(), vec![(name.number, bytes)])),
        }
    }

    /// S3 promises an order; not every server of its kind keeps the promise.
    #[must_use]
    pub fn sorted(mut self) -> Self {
        self.0.values_mut().for_each(|packs| packs.sort_unstable());
        self
    }

    /// Add the packs of other backups.
    pub fn append(&mut self, mut others: Self) {
        self.0.append(&mut others.0);
    }

    /// The bytes of a pack that is there.
    pub fn get(&self, name: &PackName) -> Option<u32> {
        let packs = self.0.get(&name.backup)?;
        let at = packs.binary_search_by_key(&name.number, |(number, _)| *number).ok()?;
        Some(packs[at].1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pack(backup: &str, number: u32) -> PackName {
        PackName { backup: backup.parse().unwrap(), number }
    }

    const NEW: &str = "20261122T130000Z-00000001";

    #[test]
    fn a_list_that_cannot_be_is_refused() {
        let usage = |number, bytes, live_bytes| PackUse { name: pack(NEW, number), bytes, live_bytes };
        let good = PackList(vec![usage(1, 5, 5), usage(2, 5, 1)]);
        let bytes = good.to_bytes();
        assert_eq!(PackList::parse(&bytes).unwrap(), good);
        for len in 0..bytes.len() {
            PackList::parse(&bytes[..len]).unwrap_err();
        }
        PackList::parse(&[&bytes[..], &[0]].concat()).unwrap_err();
        for bad in [vec![usage(2, 5, 5), usage(1, 5, 1)], vec![usage(1, 5, 5); 2], vec![usage(1, 5, 6)]] {
            PackList::parse(&PackList(bad).to_bytes()).unwrap_err();
        }
    }

    fn kept(uses: &[(u32, u32)]) -> Vec<bool> {
        let usage = |(number, (bytes, live_bytes)): (u32, &(u32, u32))| PackUse {
            name: pack(NEW, number),
            bytes: *bytes,
            live_bytes: *live_bytes,
        };
        let list = PackList((0..).zip(uses).map(usage).collect());
        let worth = list.worth_keeping();
        list.0.iter().map(worth).collect()
    }

    #[test]
    fn a_pack_that_is_mostly_dead_is_not_kept_for_the_rest() {
        assert_eq!(kept(&[(400, 100), (400, 99), (32 << 20, 30 << 20)]), [true, false, true]);
    }

    #[test]
    fn of_too_many_small_packs_none_is_kept() {
        let small = vec![(1000, 1000); FEW_SMALL];
        assert!(kept(&small).iter().all(|kept| *kept));
        let more = [small, vec![(1000, 1000), (8 << 20, 8 << 20)]].concat();
        assert_eq!(kept(&more).iter().filter(|kept| **kept).count(), 1);
        let large = [more, vec![(32 << 20, 32 << 20); 4]].concat();
        assert!(kept(&large).iter().all(|kept| *kept));
    }
}
