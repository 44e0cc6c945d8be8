//! Shipping the tail: every `tail_interval` the newly flushed bytes of the unfinished segment.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::handle::LedgerHandle;
use super::older_tails::{Flushed, Older, Successor, drop_covered};
use super::pusher::Pusher;
use super::sampler::ServerHandle;
use crate::archive::{TailReader, TailSlice};
use crate::error::{Error, Kind, Result, ResultExt};
use crate::format::{TailGeneration, TailPieceName};
use crate::ledger::{Event, Now};
use crate::postgres::{Lsn, PgTime, SegmentName, TimelineId};
use crate::repository::Repository;
use crate::store::Policy;

/// A piece that has grown to this many bytes is followed by a new one; until then each upload replaces it. Bounds both
/// what is sent again and how many objects a tail has.
const PIECE: u32 = 256 << 10;
/// No piece is longer: its upload has to fit its deadline, and memory.
const LONGEST_PIECE: u32 = 8 << 20;
/// A tail has about so many pieces, unless that would make them too long.
const MOST_PIECES: u64 = 64;
/// The server has to answer within this; else the next tick tries again.
const FRESH: Duration = Duration::from_secs(2);
/// Between two looks whether a remote repository is still the one that was opened.
const LOOK: Duration = Duration::from_secs(30);
/// One upload; when it fails the next one carries more.
const UPLOAD: Duration = Duration::from_secs(20);

/// Ship for ever.
pub(super) async fn run(interval: Duration, ledger: LedgerHandle, server: ServerHandle, pusher: Arc<Pusher>) {
    if interval.is_zero() {
        // Turned off: everything else goes on.
        return std::future::pending().await;
    }
    let mut shipper = Shipper::new(ledger, server, &pusher);
    loop {
        let begin = Instant::now();
        shipper.tick().await;
        tokio::time::sleep(interval.saturating_sub(begin.elapsed())).await;
    }
}

/// Ship once more before the daemon ends.
pub(super) async fn run_once(ledger: LedgerHandle, server: ServerHandle, pusher: &Arc<Pusher>) {
    let mut shipper = Shipper::new(ledger, server, pusher);
    shipper.is_last = true;
    shipper.tick().await;
}

struct Shipper {
    ledger: LedgerHandle,
    server: ServerHandle,
    pusher: Arc<Pusher>,
    repository: Repository,
    growing: Option<Growing>,
    /// How many bytes of what this process stored of the segment had been flushed.
    own: BTreeMap<(SegmentName, TailGeneration), u32>,
    /// There is no time to compare what is stored.
    is_last: bool,
    /// When the repository was last seen to be the one that was opened.
    seen_at: Option<Instant>,
}

/// Up to where to ship.
#[derive(Debug, Clone, Copy)]
struct Goal {
    timeline: TimelineId,
    end: Lsn,
    /// The server has said that it flushed up to here. What the disk of a dead one holds behind that, it need not recover.
    flushed: Lsn,
}

/// The tail that grows.
struct Growing {
    reader: TailReader,
    generation: TailGeneration,
    /// The last piece and a hash of its bytes.
    last: Option<(TailPieceName, blake3::Hash)>,
    /// Pieces of earlier generations that hold the same, to be deleted once this one is there.
    older: Vec<TailPieceName>,
    /// So many of its bytes had been flushed.
    flushed: u32,
    piece: u32,
    /// Later pieces that are there already while the first is not yet.
    ahead: BTreeSet<TailPieceName>,
}

impl Shipper {
    fn new(ledger: LedgerHandle, server: ServerHandle, pusher: &Arc<Pusher>) -> Self {
        let repository = pusher.repository.with_policy(Policy::within(UPLOAD));
        let (pusher, own) = (Arc::clone(pusher), BTreeMap::new());
        Self { ledger, server, pusher, repository, growing: None, own, is_last: false, seen_at: None }
    }

    async fn tick(&mut self) {
        let Some(goal) = self.goal().await else { return };
        match self.ship(goal).await {
            Ok(()) => {
                self.ledger.apply(Event::TailCurrent, Now::read());
            }
            Err(error) => {
                // Bytes that are not what they were: what follows is another tail.
                if matches!(error.kind(), Kind::Corrupt) {
                    self.growing = None;
                }
                self.ledger.apply(Event::TailFailed(error), Now::read());
            }
        }
    }

    /// Up to where to ship: what the server has flushed, or, when it does not run, what it has left on its disk.
    async fn goal(&mut self) -> Option<Goal> {
        let Some(sample) = self.server.fresh(FRESH).await else {
            let (left, last) = self.ledger.read(|ledger| (ledger.left_behind(), ledger.last_flushed()));
            let left = left?;
            let last = last.filter(|(timeline, _)| *timeline == left.timeline);
            let flushed = last.map_or(Lsn::INVALID, |(_, flushed)| flushed);
            return Some(Goal { timeline: left.timeline, end: left.end, flushed });
        };
        if sample.status.timeline.is_none() {
            self.growing = None;
        }
        let flushed = sample.status.flushed;
        sample.status.timeline.map(|timeline| Goal { timeline, end: flushed, flushed })
    }

    /// Ship what was written since the last time.
    async fn ship(&mut self, goal: Goal) -> Result<()> {
        let size = self.pusher.control.segment_size;
        let segment = SegmentName::containing(goal.timeline, goal.end, size);
        let start = segment.start(size);
        let end = u32::try_from(goal.end.offset_from(start))
            .map_err(|_| Error::corrupt("the segment is too long"))?;
        let flushed = u32::try_from(goal.flushed.max(start).min(goal.end).offset_from(start)).unwrap_or(end);
        // After a crash the server may have recovered to less than what its disk had seemed to hold.
        let is_same = |growing: &Growing| growing.reader.segment() == segment && growing.end() <= end;
        self.give_up_lost();
        if !self.growing.as_ref().is_some_and(is_same) {
            self.growing = if end == 0 { None } else { self.begin(segment, end, flushed).await? };
        }
        if self.growing.as_ref().is_none_or(|growing| growing.end() >= end) {
            return Ok(());
        }
        self.check_still_there().await?;
        let Some(growing) = &mut self.growing else { return Ok(()) };
        let stored = |name: &TailPieceName, last_time| {
            let end = segment.position(name.end.into(), size);
            let (generation, len) = (name.generation, name.end);
            self.ledger.apply(Event::TailStored { segment, generation, len, end, last_time }, Now::read());
        };
        if growing.last.is_none() {
            let (name, last_time) = growing.put_beginning(&self.repository, end).await?;
            stored(&name, last_time);
            growing.note_flushed(flushed, &mut self.own);
            drop_covered(&self.repository, &std::mem::take(&mut growing.older)).await;
        }
        while let Some((name, slice)) = growing.next(end)? {
            let from = growing.last.map_or(0, |(last, _)| last.start);
            let bytes = slice.bytes.get(usize::try_from(name.start - from).unwrap_or(usize::MAX)..);
            let bytes = bytes.unwrap_or_default();
            // The commit point of the tail.
            self.repository.put_tail_piece(&name, bytes).await?;
            stored(&name, slice.last_time);
            let before = growing.last.replace((name, blake3::hash(bytes))).map(|(last, _)| last);
            growing.note_flushed(flushed, &mut self.own);
            let covered: Vec<_> = before.into_iter().filter(|last| last.start == name.start).collect();
            drop_covered(&self.repository, &covered).await;
        }
        Ok(())
    }

    /// What a survey did not find is stored anew: a restore does not find it either.
    fn give_up_lost(&mut self) {
        let is_lost = |growing: &mut Growing| {
            let segment = growing.reader.segment();
            self.ledger.read(|ledger| ledger.is_lost(&segment, growing.generation))
        };
        if let Some(lost) = self.growing.take_if(is_lost) {
            let segment = lost.reader.segment();
            tracing::warn!(%segment, "the tail has vanished from the repository, whole or in part: it is stored anew");
        }
    }

    /// On a local disk every time: it may be unmounted under us. A remote place changes hands more slowly.
    async fn check_still_there(&mut self) -> Result<()> {
        let remote = self.repository.store().is_remote();
        if !remote || self.seen_at.is_none_or(|seen| seen.elapsed() >= LOOK) {
            self.repository.check_still_there().await?;
            self.seen_at = Some(Instant::now());
        }
        Ok(())
    }

    /// A new tail of `segment`. Always a generation of its own: what another process stored need not be trusted.
    ///
    /// `None` while more of the segment is stored than the server has flushed: another life of the cluster flushed it, a
    /// restore gives it, and it may be the only copy.
    async fn begin(&mut self, segment: SegmentName, end: u32, flushed: u32) -> Result<Option<Growing>> {
        self.own.retain(|(of, _), _| *of == segment);
        let pieces = self.repository.list_tail_pieces(Some(&segment)).await?;
        let flushed_of = |piece: &TailPieceName| {
            let own = self.own.get(&(segment, piece.generation));
            own.map_or(piece.end, |own| piece.end.min(*own))
        };
        let pieces: Vec<Flushed> = pieces.iter().map(|piece| (piece.name, flushed_of(&piece.name))).collect();
        let control = &self.pusher.control;
        let compared = |other: Option<u32>| {
            let other = other.map(|end| segment.position(end.into(), control.segment_size));
            self.ledger.apply(Event::TailsCompared { segment, other }, Now::read());
        };
        if let Some(farther) = pieces.iter().map(|(_, end)| *end).max().filter(|farther| *farther > end) {
            // Of a record that a crash cut off, the disk holds less than was flushed.
            if flushed == end {
                compared(Some(farther));
            }
            return Ok(None);
        }
        let reader = || TailReader::new(self.pusher.pg_wal.clone(), segment, control);
        let mut older = Older::default();
        if !self.is_last {
            older = Older::compare(&self.repository, &pieces, Successor::File(Box::new(reader()))).await?;
            compared(older.other);
        }
        let piece = u64::from(PIECE).max(control.segment_size.bytes() / MOST_PIECES);
        Ok(Some(Growing {
            reader: reader(),
            generation: TailGeneration::after(pieces.iter().map(|(piece, _)| piece.generation).max())?,
            last: None,
            older: older.covered,
            flushed: older.flushed,
            piece: u32::try_from(piece).unwrap_or(PIECE).min(LONGEST_PIECE),
            ahead: BTreeSet::new(),
        }))
    }
}

impl Growing {
    /// Up to where it is stored.
    fn end(&self) -> u32 {
        self.last.map_or(0, |(last, _)| last.end)
    }

    /// The server has said that it flushed so many bytes of the segment.
    fn note_flushed(&mut self, flushed: u32, own: &mut BTreeMap<(SegmentName, TailGeneration), u32>) {
        self.flushed = self.flushed.max(self.end().min(flushed));
        own.insert((self.reader.segment(), self.generation), self.flushed);
    }

    const fn name(&self, start: u32, end: u32) -> TailPieceName {
        let longest = start.saturating_add(LONGEST_PIECE);
        let end = if end < longest { end } else { longest };
        TailPieceName { segment: self.reader.segment(), generation: self.generation, start, end }
    }

    /// Store all before `end`, in pieces. The first one goes last: until it is there, this generation is not whole, and
    /// the one before it counts. The last piece, and the latest time before its end.
    async fn put_beginning(
        &mut self,
        repository: &Repository,
        end: u32,
    ) -> Result<(TailPieceName, Option<PgTime>)> {
        let first = self.name(0, end);
        let beginning = self.reader.read(0, first.end)?;
        let mut last = (first, blake3::hash(&beginning.bytes));
        let mut last_time = beginning.last_time;
        while last.0.end < end {
            let name = self.name(last.0.end, end);
            let slice = self.reader.read(name.start, name.end)?;
            if !self.ahead.contains(&name) {
                repository.put_tail_piece(&name, &slice.bytes).await?;
                self.ahead.insert(name);
            }
            last = (name, blake3::hash(&slice.bytes));
            last_time = slice.last_time;
        }
        // The commit point of a new tail.
        repository.put_tail_piece(&first, &beginning.bytes).await?;
        self.last = Some(last);
        Ok((last.0, last_time))
    }

    /// The next piece of what is flushed before `end` and not stored, and the bytes from the last piece's start on;
    /// `None` when all is. Corrupt if what was stored is no longer what the file holds.
    fn next(&mut self, end: u32) -> Result<Option<(TailPieceName, TailSlice)>> {
        let Some((last, hash)) = self.last.filter(|(last, _)| last.end < end) else { return Ok(None) };
        let start = if last.end - last.start < self.piece { last.start } else { last.end };
        let name = self.name(start, end);
        let slice = self.reader.read(last.start, name.end).context("read the tail")?;
        let stored = usize::try_from(last.end - last.start).unwrap_or(usize::MAX);
        if slice.bytes.get(..stored).map(blake3::hash) != Some(hash) {
            let segment = self.reader.segment();
            return Err(Error::corrupt(format!(
                "WAL of {segment} that was flushed and stored has changed on disk"
            ))
            .hint("did the host crash with fsync off, or does its disk lie about what it wrote?"));
        }
        Ok(Some((name, slice)))
    }
}
