//! For tests: what the project sees of a generated repository, as a listing and small objects show it.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;

use super::Catalog;
use super::branch::Branch;
use super::recovery::RecoveryWindow;
use super::samples::{self, window};
use super::times::WalTimes;
use crate::error::{Error, Result};
use crate::format::{BackupId, Harm, ObjectKey, PackName, Summary, TailGeneration, TailPieceName, WalDigest};
use crate::postgres::{History, Lsn, SegmentName, WalName};
use crate::records::Records;
use crate::repository::{Listed, Listing};
use crate::world::{World, name, seconds, size, timeline};

fn lacks_a_pack(id: &BackupId) -> Harm {
    let object = ObjectKey::Pack(PackName { backup: id.clone(), number: 99 }).to_string();
    Harm { object, state: None, why: "is missing".to_owned(), backups: vec![id.clone()] }
}

impl World {
    /// What the repository's listing shows.
    pub(crate) fn listing(&self) -> Listing {
        let time = |second: i64| Timestamp::from_second(second + self.skew).unwrap();
        let mut objects = Vec::new();
        let mut put = |key, modified| objects.push(Listed { key, size: 100, modified: time(modified) });
        for ((of, number), stored) in &self.segments {
            for digest in stored.digests() {
                put(ObjectKey::Wal(WalName::Segment(name(*of, *number)), digest), stored.modified);
            }
        }
        for (of, (_, modified)) in self.archived_histories() {
            put(ObjectKey::Wal(WalName::History(timeline(of)), WalDigest::from_bytes([1; 16])), *modified);
        }
        for ((of, number), tail) in &self.tails {
            let generation = TailGeneration { count: tail.generation, writer: 0 };
            let piece = TailPieceName { segment: name(*of, *number), generation, start: 0, end: tail.len };
            put(ObjectKey::Tail(piece), tail.modified);
        }
        let ids = self.backups.iter().map(|backup| &backup.id).chain(&self.unreadable);
        for id in ids {
            let modified = id.began().unwrap().as_second() + 1;
            put(ObjectKey::Manifest(id.clone()), modified);
        }
        for (id, count) in &self.packs {
            let modified = id.began().unwrap().as_second();
            for number in 0..*count {
                put(ObjectKey::Pack(PackName { backup: id.clone(), number }), modified);
            }
        }
        objects.sort_by_cached_key(|listed| listed.key.to_string());
        Listing { objects, foreign: Vec::new() }
    }

    /// Those of which one is in the repository, whoever put it there.
    pub(crate) fn archived_histories(&self) -> BTreeMap<u32, &(History, i64)> {
        let ours = self.histories.iter().filter(|(of, _)| !self.hidden.contains(of));
        ours.chain(&self.foreign).map(|(of, history)| (*of, history)).collect()
    }

    pub(crate) fn records(&self) -> Records {
        let mut records = Records::default();
        records.harm.value = self.harmed.iter().map(lacks_a_pack).collect();
        for backup in &self.backups {
            records.manifests.insert(backup.id.clone(), Ok(Arc::clone(backup)));
        }
        for id in &self.unreadable {
            records.manifests.insert(id.clone(), Err(Error::corrupt("flipped")));
        }
        for (of, (history, _)) in self.archived_histories() {
            records.histories.insert((timeline(of), WalDigest::from_bytes([1; 16])), Ok(history.clone()));
        }
        records
    }

    /// What the project makes of it.
    pub(crate) fn window(&self) -> (Catalog, RecoveryWindow, WalTimes) {
        let catalog = Catalog::of(&self.listing(), &self.records(), size());
        let before = |segment: SegmentName, until: Lsn| {
            let commits = self.content(segment.timeline.get(), segment.number(size()));
            commits.iter().filter(|(lsn, _)| *lsn <= until.get()).map(|(_, time)| seconds(*time)).max()
        };
        let summary = |segment: SegmentName, _| self.summary(segment);
        let tail = |segment: SegmentName, len: u32| {
            let end = segment.start(size()).get() + u64::from(len);
            let commits = self.content(segment.timeline.get(), segment.number(size()));
            let times = commits.iter().filter(|(lsn, _)| *lsn <= end).map(|(_, time)| seconds(*time));
            (Lsn::new(end), times.max(), self.stored_links((segment.timeline.get(), segment.number(size()))))
        };
        let twins = |older: SegmentName, newer: SegmentName, until: Lsn| {
            let key = |of: SegmentName| (of.timeline.get(), of.number(size()));
            self.repeats(key(older), key(newer), until.get())
        };
        let (window, times) = window(&catalog, before, summary, tail, twins);
        (catalog, window, times)
    }

    fn summary(&self, segment: SegmentName) -> Result<Summary> {
        let key = (segment.timeline.get(), segment.number(size()));
        if self.segments.get(&key).is_some_and(|stored| stored.damaged) {
            return Err(Error::corrupt("flipped"));
        }
        let commits = self.content(key.0, key.1);
        let Some((_, last)) = commits.iter().max_by_key(|(_, time)| *time) else {
            return Ok(Summary { end: segment.end(size()), complete: true, ..Summary::default() });
        };
        Ok(samples::summary(segment.end(size()), *last))
    }
}

impl WalTimes {
    /// Whether it was read that a segment is damaged.
    pub(crate) fn is_known_damage(&self, segment: SegmentName) -> bool {
        self.summaries.iter().any(|((name, _), summary)| *name == segment && summary.is_err())
    }
}

impl RecoveryWindow {
    /// The same once another branch that was written within the last minute is written again, one for each.
    pub(crate) fn in_a_moment(&self) -> impl Iterator<Item = Self> {
        let last = self.last_writer().map(|last| (last.timeline(), last.last_written));
        let alive = move |other: &&Branch| {
            last.is_some_and(|(timeline, at)| {
                let since = at.zip(other.last_written).map(|(last, theirs)| last.duration_since(theirs));
                other.timeline() != timeline && since.is_some_and(|since| since.as_secs() < 60)
            })
        };
        self.tips().filter(alive).map(move |other| {
            let mut later = self.clone();
            let same = |branch: &&mut Branch| branch.timeline() == other.timeline();
            let at = last.and_then(|(_, at)| at).map(|at| at + jiff::SignedDuration::from_secs(1));
            later.branches.iter_mut().find(same).unwrap().last_written = at;
            later
        })
    }
}
