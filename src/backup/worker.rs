//! One worker: read a region, verify its pages, digest, seal into a pack.

use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use tokio::sync::mpsc::{Sender, UnboundedSender};

use super::pages::check_pages;
use super::progress::Progress;
use super::regions::{Region, Regions};
use super::throttle::Throttle;
use crate::cluster::FileEntry;
use crate::error::{Error, Kind, Result};
use crate::format::{BackupId, PackName, PackRef, PackWriter, SealedPack, page_digest_seed};
use crate::postgres::Lsn;
use crate::repository::Repository;
use crate::seal::PageCompressor;

/// Bytes of an extent: 64 pages compress well together (5 % better than 32), and fit the processor's cache.
pub(super) const EXTENT: usize = 512 << 10;
/// Bytes of a file that one sample speaks for: judging four or five filters costs what compressing 160 KiB does.
const SAMPLED: u64 = 64 << 20;
/// Files without pages up to this size are read whole, whatever the listing said: configuration is replaced at once.
const SMALL: u64 = 4 << 20;
/// Without these nothing starts: their absence is an error, not a concurrent drop.
const ESSENTIAL: [&str; 2] = ["PG_VERSION", "global/pg_filenode.map"];

/// What all workers share.
pub(super) struct Shared<'a> {
    pub(super) repository: &'a Repository,
    pub(super) id: &'a BackupId,
    pub(super) data_dir: &'a Path,
    pub(super) files: &'a [FileEntry],
    pub(super) regions: Regions<'a>,
    pub(super) start: Lsn,
    pub(super) verify_pages: bool,
    pub(super) page_seed: u64,
    pub(super) pack_size: usize,
    pub(super) throttle: Throttle,
    pub(super) progress: &'a Progress,
    pub(super) stop: AtomicBool,
    pub(super) next_pack: AtomicU32,
    /// Packs that are stored, with their bytes.
    pub(super) stored: Mutex<Vec<(PackName, u64)>>,
    /// Buffers of packs that are stored, to be filled again.
    pub(super) spare: Mutex<Vec<Vec<u8>>>,
}

impl Shared<'_> {
    /// A buffer for a pack: one that is free again, or a new one.
    fn buffer(&self) -> Vec<u8> {
        let spare = self.spare.lock().ok().and_then(|mut spare| spare.pop());
        spare.unwrap_or_else(|| Vec::with_capacity(self.pack_size + EXTENT * 2))
    }

    /// Put a pack, and take note of it.
    pub(super) async fn store(&self, pack: SealedPack) -> Result<()> {
        let entry = (pack.name.clone(), pack.bytes.len() as u64);
        let buffer = self.repository.put_pack(pack).await?;
        self.stored.lock().map_err(|_| stopped())?.push(entry);
        self.spare.lock().map_err(|_| stopped())?.push(buffer);
        Ok(())
    }
}

/// An extent before the file table numbers its pack.
#[derive(Debug, Clone, Copy)]
pub(super) struct PlacedExtent {
    /// Index into the region's packs.
    pub(super) pack: usize,
    pub(super) frame: u32,
    pub(super) offset: u32,
    pub(super) stored_len: u32,
    pub(super) plain_len: u32,
}

/// What became of a region.
#[derive(Debug)]
pub(super) struct RegionDone {
    pub(super) region: Region,
    /// The file was gone when its first region was to be read.
    pub(super) vanished: bool,
    pub(super) packs: Vec<PackRef>,
    pub(super) extents: Vec<PlacedExtent>,
    pub(super) digests: Vec<u64>,
    /// Blocks whose checksum failed.
    pub(super) bad_pages: Vec<u32>,
}

impl RegionDone {
    pub(super) const fn empty(region: Region) -> Self {
        Self {
            region,
            vanished: false,
            packs: Vec::new(),
            extents: Vec::new(),
            digests: Vec::new(),
            bad_pages: Vec::new(),
        }
    }
}

/// Seals extents into packs and hands full packs on.
pub(super) struct Packer<'a> {
    shared: &'a Shared<'a>,
    compressor: PageCompressor,
    /// Which file's which stretch the compressor last saw a sample of.
    sampled: Option<(usize, u64)>,
    pack: Option<PackWriter>,
    full: Sender<SealedPack>,
}

impl<'a> Packer<'a> {
    pub(super) fn new(shared: &'a Shared<'a>, full: Sender<SealedPack>) -> Result<Self> {
        let compressor = PageCompressor::new(shared.repository.level())?;
        Ok(Self { shared, compressor, sampled: None, pack: None, full })
    }

    /// Seal one extent, which is not as it was afterwards, and note it in `done`.
    pub(super) fn add(&mut self, plain: &mut [u8], done: &mut RegionDone) -> Result<()> {
        page_digest_seed(self.shared.page_seed, plain, &mut done.digests);
        let stretch = Some((done.region.file, done.region.offset / SAMPLED));
        if self.sampled != stretch {
            self.compressor.choose_for(plain)?;
            self.sampled = stretch;
        }
        let pack = match self.pack.take() {
            Some(pack) => pack,
            None => self.begin_pack()?,
        };
        let pack = self.pack.insert(pack);
        let (offset, frame) = pack.add(&mut self.compressor, plain)?;
        if done.packs.last().is_none_or(|known| known.name != *pack.name()) {
            done.packs.push(PackRef { name: pack.name().clone(), header: pack.header() });
        }
        let narrow = |number: u64| u32::try_from(number).map_err(|_| Error::corrupt("a pack grew too large"));
        done.extents.push(PlacedExtent {
            pack: done.packs.len() - 1,
            frame: narrow(frame.index)?,
            offset: narrow(offset)?,
            stored_len: frame.stored_len,
            plain_len: frame.plain_len,
        });
        if pack.len() >= self.shared.pack_size { self.flush() } else { Ok(()) }
    }

    fn begin_pack(&self) -> Result<PackWriter> {
        let Shared { repository, id, next_pack, .. } = self.shared;
        let name = PackName { backup: (*id).clone(), number: next_pack.fetch_add(1, Ordering::Relaxed) };
        let extent = u32::try_from(EXTENT).unwrap_or(u32::MAX);
        PackWriter::new(repository.keys(), repository.name(), name, extent, self.shared.buffer())
    }

    /// End the current pack, if there is one, and hand it on; waits while too many are on their way.
    pub(super) fn flush(&mut self) -> Result<()> {
        let Some(pack) = self.pack.take() else { return Ok(()) };
        let sealed = pack.finish(&mut self.compressor)?;
        self.full.blocking_send(sealed).map_err(|_| stopped())
    }
}

pub(super) fn stopped() -> Error {
    Error::new(Kind::Other, "the backup was stopped")
}

/// Work until no region is left.
pub(super) fn work(
    shared: &Shared<'_>,
    full: Sender<SealedPack>,
    done: &UnboundedSender<RegionDone>,
) -> Result<()> {
    let mut packer = Packer::new(shared, full)?;
    let mut buffer = vec![0; EXTENT];
    while let Some(region) = shared.regions.next() {
        if shared.stop.load(Ordering::Relaxed) {
            return Err(stopped());
        }
        let result = read_region(shared, region, &mut packer, &mut buffer)?;
        done.send(result).map_err(|_| stopped())?;
    }
    packer.flush()
}

fn read_region(
    shared: &Shared<'_>,
    region: Region,
    packer: &mut Packer<'_>,
    buffer: &mut [u8],
) -> Result<RegionDone> {
    let entry = &shared.files[region.file];
    let path = shared.data_dir.join(&entry.path);
    let mut done = RegionDone::empty(region);
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
        read_small(shared, &file, &path, packer, &mut done)?;
    } else {
        read_pages(shared, &file, (entry, &path), packer, buffer, &mut done)?;
    }
    Ok(done)
}

/// A file without pages, as it is now.
fn read_small(
    shared: &Shared<'_>,
    file: &File,
    path: &Path,
    packer: &mut Packer<'_>,
    done: &mut RegionDone,
) -> Result<()> {
    let mut bytes = Vec::new();
    let mut limited = std::io::Read::take(file, SMALL * 4);
    std::io::Read::read_to_end(&mut limited, &mut bytes).map_err(|cause| Error::io("read", path, &cause))?;
    shared.throttle.pay(bytes.len() as u64);
    for extent in bytes.chunks_mut(EXTENT) {
        packer.add(extent, done)?;
    }
    shared.progress.add(done.region.len);
    Ok(())
}

/// The region's bytes up to the size that the listing saw: what was added since is in the WAL, what was cut off is
/// cut off again by replay and reads as zeros here (R12).
fn read_pages(
    shared: &Shared<'_>,
    file: &File,
    (entry, path): (&FileEntry, &Path),
    packer: &mut Packer<'_>,
    buffer: &mut [u8],
    done: &mut RegionDone,
) -> Result<()> {
    let region = done.region;
    let end = region.offset + region.len;
    let mut position = region.offset;
    while position < end {
        if shared.stop.load(Ordering::Relaxed) {
            return Err(stopped());
        }
        let wanted = usize::try_from(end - position).map_or(EXTENT, |rest| rest.min(EXTENT));
        let extent = &mut buffer[..wanted];
        let read = read_at_most(file, extent, position).map_err(|cause| Error::io("read", path, &cause))?;
        extent[read..].fill(0);
        if let Some(relation) = entry.relation.filter(|_| shared.verify_pages) {
            check_pages(file, relation, position, &mut extent[..read], shared.start, &mut done.bad_pages);
        }
        packer.add(extent, done)?;
        shared.throttle.pay(wanted as u64);
        shared.progress.add(wanted as u64);
        position += wanted as u64;
    }
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
