//! The workers of a restore: open extents, write them in place.

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

/// A share of what one request brought, ready to be written.
pub(super) struct Fetched {
    pub(super) pieces: Vec<Piece>,
    pub(super) pack: Arc<Pack>,
    /// Offset in the pack of the first of `bytes`.
    pub(super) begin: u64,
    pub(super) bytes: Bytes,
    /// Memory that others may have when all shares are written.
    pub(super) _memory: Arc<OwnedSemaphorePermit>,
}

/// Opens frames, each into the same memory.
pub(super) struct Frames {
    decompressor: Decompressor,
    plain: Vec<u8>,
    /// The repository's, for page digests.
    seed: u64,
}

impl Frames {
    pub(super) fn new(seed: u64) -> Result<Self> {
        Ok(Self { decompressor: Decompressor::new()?, plain: Vec::new(), seed })
    }

    /// Open the frame that the extent lies in, stored as exactly `stored`.
    pub(super) fn open(&mut self, reader: &PackReader, extent: &Extent, stored: &[u8]) -> Result<()> {
        self.plain.clear();
        reader.open(&mut self.decompressor, u64::from(extent.frame), stored, &mut self.plain)
    }

    /// The extent's bytes in the frame opened last, page by page what was read when the backup was taken: the seal
    /// covers pages as they were filtered, these digests what comes out in the end (R25).
    pub(super) fn extent(&self, extent: &Extent, digests: &[u64]) -> Result<&[u8]> {
        let bytes = extent.of(&self.plain)?;
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
    loop {
        let next =
            shares.lock().map_err(|_| Error::new(Kind::Other, "a restore thread died"))?.blocking_recv();
        let Some(fetched) = next else { return Ok(()) };
        write_share(&fetched, &mut frames, count)?;
    }
}

fn write_share(fetched: &Fetched, frames: &mut Frames, count: &(dyn Fn(u64) + Sync)) -> Result<()> {
    let mut open: Option<(Arc<Destination>, File)> = None;
    let mut opened = None;
    for piece in &fetched.pieces {
        let path = &piece.file.path;
        let restoring = || format!("restore {}", path.display());
        let place = (piece.extent.frame, piece.extent.offset);
        if opened != Some(place) {
            let stored = fetched.stored(piece)?;
            frames.open(&fetched.pack.reader, &piece.extent, stored).with_context(restoring)?;
            opened = Some(place);
        }
        let bytes = frames.extent(&piece.extent, &piece.digests).with_context(restoring)?;
        let file = match &open {
            Some((destination, file)) if Arc::ptr_eq(destination, &piece.file) => file,
            _ => &open.insert((Arc::clone(&piece.file), create(&piece.file)?)).1,
        };
        piece.file.write(file, piece.position, bytes)?;
        count(bytes.len() as u64);
    }
    Ok(())
}

impl Fetched {
    /// The frame that a piece lies in, as stored.
    fn stored(&self, piece: &Piece) -> Result<&[u8]> {
        let frame = piece.frame();
        let begin = frame.start.checked_sub(self.begin).and_then(|begin| usize::try_from(begin).ok());
        let stored = begin.and_then(|begin| self.bytes.get(begin..begin + piece.extent.stored_len as usize));
        stored.ok_or_else(|| Error::corrupt("a pack is shorter than the file table says"))
    }
}
