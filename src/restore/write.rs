//! The workers of a restore: open extents, write them in place.

use std::fs::File;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use tokio::sync::mpsc::Receiver;

use super::fetch::{Batch, Destination};
use crate::error::{Error, Kind, Result, ResultExt};
use crate::repository::PackReader;
use crate::seal::Decompressor;

/// A batch with its bytes, ready to be written.
pub(super) struct Fetched {
    pub(super) batch: Batch,
    pub(super) reader: Arc<PackReader>,
    pub(super) bytes: Bytes,
}

/// Write batches until no more come; `count` hears of every written byte.
pub(super) fn write_batches(batches: &Mutex<Receiver<Fetched>>, count: &(dyn Fn(u64) + Sync)) -> Result<()> {
    let mut decompressor = Decompressor::new()?;
    let mut plain = Vec::new();
    loop {
        let next =
            batches.lock().map_err(|_| Error::new(Kind::Other, "a restore thread died"))?.blocking_recv();
        let Some(fetched) = next else { return Ok(()) };
        write_batch(&fetched, &mut decompressor, &mut plain, count)?;
    }
}

fn write_batch(
    fetched: &Fetched,
    decompressor: &mut Decompressor,
    plain: &mut Vec<u8>,
    count: &(dyn Fn(u64) + Sync),
) -> Result<()> {
    let mut open: Option<(Arc<Destination>, File)> = None;
    for piece in &fetched.batch.pieces {
        let start = u64::from(piece.extent.offset) - fetched.batch.range.start;
        let start =
            usize::try_from(start).map_err(|_| Error::corrupt("an extent lies too far in its pack"))?;
        let stored = &fetched.bytes[start..start + piece.extent.stored_len as usize];
        plain.clear();
        fetched
            .reader
            .open(decompressor, u64::from(piece.extent.frame), stored, plain)
            .with_context(|| format!("restore {}", piece.file.path.display()))?;
        if plain.len() != piece.extent.plain_len as usize {
            return Err(Error::corrupt(format!(
                "an extent of {} has the wrong length",
                piece.file.path.display()
            )));
        }
        let file = match &open {
            Some((destination, file)) if Arc::ptr_eq(destination, &piece.file) => file,
            _ => &open.insert((Arc::clone(&piece.file), create(&piece.file)?)).1,
        };
        file.write_all_at(plain, piece.position)
            .map_err(|cause| Error::io("write", &piece.file.path, &cause))?;
        count(plain.len() as u64);
    }
    Ok(())
}

/// Open a file for writing, made when missing, with exactly its permissions.
pub(super) fn create(destination: &Destination) -> Result<File> {
    let path = &destination.path;
    let open = || {
        let file =
            File::options().write(true).create(true).truncate(false).mode(destination.mode).open(path)?;
        file.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(destination.mode))?;
        Ok(file)
    };
    open().map_err(|cause: std::io::Error| Error::io("create", path, &cause))
}
