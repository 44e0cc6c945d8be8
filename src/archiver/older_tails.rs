//! What is stored as tails of a segment already, held against what takes their place. A tail may be the only copy of what
//! was once flushed (the server was put back to an earlier state, or another one writes in its name): what is not covered
//! byte for byte stays.

use std::collections::{BTreeMap, BTreeSet};

use crate::archive::TailReader;
use crate::error::{Kind, Result};
use crate::format::{ObjectKey, TailGeneration, TailPieceName};
use crate::ledger::Event;
use crate::postgres::{SegmentName, WalName};
use crate::repository::{Listing, Repository, WalFile};
use crate::window::Catalog;

/// What takes the place of a segment's tails.
pub(super) enum Successor<'a> {
    /// What the server has written.
    File(Box<TailReader>),
    /// The segment, as it is stored.
    Stored(&'a Repository, Vec<WalFile>, Option<Vec<u8>>),
}

impl Successor<'_> {
    async fn read(&mut self, start: u32, end: u32) -> Result<Vec<u8>> {
        let (repository, versions, read) = match self {
            Self::File(reader) => return Ok(reader.read(start, end)?.bytes),
            Self::Stored(repository, versions, read) => (repository, versions, read),
        };
        let whole = match (read.take(), versions.first()) {
            (Some(whole), _) => whole,
            (None, Some(first)) => {
                let file = repository.genuine_wal(&first.name, versions).await?;
                repository.read_wal(&file).await?.1
            }
            (None, None) => Vec::new(),
        };
        let index = |byte: u32| usize::try_from(byte).unwrap_or(usize::MAX);
        let bytes = whole.get(index(start)..index(end)).unwrap_or_default().to_vec();
        *read = Some(whole);
        Ok(bytes)
    }

    /// Whether it has the first `len` bytes of `piece`; `None`: nobody can read that.
    async fn covers(
        &mut self,
        repository: &Repository,
        piece: &TailPieceName,
        len: u32,
    ) -> Result<Option<bool>> {
        if len == 0 {
            return Ok(Some(true));
        }
        let stored = match repository.get_tail_piece(piece).await {
            Ok(stored) => stored,
            // Deleted meanwhile: there is nothing to keep.
            Err(error) if error.kind() == Kind::NotFound => return Ok(Some(true)),
            Err(error) if error.kind().is_unreadable() => return Ok(None),
            Err(error) => return Err(error.context("compare the tail that is stored")),
        };
        let bytes = self.read(piece.start, piece.start + len).await?;
        Ok(Some(stored.get(..bytes.len()) == Some(bytes.as_slice()) && !bytes.is_empty()))
    }
}

/// A piece, and up to where the server had flushed its bytes: what a crash left behind that it need not have recovered.
pub(super) type Flushed = (TailPieceName, u32);

/// The tails of one segment, compared.
#[derive(Debug, Default)]
pub(super) struct Older {
    /// Pieces that hold what is covered.
    pub(super) covered: Vec<TailPieceName>,
    /// So many bytes of them were flushed.
    pub(super) flushed: u32,
    /// Up to which byte a tail reaches that holds something else.
    pub(super) other: Option<u32>,
}

impl Older {
    /// Compare `pieces` with what takes their place.
    pub(super) async fn compare(
        repository: &Repository,
        pieces: &[Flushed],
        mut successor: Successor<'_>,
    ) -> Result<Self> {
        let mut older = Self::default();
        for of_generation in pieces.chunk_by(|(a, _), (b, _)| a.generation == b.generation) {
            let mut same = Some(true);
            for (piece, flushed) in of_generation {
                match successor.covers(repository, piece, flushed.saturating_sub(piece.start)).await? {
                    Some(true) => {}
                    other => same = other.min(same),
                }
            }
            let end = of_generation.iter().map(|(_, flushed)| *flushed).max();
            match same {
                Some(true) => {
                    older.covered.extend(of_generation.iter().map(|(piece, _)| *piece));
                    older.flushed = older.flushed.max(end.unwrap_or(0));
                }
                Some(false) => older.other = older.other.max(end),
                None => {}
            }
        }
        Ok(older)
    }
}

/// What was found of tails whose segments are stored.
#[derive(Debug, Default)]
pub(super) struct Leftovers(BTreeMap<TailPieceName, bool>);

impl Leftovers {
    /// The pieces that are garbage, and what is to be said of those that are not: they hold something else than the segment
    /// that is stored, and no backup that begins behind them has settled it. What was compared once is not read again. The
    /// server's `own`, which it ships while it cannot store the segment, are what it has written.
    pub(super) async fn find(
        &mut self,
        repository: &Repository,
        listing: &Listing,
        catalog: &Catalog,
        own: &BTreeMap<(SegmentName, TailGeneration), u32>,
    ) -> (Vec<TailPieceName>, Vec<Event>) {
        let left = |key: &ObjectKey| match key {
            ObjectKey::Tail(piece) if catalog.has(&piece.segment) => Some(*piece),
            _ => None,
        };
        let left: Vec<TailPieceName> =
            listing.objects.iter().filter_map(|listed| left(&listed.key)).collect();
        let there: BTreeSet<&TailPieceName> = left.iter().collect();
        self.0.retain(|piece, _| there.contains(piece));
        let (mut garbage, mut found) = (Vec::new(), Vec::new());
        for of_segment in left.chunk_by(|a, b| a.segment == b.segment) {
            let segment = of_segment[0].segment;
            let is_open = |piece: &&TailPieceName| {
                !catalog.settles(piece) && !own.contains_key(&(piece.segment, piece.generation))
            };
            let open: Vec<TailPieceName> = of_segment.iter().filter(is_open).copied().collect();
            if open.iter().any(|piece| !self.0.contains_key(piece)) {
                match self.compare(repository, segment, &open, catalog).await {
                    Ok(event) => found.push(event),
                    Err(error) => tracing::debug!(%error, %segment, "an old tail is left over"),
                }
            }
            let is_garbage =
                |piece: &&TailPieceName| catalog.settles(piece) || self.0.get(piece) == Some(&true);
            garbage.extend(of_segment.iter().filter(is_garbage));
        }
        (garbage, found)
    }

    async fn compare(
        &mut self,
        repository: &Repository,
        segment: SegmentName,
        pieces: &[TailPieceName],
        catalog: &Catalog,
    ) -> Result<Event> {
        let versions = catalog.versions(&WalName::Segment(segment)).cloned().collect();
        let all: Vec<Flushed> = pieces.iter().map(|piece| (*piece, piece.end)).collect();
        let older = Older::compare(repository, &all, Successor::Stored(repository, versions, None)).await?;
        self.0.extend(pieces.iter().map(|piece| (*piece, older.covered.contains(piece))));
        let end = older.other.map(|end| segment.position(end.into(), catalog.segment_size));
        Ok(Event::TailsCompared { segment, other: end })
    }
}

/// Delete pieces that others cover; false: the store does not, and no more was asked of it.
pub(super) async fn drop_covered(repository: &Repository, pieces: &[TailPieceName]) -> bool {
    for piece in pieces {
        // What is left over is deleted with the rest when the segment is stored.
        if let Err(error) = repository.delete_tail_piece(piece).await {
            tracing::debug!(%error, "a piece of the tail is left over");
            return false;
        }
    }
    true
}

/// Delete one tail of a segment.
pub(super) async fn drop_tail(
    repository: &Repository,
    segment: SegmentName,
    generation: TailGeneration,
) -> Result<()> {
    for piece in repository.list_tail_pieces(Some(&segment)).await? {
        if piece.name.generation == generation {
            repository.delete_tail_piece(&piece.name).await?;
        }
    }
    Ok(())
}
