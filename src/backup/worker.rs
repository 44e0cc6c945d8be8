//! One worker: read a region, verify its pages, digest, seal into a pack.

use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::mpsc::{Sender, UnboundedSender};

use super::base_files::BaseFile;
use super::pace::Ahead;
use super::packer::Packer;
use super::pages::check_pages;
use super::regions::Region;
use super::shared::{EXTENT, RegionDone, Shared, stopped};
use crate::cluster::FileEntry;
use crate::disk::ReadBuffer;
use crate::error::{Error, Result};
use crate::format::{SealedPack, page_digest_seed};

/// Files without pages up to this size are read whole, whatever the listing said: configuration is replaced at once.
const SMALL: u64 = 4 << 20;
/// Between two looks whether the file table has caught up.
const PAUSE: Duration = Duration::from_millis(1);
/// Without these nothing starts: their absence is an error, not a concurrent drop.
const ESSENTIAL: [&str; 2] = ["PG_VERSION", "global/pg_filenode.map"];

/// Work until no region is left.
pub(super) fn work(
    shared: &Shared<'_>,
    full: Sender<SealedPack>,
    done: &UnboundedSender<RegionDone>,
) -> Result<()> {
    let mut packer = Packer::new(shared, full)?;
    let mut buffer = ReadBuffer::default();
    while let Some((region, base)) = shared.regions.next() {
        if shared.stop.load(Ordering::Relaxed) {
            return Err(stopped());
        }
        let result = read_region(shared, (region, base.as_ref()), &mut packer, &mut buffer)?;
        shared.pace.done(result.weight());
        done.send(result).map_err(|_| stopped())?;
        keep_pace(shared, &mut packer)?;
    }
    packer.flush()
}

/// Wait while the file table is behind. No region is in this worker's hands: the table has all that it needs to go on.
fn keep_pace(shared: &Shared<'_>, packer: &mut Packer<'_>) -> Result<()> {
    loop {
        match shared.pace.ahead() {
            Ahead::No => return Ok(()),
            _ if shared.stop.load(Ordering::Relaxed) => return Err(stopped()),
            Ahead::OfPacks => packer.flush()?,
            Ahead::OfTable => {}
        }
        std::thread::sleep(PAUSE);
    }
}

fn read_region(
    shared: &Shared<'_>,
    (region, base): (Region, Option<&BaseFile>),
    packer: &mut Packer<'_>,
    buffer: &mut ReadBuffer,
) -> Result<RegionDone> {
    let entry = &shared.files[region.file];
    let path = shared.data_dir.join(&entry.path);
    let mut done = RegionDone::empty(region);
    if let Some((base, record)) = base.and_then(|base| Some((base, base.unread()?))) {
        Packer::leave(base, record, &mut done)?;
        shared.progress.add(region.len);
        return Ok(done);
    }
    let file = match File::open(&path) {
        Ok(file) => Some(file),
        Err(cause) if cause.kind() == ErrorKind::NotFound => {
            if ESSENTIAL.iter().any(|name| entry.path == Path::new(name)) {
                return Err(Error::io("open", &path, &cause));
            }
            None
        }
        Err(cause) => return Err(Error::io("open", &path, &cause)),
    };
    let Some(file) = file else {
        done.vanished = region.offset == 0;
        if !done.vanished {
            // Dropped between two regions: replay will drop it too. What is missing reads as zeros.
            fill_with_zeros(shared, region.len, packer, &mut done)?;
        }
        return Ok(done);
    };
    if entry.relation.is_none() && entry.size <= SMALL {
        read_small(shared, (&file, &path), base, packer, &mut done)?;
    } else if let Some(base) = base {
        let buffer = buffer.take(usize::try_from(region.len).unwrap_or(usize::MAX));
        let source = Source { file: &file, entry, path: &path };
        for (extent, position) in buffer.chunks_mut(EXTENT).zip((region.offset..).step_by(EXTENT)) {
            read_extent(shared, &source, extent, position, &mut done)?;
            page_digest_seed(shared.page_seed, extent, &mut done.digests);
        }
        packer.add_beside(base, buffer, &mut done)?;
    } else {
        let source = Source { file: &file, entry, path: &path };
        read_pages(shared, &source, packer, buffer, &mut done)?;
    }
    Ok(done)
}

/// A file without pages, as it is now.
fn read_small(
    shared: &Shared<'_>,
    (file, path): (&File, &Path),
    base: Option<&BaseFile>,
    packer: &mut Packer<'_>,
    done: &mut RegionDone,
) -> Result<()> {
    let mut bytes = Vec::new();
    let mut limited = std::io::Read::take(file, SMALL * 4);
    std::io::Read::read_to_end(&mut limited, &mut bytes).map_err(|cause| Error::io("read", path, &cause))?;
    shared.throttle.pay(bytes.len() as u64);
    if let Some(base) = base {
        page_digest_seed(shared.page_seed, &bytes, &mut done.digests);
        packer.add_beside(base, &bytes, done)?;
    } else {
        for extent in bytes.chunks_mut(EXTENT) {
            packer.add(extent, done)?;
        }
    }
    shared.progress.add(done.region.len);
    Ok(())
}

/// What a region is read from.
struct Source<'a> {
    file: &'a File,
    entry: &'a FileEntry,
    path: &'a Path,
}

/// The region's bytes up to the size that the listing saw: what was added since is in the WAL, what was cut off is
/// cut off again by replay and reads as zeros here (R12).
fn read_pages(
    shared: &Shared<'_>,
    source: &Source<'_>,
    packer: &mut Packer<'_>,
    buffer: &mut ReadBuffer,
    done: &mut RegionDone,
) -> Result<()> {
    let region = done.region;
    let end = region.offset + region.len;
    let mut position = region.offset;
    while position < end {
        let wanted = usize::try_from(end - position).map_or(EXTENT, |rest| rest.min(EXTENT));
        let extent = buffer.take(wanted);
        read_extent(shared, source, extent, position, done)?;
        packer.add(extent, done)?;
        position += wanted as u64;
    }
    Ok(())
}

/// Read the bytes at `position` and verify the pages among them.
fn read_extent(
    shared: &Shared<'_>,
    source: &Source<'_>,
    extent: &mut [u8],
    position: u64,
    done: &mut RegionDone,
) -> Result<()> {
    if shared.stop.load(Ordering::Relaxed) {
        return Err(stopped());
    }
    let Source { file, entry, path } = source;
    let read = read_at_most(file, extent, position).map_err(|cause| Error::io("read", path, &cause))?;
    extent[read..].fill(0);
    if let Some(relation) = entry.relation.filter(|_| shared.verify_pages) {
        check_pages(file, relation, position, &mut extent[..read], shared.start, &mut done.bad_pages);
    }
    shared.throttle.pay(extent.len() as u64);
    shared.progress.add(extent.len() as u64);
    Ok(())
}

fn fill_with_zeros(
    shared: &Shared<'_>,
    len: u64,
    packer: &mut Packer<'_>,
    done: &mut RegionDone,
) -> Result<()> {
    let mut zeros = vec![0; EXTENT];
    let mut rest = usize::try_from(len).unwrap_or(usize::MAX);
    while rest > 0 {
        let extent = &mut zeros[..rest.min(EXTENT)];
        packer.add(extent, done)?;
        rest -= extent.len();
    }
    shared.progress.add(len);
    Ok(())
}

fn read_at_most(file: &File, buffer: &mut [u8], position: u64) -> std::io::Result<usize> {
    let mut read = 0;
    while read < buffer.len() {
        match file.read_at(&mut buffer[read..], position + read as u64) {
            Ok(0) => break,
            Ok(more) => read += more,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(read)
}
