//! Where a piece of a tail lies: its segment, generation and bytes.

use std::fmt;
use std::str::FromStr;

use crate::error::{Error, Result};
use crate::postgres::SegmentName;
use crate::seal::fill_random;

/// Which of the tails of one segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TailGeneration {
    /// The one before it, plus one.
    pub count: u32,
    /// Random, should two begin the same count.
    pub writer: u32,
}

impl TailGeneration {
    /// The generation after `before`.
    pub fn after(before: Option<Self>) -> Result<Self> {
        let mut random = [0; 4];
        fill_random(&mut random)?;
        let count = before.map_or(0, |before| before.count.saturating_add(1));
        Ok(Self { count, writer: u32::from_le_bytes(random) })
    }
}

impl fmt::Display for TailGeneration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}{:08x}", self.count, self.writer)
    }
}

impl FromStr for TailGeneration {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let halves = text.split_at_checked(8).and_then(|(count, writer)| hex(count).zip(hex(writer)));
        let (count, writer) =
            halves.ok_or_else(|| Error::corrupt(format!("\"{text}\" is not a generation of a tail")))?;
        Ok(Self { count, writer })
    }
}

/// Eight lower-case hex digits.
pub(crate) fn hex(text: &str) -> Option<u32> {
    let fits = text.len() == 8 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    fits.then(|| u32::from_str_radix(text, 16).ok()).flatten()
}

/// A piece's place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TailPieceName {
    /// The unfinished segment.
    pub segment: SegmentName,
    /// Which tail of it.
    pub generation: TailGeneration,
    /// First byte, counted from the start of the segment.
    pub start: u32,
    /// The byte after its last.
    pub end: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generations_round_trip_and_count_up() {
        let first = TailGeneration::after(None).unwrap();
        let second = TailGeneration::after(Some(first)).unwrap();
        assert!(first < second);
        assert_eq!(second.to_string().parse::<TailGeneration>().unwrap(), second);
        for text in ["", "0", "0123456789abcde", "0123456789ABCDEF", "0123456789abcdef0"] {
            text.parse::<TailGeneration>().unwrap_err();
        }
    }
}
