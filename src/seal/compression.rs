//! Zstandard contexts that are made once and reused: no allocation per frame.

use std::io::Cursor;

use crate::error::{Error, Kind, Result};

/// Compresses frames; one for each thread.
pub struct Compressor {
    context: zstd::bulk::Compressor<'static>,
}

impl Compressor {
    /// A compressor at zstd `level` (negative levels are faster than 1).
    pub fn new(level: i32) -> Result<Self> {
        let failed =
            |cause: std::io::Error| Error::new(Kind::Other, format!("set up zstd level {level}: {cause}"));
        let mut context = zstd::bulk::Compressor::new(level).map_err(failed)?;
        // The frame header carries the length and a checksum already.
        context.set_parameter(zstd::zstd_safe::CParameter::ContentSizeFlag(false)).map_err(failed)?;
        context.set_parameter(zstd::zstd_safe::CParameter::ChecksumFlag(false)).map_err(failed)?;
        Ok(Self { context })
    }

    /// A compressor for pages of relations. Level 1 alone looks for long matches only; pages repeat short ones, and a
    /// larger table finds 5 % more of them for about a tenth more CPU than level 1, less than level 2 takes.
    pub fn for_pages(level: i32) -> Result<Self> {
        let mut compressor = Self::new(level)?;
        if level == 1 {
            for parameter in
                [zstd::zstd_safe::CParameter::HashLog(15), zstd::zstd_safe::CParameter::MinMatch(5)]
            {
                compressor
                    .context
                    .set_parameter(parameter)
                    .map_err(|cause| Error::new(Kind::Other, format!("set up zstd: {cause}")))?;
            }
        }
        Ok(compressor)
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
