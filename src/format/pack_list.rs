//! The packs that a backup needs, each with its bytes and those of them that are used, FORMAT.md "Pack list".
//!
//! An object of its own and not a field of the manifest: a backup of 10 TB has 300,000 packs, and manifests are read
//! whole by everything that looks for a backup. The manifest has the sums.

use std::collections::{BTreeMap, BTreeSet};

use super::backup_id::BackupId;
use super::file_table::{put_bytes, put_u32, take_bytes, take_u32};
use super::key::ObjectKey;
use super::manifest::PacksRecord;
use super::pack::PackName;
use crate::error::{Error, Result};
use crate::seal::{Cipher, Header, KeyId};

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

/// Counts what a backup uses of packs, while it is taken.
#[derive(Debug, Default)]
pub struct PackTally {
    /// By the number of the pack: there may be a million, and so an id is not held for each.
    packs: BTreeMap<BackupId, BTreeMap<u32, Tally>>,
    key_ids: BTreeMap<BackupId, BTreeSet<KeyId>>,
}

#[derive(Debug, Default)]
struct Tally {
    bytes: u32,
    live_bytes: u32,
    /// A bit for each frame that is used. Most packs have few.
    first_frames: u64,
    more_frames: Box<[u64]>,
}

impl PackTally {
    /// The pack `name` is stored and has so many bytes. Packs that nothing is used of are left out in the end.
    pub fn stored(&mut self, name: &PackName, bytes: u64) -> Result<()> {
        let bytes = u32::try_from(bytes).map_err(|_| Error::corrupt("a pack grew too large"))?;
        self.packs.entry(name.backup.clone()).or_default().entry(name.number).or_default().bytes = bytes;
        Ok(())
    }

    /// The packs that are used and whose bytes are not known yet.
    pub fn without_bytes(&self) -> impl Iterator<Item = PackName> {
        self.packs.iter().flat_map(|(backup, packs)| {
            let without = packs.iter().filter(|(_, tally)| tally.bytes == 0);
            without.map(|(number, _)| PackName { backup: backup.clone(), number: *number })
        })
    }

    /// A file uses this frame of the pack `name`, which has this header.
    pub fn used(&mut self, name: &PackName, header: &[u8], frame: u32, stored_len: u32) -> Result<()> {
        let tally = self.packs.entry(name.backup.clone()).or_default().entry(name.number).or_default();
        let (word, bit) = (frame as usize / 64, 1 << (frame % 64));
        if tally.more_frames.len() < word {
            let mut more = std::mem::take(&mut tally.more_frames).into_vec();
            more.resize(word, 0);
            tally.more_frames = more.into();
        }
        let frames = match word.checked_sub(1) {
            None => &mut tally.first_frames,
            Some(more) => &mut tally.more_frames[more],
        };
        if *frames & bit != 0 {
            return Ok(());
        }
        *frames |= bit;
        if tally.live_bytes == 0 {
            let header = Header::parse(header)?;
            let key_ids = self.key_ids.entry(name.backup.clone()).or_default();
            key_ids.extend((header.cipher != Cipher::None).then_some(header.key_id));
        }
        tally.live_bytes = tally.live_bytes.saturating_add(stored_len);
        Ok(())
    }

    /// The list, and its sums for the manifest.
    pub fn finish(self) -> (PackList, Vec<PacksRecord>) {
        let list = PackList(
            self.packs
                .into_iter()
                .flat_map(|(backup, packs)| {
                    let used = packs.into_iter().filter(|(_, tally)| tally.live_bytes > 0);
                    used.map(move |(number, Tally { bytes, live_bytes, .. })| PackUse {
                        name: PackName { backup: backup.clone(), number },
                        bytes,
                        live_bytes,
                    })
                })
                .collect(),
        );
        let backups = list.0.chunk_by(|a, b| a.name.backup == b.name.backup);
        let records = backups.map(|packs| {
            let backup = packs[0].name.backup.clone();
            PacksRecord {
                key_ids: self.key_ids.get(&backup).into_iter().flatten().copied().collect(),
                backup,
                packs: packs.len() as u64,
                bytes: packs.iter().map(|pack| u64::from(pack.bytes)).sum(),
                live_bytes: packs.iter().map(|pack| u64::from(pack.live_bytes)).sum(),
            }
        });
        let records = records.collect();
        (list, records)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seal::{Context, KeyRing, MasterKey, ObjectKind, seal_object};

    fn pack(backup: &str, number: u32) -> PackName {
        PackName { backup: backup.parse().unwrap(), number }
    }

    const OLD: &str = "20261121T130000Z-00000001";
    const NEW: &str = "20261122T130000Z-00000001";

    #[test]
    fn frames_count_once_and_unused_packs_not_at_all() {
        let keys = KeyRing::parse(&MasterKey::generate().unwrap().to_text()).unwrap();
        let context = Context { kind: ObjectKind::Pack, identity: "main/7", name: "x" };
        let header = seal_object(&keys, context, 1, b"").unwrap()[..64].to_vec();
        let mut tally = PackTally::default();
        for (name, frame) in
            [(pack(NEW, 1), 0), (pack(OLD, 7), 70), (pack(NEW, 1), 1), (pack(OLD, 7), 70), (pack(NEW, 0), 3)]
        {
            tally.used(&name, &header, frame, 100 + frame).unwrap();
        }
        for (name, bytes) in
            [(pack(NEW, 0), 300), (pack(NEW, 1), 400), (pack(NEW, 2), 500), (pack(OLD, 7), 600)]
        {
            tally.stored(&name, bytes).unwrap();
        }
        let (list, records) = tally.finish();
        let each: Vec<_> =
            list.0.iter().map(|pack| (pack.name.number, pack.bytes, pack.live_bytes)).collect();
        assert_eq!(each, [(7, 600, 170), (0, 300, 103), (1, 400, 201)]);
        let key_ids: Vec<KeyId> = keys.all().collect();
        let record = |backup: &str, packs, bytes, live_bytes| PacksRecord {
            backup: backup.parse().unwrap(),
            key_ids: key_ids.clone(),
            packs,
            bytes,
            live_bytes,
        };
        assert_eq!(records, [record(OLD, 1, 600, 170), record(NEW, 2, 700, 304)]);
        assert_eq!(PackList::parse(&list.to_bytes()).unwrap(), list);
    }

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
}
