//! Log sequence numbers.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::segment_size::SegmentSize;
use crate::error::{Error, Result};

/// A position in the WAL, in bytes since its beginning; written `0/504AE60`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Lsn(u64);

impl Lsn {
    /// PostgreSQL's InvalidXLogRecPtr.
    pub const INVALID: Self = Self(0);

    /// The position at this byte.
    pub const fn new(bytes: u64) -> Self {
        Self(bytes)
    }

    /// Bytes since the beginning of the WAL.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// `bytes` later; `None` past the end of all WAL.
    pub fn checked_add(self, bytes: u64) -> Option<Self> {
        self.0.checked_add(bytes).map(Self)
    }

    /// Bytes from `earlier` to here, 0 if it is not earlier.
    pub const fn offset_from(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }

    /// The first byte of the segment that holds this position.
    #[must_use]
    pub const fn segment_start(self, size: SegmentSize) -> Self {
        Self(self.0 - self.0 % size.bytes())
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{:X}/{:X}", self.0 >> 32, self.0 & 0xFFFF_FFFF))
    }
}

impl FromStr for Lsn {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let half = |part: &str| {
            let fits = (1..=8).contains(&part.len()) && part.bytes().all(|byte| byte.is_ascii_hexdigit());
            fits.then(|| u64::from_str_radix(part, 16).ok()).flatten()
        };
        let halves = text.split_once('/').and_then(|(high, low)| half(high).zip(half(low)));
        let (high, low) =
            halves.ok_or_else(|| Error::usage(format!("\"{text}\" is not an LSN (like 0/504AE60)")))?;
        Ok(Self(high << 32 | low))
    }
}

impl TryFrom<String> for Lsn {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<Lsn> for String {
    fn from(position: Lsn) -> Self {
        position.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lsns_round_trip() {
        for text in ["0/0", "0/504AE60", "A/1", "FFFFFFFF/FFFFFFFF"] {
            assert_eq!(text.parse::<Lsn>().unwrap().to_string(), text);
        }
        assert_eq!("0000000a/00000001".parse::<Lsn>().unwrap().to_string(), "A/1");
    }

    #[test]
    fn what_is_no_lsn_is_named() {
        for text in ["", "0", "0/", "/0", "0/123456789", "0/x", "+0/1", "0/ 1", "0/1/2"] {
            let error = text.parse::<Lsn>().unwrap_err().to_string();
            assert!(error.starts_with(&format!("\"{text}\" is not an LSN")), "{error}");
        }
    }
}
