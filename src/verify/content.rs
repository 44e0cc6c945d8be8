//! The content level: every object is opened; the pages that come out of packs are those that were backed up.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::findings::{Findings, RESTORE_OBJECT};
use super::memory::{Memory, Unit};
use crate::digest_reader::{DigestReader, NoDigests};
use crate::error::{Error, Kind, Result, ResultExt};
use crate::format::{
    Extent, FileTable, FramePlace, Manifest, ObjectKey, PackName, PackReader, PackRef, first_other_page,
};
use crate::records::is_damage;
use crate::repository::{Listed, Listing, Repository};
use crate::seal::{Decompressor, scrub_object};
use crate::window::{Catalog, WalTimes};

/// Keeps reads below a rate.
pub(super) struct Throttle {
    rate: u64,
    due: tokio::sync::Mutex<Instant>,
}

impl Throttle {
    pub(super) fn new(rate: u64) -> Self {
        Self { rate, due: tokio::sync::Mutex::new(Instant::now()) }
    }

    #[expect(clippy::cast_precision_loss, reason = "a pause need not be exact")]
    pub(super) async fn pay(&self, bytes: u64) {
        if self.rate > 0 {
            let cost = Duration::from_secs_f64(bytes as f64 / self.rate as f64);
            let mut due = self.due.lock().await;
            *due = (*due).max(Instant::now()) + cost;
            let until = *due;
            drop(due);
            tokio::time::sleep_until(until.into()).await;
        }
    }
}

/// How many objects were opened or not.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Tally {
    pub(super) opened: u64,
    pub(super) remembered: u64,
    pub(super) left: u64,
}

impl Tally {
    /// Whether a unit is to be opened now; else it is counted among those that are not.
    pub(super) fn opens(&mut self, unit: Unit, memory: &Memory) -> bool {
        let opens = memory.opens(unit);
        if !opens {
            *(if memory.knows(unit) { &mut self.remembered } else { &mut self.left }) += 1;
        }
        opens
    }
}

/// What is opened.
pub(super) struct Content<'a> {
    pub(super) repository: &'a Repository,
    pub(super) listing: &'a Listing,
    pub(super) catalog: &'a Catalog,
    pub(super) throttle: Throttle,
    /// Bytes that are opened at most; 0 for no limit.
    pub(super) budget: u64,
}

pub(super) type Counted<'a> = (&'a mut Tally, &'a mut Memory);

/// What is known of packs, so that what several backups use is opened once.
#[derive(Default)]
struct Known {
    pieces: HashSet<u64>,
    damaged: BTreeMap<PackName, String>,
    opened: HashSet<PackName>,
    /// The backups that need them, by their places in the catalog.
    used: HashMap<PackName, BTreeSet<usize>>,
}

impl Known {
    /// Every backup that uses a damaged pack is lost, whichever one it was found by: of the others it was known to be sound
    /// from an earlier run.
    fn blame(&self, catalog: &Catalog, findings: &mut Findings) {
        for (pack, why) in &self.damaged {
            let key = ObjectKey::Pack(pack.clone());
            let users = self.used.get(pack).into_iter().flatten();
            for backup in users.filter_map(|place| catalog.backups.get(*place)) {
                findings.loses(&backup.id, &key, why);
            }
        }
    }
}

impl Content<'_> {
    /// Open everything that `memory` does not know. Damaged segments are made known to `times`.
    pub(super) async fn verify(
        &self,
        findings: &mut Findings,
        times: &mut WalTimes,
        memory: &mut Memory,
    ) -> Result<Tally> {
        if self.budget > 0 {
            self.meet(memory).await?;
            memory.limit(self.budget);
        }
        let mut tally = Tally::default();
        for listed in &self.listing.objects {
            let small = matches!(
                listed.key,
                ObjectKey::Identity
                    | ObjectKey::Hold(_)
                    | ObjectKey::Lease(_)
                    | ObjectKey::Tail(_)
                    | ObjectKey::Report(..)
                    | ObjectKey::ReportHead
                    | ObjectKey::Verify(_)
                    | ObjectKey::Attempt
                    | ObjectKey::Expiry
            );
            if small {
                self.small(listed, findings).await?;
                tally.opened += 1;
            }
        }
        let mut known = Known::default();
        for (place, backup) in self.catalog.backups.iter().enumerate().rev() {
            tally.opened += 2;
            self.backup((place, &**backup), &mut known, findings, (&mut tally, memory)).await?;
        }
        known.blame(self.catalog, findings);
        tally.opened += known.opened.len() as u64;
        self.unused(&known, findings, (&mut tally, memory)).await?;
        self.wal(findings, times, (&mut tally, memory)).await?;
        Ok(tally)
    }

    /// Meet everything that a run opens which is not small.
    async fn meet(&self, memory: &mut Memory) -> Result<()> {
        let mut named = HashSet::new();
        for backup in &self.catalog.backups {
            for number in (0..).take(backup.parts.len()) {
                // Damage is found when it is opened.
                let Some(table) = self.table(backup, number, &mut Findings::default()).await? else {
                    continue;
                };
                let user = self.user(backup, number);
                for (pack, _) in pieces_by_pack(&table) {
                    if let Some(listed) = self.listing.get(&ObjectKey::Pack(pack.name.clone())) {
                        memory.meet(Unit::named(&user, listed), listed);
                    }
                    named.insert(pack.name.clone());
                }
            }
        }
        for listed in &self.listing.objects {
            let opened = match &listed.key {
                ObjectKey::Pack(name) => !named.contains(name),
                ObjectKey::Wal(..) => true,
                _ => false,
            };
            if opened {
                memory.meet(Unit::of(listed), listed);
            }
        }
        Ok(())
    }

    /// A part of a backup, as a user of packs.
    fn user(&self, backup: &Manifest, number: u32) -> String {
        let key = ObjectKey::FileTable(backup.id.clone(), number);
        let put = self.listing.get(&key).map_or(0, |listed| listed.modified.as_microsecond());
        format!("{key}\n{put}")
    }

    /// An object that was deleted meanwhile is fine.
    async fn small(&self, listed: &Listed, findings: &mut Findings) -> Result<()> {
        self.throttle.pay(listed.size).await;
        match self.repository.check_small(&listed.key).await {
            Err(error) if error.kind() == Kind::NotFound => Ok(()),
            Err(error) if is_damage(&error) => {
                let (loses, advice) = match listed.key {
                    ObjectKey::Hold(_) => (
                        "nothing while the hold stays; its reason and extent cannot be read",
                        "place it again with `walproof backup-hold`",
                    ),
                    ObjectKey::Lease(_) => (
                        "nothing; retention waits until it is old",
                        "the next command that takes one removes it",
                    ),
                    ObjectKey::Tail(_) => ("the newest commits, if the host is lost now", RESTORE_OBJECT),
                    ObjectKey::Identity => ("everything: nothing can be opened without it", RESTORE_OBJECT),
                    ObjectKey::Attempt => ("nothing", "the next backup writes it again"),
                    ObjectKey::Expiry => ("nothing", "the next `walproof expire` writes it again"),
                    ObjectKey::Verify(_) => {
                        ("nothing", "the next run writes it again, and opens again what it does not know of")
                    }
                    _ => (
                        "the evidence of a drill",
                        "bring it back if the bucket keeps versions or there is a copy",
                    ),
                };
                let advice = error.hint_text().unwrap_or(advice);
                findings.problem(listed.key.to_string(), error.to_string(), loses, advice);
                Ok(())
            }
            result => result,
        }
    }

    /// The file tables of a backup and the pages that they promise.
    async fn backup(
        &self,
        (place, backup): (usize, &Manifest),
        known: &mut Known,
        findings: &mut Findings,
        (tally, memory): Counted<'_>,
    ) -> Result<()> {
        let (mut digests, mut verified) = (DigestReader::default(), true);
        for (number, part) in (0..).zip(&backup.parts) {
            self.throttle.pay(part.table_bytes).await;
            let Some(mut table) = self.table(backup, number, findings).await? else {
                verified = false;
                continue;
            };
            tally.opened += 1;
            let key = ObjectKey::FileTable(backup.id.clone(), number);
            match digests.fill(self.repository, &mut table).await {
                Err(NoDigests { pack, error }) if is_damage(&error) => {
                    let blamed = pack.map_or_else(|| key.clone(), ObjectKey::Pack);
                    findings.loses(&backup.id, &blamed, &error.to_string());
                    findings.damaged(
                        blamed.to_string(),
                        &error,
                        format!("backup {} cannot be restored", backup.id),
                    );
                }
                Err(other) => return Err(other.error),
                Ok(()) => {}
            }
            let user = self.user(backup, number);
            for (pack, pieces) in pieces_by_pack(&table) {
                known.used.entry(pack.name.clone()).or_default().insert(place);
                let Some(listed) = self.listing.get(&ObjectKey::Pack(pack.name.clone())) else {
                    verified = false;
                    continue;
                };
                let unit = Unit::named(&user, listed);
                memory.meet(unit, listed);
                if !tally.opens(unit, memory) {
                    verified &= memory.is_verified(unit);
                    continue;
                }
                if self.pack(backup, (pack, listed.size), pieces, known, findings).await? {
                    memory.note(self.repository, unit).await?;
                } else {
                    verified = false;
                    memory.note_damage(unit);
                }
            }
        }
        if verified {
            memory.note_backup(&backup.id);
        }
        Ok(())
    }

    async fn table(
        &self,
        backup: &Manifest,
        number: u32,
        findings: &mut Findings,
    ) -> Result<Option<FileTable>> {
        let id = &backup.id;
        let loses = format!("backup {id} cannot be restored");
        match self.repository.get_file_table(id, number).await {
            Ok(table) => Ok(Some(table)),
            Err(error) if is_damage(&error) => {
                let key = ObjectKey::FileTable(id.clone(), number);
                findings.loses(id, &key, &error.to_string());
                findings.damaged(key.to_string(), &error, loses);
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Whether the pack is sound, as far as a part of a backup needs it.
    async fn pack(
        &self,
        backup: &Manifest,
        (pack, size): (&PackRef, u64),
        mut pieces: Vec<Extent>,
        known: &mut Known,
        findings: &mut Findings,
    ) -> Result<bool> {
        if known.damaged.contains_key(&pack.name) {
            return Ok(false);
        }
        pieces.retain(|piece| known.pieces.insert(hash(&pack.name, piece)));
        if pieces.is_empty() {
            return Ok(true);
        }
        let first = known.opened.insert(pack.name.clone());
        match self.check_pack(pack, size, pieces, first).await {
            Err(error) if is_damage(&error) => {
                let key = ObjectKey::Pack(pack.name.clone()).to_string();
                let why = format!("{key}: {error}");
                let loses =
                    format!("backup {} cannot be restored, nor can any other that uses the pack", backup.id);
                findings.damaged(key, &error, loses);
                known.damaged.insert(pack.name.clone(), why);
                Ok(false)
            }
            result => result.map(|()| true),
        }
    }

    async fn check_pack(&self, pack: &PackRef, size: u64, pieces: Vec<Extent>, first: bool) -> Result<()> {
        self.throttle.pay(size).await;
        let bytes = self.repository.get_pack_range(&pack.name, 0..size).await?;
        if bytes.get(..pack.header.len()) != Some(&pack.header[..]) {
            return Err(Error::corrupt("the pack is not the one that the backup wrote (header)"));
        }
        let (keys, seed) = (self.repository.keys(), self.repository.identity().page_seed()?);
        let reader = PackReader::new(keys, self.repository.name(), pack.name.clone(), &pack.header)?;
        let digests = pack.digests;
        let work = move || {
            if first {
                scrub_object(&bytes)?;
            }
            check_pieces((&reader, digests), &bytes, &pieces, seed)
        };
        tokio::task::spawn_blocking(work)
            .await
            .map_err(|_| Error::new(Kind::Other, "a thread that opens packs died"))?
    }

    /// Packs that no file table points into, or whose tables cannot be read: as whole as can be told without them.
    async fn unused(
        &self,
        known: &Known,
        findings: &mut Findings,
        (tally, memory): Counted<'_>,
    ) -> Result<()> {
        for listed in &self.listing.objects {
            let ObjectKey::Pack(name) = &listed.key else { continue };
            if known.opened.contains(name) || known.used.contains_key(name) {
                continue;
            }
            let unit = Unit::of(listed);
            memory.meet(unit, listed);
            if !tally.opens(unit, memory) {
                continue;
            }
            self.throttle.pay(listed.size).await;
            let bytes = match self.repository.get_pack_range(name, 0..listed.size).await {
                Err(error) if error.kind() == Kind::NotFound => continue,
                result => result?,
            };
            tally.opened += 1;
            let used = self
                .catalog
                .backups
                .iter()
                .find(|backup| backup.packs.iter().any(|packs| packs.backup == name.backup));
            let scrubbed = scrub_object(&bytes);
            if scrubbed.is_err() {
                memory.note_damage(unit);
            }
            match (scrubbed, used) {
                (Err(error), Some(backup)) => {
                    let loses = format!("backup {}, if it uses the pack", backup.id);
                    findings.damaged(listed.key.to_string(), &error, loses);
                }
                (Err(error), None) => {
                    let text = format!("{error}; no backup uses it");
                    findings.remark(listed.key.to_string(), text, "`walproof expire` removes it");
                }
                (Ok(()), _) => memory.note(self.repository, unit).await?,
            }
        }
        Ok(())
    }
}

/// The extents of a part by pack, in the order in which they lie there.
fn pieces_by_pack(table: &FileTable) -> Vec<(&PackRef, Vec<Extent>)> {
    let mut found: BTreeMap<u32, Vec<Extent>> = BTreeMap::new();
    for extent in table.files.iter().flat_map(|file| &file.extents) {
        found.entry(extent.pack).or_default().push(*extent);
    }
    let of_pack = |(index, mut pieces): (u32, Vec<Extent>)| {
        pieces.sort_by_key(|extent| (extent.frame, extent.skip));
        table.packs.get(index as usize).map(|pack| (pack, pieces))
    };
    found.into_iter().filter_map(of_pack).collect()
}

fn check_pieces(
    (reader, place): (&PackReader, FramePlace),
    bytes: &Bytes,
    pieces: &[Extent],
    seed: u64,
) -> Result<()> {
    let frame_at = |offset: u32, stored_len: u32| {
        let begin = offset as usize;
        let stored = bytes.get(begin..begin.saturating_add(stored_len as usize));
        stored.ok_or_else(|| Error::corrupt("the pack is shorter than the file table says"))
    };
    let mut decompressor = Decompressor::new()?;
    let stored = frame_at(place.offset, place.stored_len)?;
    let digests = reader.digests(&mut decompressor, place.frame, stored)?;
    let (mut plain, mut opened) = (Vec::new(), None);
    for extent in pieces {
        let place = (extent.frame, extent.offset);
        if opened != Some(place) {
            plain.clear();
            let stored = frame_at(extent.offset, extent.stored_len)?;
            reader.open(&mut decompressor, u64::from(extent.frame), stored, &mut plain)?;
            opened = Some(place);
        }
        let own = digests.of_frame(extent.frame).and_then(|digests| digests.get(extent.pages()));
        if let Some(page) = first_other_page(seed, extent.of(&plain)?, own.unwrap_or_default()) {
            return Err(Error::corrupt(format!(
                "page {page} of frame {} is not the one that was backed up (digest)",
                extent.frame
            )))
            .context("compare pages with their digests");
        }
    }
    Ok(())
}

fn hash(name: &PackName, piece: &Extent) -> u64 {
    let Extent { frame, offset, stored_len, skip, plain_len, .. } = piece;
    let mut hasher = DefaultHasher::new();
    (name, frame, offset, stored_len, skip, plain_len).hash(&mut hasher);
    hasher.finish()
}
