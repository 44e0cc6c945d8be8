//! The files that a restore writes.

use std::fs::{File, Permissions};
use std::io::IoSlice;
use std::os::unix::fs::{FileExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::error::{Error, Result};

/// Bytes that wait for the worker that writes their file; with more than this, a worker waits for
/// its turn. Pages of a backup that was taken after many others come one by one: a worker that
/// waits for each sleeps for longer than the write takes.
const MOST_PENDING: usize = 4 << 20;

/// A file that is being written. The kernel lets one writer at a time into a file, and others spin for it: here one worker
/// writes what all have opened.
#[derive(Debug)]
pub(super) struct Destination {
    pub(super) path: PathBuf,
    pub(super) mode: u32,
    writing: Mutex<()>,
    /// Opened by others meanwhile.
    pending: Mutex<Pending>,
}

/// Extents one behind the other, and the position in the file and the length of each.
#[derive(Debug, Default)]
struct Pending {
    bytes: Vec<u8>,
    places: Vec<(u64, usize)>,
}

impl Pending {
    fn push(&mut self, position: u64, slices: &[IoSlice<'_>]) {
        let before = self.bytes.len();
        for bytes in slices {
            self.bytes.extend_from_slice(bytes);
        }
        self.places.push((position, self.bytes.len() - before));
    }

    fn write(&self, file: &File) -> std::io::Result<()> {
        let mut rest = self.bytes.as_slice();
        for (position, len) in &self.places {
            let (bytes, behind) = rest.split_at(*len);
            file.write_all_at(bytes, *position)?;
            rest = behind;
        }
        Ok(())
    }
}

impl Destination {
    pub(super) fn new(path: PathBuf, mode: u32) -> Self {
        Self { path, mode, writing: Mutex::default(), pending: Mutex::default() }
    }

    /// Write `slices` one behind the other from `position` on through `file`, or leave them to the worker that is writing.
    pub(super) fn write(&self, file: &File, position: u64, slices: &mut [IoSlice<'_>]) -> Result<()> {
        let failed = |cause| Error::io("write", &self.path, &cause);
        let turn = match self.writing.try_lock() {
            Ok(turn) => Some(turn),
            Err(_) if self.pending().bytes.len() < MOST_PENDING => None,
            Err(_) => Some(self.writing.lock().unwrap_or_else(PoisonError::into_inner)),
        };
        match turn {
            Some(turn) => {
                write_all(file, slices, position).map_err(failed)?;
                drop(turn);
            }
            None => self.pending().push(position, slices),
        }
        // Whoever leaves looks whether something came meanwhile: nothing stays behind.
        while !self.pending().places.is_empty() {
            let Ok(_turn) = self.writing.try_lock() else { return Ok(()) };
            let pending = std::mem::take(&mut *self.pending());
            pending.write(file).map_err(failed)?;
        }
        Ok(())
    }

    fn pending(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn write_all(file: &File, mut slices: &mut [IoSlice<'_>], mut position: u64) -> std::io::Result<()> {
    // Empty ones at the beginning go.
    IoSlice::advance_slices(&mut slices, 0);
    while !slices.is_empty() {
        match rustix::io::pwritev(file, slices, position) {
            Ok(0) => return Err(std::io::ErrorKind::WriteZero.into()),
            Ok(written) => {
                IoSlice::advance_slices(&mut slices, written);
                position += written as u64;
            }
            Err(rustix::io::Errno::INTR) => {}
            Err(cause) => return Err(cause.into()),
        }
    }
    Ok(())
}

/// Open a file for writing, made when missing, with its permissions and that to write: it may have to be opened again.
pub(super) fn create(destination: &Destination) -> Result<File> {
    let path = &destination.path;
    let mode = destination.mode | 0o200;
    let open = || {
        let file = File::options().write(true).create(true).truncate(false).mode(mode).open(path)?;
        file.set_permissions(Permissions::from_mode(mode))?;
        Ok(file)
    };
    open().map_err(|cause: std::io::Error| Error::io("create", path, &cause))
}

pub(super) fn set_mode(path: &Path, mode: u32) -> Result<()> {
    std::fs::set_permissions(path, Permissions::from_mode(mode))
        .map_err(|cause| Error::io("set permissions of", path, &cause))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_many_write_into_one_file_is_all_there() {
        let dir = tempfile::tempdir().unwrap();
        let destination = Destination::new(dir.path().join("16384"), 0o600);
        std::thread::scope(|scope| {
            for worker in 0..8_u8 {
                let destination = &destination;
                scope.spawn(move || {
                    let file = create(destination).unwrap();
                    for round in 0..200_u64 {
                        let position = (round * 8 + u64::from(worker)) * 512;
                        let (one, next) = ([worker; 200], [worker; 312]);
                        let mut slices = [IoSlice::new(&[]), IoSlice::new(&one), IoSlice::new(&next)];
                        destination.write(&file, position, &mut slices).unwrap();
                    }
                });
            }
        });
        let bytes = std::fs::read(&destination.path).unwrap();
        assert_eq!(bytes.len(), 8 * 200 * 512);
        assert!(
            bytes
                .chunks(512)
                .enumerate()
                .all(|(at, chunk)| chunk.iter().all(|byte| usize::from(*byte) == at % 8))
        );
    }

    #[test]
    fn a_failed_write_is_told_by_whoever_made_it() {
        let dir = tempfile::tempdir().unwrap();
        let destination = Destination::new(dir.path().join("f"), 0o600);
        create(&destination).unwrap();
        let read_only = File::open(&destination.path).unwrap();
        destination.pending().push(0, &[IoSlice::new(&[1])]);
        destination.write(&read_only, 0, &mut [IoSlice::new(b"x")]).unwrap_err();
        let file = create(&destination).unwrap();
        destination.write(&file, 1, &mut [IoSlice::new(b"x")]).unwrap();
        assert_eq!(std::fs::read(&destination.path).unwrap(), [1, b'x']);
    }
}
