//! Packs: sealed objects whose frames hold extents, so that each frame can be read alone.

use super::backup_id::BackupId;
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

impl PackName {
    fn context_name(&self) -> String {
        format!("pack {}/{:08x}", self.backup, self.number)
    }
}

/// A finished pack in memory, ready to be put.
#[derive(Debug)]
pub struct SealedPack {
    /// Its name.
    pub name: PackName,
    /// Its header, which a manifest repeats so that extents can be read without it.
    pub header: [u8; HEADER_LEN],
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
        let text = name.context_name();
        let context = Context { kind: ObjectKind::Pack, identity, name: &text };
        let sealer = Sealer::new(keys, context, extent_limit)?;
        let mut bytes = buffer;
        bytes.clear();
        bytes.extend_from_slice(&sealer.header());
        Ok(Self { name, sealer, bytes, frames: 0 })
    }

    /// Add an extent, which is left as the compressor's filter made it: (offset in the pack, its frame).
    pub fn add(&mut self, compressor: &mut PageCompressor, plain: &mut [u8]) -> Result<(u64, SealedFrame)> {
        let offset = self.bytes.len() as u64;
        let frame = self.sealer.seal_pages(compressor, self.frames, plain, &mut self.bytes)?;
        self.frames += 1;
        Ok((offset, frame))
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

    /// End the pack with an empty last frame, by which a truncated one is recognised.
    pub fn finish(mut self, compressor: &mut PageCompressor) -> Result<SealedPack> {
        self.sealer.seal_frame(compressor.inner(), self.frames, true, &[], &mut self.bytes)?;
        Ok(SealedPack { name: self.name, header: self.sealer.header(), bytes: self.bytes })
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
        let text = name.context_name();
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
        let opened = self.opener.open_frame(decompressor, frame, stored, out).and_then(|(_, rest)| {
            if rest.is_empty() {
                Ok(())
            } else {
                Err(Error::corrupt("the frame is shorter than the file table says"))
            }
        });
        opened.with_context(|| format!("open frame {frame} of {}", self.name.context_name()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seal::{MasterKey, scrub_object};

    #[test]
    fn extents_open_alone_and_only_as_themselves() {
        let keys = KeyRing::parse(&MasterKey::generate().unwrap().to_text()).unwrap();
        let name = PackName { backup: "20261122T130000Z-00000001".parse().unwrap(), number: 3 };
        let mut compressor = PageCompressor::new(1).unwrap();
        let mut writer = PackWriter::new(&keys, "main/7", name.clone(), 1 << 18, Vec::new()).unwrap();
        let extents: Vec<_> =
            (0..4_u8).map(|number| writer.add(&mut compressor, &mut [number; 8192]).unwrap()).collect();
        let pack = writer.finish(&mut compressor).unwrap();
        scrub_object(&pack.bytes).unwrap();
        let reader = PackReader::new(&keys, "main/7", name, &pack.header).unwrap();
        let mut decompressor = Decompressor::new().unwrap();
        for (number, (offset, frame)) in extents.iter().enumerate() {
            let start = usize::try_from(*offset).unwrap();
            let stored = &pack.bytes[start..start + frame.stored_len as usize];
            let mut out = Vec::new();
            reader.open(&mut decompressor, frame.index, stored, &mut out).unwrap();
            assert_eq!(out, vec![u8::try_from(number).unwrap(); 8192]);
            reader.open(&mut decompressor, frame.index ^ 1, stored, &mut out).unwrap_err();
        }
    }
}
