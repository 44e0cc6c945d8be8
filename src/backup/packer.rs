//! Sealing frames into packs.

use std::sync::atomic::Ordering;

use tokio::sync::mpsc::Sender;

use super::base_files::BaseFile;
use super::placement::{FRAME_PAGES, Frame, place};
use super::shared::{EXTENT, RegionDone, SAMPLED, Shared, UnreadFile, stopped};
use crate::error::{Error, Result};
use crate::format::{
    Extent, FileRecord, FramePlace, PackName, PackRef, PackWriter, SealedPack, page_digest_seed,
};
use crate::postgres::PAGE_SIZE;
use crate::seal::PageCompressor;

/// Seals extents into packs and hands full packs on.
pub(super) struct Packer<'a> {
    shared: &'a Shared<'a>,
    compressor: PageCompressor,
    /// Which file's which stretch the compressor last saw a sample of.
    sampled: Option<(usize, u64)>,
    pack: Option<PackWriter>,
    /// Pages of a frame that do not lie beside each other.
    gathered: Vec<u8>,
    full: Sender<SealedPack>,
}

impl<'a> Packer<'a> {
    pub(super) fn new(shared: &'a Shared<'a>, full: Sender<SealedPack>) -> Result<Self> {
        let compressor = PageCompressor::new(shared.repository.level())?;
        Ok(Self { shared, compressor, sampled: None, pack: None, gathered: Vec::new(), full })
    }

    /// Seal one extent, which is not as it was afterwards, and note it in `done`.
    pub(super) fn add(&mut self, plain: &mut [u8], done: &mut RegionDone) -> Result<()> {
        let first = done.digests.len();
        page_digest_seed(self.shared.page_seed, plain, &mut done.digests);
        let digests = done.digests[first..].to_vec();
        let extent = self.seal(plain, &digests, done)?;
        done.extents.push(extent);
        Ok(())
    }

    /// Store what changed of a region, whose digests are in `done`; the rest stays where the base has it.
    pub(super) fn add_beside(&mut self, base: &BaseFile, bytes: &[u8], done: &mut RegionDone) -> Result<()> {
        let digests = std::mem::take(&mut done.digests);
        let old = base.region(done.region.offset, bytes.len() as u64);
        let placement = place(&digests, &old.pages, &old.frames);
        let mut new = Vec::with_capacity(placement.frames.len());
        let mut gathered = std::mem::take(&mut self.gathered);
        for pages in &placement.frames {
            gathered.clear();
            for page in pages {
                let begin = page * PAGE_SIZE;
                gathered.extend_from_slice(&bytes[begin..bytes.len().min(begin + PAGE_SIZE)]);
            }
            let of_frame: Vec<u64> = pages.iter().map(|page| digests[*page]).collect();
            new.push(self.seal(&mut gathered, &of_frame, done)?);
        }
        self.gathered = gathered;
        let mut rest = bytes.len();
        for run in &placement.runs {
            let whole = match run.frame {
                Frame::New(frame) => new[frame],
                Frame::Old(frame) => {
                    let place = old.places[frame];
                    Extent { pack: done.pack_index(base.pack(place.pack))?, ..place }
                }
            };
            let len = rest.min(run.pages as usize * PAGE_SIZE);
            rest -= len;
            if matches!(run.frame, Frame::Old(_)) {
                done.reused += len as u64;
            }
            done.extents.push(Extent {
                skip: narrow(run.first as usize * PAGE_SIZE)?,
                plain_len: narrow(len)?,
                ..whole
            });
        }
        done.rewritten = (placement.rewritten * PAGE_SIZE).min(bytes.len()) as u64;
        done.digests = digests;
        Ok(())
    }

    /// Leave a file that was not read where the base has it.
    pub(super) fn leave(base: &BaseFile, file: &FileRecord, done: &mut RegionDone) -> Result<()> {
        for extent in &file.extents {
            let pack = done.pack_index(base.pack(extent.pack))?;
            done.extents.push(Extent { pack, ..*extent });
        }
        done.reused = file.size;
        done.unread = Some(UnreadFile { sums: file.sums.clone(), read_at: file.read_at });
        Ok(())
    }

    /// Seal a frame of these pages, which are not as they were afterwards: all of it as an extent.
    fn seal(&mut self, plain: &mut [u8], digests: &[u64], done: &mut RegionDone) -> Result<Extent> {
        let stretch = Some((done.region.file, done.region.offset / SAMPLED));
        if self.sampled != stretch {
            self.compressor.choose_for(plain)?;
            self.sampled = stretch;
        }
        if self.pack.as_ref().is_some_and(|pack| !pack.has_room_for(digests.len())) {
            self.flush()?;
        }
        let pack = match self.pack.take() {
            Some(pack) => pack,
            None => self.begin_pack()?,
        };
        let pack = self.pack.insert(pack);
        let frame_len = narrow(plain.len())?;
        let FramePlace { frame, offset, stored_len } = pack.add(&mut self.compressor, plain, digests)?;
        // Where its digests will be is known when it is full.
        let pack_ref =
            PackRef { name: pack.name().clone(), header: pack.header(), digests: FramePlace::default() };
        let full = pack.len() >= self.shared.pack_size;
        let pack = done.pack_index(&pack_ref)?;
        if full {
            self.flush()?;
        }
        Ok(Extent { pack, frame, offset, stored_len, frame_len, skip: 0, plain_len: frame_len })
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

impl RegionDone {
    /// The number of a pack among those of the region, added when new.
    fn pack_index(&mut self, pack: &PackRef) -> Result<u32> {
        let known = self.packs.iter().rposition(|known| known.name == pack.name);
        if known.is_none() {
            self.packs.push(pack.clone());
        }
        narrow(known.unwrap_or(self.packs.len() - 1))
    }
}

fn narrow(number: usize) -> Result<u32> {
    u32::try_from(number).map_err(|_| Error::corrupt("a region has too many packs"))
}

const _: () = assert!(FRAME_PAGES * PAGE_SIZE == EXTENT);
