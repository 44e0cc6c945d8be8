//! Shipping the tail: every `tail_interval` the newly flushed bytes of the unfinished segment.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::handle::LedgerHandle;
use super::pusher::Pusher;
use super::sampler::ServerHandle;
use crate::archive::{TailReader, TailSlice};
use crate::error::{Error, Kind, Result, ResultExt};
use crate::format::{TailGeneration, TailPieceName};
use crate::ledger::{Event, Ledger, Now};
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
    Shipper::new(ledger, server, pusher).tick().await;
}

struct Shipper {
    ledger: LedgerHandle,
    server: ServerHandle,
    pusher: Arc<Pusher>,
    repository: Repository,
    growing: Option<Growing>,
    /// When the repository was last seen to be the one that was opened.
    seen_at: Option<Instant>,
}

/// The tail that grows.
struct Growing {
    reader: TailReader,
    generation: TailGeneration,
    /// The last piece and a hash of its bytes.
    last: Option<(TailPieceName, blake3::Hash)>,
    /// Pieces of earlier generations, to be deleted once this one is there.
    older: Vec<TailPieceName>,
    piece: u32,
    /// Later pieces that are there already while the first is not yet.
    ahead: BTreeSet<TailPieceName>,
}

impl Shipper {
    fn new(ledger: LedgerHandle, server: ServerHandle, pusher: &Arc<Pusher>) -> Self {
        let repository = pusher.repository.with_policy(Policy::within(UPLOAD));
        Self { ledger, server, pusher: Arc::clone(pusher), repository, growing: None, seen_at: None }
    }

    async fn tick(&mut self) {
        let Some((timeline, end)) = self.end().await else { return };
        match self.ship(timeline, end).await {
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
    async fn end(&mut self) -> Option<(TimelineId, Lsn)> {
        let Some(sample) = self.server.fresh(FRESH).await else {
            return self.ledger.read(Ledger::left_behind).map(|left| (left.timeline, left.end));
        };
        if sample.status.timeline.is_none() {
            self.growing = None;
        }
        sample.status.timeline.map(|timeline| (timeline, sample.status.flushed))
    }

    /// Ship what was written since the last time.
    async fn ship(&mut self, timeline: TimelineId, flushed: Lsn) -> Result<()> {
        let size = self.pusher.control.segment_size;
        let segment = SegmentName::containing(timeline, flushed, size);
        let end = u32::try_from(flushed.offset_from(segment.start(size)))
            .map_err(|_| Error::corrupt("the segment is too long"))?;
        // After a crash the server may have recovered to less than what its disk had seemed to hold.
        let is_same = |growing: &Growing| growing.reader.segment() == segment && growing.end() <= end;
        if !self.growing.as_ref().is_some_and(is_same) {
            if end == 0 {
                return Ok(());
            }
            self.growing = Some(self.begin(segment).await?);
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
            drop_covered(&self.repository, std::mem::take(&mut growing.older)).await;
        }
        while let Some((name, slice)) = growing.next(end)? {
            let from = growing.last.map_or(0, |(last, _)| last.start);
            let bytes = slice.bytes.get(usize::try_from(name.start - from).unwrap_or(usize::MAX)..);
            let bytes = bytes.unwrap_or_default();
            // The commit point of the tail.
            self.repository.put_tail_piece(&name, bytes).await?;
            stored(&name, slice.last_time);
            let before = growing.last.replace((name, blake3::hash(bytes))).map(|(last, _)| last);
            let covered = before.into_iter().filter(|last| last.start == name.start);
            drop_covered(&self.repository, covered.collect()).await;
        }
        Ok(())
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
    async fn begin(&self, segment: SegmentName) -> Result<Growing> {
        let pieces = self.repository.list_tail_pieces(Some(&segment)).await?;
        let newest = pieces.iter().map(|piece| piece.name.generation).max();
        let control = &self.pusher.control;
        let piece = u64::from(PIECE).max(control.segment_size.bytes() / MOST_PIECES);
        Ok(Growing {
            reader: TailReader::new(self.pusher.pg_wal.clone(), segment, control),
            generation: TailGeneration::after(newest)?,
            last: None,
            older: pieces.iter().map(|piece| piece.name).collect(),
            piece: u32::try_from(piece).unwrap_or(PIECE).min(LONGEST_PIECE),
            ahead: BTreeSet::new(),
        })
    }
}

impl Growing {
    /// Up to where it is stored.
    fn end(&self) -> u32 {
        self.last.map_or(0, |(last, _)| last.end)
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

/// Delete pieces that others cover.
async fn drop_covered(repository: &Repository, pieces: Vec<TailPieceName>) {
    for piece in &pieces {
        // What is left over is deleted with the rest when the segment is stored.
        if let Err(error) = repository.delete_tail_piece(piece).await {
            tracing::debug!(%error, "a piece of the tail is left over");
        }
    }
}
