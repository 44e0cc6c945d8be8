//! The workers of a restore: open extents, write them in place.

use std::fs::File;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use tokio::sync::mpsc::Receiver;

use super::fetch::{Batch, Destination};
use crate::error::{Error, Kind, Result, ResultExt};
use crate::format::{Extent, PackReader, first_other_page};
use crate::seal::Decompressor;

/// A batch with its bytes, ready to be written.
pub(super) struct Fetched {
    pub(super) batch: Batch,
    pub(super) reader: Arc<PackReader>,
    pub(super) bytes: Bytes,
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

/// Write batches until no more come; `count` hears of every written byte.
pub(super) fn write_batches(
    batches: &Mutex<Receiver<Fetched>>,
    seed: u64,
    count: &(dyn Fn(u64) + Sync),
) -> Result<()> {
    let mut frames = Frames::new(seed)?;
    loop {
        let next =
            batches.lock().map_err(|_| Error::new(Kind::Other, "a restore thread died"))?.blocking_recv();
        let Some(fetched) = next else { return Ok(()) };
        write_batch(&fetched, &mut frames, count)?;
    }
}

fn write_batch(fetched: &Fetched, frames: &mut Frames, count: &(dyn Fn(u64) + Sync)) -> Result<()> {
    let mut open: Option<(Arc<Destination>, File)> = None;
    let mut opened = None;
    for piece in &fetched.batch.pieces {
        let path = &piece.file.path;
        let restoring = || format!("restore {}", path.display());
        let place = (piece.extent.frame, piece.extent.offset);
        if opened != Some(place) {
            let stored = fetched.stored(&piece.extent)?;
            frames.open(&fetched.reader, &piece.extent, stored).with_context(restoring)?;
            opened = Some(place);
        }
        let bytes = frames.extent(&piece.extent, &piece.digests).with_context(restoring)?;
        let file = match &open {
            Some((destination, file)) if Arc::ptr_eq(destination, &piece.file) => file,
            _ => &open.insert((Arc::clone(&piece.file), create(&piece.file)?)).1,
        };
        file.write_all_at(bytes, piece.position).map_err(|cause| Error::io("write", path, &cause))?;
        count(bytes.len() as u64);
    }
    Ok(())
}

impl Fetched {
    /// The frame that an extent lies in, as stored.
    fn stored(&self, extent: &Extent) -> Result<&[u8]> {
        let begin = u64::from(extent.offset).checked_sub(self.batch.range.start);
        let begin = begin.and_then(|begin| usize::try_from(begin).ok());
        let stored = begin.and_then(|begin| self.bytes.get(begin..begin + extent.stored_len as usize));
        stored.ok_or_else(|| Error::corrupt("a pack is shorter than the file table says"))
    }
}

/// Open a file for writing, made when missing, with its permissions and that to write: it may have to be opened again.
pub(super) fn create(destination: &Destination) -> Result<File> {
    let path = &destination.path;
    let mode = destination.mode | 0o200;
    let open = || {
        let file = File::options().write(true).create(true).truncate(false).mode(mode).open(path)?;
        file.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(mode))?;
        Ok(file)
    };
    open().map_err(|cause: std::io::Error| Error::io("create", path, &cause))
}
