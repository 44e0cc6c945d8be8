//! Zstandard contexts that are made once and reused: no allocation per frame.

use std::io::{Cursor, ErrorKind};

use zstd::stream::raw::{self, Operation};
use zstd::zstd_safe::CParameter;

use super::page_filter::PageFilter;
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

/// Compresses files of a data directory, their pages filtered in the way that suits those at hand.
#[derive(Debug)]
pub struct PageCompressor {
    compressor: Compressor,
    /// Judges samples: nearly always it finds the filter that `compressor` would, at a fraction of a high level's time.
    judge: Compressor,
    filter: PageFilter,
    sample: Vec<u8>,
    scratch: Vec<u8>,
}

impl PageCompressor {
    /// Bytes of a sample, four pages.
    const SAMPLE: usize = 32 << 10;
    /// Fewer bytes than this are not worth a sample.
    const WORTH_A_SAMPLE: usize = 8 * Self::SAMPLE;

    /// A compressor at zstd `level`.
    pub fn new(level: i32) -> Result<Self> {
        // What of a filtered page repeats at all does so in long stretches: with matches of 7 bytes and a table that
        // leaves room in the processor's nearest cache, level 1 takes a fifth less time; only text is stored larger.
        let quick = || Compressor::with(1, &[CParameter::HashLog(12), CParameter::MinMatch(7)]);
        let compressor = if level == 1 { quick()? } else { Compressor::new(level)? };
        Ok(Self {
            compressor,
            judge: quick()?,
            filter: PageFilter::NONE,
            sample: Vec::new(),
            scratch: Vec::new(),
        })
    }

    /// Choose the filter for pages like those that `pages` begins with.
    pub fn choose_for(&mut self, pages: &[u8]) -> Result<()> {
        let candidates = PageFilter::candidates(pages);
        if pages.len() < Self::WORTH_A_SAMPLE {
            // The one that suits most.
            self.filter = candidates.get(1).copied().unwrap_or_default();
            return Ok(());
        }
        let mut best = (self.judge(pages, PageFilter::NONE)?, PageFilter::NONE);
        for filter in candidates {
            let len = self.judge(pages, *filter)?;
            if len < best.0 {
                best = (len, *filter);
            }
        }
        self.filter = best.1;
        Ok(())
    }

    /// Bytes of the sample with this filter.
    fn judge(&mut self, pages: &[u8], filter: PageFilter) -> Result<usize> {
        self.sample.clear();
        self.sample.extend_from_slice(&pages[..Self::SAMPLE]);
        filter.apply(&mut self.sample);
        self.scratch.clear();
        let shorter = self.judge.append(&self.sample, &mut self.scratch)?;
        Ok(if shorter { self.scratch.len() } else { Self::SAMPLE })
    }

    /// The filter chosen last.
    pub const fn filter(&self) -> PageFilter {
        self.filter
    }

    /// What compresses, filtered or not.
    pub const fn inner(&mut self) -> &mut Compressor {
        &mut self.compressor
    }
}

/// Decompresses frames; one for each thread.
pub struct Decompressor {
    context: zstd::bulk::Decompressor<'static>,
    /// Of those that only the beginning is wanted of: made when one comes.
    stream: Option<raw::Decoder<'static>>,
    pub(super) scratch: Vec<u8>,
}

impl Decompressor {
    /// A new decompressor.
    pub fn new() -> Result<Self> {
        let context = zstd::bulk::Decompressor::new().map_err(|cause| no_zstd(&cause))?;
        Ok(Self { context, stream: None, scratch: Vec::new() })
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

    /// The same of the first `len` bytes only: what is behind them is not decompressed.
    pub(super) fn append_beginning(&mut self, len: usize, out: &mut Vec<u8>) -> Result<()> {
        let stream = match &mut self.stream {
            Some(stream) => stream,
            none => none.insert(raw::Decoder::new().map_err(|cause| no_zstd(&cause))?),
        };
        let start = out.len();
        out.resize(start + len, 0);
        let (mut read, mut written) = (0, start);
        let mut decompress = || {
            stream.reinit()?;
            while written < start + len {
                let status = stream.run_on_buffers(&self.scratch[read..], &mut out[written..])?;
                if status.bytes_read == 0 && status.bytes_written == 0 {
                    return Err(ErrorKind::UnexpectedEof.into());
                }
                read += status.bytes_read;
                written += status.bytes_written;
            }
            Ok(())
        };
        decompress().map_err(|cause: std::io::Error| {
            out.truncate(start);
            Error::corrupt(format!("decompress: {cause}"))
        })
    }
}

fn no_zstd(cause: &std::io::Error) -> Error {
    Error::new(Kind::Other, format!("set up zstd: {cause}"))
}

impl std::fmt::Debug for Decompressor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Decompressor")
    }
}
