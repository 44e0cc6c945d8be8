//! Sealing and opening: a header, then frames, each bound to its object, its place and its neighbours.

use super::compression::{Compressor, Decompressor, PageCompressor};
use super::frame::{FRAME_HEADER_LEN, FrameHeader, SealedFrame, TAG_LEN};
use super::header::{Compression, HEADER_LEN, Header, ObjectKind};
use super::key::KeyRing;
use super::page_filter::PageFilter;
use super::protection::{Context, Protection};
use crate::error::{Error, Result, ResultExt};
use crate::postgres::PAGE_SIZE;

/// Plaintext bytes of a frame where nothing asks for another size: 1 MiB.
pub const DEFAULT_FRAME: u32 = 1 << 20;

/// Seals the frames of one new object, in any order and from several threads; the caller puts them in order.
pub struct Sealer {
    header: Header,
    protection: Protection,
}

impl Sealer {
    /// Begin an object whose frames hold at most `frame_limit` bytes of plaintext.
    pub fn new(keys: &KeyRing, context: Context<'_>, frame_limit: u32) -> Result<Self> {
        let header = Header::new(context.kind, keys, frame_limit)?;
        let protection = Protection::new(&header, keys, context)?;
        Ok(Self { header, protection })
    }

    /// The header's bytes, with which the object begins.
    pub fn header(&self) -> [u8; HEADER_LEN] {
        self.header.to_bytes()
    }

    /// Append frame `index` to `out`. Each index is sealed once; the highest one with `last`.
    pub fn seal_frame(
        &self,
        compressor: &mut Compressor,
        index: u64,
        last: bool,
        plain: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<SealedFrame> {
        self.seal(compressor, (index, last), (plain, PageFilter::NONE), out)
    }

    /// Append frame `index`, which is not the last one, to `out`; `pages` are left filtered as the compressor was
    /// told to.
    pub fn seal_pages(
        &self,
        compressor: &mut PageCompressor,
        index: u64,
        pages: &mut [u8],
        out: &mut Vec<u8>,
    ) -> Result<SealedFrame> {
        let filter = compressor.filter();
        filter.apply(pages);
        self.seal(compressor.inner(), (index, false), (pages, filter), out)
    }

    fn seal(
        &self,
        compressor: &mut Compressor,
        (index, last): (u64, bool),
        (plain, filter): (&[u8], PageFilter),
        out: &mut Vec<u8>,
    ) -> Result<SealedFrame> {
        let plain_len = u32::try_from(plain.len()).ok().filter(|len| *len <= self.header.frame_limit);
        let plain_len = plain_len.ok_or_else(|| Error::corrupt("a frame is too long to be sealed"))?;
        let start = out.len();
        out.extend_from_slice(&[0; FRAME_HEADER_LEN]);
        let raw = !compressor.append(plain, out)?;
        if raw {
            out.extend_from_slice(plain);
        }
        let body_start = start + FRAME_HEADER_LEN;
        let body_len = u32::try_from(out.len() - body_start + TAG_LEN)
            .map_err(|_| Error::corrupt("a frame is too long to be sealed"))?;
        let mut header = FrameHeader { body_len, plain_len, last, raw, filter, crc: 0 };
        let authenticated = header.authenticated();
        let tag = self.protection.protect(index, &authenticated, &mut out[body_start..])?;
        out.extend_from_slice(&tag);
        header.crc = FrameHeader::crc_of(&authenticated, &out[body_start..]);
        out[start..body_start].copy_from_slice(&header.to_bytes());
        let stored_len = body_len + u32::try_from(FRAME_HEADER_LEN).unwrap_or_default();
        Ok(SealedFrame { index, stored_len, plain_len })
    }
}

impl std::fmt::Debug for Sealer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sealer").field("header", &self.header).finish_non_exhaustive()
    }
}

/// Opens the frames of one object, in any order and from several threads.
pub struct Opener {
    header: Header,
    protection: Protection,
}

impl Opener {
    /// Begin with the first [`HEADER_LEN`] bytes of an object that should be `context`'s.
    pub fn new(keys: &KeyRing, context: Context<'_>, bytes: &[u8]) -> Result<Self> {
        let header = Header::parse(bytes)?;
        if header.kind != context.kind {
            return Err(Error::corrupt(format!(
                "the object is of kind {:?}, not {:?}",
                header.kind, context.kind
            )));
        }
        let protection = Protection::new(&header, keys, context)?;
        Ok(Self { header, protection })
    }

    /// Append the plaintext of frame `index`, with which `bytes` begins, to `out`: (is the last one, what follows).
    pub fn open_frame<'a>(
        &self,
        decompressor: &mut Decompressor,
        index: u64,
        bytes: &'a [u8],
        out: &mut Vec<u8>,
    ) -> Result<(bool, &'a [u8])> {
        self.open_beginning(decompressor, index, bytes, usize::MAX, out)
    }

    /// The same of the first pages only that hold `len` bytes. All of the frame is authenticated.
    pub fn open_beginning<'a>(
        &self,
        decompressor: &mut Decompressor,
        index: u64,
        bytes: &'a [u8],
        len: usize,
        out: &mut Vec<u8>,
    ) -> Result<(bool, &'a [u8])> {
        let (header, body, rest) = FrameHeader::split(bytes, self.header.frame_limit)?;
        let Some((content, tag)) = body.split_last_chunk::<TAG_LEN>() else {
            return Err(Error::corrupt("a frame has no tag"));
        };
        decompressor.scratch.clear();
        decompressor.scratch.extend_from_slice(content);
        self.protection.unprotect(index, &header.authenticated(), &mut decompressor.scratch, *tag)?;
        if !header.raw && self.header.compression == Compression::None {
            return Err(Error::corrupt("a frame is compressed, and the object's header says that none is"));
        }
        if header.filter != PageFilter::NONE && self.header.kind != ObjectKind::Pack {
            return Err(Error::corrupt("a frame has a page filter, and the object is not a pack"));
        }
        let start = out.len();
        let whole = header.plain_len as usize;
        let wanted = len.checked_next_multiple_of(PAGE_SIZE).map_or(whole, |pages| pages.min(whole));
        if header.raw && content.len() == whole {
            out.extend_from_slice(&decompressor.scratch[..wanted]);
        } else if header.raw {
            return Err(Error::corrupt("a frame's length is wrong"));
        } else if wanted < whole {
            decompressor.append_beginning(wanted, out)?;
        } else {
            decompressor.append_scratch(whole, out)?;
        }
        header.filter.undo(&mut out[start..]);
        Ok((header.last, rest))
    }
}

impl std::fmt::Debug for Opener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Opener").field("header", &self.header).finish_non_exhaustive()
    }
}

/// Seal `plain` as one whole object.
pub fn seal_object(keys: &KeyRing, context: Context<'_>, level: i32, plain: &[u8]) -> Result<Vec<u8>> {
    let sealer = Sealer::new(keys, context, DEFAULT_FRAME)?;
    let mut compressor = Compressor::new(level)?;
    let mut out = sealer.header().to_vec();
    let mut rest = plain;
    for index in 0.. {
        let (frame, next) = rest.split_at(rest.len().min(DEFAULT_FRAME as usize));
        sealer.seal_frame(&mut compressor, index, next.is_empty(), frame, &mut out)?;
        rest = next;
        if rest.is_empty() {
            break;
        }
    }
    Ok(out)
}

/// No object that is opened as a whole holds more; authentication alone does not bound what comes out of a small one.
const LARGEST_OBJECT: usize = 1 << 30;

/// Open one whole object.
pub fn open_object(keys: &KeyRing, context: Context<'_>, bytes: &[u8]) -> Result<Vec<u8>> {
    let open = || {
        let opener = Opener::new(keys, context, bytes)?;
        let mut decompressor = Decompressor::new()?;
        let mut out = Vec::new();
        let mut rest = &bytes[HEADER_LEN..];
        for index in 0.. {
            let (last, next) = opener.open_frame(&mut decompressor, index, rest, &mut out)?;
            if out.len() > LARGEST_OBJECT {
                return Err(Error::corrupt("the object holds more than any that was ever written"));
            }
            if last && next.is_empty() {
                break;
            }
            if last || next.is_empty() {
                return Err(Error::corrupt("the object does not end where its last frame does"));
            }
            rest = next;
        }
        Ok(out)
    };
    open().with_context(|| format!("open {}", context.name))
}

/// Check a whole object without its key: header and every frame's CRC. Finds accidents, not forgery.
pub fn scrub_object(bytes: &[u8]) -> Result<()> {
    let header = Header::parse(bytes)?;
    let mut rest = &bytes[HEADER_LEN..];
    loop {
        let (frame, _, next) = FrameHeader::split(rest, header.frame_limit)?;
        if frame.last != next.is_empty() {
            return Err(Error::corrupt("the object does not end where its last frame does"));
        }
        if frame.last {
            return Ok(());
        }
        rest = next;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;
    use crate::seal::MasterKey;

    fn ring() -> KeyRing {
        KeyRing::parse(&MasterKey::generate().unwrap().to_text()).unwrap()
    }

    fn context(name: &str) -> Context<'_> {
        Context { kind: ObjectKind::Wal, identity: "main/7", name }
    }

    fn sample(len: usize) -> Vec<u8> {
        (0..len).map(|i| u8::try_from(i * i % 251).unwrap()).collect()
    }

    #[test]
    fn objects_of_all_sizes_round_trip_with_and_without_key() {
        for keys in [ring(), KeyRing::unencrypted()] {
            for len in [0, 1, 1 << 20, (1 << 20) + 1, 3 << 20] {
                let plain = sample(len);
                let sealed = seal_object(&keys, context("a"), 1, &plain).unwrap();
                assert_eq!(open_object(&keys, context("a"), &sealed).unwrap(), plain);
                scrub_object(&sealed).unwrap();
            }
        }
    }

    #[test]
    fn r25_a_flipped_bit_anywhere_or_a_truncation_is_noticed() {
        for keys in [ring(), KeyRing::unencrypted()] {
            let sealed = seal_object(&keys, context("a"), 1, &sample(300)).unwrap();
            for bit in 0..sealed.len() * 8 {
                let mut damaged = sealed.clone();
                damaged[bit / 8] ^= 1 << (bit % 8);
                let error = open_object(&keys, context("a"), &damaged).unwrap_err();
                assert_eq!(error.kind(), Kind::Corrupt, "bit {bit}");
            }
            for len in 0..sealed.len() {
                open_object(&keys, context("a"), &sealed[..len]).unwrap_err();
                scrub_object(&sealed[..len]).unwrap_err();
            }
            open_object(&keys, context("a"), &[sealed.clone(), vec![0]].concat()).unwrap_err();
        }
    }

    #[test]
    fn r25_another_place_key_kind_or_repository_does_not_open() {
        let keys = ring();
        let sealed = seal_object(&keys, context("a"), 1, b"x").unwrap();
        open_object(&keys, context("b"), &sealed).unwrap_err();
        open_object(&ring(), context("a"), &sealed).unwrap_err();
        open_object(&keys, Context { identity: "main/8", ..context("a") }, &sealed).unwrap_err();
        open_object(&keys, Context { kind: ObjectKind::Pack, ..context("a") }, &sealed).unwrap_err();
        open_object(&KeyRing::unencrypted(), context("a"), &sealed).unwrap_err();
        let clear = seal_object(&KeyRing::unencrypted(), context("a"), 1, b"x").unwrap();
        open_object(&keys, context("a"), &clear).unwrap_err();
    }

    #[test]
    fn r25_frames_cannot_be_reordered_dropped_or_repeated() {
        let keys = ring();
        let sealer = Sealer::new(&keys, context("a"), 64).unwrap();
        let mut compressor = Compressor::new(1).unwrap();
        let frames: Vec<Vec<u8>> = (0..3)
            .map(|index| {
                let mut out = Vec::new();
                sealer.seal_frame(&mut compressor, index, index == 2, &[7; 64], &mut out).unwrap();
                out
            })
            .collect();
        let with = |order: &[usize]| {
            let mut bytes = sealer.header().to_vec();
            for index in order {
                bytes.extend_from_slice(&frames[*index]);
            }
            open_object(&keys, context("a"), &bytes)
        };
        assert_eq!(with(&[0, 1, 2]).unwrap().len(), 192);
        for order in [&[1, 0, 2][..], &[0, 2], &[0, 1], &[0, 1, 1, 2], &[2], &[0, 1, 2, 2], &[]] {
            with(order).unwrap_err();
        }
    }

    #[test]
    fn filtered_pages_come_back_and_only_from_packs() {
        let keys = ring();
        // 100 rows of 40 bytes in a page, each beginning with its number.
        let mut page = vec![0; 8192];
        for (at, half) in [(12, 24 + 400_u16), (16, 8192), (18, 8196)] {
            page[at..at + 2].copy_from_slice(&half.to_le_bytes());
        }
        for row in 0..100_u16 {
            let (pointer, at) = (24 + 4 * usize::from(row), 8192 - 40 * (row + 1));
            page[pointer..pointer + 4].copy_from_slice(&(40 << 17 | 1 << 15 | u32::from(at)).to_le_bytes());
            page[at.into()..usize::from(at) + 2].copy_from_slice(&row.to_le_bytes());
        }
        let mut compressor = PageCompressor::new(1).unwrap();
        compressor.choose_for(&page).unwrap();
        assert_ne!(compressor.filter(), PageFilter::NONE);
        for (kind, opens) in [(ObjectKind::Pack, true), (ObjectKind::Tail, false)] {
            let context = Context { kind, ..context("a") };
            let sealer = Sealer::new(&keys, context, 8192).unwrap();
            let mut out = Vec::new();
            sealer.seal_pages(&mut compressor, 0, &mut page.clone(), &mut out).unwrap();
            let opener = Opener::new(&keys, context, &sealer.header()).unwrap();
            let mut plain = vec![1, 2, 3];
            let result = opener.open_frame(&mut Decompressor::new().unwrap(), 0, &out, &mut plain);
            assert_eq!(result.is_ok(), opens, "{kind:?}");
            assert!(!opens || plain == [&[1, 2, 3], &page[..]].concat());
        }
    }

    #[test]
    fn rotation_keeps_old_objects_readable() {
        let old = MasterKey::generate().unwrap();
        let new = MasterKey::generate().unwrap();
        let sealed = seal_object(&KeyRing::parse(&old.to_text()).unwrap(), context("a"), 1, b"x").unwrap();
        let both = KeyRing::parse(&format!("{}\n{}\n", *new.to_text(), *old.to_text())).unwrap();
        assert_eq!(open_object(&both, context("a"), &sealed).unwrap(), b"x");
        assert_eq!(
            Header::parse(&seal_object(&both, context("a"), 1, b"").unwrap()).unwrap().key_id,
            new.id()
        );
    }
}
