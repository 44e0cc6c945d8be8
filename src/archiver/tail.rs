//! Shipping the tail: every `tail_interval` the newly flushed bytes of the unfinished segment.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::event::{Event, Now};
use super::handle::LedgerHandle;
use super::ledger::Ledger;
use super::pusher::Pusher;
use super::sampler::ServerHandle;
use crate::archive::{TailReader, TailSlice};
use crate::error::{Error, Kind, Result, ResultExt};
use crate::postgres::{Lsn, SegmentName, TimelineId};
use crate::repository::{Repository, TailGeneration, TailPieceName};
use crate::store::Policy;

/// A piece that has grown to this many bytes is followed by a new one; until then each upload replaces it. Bounds both
/// what is sent again and how many objects a tail has.
const PIECE: u32 = 256 << 10;
/// A tail has at most so many pieces, whatever the segment size.
const MOST_PIECES: u64 = 64;
/// The server has to answer within this; else the next tick tries again.
const FRESH: Duration = Duration::from_secs(2);
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
}

impl Shipper {
    fn new(ledger: LedgerHandle, server: ServerHandle, pusher: &Arc<Pusher>) -> Self {
        let repository = pusher.repository.with_policy(Policy::within(UPLOAD));
        Self { ledger, server, pusher: Arc::clone(pusher), repository, growing: None }
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
        if self.growing.as_ref().is_none_or(|growing| growing.reader.segment() != segment) {
            if end == 0 {
                return Ok(());
            }
            self.growing = Some(self.begin(segment).await?);
        }
        let Some(growing) = &mut self.growing else { return Ok(()) };
        let Some((name, slice)) = growing.next(end)? else { return Ok(()) };
        let stored_from = growing.last.map_or(0, |(last, _)| last.start);
        let bytes = slice.bytes.get(usize::try_from(name.start - stored_from).unwrap_or(usize::MAX)..);
        let bytes = bytes.unwrap_or_default();
        self.repository.check_still_there().await?;
        // The commit point of the tail.
        self.repository.put_tail_piece(&name, bytes).await?;
        let stored = Event::TailStored { segment, len: name.end, end: flushed, last_time: slice.last_time };
        self.ledger.apply(stored, Now::read());
        let replaced = growing.last.replace((name, blake3::hash(bytes)));
        let mut covered: Vec<TailPieceName> = std::mem::take(&mut growing.older);
        covered.extend(replaced.map(|(last, _)| last).filter(|last| last.start == name.start));
        for piece in &covered {
            // What is left over is deleted with the rest when the segment is stored.
            if let Err(error) = self.repository.delete_tail_piece(piece).await {
                tracing::debug!(%error, "a piece of the tail is left over");
            }
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
            piece: u32::try_from(piece).unwrap_or(PIECE),
        })
    }
}

impl Growing {
    /// The piece to put so that everything before `end` is stored, and the bytes from the last piece's start on; `None`
    /// when that is so already. Corrupt if what was stored is no longer what the file holds.
    fn next(&mut self, end: u32) -> Result<Option<(TailPieceName, TailSlice)>> {
        let segment = self.reader.segment();
        let generation = self.generation;
        let Some((last, hash)) = self.last else {
            let slice = self.reader.read(0, end)?;
            return Ok(Some((TailPieceName { segment, generation, start: 0, end }, slice)));
        };
        if end <= last.end {
            return Ok(None);
        }
        let slice = self.reader.read(last.start, end).context("read the tail")?;
        let stored = usize::try_from(last.end - last.start).unwrap_or(usize::MAX);
        if slice.bytes.get(..stored).map(blake3::hash) != Some(hash) {
            return Err(Error::corrupt(format!(
                "WAL of {segment} that was flushed and stored has changed on disk"
            ))
            .hint("did the host crash with fsync off, or does its disk lie about what it wrote?"));
        }
        let start = if last.end - last.start < self.piece { last.start } else { last.end };
        Ok(Some((TailPieceName { segment, generation, start, end }, slice)))
    }
}
