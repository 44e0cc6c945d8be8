//! What a backup uses of packs, for its pack list.

use std::collections::{BTreeMap, BTreeSet};

use crate::error::{Error, Result};
use crate::format::{BackupId, PackList, PackName, PackUse, PacksRecord};
use crate::seal::{Cipher, Header, KeyId};

/// Counts what a backup uses of packs, while it is taken.
#[derive(Debug, Default)]
pub(super) struct PackTally {
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
    pub(super) fn stored(&mut self, name: &PackName, bytes: u64) -> Result<()> {
        let bytes = u32::try_from(bytes).map_err(|_| Error::corrupt("a pack grew too large"))?;
        self.packs.entry(name.backup.clone()).or_default().entry(name.number).or_default().bytes = bytes;
        Ok(())
    }

    /// The packs that are used and whose bytes are not known yet.
    pub(super) fn without_bytes(&self) -> impl Iterator<Item = PackName> {
        self.packs.iter().flat_map(|(backup, packs)| {
            let without = packs.iter().filter(|(_, tally)| tally.bytes == 0);
            without.map(|(number, _)| PackName { backup: backup.clone(), number: *number })
        })
    }

    /// A file uses this frame of the pack `name`, which has this header.
    pub(super) fn used(&mut self, name: &PackName, header: &[u8], frame: u32, stored_len: u32) -> Result<()> {
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
    pub(super) fn finish(self) -> (PackList, Vec<PacksRecord>) {
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

    const OLD: &str = "20261121T130000Z-00000001";
    const NEW: &str = "20261122T130000Z-00000001";

    #[test]
    fn frames_count_once_and_unused_packs_not_at_all() {
        let pack = |backup: &str, number| PackName { backup: backup.parse().unwrap(), number };
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
}
