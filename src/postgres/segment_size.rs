//! The size of WAL segments.

use crate::error::{Error, Result};

/// Bytes of a WAL segment, chosen at initdb: a power of two from 1 MiB to 1 GiB (xlog_internal.h, IsValidWalSegSize).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentSize(u32);

impl SegmentSize {
    /// The size of `bytes`.
    pub fn new(bytes: u32) -> Result<Self> {
        if bytes.is_power_of_two() && (1 << 20..=1 << 30).contains(&bytes) {
            return Ok(Self(bytes));
        }
        Err(Error::corrupt(format!("{bytes} bytes is not a valid WAL segment size")))
    }

    /// In bytes.
    pub const fn bytes(self) -> u64 {
        self.0 as u64
    }

    /// Segments whose names share their first 16 hex digits.
    pub const fn segments_per_log(self) -> u64 {
        (1 << 32) / self.bytes()
    }
}
