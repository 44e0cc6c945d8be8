//! What one listing of the repository says: backups, histories, and WAL by name. A pure value.

mod attempt;
#[cfg(test)]
pub(crate) mod samples;

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::sync::Arc;

use jiff::Timestamp;

use crate::error::{Error, Result};
use crate::format::{Harm, Manifest, ObjectKey, ObjectUse, TailPieceName, WalDigest};
use crate::postgres::{History, Lsn, PgTime, SegmentName, SegmentSize, TimelineId, WalName};
use crate::records::Records;
use crate::repository::{
    BackupAttempt, DamagedBackup, ExpiryRecord, Hold, Listing, Tail, TailPiece, WalFile, conflict,
};

/// A maximal contiguous range of archived segments on one timeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// Its first segment.
    pub first: SegmentName,
    /// Its last segment.
    pub last: SegmentName,
    /// How many there are.
    pub segments: u64,
}

/// Segments that are missing between two runs of one timeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gap {
    /// The first missing segment.
    pub first: SegmentName,
    /// The last missing segment.
    pub last: SegmentName,
}

/// Bytes by what they are for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Data of backups.
    pub pack: u64,
    /// WAL files.
    pub wal: u64,
    /// Tails.
    pub tail: u64,
    /// Everything else.
    pub other: u64,
}

/// The repository's content.
#[derive(Debug, Clone)]
pub struct Catalog {
    /// Finished backups, oldest first, but for those that verifications found to be harmed.
    pub backups: Vec<Arc<Manifest>>,
    /// Backups that cannot be read.
    pub damaged: Vec<DamagedBackup>,
    /// Backups of which a verification found that they cannot be restored, oldest first, with why.
    pub harmed: Vec<(Arc<Manifest>, Error)>,
    /// Segments that a verification found damaged.
    pub(crate) unsound: BTreeMap<(SegmentName, WalDigest), Error>,
    /// Backups that are kept past the window.
    pub holds: Vec<Hold>,
    /// What retention did last.
    pub expiry: ExpiryRecord,
    /// The last try to take a backup.
    pub attempt: Option<BackupAttempt>,
    /// When a lease for a backup was last renewed, by the store's clock.
    pub backup_lease: Option<Timestamp>,
    /// Segment size of the cluster.
    pub segment_size: SegmentSize,
    /// Bytes of the listed objects.
    pub usage: Usage,
    /// Objects below the repository's root that are not walproof's.
    pub foreign: usize,
    /// WAL files by name, one version of each.
    wal: BTreeMap<WalName, WalFile>,
    /// Further versions, where there are any.
    more: BTreeMap<WalName, Vec<WalFile>>,
    histories: BTreeMap<TimelineId, Result<History>>,
    /// Of segments that are not archived.
    tails: BTreeMap<SegmentName, Tail>,
}

impl Catalog {
    /// The catalog of `listing`, with what was read of its small objects.
    pub fn of(listing: &Listing, records: &Records, segment_size: SegmentSize) -> Self {
        let mut catalog = Self::empty(segment_size);
        let mut pieces = Vec::new();
        for listed in &listing.objects {
            catalog.usage.add(listed.key.purpose(), listed.size);
            match &listed.key {
                ObjectKey::Lease(name) if name.starts_with("backup-") => {
                    catalog.backup_lease = catalog.backup_lease.max(Some(listed.modified));
                }
                ObjectKey::Tail(name) => {
                    pieces.push(TailPiece {
                        name: *name,
                        stored_len: listed.size,
                        modified: listed.modified,
                    });
                }
                _ => listed.wal_file().into_iter().for_each(|file| catalog.add(file)),
            }
        }
        catalog.foreign = listing.foreign.len();
        for (id, manifest) in &records.manifests {
            match manifest {
                Ok(manifest) => catalog.backups.push(Arc::clone(manifest)),
                Err(error) => catalog.damaged.push(DamagedBackup { id: id.clone(), error: error.clone() }),
            }
        }
        catalog.harm(records.harm.value.iter().filter(|harm| listing.has_still(harm)));
        catalog.backups.sort_by(|a, b| (a.finished_at, &a.id).cmp(&(b.finished_at, &b.id)));
        for ((timeline, _), history) in &records.histories {
            catalog.add_history(*timeline, history.clone());
        }
        catalog.add_tails(&pieces);
        catalog.holds.clone_from(&records.holds.value);
        catalog.expiry.clone_from(&records.expiry.value);
        catalog.attempt.clone_from(&records.attempt.value);
        catalog
    }

    /// A repository without objects.
    pub fn empty(segment_size: SegmentSize) -> Self {
        Self {
            backups: Vec::new(),
            damaged: Vec::new(),
            harmed: Vec::new(),
            unsound: BTreeMap::new(),
            holds: Vec::new(),
            expiry: ExpiryRecord::default(),
            attempt: None,
            backup_lease: None,
            segment_size,
            usage: Usage::default(),
            foreign: 0,
            wal: BTreeMap::new(),
            more: BTreeMap::new(),
            histories: BTreeMap::new(),
            tails: BTreeMap::new(),
        }
    }

    /// Count on nothing that these say is damaged.
    fn harm<'a>(&mut self, found: impl Iterator<Item = &'a Harm>) {
        for harm in found {
            if let Some(ObjectKey::Wal(WalName::Segment(segment), digest)) = harm.key() {
                self.unsound.insert((segment, digest), harm.error());
            }
            let (lost, sound): (Vec<_>, Vec<_>) = std::mem::take(&mut self.backups)
                .into_iter()
                .partition(|backup| harm.backups.contains(&backup.id));
            self.backups = sound;
            self.harmed.extend(lost.into_iter().map(|backup| (backup, harm.error())));
        }
        self.harmed.sort_by(|(a, _), (b, _)| (a.finished_at, &a.id).cmp(&(b.finished_at, &b.id)));
    }

    /// All finished backups that can be read, harmed or not: for whoever decides what stays.
    pub fn manifests(&self) -> impl Iterator<Item = &Arc<Manifest>> {
        self.backups.iter().chain(self.harmed.iter().map(|(backup, _)| backup))
    }

    /// Note a WAL file.
    pub fn add(&mut self, file: WalFile) {
        if let WalName::Segment(segment) = file.name {
            self.tails.remove(&segment);
        }
        match self.wal.get(&file.name) {
            Some(known) if known.digest == file.digest => {}
            Some(_) => {
                let more = self.more.entry(file.name).or_default();
                if more.iter().all(|known| known.digest != file.digest) {
                    more.push(file);
                }
            }
            None => drop(self.wal.insert(file.name, file)),
        }
    }

    /// Note what a history file says. Of several the readable one counts; two that differ are a conflict.
    pub(crate) fn add_history(&mut self, timeline: TimelineId, history: Result<History>) {
        let history = match (self.histories.remove(&timeline), history) {
            (Some(Ok(known)), Ok(history)) if known != history => Err(conflict(&WalName::History(timeline))),
            (Some(Ok(known)), _) => Ok(known),
            (Some(Err(error)), Ok(_)) if error.kind() == crate::error::Kind::Conflict => Err(error),
            (_, history) => history,
        };
        self.histories.insert(timeline, history);
    }

    /// Note the tails that these pieces make; those of archived segments are garbage.
    pub(crate) fn add_tails(&mut self, pieces: &[TailPiece]) {
        for of_segment in pieces.chunk_by(|a, b| a.name.segment == b.name.segment) {
            let segment = of_segment[0].name.segment;
            if !self.has(&segment)
                && let Some(tail) = Tail::among(of_segment, &segment)
            {
                self.tails.insert(segment, tail);
            }
        }
    }

    /// The same without tails.
    #[must_use]
    pub fn without_tails(self) -> Self {
        Self { tails: BTreeMap::new(), ..self }
    }

    /// All WAL files but for further versions, histories included.
    pub fn wal(&self) -> impl Iterator<Item = &WalFile> {
        self.wal.values()
    }

    /// The versions stored under a name.
    pub fn versions<'a>(&'a self, name: &WalName) -> impl Iterator<Item = &'a WalFile> + use<'a> {
        let more = self.more.get(name).map(Vec::as_slice).unwrap_or_default();
        self.wal.get(name).into_iter().chain(more)
    }

    /// Whether a segment is archived, in any version.
    pub fn has(&self, segment: &SegmentName) -> bool {
        self.wal.contains_key(&WalName::Segment(*segment))
    }

    /// Whether a backup of a tail's timeline or a later one begins behind it: nothing that is restored from then on needs it.
    pub fn settles(&self, tail: &TailPieceName) -> bool {
        let end = tail.segment.position(tail.end.into(), self.segment_size);
        let mut backups = self.backups.iter();
        backups.any(|backup| backup.timeline >= tail.segment.timeline && backup.start_lsn >= end)
    }

    /// Whether several contents are stored under a segment's name.
    pub fn is_doubled(&self, segment: &SegmentName) -> bool {
        !self.more.is_empty() && self.more.contains_key(&WalName::Segment(*segment))
    }

    /// The archived segments of `timeline` whose numbers lie in `numbers`, in order.
    pub(crate) fn segments(
        &self,
        timeline: TimelineId,
        numbers: RangeInclusive<u64>,
    ) -> impl DoubleEndedIterator<Item = (u64, &WalFile)> {
        let size = self.segment_size;
        let name = |number: u64| {
            WalName::Segment(SegmentName::from_number(
                timeline,
                number.min(u64::from(u32::MAX) * size.segments_per_log()),
                size,
            ))
        };
        let files = self.wal.range(name(*numbers.start())..=name(*numbers.end()));
        files.filter_map(move |(name, file)| match name {
            WalName::Segment(segment) => Some((segment.number(size), file)),
            _ => None,
        })
    }

    /// The tails on `timeline` of segments whose numbers lie in `numbers`, in order.
    pub(crate) fn tails(
        &self,
        timeline: TimelineId,
        numbers: RangeInclusive<u64>,
    ) -> impl DoubleEndedIterator<Item = (u64, &Tail)> {
        let of_timeline = move |(segment, _): &(&SegmentName, &Tail)| segment.timeline == timeline;
        let numbered = |(segment, tail): (&SegmentName, _)| (segment.number(self.segment_size), tail);
        let all = self.tails.iter().filter(of_timeline).map(numbered);
        all.filter(move |(number, _)| numbers.contains(number))
    }

    /// The tail of a segment that is not archived.
    pub fn tail(&self, segment: &SegmentName) -> Option<&Tail> {
        self.tails.get(segment)
    }

    /// The history of `timeline`; timeline 1 needs none.
    pub fn history(&self, timeline: TimelineId) -> Result<History> {
        match self.histories.get(&timeline) {
            Some(history) => history.clone(),
            None if timeline == TimelineId::FIRST => Ok(History::root(timeline)),
            None => {
                Err(Error::impossible(format!("the history of timeline {timeline} is not in the repository"))
                    .hint("does this timeline exist? `walproof wal-list` shows those that do"))
            }
        }
    }

    /// Every timeline that anything is archived or backed up of, ascending. Tails do not count: one of a timeline whose
    /// history is not archived is of no use yet.
    pub fn timelines(&self) -> Vec<TimelineId> {
        let mut found: Vec<TimelineId> = self.wal.keys().map(WalName::timeline).collect();
        found.extend(self.backups.iter().map(|backup| backup.timeline));
        found.sort_unstable();
        found.dedup();
        found
    }

    /// The runs, by timeline and position.
    pub fn runs(&self) -> Vec<Run> {
        let mut runs: Vec<Run> = Vec::new();
        let segments = self.wal.keys().filter_map(|name| match name {
            WalName::Segment(segment) => Some(*segment),
            _ => None,
        });
        for segment in segments {
            match runs.last_mut() {
                Some(run)
                    if run.last.timeline == segment.timeline
                        && run.last.next(self.segment_size) == segment =>
                {
                    run.last = segment;
                    run.segments += 1;
                }
                _ => runs.push(Run { first: segment, last: segment, segments: 1 }),
            }
        }
        runs
    }

    /// The gaps between the runs.
    pub fn gaps(&self) -> Vec<Gap> {
        let runs = self.runs();
        let pairs = runs.iter().zip(runs.iter().skip(1)).filter(|(a, b)| a.last.timeline == b.first.timeline);
        let gap = |(before, after): (&Run, &Run)| Gap {
            first: before.last.next(self.segment_size),
            last: SegmentName::from_number(
                after.first.timeline,
                after.first.number(self.segment_size) - 1,
                self.segment_size,
            ),
        };
        pairs.map(gap).collect()
    }

    /// Names under which different contents are stored. `.partial` files may differ (R2).
    pub fn conflicts(&self) -> Vec<WalName> {
        self.more.keys().filter(|name| !matches!(name, WalName::Partial(_))).copied().collect()
    }

    /// When the newest WAL file was archived, by the store's clock.
    pub fn last_push(&self) -> Option<PgTime> {
        self.wal.values().map(|file| PgTime::from(file.modified)).max()
    }

    /// The tail that continues the newest run, and up to where the WAL then reaches.
    pub fn newest_tail(&self) -> Option<(&Tail, Lsn)> {
        let size = self.segment_size;
        let last = self.wal.keys().rev().find_map(|name| match name {
            WalName::Segment(segment) => Some(*segment),
            _ => None,
        })?;
        let timeline = self.timelines().last().copied()?;
        // A timeline that has nothing archived yet began somewhere in the WAL of an older one, or right behind it.
        let mut tail = if last.timeline == timeline {
            self.tail(&last.next(size))?
        } else {
            let until = last.number(size) + 1;
            self.tails(timeline, 0..=until).next_back()?.1
        };
        while u64::from(tail.len) >= size.bytes()
            && let Some(next) = self.tail(&tail.segment.next(size))
        {
            tail = next;
        }
        Some((tail, tail.end(size)))
    }
}

impl Usage {
    fn add(&mut self, purpose: ObjectUse, bytes: u64) {
        *match purpose {
            ObjectUse::Pack => &mut self.pack,
            ObjectUse::Wal => &mut self.wal,
            ObjectUse::Tail => &mut self.tail,
            ObjectUse::Other => &mut self.other,
        } += bytes;
    }
}

#[cfg(test)]
mod tests {
    use super::samples::{catalog, file};

    #[test]
    fn runs_gaps_and_conflicts_follow_from_the_names() {
        let names = [
            "0000000100000000000000FE",
            "0000000100000000000000FF",
            "000000010000000100000000",
            "000000010000000100000003",
            "000000020000000100000003",
            "00000002.history",
        ];
        let mut catalog = catalog(1 << 24, &names);
        for (name, digest) in [
            ("000000010000000100000003", 2),
            ("000000010000000100000004.partial", 1),
            ("000000010000000100000004.partial", 2),
        ] {
            catalog.add(file(name, digest));
            catalog.add(file(name, digest));
        }
        let runs = catalog.runs();
        assert_eq!(runs.iter().map(|run| run.segments).collect::<Vec<_>>(), [3, 1, 1]);
        let gaps = catalog.gaps();
        assert_eq!(gaps.len(), 1);
        assert_eq!(gaps[0].first.to_string(), "000000010000000100000001");
        assert_eq!(gaps[0].last.to_string(), "000000010000000100000002");
        assert_eq!(
            catalog.conflicts().iter().map(ToString::to_string).collect::<Vec<_>>(),
            ["000000010000000100000003"]
        );
        assert_eq!(catalog.timelines().len(), 2);
    }
}
