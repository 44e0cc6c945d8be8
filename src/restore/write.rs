//! The workers of a restore: open frames, write what the files have of them.

use std::collections::HashMap;
use std::fs::File;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use tokio::sync::OwnedSemaphorePermit;
use tokio::sync::mpsc::Receiver;

use super::destination::{Destination, create};
use super::fetch::{Pack, Piece};
use crate::error::{Error, Kind, Result, ResultExt};
use crate::format::{Extent, PackReader, first_other_page};
use crate::seal::Decompressor;

/// Pieces that follow each other are written together up to so many bytes, and a longer one by itself.
const TOGETHER: usize = 256 << 10;

/// What one request brought.
#[derive(Debug)]
pub(super) struct Chunk {
    /// Index into the part's packs.
    pub(super) pack: u32,
    /// Offset in the pack of the first of `bytes`.
    pub(super) begin: u64,
    pub(super) bytes: Bytes,
}

/// A share of a stretch, ready to be written.
pub(super) struct Fetched {
    pub(super) pieces: Vec<Piece>,
    pub(super) packs: Arc<[Arc<Pack>]>,
    /// Of the stretch, by pack and begin.
    pub(super) chunks: Arc<[Chunk]>,
    /// Memory that others may have when all shares are written.
    pub(super) _memory: Arc<OwnedSemaphorePermit>,
}

/// Opens frames.
pub(super) struct Frames {
    decompressor: Decompressor,
    /// Memory of frames that nobody needs any more.
    spare: Vec<Vec<u8>>,
    /// The repository's, for page digests.
    seed: u64,
}

impl Frames {
    pub(super) fn new(seed: u64) -> Result<Self> {
        Ok(Self { decompressor: Decompressor::new()?, spare: Vec::new(), seed })
    }

    /// The frame that the extent lies in, stored as exactly `stored`, opened so far that its first `len` bytes are there.
    pub(super) fn open(
        &mut self,
        reader: &PackReader,
        extent: &Extent,
        stored: &[u8],
        len: usize,
    ) -> Result<Vec<u8>> {
        let mut plain = self.spare.pop().unwrap_or_default();
        plain.clear();
        reader.open_beginning(&mut self.decompressor, u64::from(extent.frame), stored, len, &mut plain)?;
        Ok(plain)
    }

    /// The extent's bytes in its opened frame, page by page what was read when the backup was taken: the seal covers pages
    /// as they were filtered, these digests what comes out in the end (R25).
    pub(super) fn extent<'a>(&self, plain: &'a [u8], extent: &Extent, digests: &[u64]) -> Result<&'a [u8]> {
        let bytes = extent.of(plain)?;
        match first_other_page(self.seed, bytes, digests) {
            None => Ok(bytes),
            Some(page) => Err(Error::corrupt(format!(
                "page {page} of an extent is not the one that was backed up (digest)"
            ))
            .hint("its frame is authentic: is this host's memory sound? try again, or an older backup (--backup)")),
        }
    }
}

/// Write what was fetched until no more comes; `count` hears of every written byte.
pub(super) fn write_shares(
    shares: &Mutex<Receiver<Fetched>>,
    seed: u64,
    count: &(dyn Fn(u64) + Sync),
) -> Result<()> {
    let mut frames = Frames::new(seed)?;
    let mut together = Vec::new();
    loop {
        let next =
            shares.lock().map_err(|_| Error::new(Kind::Other, "a restore thread died"))?.blocking_recv();
        let Some(fetched) = next else { return Ok(()) };
        let mut writer = Writer { open: None, position: 0, together };
        write_share(&fetched, &mut frames, &mut writer, count)?;
        together = writer.together;
    }
}

fn write_share(
    fetched: &Fetched,
    frames: &mut Frames,
    writer: &mut Writer,
    count: &(dyn Fn(u64) + Sync),
) -> Result<()> {
    let place = |piece: &Piece| (piece.extent.pack, piece.extent.offset);
    // How many pieces each frame has, and where the last of them ends.
    let mut wanted = HashMap::new();
    for piece in &fetched.pieces {
        let (more, end) = wanted.entry(place(piece)).or_insert((0_usize, 0));
        *more += 1;
        *end = piece.extent.end().max(*end);
    }
    let mut opened: HashMap<(u32, u32), Vec<u8>> = HashMap::new();
    for piece in &fetched.pieces {
        let restoring = || format!("restore {}", piece.file.path.display());
        let place = place(piece);
        let plain = if let Some(plain) = opened.remove(&place) {
            plain
        } else {
            let len = wanted.get(&place).map_or(usize::MAX, |(_, end)| *end);
            fetched.open(piece, len, frames).with_context(restoring)?
        };
        let bytes = frames.extent(&plain, &piece.extent, &piece.digests).with_context(restoring)?;
        writer.write(&piece.file, piece.position, bytes)?;
        count(bytes.len() as u64);
        match wanted.get_mut(&place) {
            Some((more, _)) if *more > 1 => {
                *more -= 1;
                opened.insert(place, plain);
            }
            _ => frames.spare.push(plain),
        }
    }
    writer.flush()
}

impl Fetched {
    fn open(&self, piece: &Piece, len: usize, frames: &mut Frames) -> Result<Vec<u8>> {
        let pack = &self.packs[piece.extent.pack as usize];
        frames.open(&pack.reader, &piece.extent, self.stored(piece)?, len)
    }

    /// The frame that a piece lies in, as stored.
    fn stored(&self, piece: &Piece) -> Result<&[u8]> {
        let frame = piece.frame();
        let behind = self
            .chunks
            .partition_point(|chunk| (chunk.pack, chunk.begin) <= (piece.extent.pack, frame.start));
        let chunk = behind.checked_sub(1).and_then(|at| self.chunks.get(at));
        let stored = chunk.filter(|chunk| chunk.pack == piece.extent.pack).and_then(|chunk| {
            let begin = usize::try_from(frame.start - chunk.begin).ok()?;
            chunk.bytes.get(begin..begin + piece.extent.stored_len as usize)
        });
        stored.ok_or_else(|| Error::corrupt("a pack is shorter than the file table says"))
    }
}

/// Writes one file at a time, and together what follows each other in it.
struct Writer {
    open: Option<(Arc<Destination>, File)>,
    /// Where `together` goes.
    position: u64,
    together: Vec<u8>,
}

impl Writer {
    fn write(&mut self, file: &Arc<Destination>, position: u64, bytes: &[u8]) -> Result<()> {
        let is_open = self.open.as_ref().is_some_and(|(open, _)| Arc::ptr_eq(open, file));
        let follows = is_open && self.position + self.together.len() as u64 == position;
        if !follows || self.together.len() + bytes.len() > TOGETHER {
            self.flush()?;
            self.position = position;
        }
        if !is_open {
            self.open = Some((Arc::clone(file), create(file)?));
        }
        if bytes.len() < TOGETHER {
            self.together.extend_from_slice(bytes);
            return Ok(());
        }
        self.position += bytes.len() as u64;
        self.put(position, bytes)
    }

    fn flush(&mut self) -> Result<()> {
        if self.together.is_empty() {
            return Ok(());
        }
        let together = std::mem::take(&mut self.together);
        self.put(self.position, &together)?;
        self.together = together;
        self.together.clear();
        Ok(())
    }

    fn put(&self, position: u64, bytes: &[u8]) -> Result<()> {
        let Some((destination, file)) = &self.open else { return Ok(()) };
        destination.write(file, position, bytes)
    }
}
