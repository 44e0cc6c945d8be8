//! Packs: sealed objects whose frames hold extents, so that each frame can be read alone.

use std::fmt;
use std::ops::Range;

use super::backup_id::BackupId;
use super::page_digests::PackDigests;
use crate::error::{Error, Result, ResultExt};
use crate::seal::{
    Context, Decompressor, HEADER_LEN, KeyRing, ObjectKind, Opener, PageCompressor, SealedFrame, Sealer,
};

/// The name of a pack: the backup that wrote it and a number.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PackName {
    /// The backup that wrote it; later backups may point into it.
    pub backup: BackupId,
    /// Its number within that backup.
    pub number: u32,
}

impl fmt::Display for PackName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "pack {}/{:08x}", self.backup, self.number)
    }
}

/// Where a frame lies in its pack.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FramePlace {
    /// Its number.
    pub frame: u32,
    /// Its offset, bytes.
    pub offset: u32,
    /// Its bytes, with header and tag.
    pub stored_len: u32,
}

impl FramePlace {
    fn of(offset: u64, frame: SealedFrame) -> Result<Self> {
        let narrow = |number: u64| u32::try_from(number).map_err(|_| Error::corrupt("a pack grew too large"));
        Ok(Self { frame: narrow(frame.index)?, offset: narrow(offset)?, stored_len: frame.stored_len })
    }

    /// Its bytes in the pack.
    pub fn range(&self) -> Range<u64> {
        let begin = u64::from(self.offset);
        begin..begin + u64::from(self.stored_len)
    }
}

/// A finished pack in memory, ready to be put.
#[derive(Debug)]
pub struct SealedPack {
    /// Its name.
    pub name: PackName,
    /// Its header, which a manifest repeats so that extents can be read without it.
    pub header: [u8; HEADER_LEN],
    /// Where the digests of its pages are.
    pub digests: FramePlace,
    /// The object's bytes.
    pub bytes: Vec<u8>,
}

/// Writes one pack in memory.
#[derive(Debug)]
pub struct PackWriter {
    name: PackName,
    sealer: Sealer,
    bytes: Vec<u8>,
    frames: u64,
    extent_limit: u32,
    digests: PackDigests,
}

impl PackWriter {
    /// Begin the pack `name` whose extents hold at most `extent_limit` bytes; it is made in `buffer`, which may
    /// be one that an earlier pack was in.
    pub fn new(
        keys: &KeyRing,
        identity: &str,
        name: PackName,
        extent_limit: u32,
        buffer: Vec<u8>,
    ) -> Result<Self> {
        let text = name.to_string();
        let context = Context { kind: ObjectKind::Pack, identity, name: &text };
        let sealer = Sealer::new(keys, context, extent_limit)?;
        let mut bytes = buffer;
        bytes.clear();
        bytes.extend_from_slice(&sealer.header());
        Ok(Self { name, sealer, bytes, frames: 0, extent_limit, digests: PackDigests::default() })
    }

    /// Add a frame of these pages, which are left as the compressor's filter made them, with their digests: its place.
    pub fn add(
        &mut self,
        compressor: &mut PageCompressor,
        plain: &mut [u8],
        digests: &[u64],
    ) -> Result<FramePlace> {
        let offset = self.bytes.len() as u64;
        let frame = self.sealer.seal_pages(compressor, self.frames, plain, &mut self.bytes)?;
        self.frames += 1;
        self.digests.push(digests);
        FramePlace::of(offset, frame)
    }

    /// Whether the digests of so many more pages can be stored.
    pub const fn has_room_for(&self, pages: usize) -> bool {
        self.digests.len_with(pages) <= self.extent_limit as usize
    }

    /// Bytes so far.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether it holds no extent.
    pub const fn is_empty(&self) -> bool {
        self.frames == 0
    }

    /// The pack's name.
    pub const fn name(&self) -> &PackName {
        &self.name
    }

    /// The pack's header.
    pub fn header(&self) -> [u8; HEADER_LEN] {
        self.sealer.header()
    }

    /// End the pack with the digests of its pages: its last frame, by which a truncated pack is recognised, too.
    pub fn finish(mut self, compressor: &mut PageCompressor) -> Result<SealedPack> {
        let (offset, plain) = (self.bytes.len() as u64, self.digests.to_bytes());
        let frame = self.sealer.seal_frame(compressor.inner(), self.frames, true, &plain, &mut self.bytes)?;
        let digests = FramePlace::of(offset, frame)?;
        Ok(SealedPack { name: self.name, header: self.sealer.header(), digests, bytes: self.bytes })
    }
}

/// Opens frames of one pack.
#[derive(Debug)]
pub struct PackReader {
    name: PackName,
    opener: Opener,
}

impl PackReader {
    /// A reader for the pack `name` with this header (from a manifest, or the pack itself).
    pub fn new(keys: &KeyRing, identity: &str, name: PackName, header: &[u8]) -> Result<Self> {
        let text = name.to_string();
        let context = Context { kind: ObjectKind::Pack, identity, name: &text };
        let opener = Opener::new(keys, context, header).with_context(|| format!("open {text}"))?;
        Ok(Self { name, opener })
    }

    /// Append the plaintext of frame `frame`, stored as exactly `stored`, to `out`.
    pub fn open(
        &self,
        decompressor: &mut Decompressor,
        frame: u64,
        stored: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<()> {
        self.open_beginning(decompressor, frame, stored, usize::MAX, out).map(|_| ())
    }

    /// The digests of all pages: of the last frame, which is `frame` and stored as exactly `stored`.
    pub fn digests(&self, decompressor: &mut Decompressor, frame: u32, stored: &[u8]) -> Result<PackDigests> {
        let mut plain = Vec::new();
        if self.open_beginning(decompressor, frame.into(), stored, usize::MAX, &mut plain)? {
            return PackDigests::parse(frame, &plain);
        }
        Err(Error::corrupt(format!("frame {frame} of {} is not its last one", self.name)))
    }

    /// Append the first pages only that hold `len` bytes, the sooner done the fewer they are; whether the frame is the last one.
    pub fn open_beginning(
        &self,
        decompressor: &mut Decompressor,
        frame: u64,
        stored: &[u8],
        len: usize,
        out: &mut Vec<u8>,
    ) -> Result<bool> {
        let opened = self.opener.open_beginning(decompressor, frame, stored, len, out);
        let opened = opened.and_then(|(last, rest)| {
            if rest.is_empty() {
                Ok(last)
            } else {
                Err(Error::corrupt("the frame is shorter than the file table says"))
            }
        });
        opened.with_context(|| format!("open frame {frame} of {}", self.name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::postgres::noise::noise;
    use crate::seal::{MasterKey, scrub_object};

    #[test]
    fn extents_open_alone_and_only_as_themselves() {
        let keys = KeyRing::parse(&MasterKey::generate().unwrap().to_text()).unwrap();
        let name = PackName { backup: "20261122T130000Z-00000001".parse().unwrap(), number: 3 };
        let mut compressor = PageCompressor::new(1).unwrap();
        let mut writer = PackWriter::new(&keys, "main/7", name.clone(), 1 << 18, Vec::new()).unwrap();
        let extents: Vec<_> = (0..4_u8)
            .map(|number| writer.add(&mut compressor, &mut [number; 8192], &[number.into()]).unwrap())
            .collect();
        let pack = writer.finish(&mut compressor).unwrap();
        scrub_object(&pack.bytes).unwrap();
        let reader = PackReader::new(&keys, "main/7", name, &pack.header).unwrap();
        let mut decompressor = Decompressor::new().unwrap();
        let stored = |place: &FramePlace| {
            let start = place.offset as usize;
            &pack.bytes[start..start + place.stored_len as usize]
        };
        for (number, place) in extents.iter().enumerate() {
            let (frame, stored) = (u64::from(place.frame), stored(place));
            let mut out = Vec::new();
            reader.open(&mut decompressor, frame, stored, &mut out).unwrap();
            assert_eq!(out, vec![u8::try_from(number).unwrap(); 8192]);
            reader.open(&mut decompressor, frame ^ 1, stored, &mut out).unwrap_err();
            reader.digests(&mut decompressor, place.frame, stored).unwrap_err();
        }
        let place = pack.digests;
        assert_eq!(place.range().end, pack.bytes.len() as u64);
        let digests = reader.digests(&mut decompressor, place.frame, stored(&place)).unwrap();
        assert_eq!(
            [0, 1, 2, 3, 4].map(|frame| digests.of_frame(frame).map(<[u64]>::to_vec)),
            [Some(vec![0]), Some(vec![1]), Some(vec![2]), Some(vec![3]), None]
        );
    }

    #[test]
    fn the_first_pages_of_a_frame_open_without_the_rest_and_only_if_all_of_it_is_authentic() {
        let keys = KeyRing::parse(&MasterKey::generate().unwrap().to_text()).unwrap();
        let name = PackName { backup: "20261122T130000Z-00000001".parse().unwrap(), number: 0 };
        let mut noise = noise();
        // Compressed in several blocks; as it is; and with a rest that is no page.
        let rows: Vec<u8> =
            (0..64_u8).flat_map(|page| (0..8192).map(move |at| page ^ u8::from(at % 5 == 0))).collect();
        let random: Vec<u8> = (0..5 * 8192).map(|_| noise().to_le_bytes()[0]).collect();
        let mut mixed = [&rows[..30 * 8192], &random].concat();
        mixed.extend_from_slice(b"a rest");
        for content in [rows, random, mixed] {
            let mut compressor = PageCompressor::new(1).unwrap();
            let mut writer = PackWriter::new(&keys, "main/7", name.clone(), 1 << 20, Vec::new()).unwrap();
            let digests = vec![0; content.len().div_ceil(8192)];
            let place = writer.add(&mut compressor, &mut content.clone(), &digests).unwrap();
            let pack = writer.finish(&mut compressor).unwrap();
            let reader = PackReader::new(&keys, "main/7", name.clone(), &pack.header).unwrap();
            let mut stored = pack.bytes[place.offset as usize..][..place.stored_len as usize].to_vec();
            let mut decompressor = Decompressor::new().unwrap();
            let mut open = |stored: &[u8], len: usize| {
                let mut out = b"before".to_vec();
                let opened = reader.open_beginning(&mut decompressor, 0, stored, len, &mut out);
                opened.map(|_| out.split_off(6))
            };
            for len in [0, 1, 8192, 8193, 100_000, 262_144, content.len() - 1, content.len(), usize::MAX] {
                let wanted = len.min(1 << 30).next_multiple_of(8192).min(content.len());
                assert!(open(&stored, len).unwrap() == content[..wanted], "{len}");
            }
            *stored.last_mut().unwrap() ^= 1;
            open(&stored, 1).unwrap_err();
        }
    }
}
