//! The tail in the repository: the flushed part of the unfinished segment, in pieces that are put as WAL is flushed.
//!
//! A piece never changes. The last one is followed by a longer one that begins where it began, until it has grown to
//! its full size; what is covered twice is the same. A writer that starts over (another process, or
//! one whose WAL turned out different) begins a new generation, at the start of the segment: the
//! newest generation is whole by itself.

use jiff::Timestamp;

use super::namespace::Repository;
use crate::error::{Error, Kind, Result, ResultExt};
use crate::format::{ObjectKey, TailGeneration, TailPieceName, layout};
use crate::postgres::{Lsn, SegmentName, SegmentSize};
use crate::seal::ObjectKind;

/// Listings of a tail that changes under the reader's hands; each repetition meets a newer one.
const TRIES: u32 = 10;

/// A stored piece of a tail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TailPiece {
    /// Its place.
    pub name: TailPieceName,
    /// Bytes as stored.
    pub stored_len: u64,
    /// When it was stored, by the store's clock.
    pub modified: Timestamp,
}

/// The tail of one segment, from its first byte on without a gap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tail {
    /// The unfinished segment.
    pub segment: SegmentName,
    /// Which tail of it.
    pub generation: TailGeneration,
    /// The pieces to read, in order; where two cover the same bytes the earlier one ends where the later one begins, or
    /// their bytes are the same.
    pub pieces: Vec<TailPiece>,
    /// Bytes of the segment that are there.
    pub len: u32,
}

impl Tail {
    /// The newest generation's tail of `segment` among `pieces`.
    pub fn among(pieces: &[TailPiece], segment: &SegmentName) -> Option<Self> {
        let of_segment = || pieces.iter().filter(|piece| piece.name.segment == *segment);
        let mut generations: Vec<TailGeneration> = of_segment().map(|piece| piece.name.generation).collect();
        generations.sort_unstable();
        generations.dedup();
        // Of two that began at once, the one that got further; a newest one without a beginning is still being made.
        let whole = |generation: &TailGeneration| {
            let of_generation = of_segment().filter(|piece| piece.name.generation == *generation);
            Self::chain(*segment, *generation, &of_generation.collect::<Vec<_>>())
        };
        generations.iter().filter_map(whole).max_by_key(|tail| (tail.generation.count, tail.len))
    }

    fn chain(segment: SegmentName, generation: TailGeneration, pieces: &[&TailPiece]) -> Option<Self> {
        let mut tail = Self { segment, generation, pieces: Vec::new(), len: 0 };
        loop {
            let next = pieces
                .iter()
                .filter(|piece| piece.name.start <= tail.len && piece.name.end > tail.len)
                .max_by_key(|piece| piece.name.end);
            let Some(next) = next else { break };
            tail.len = next.name.end;
            tail.pieces.push((*next).clone());
        }
        (tail.len > 0).then_some(tail)
    }

    /// The position behind its last byte.
    pub fn end(&self, size: SegmentSize) -> Lsn {
        self.segment.position(u64::from(self.len), size)
    }
}

impl Repository {
    /// Put the bytes of a piece. Durable when this returns.
    pub async fn put_tail_piece(&self, name: &TailPieceName, bytes: &[u8]) -> Result<TailPiece> {
        let stored_len = self.put_sealed(ObjectKind::Tail, &layout::tail_key(name), bytes).await?;
        Ok(TailPiece { name: *name, stored_len, modified: Timestamp::now() })
    }

    /// Delete a piece that another one covers, or whose segment is stored.
    pub async fn delete_tail_piece(&self, name: &TailPieceName) -> Result<()> {
        self.store().delete(&self.key(&layout::tail_key(name))).await
    }

    /// All pieces, or those of one segment.
    pub async fn list_tail_pieces(&self, segment: Option<&SegmentName>) -> Result<Vec<TailPiece>> {
        let directory = segment.map_or_else(|| layout::TAIL.to_owned(), layout::tail_directory);
        let objects = self.store().list(&self.key(&directory)).await.context("list the tail")?;
        let piece = |object: &crate::store::Object| match self.relative(&object.key)?.parse().ok()? {
            ObjectKey::Tail(name) => {
                Some(TailPiece { name, stored_len: object.size, modified: object.modified })
            }
            _ => None,
        };
        Ok(objects.iter().filter_map(piece).collect())
    }

    /// The bytes of a piece. Kind `NotFound` when it was replaced or is no longer needed.
    pub async fn get_tail_piece(&self, name: &TailPieceName) -> Result<Vec<u8>> {
        let plain = self.get_sealed(ObjectKind::Tail, &layout::tail_key(name)).await?;
        if plain.len() as u64 == u64::from(name.end - name.start) {
            return Ok(plain);
        }
        Err(Error::corrupt(format!("a piece of the tail of {} has the wrong length", name.segment)))
    }

    /// The tail of `segment` and its bytes; `None` when there is none (then the segment itself may be there by now).
    pub async fn read_tail(&self, segment: &SegmentName) -> Result<Option<(Tail, Vec<u8>)>> {
        let mut tries = 0;
        loop {
            let Some(tail) = Tail::among(&self.list_tail_pieces(Some(segment)).await?, segment) else {
                return Ok(None);
            };
            tries += 1;
            match self.tail_bytes(&tail).await {
                // Replaced between the listing and the reading.
                Err(error) if error.kind() == Kind::NotFound && tries < TRIES => {}
                Err(error) => {
                    return Err(error
                        .absence_proves_nothing()
                        .context(format!("read the tail of {segment}")));
                }
                Ok(bytes) => return Ok(Some((tail, bytes))),
            }
        }
    }

    /// The bytes of `tail`. Kind `NotFound` when a piece is no longer there.
    pub async fn tail_bytes(&self, tail: &Tail) -> Result<Vec<u8>> {
        let mut bytes = Vec::with_capacity(usize::try_from(tail.len).unwrap_or(0));
        for piece in &tail.pieces {
            let plain = self.get_tail_piece(&piece.name).await?;
            bytes.truncate(usize::try_from(piece.name.start).unwrap_or(usize::MAX));
            bytes.extend_from_slice(&plain);
        }
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piece(generation: u32, start: u32, end: u32) -> TailPiece {
        let name = TailPieceName {
            segment: "000000010000000000000003".parse().unwrap(),
            generation: TailGeneration { count: generation, writer: 7 },
            start,
            end,
        };
        TailPiece { name, stored_len: 1, modified: Timestamp::UNIX_EPOCH }
    }

    fn lens(pieces: &[TailPiece]) -> Option<(u32, u32, usize)> {
        let tail = Tail::among(pieces, &"000000010000000000000003".parse().unwrap())?;
        Some((tail.generation.count, tail.len, tail.pieces.len()))
    }

    #[test]
    fn the_newest_whole_generation_is_the_tail() {
        assert_eq!(lens(&[]), None);
        assert_eq!(lens(&[piece(0, 8192, 9000)]), None);
        let grown =
            [piece(0, 0, 100), piece(0, 0, 200), piece(0, 200, 210), piece(0, 200, 260), piece(0, 300, 400)];
        assert_eq!(lens(&grown), Some((0, 260, 2)));
        assert_eq!(lens(&[piece(0, 0, 500), piece(1, 0, 300)]), Some((1, 300, 1)));
        assert_eq!(lens(&[piece(0, 0, 500), piece(1, 100, 300)]), Some((0, 500, 1)));
    }
}
