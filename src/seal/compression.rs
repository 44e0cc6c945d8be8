//! Zstandard contexts that are made once and reused: no allocation per frame.

use std::io::Cursor;

use zstd::zstd_safe::CParameter;

use crate::error::{Error, Kind, Result};

/// Compresses frames; one for each thread.
pub struct Compressor {
    context: zstd::bulk::Compressor<'static>,
}

impl Compressor {
    /// A compressor at zstd `level` (negative levels are faster than 1).
    pub fn new(level: i32) -> Result<Self> {
        Self::with(level, &[])
    }

    /// A compressor with other zstd parameters than `level` brings.
    fn with(level: i32, parameters: &[CParameter]) -> Result<Self> {
        let failed =
            |cause: std::io::Error| Error::new(Kind::Other, format!("set up zstd level {level}: {cause}"));
        let mut context = zstd::bulk::Compressor::new(level).map_err(failed)?;
        // The frame header carries the length and a checksum already.
        let always = [CParameter::ContentSizeFlag(false), CParameter::ChecksumFlag(false)];
        for parameter in always.iter().chain(parameters) {
            context.set_parameter(*parameter).map_err(failed)?;
        }
        Ok(Self { context })
    }

    /// Append the compressed `plain` to `out`; false, and `out` as it was, when that would hardly save anything.
    pub(super) fn append(&mut self, plain: &[u8], out: &mut Vec<u8>) -> Result<bool> {
        let start = out.len();
        out.reserve(zstd::zstd_safe::compress_bound(plain.len()));
        let mut cursor = Cursor::new(&mut *out);
        cursor.set_position(start as u64);
        let len = self
            .context
            .compress_to_buffer(plain, &mut cursor)
            .map_err(|cause| Error::new(Kind::Other, format!("compress: {cause}")))?;
        let worth_it = len < plain.len() - plain.len() / 32;
        out.truncate(if worth_it { start + len } else { start });
        Ok(worth_it)
    }
}

impl std::fmt::Debug for Compressor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Compressor")
    }
}

/// Compresses pages of relations, in the way that suits those at hand.
///
/// zstd level 1 looks for matches of 7 bytes and more. Rows and texts lose 2 % by that, and level 1 with matches of 6
/// gets them back for a few percent more time; the entries of B-trees repeat in less, and lose a quarter. So a sample
/// of the pages decides, and nobody pays for looking closer where that finds nothing.
#[derive(Debug)]
pub struct PageCompressor {
    quick: Compressor,
    /// `None` at levels other than 1: they are taken as they are.
    close: Option<Compressor>,
    is_close: bool,
    scratch: Vec<u8>,
}

impl PageCompressor {
    /// Bytes of a sample: both ways cost a hundredth of what a region of 8 MiB does.
    const SAMPLE: usize = 64 << 10;
    /// Looking closer at fewer bytes costs less than a sample.
    const WORTH_A_SAMPLE: usize = 4 * Self::SAMPLE;

    /// A compressor at zstd `level`.
    pub fn new(level: i32) -> Result<Self> {
        let (quick, close) = if level == 1 {
            let quick = Compressor::with(level, &[CParameter::HashLog(14), CParameter::MinMatch(6)])?;
            (quick, Some(Compressor::with(level, &[CParameter::HashLog(14), CParameter::MinMatch(4)])?))
        } else {
            (Compressor::new(level)?, None)
        };
        Ok(Self { quick, close, is_close: false, scratch: Vec::new() })
    }

    /// Choose the way for pages like those that `pages` begins with.
    pub fn choose_for(&mut self, pages: &[u8]) -> Result<()> {
        let Some(close) = &mut self.close else { return Ok(()) };
        if pages.len() < Self::WORTH_A_SAMPLE {
            self.is_close = true;
            return Ok(());
        }
        let sample = &pages[..Self::SAMPLE];
        let mut len = |compressor: &mut Compressor| {
            self.scratch.clear();
            compressor.append(sample, &mut self.scratch)?;
            Ok(if self.scratch.is_empty() { sample.len() } else { self.scratch.len() })
        };
        let (quick, close) = (len(&mut self.quick)?, len(close)?);
        self.is_close = close < quick - quick / 32;
        Ok(())
    }

    /// The compressor chosen last.
    pub fn chosen(&mut self) -> &mut Compressor {
        match &mut self.close {
            Some(close) if self.is_close => close,
            _ => &mut self.quick,
        }
    }
}

/// Decompresses frames; one for each thread.
pub struct Decompressor {
    context: zstd::bulk::Decompressor<'static>,
    pub(super) scratch: Vec<u8>,
}

impl Decompressor {
    /// A new decompressor.
    pub fn new() -> Result<Self> {
        let context = zstd::bulk::Decompressor::new()
            .map_err(|cause| Error::new(Kind::Other, format!("set up zstd: {cause}")))?;
        Ok(Self { context, scratch: Vec::new() })
    }

    /// Append exactly `plain_len` bytes, what the scratch buffer (already authenticated) decompresses to, to `out`.
    pub(super) fn append_scratch(&mut self, plain_len: usize, out: &mut Vec<u8>) -> Result<()> {
        let start = out.len();
        out.reserve(plain_len);
        let mut cursor = Cursor::new(&mut *out);
        cursor.set_position(start as u64);
        let len = self
            .context
            .decompress_to_buffer(&self.scratch, &mut cursor)
            .map_err(|cause| Error::corrupt(format!("decompress: {cause}")))?;
        if len == plain_len {
            return Ok(());
        }
        out.truncate(start);
        Err(Error::corrupt(format!("decompress: {len} bytes came out instead of {plain_len}")))
    }
}

impl std::fmt::Debug for Decompressor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Decompressor")
    }
}
