//! Names of WAL files, exactly as PostgreSQL writes them (xlog_internal.h).

use std::fmt;
use std::str::FromStr;

use super::lsn::Lsn;
use super::segment_size::SegmentSize;
use super::timeline::TimelineId;
use crate::error::{Error, Result};

/// The name of a segment: timeline, then the two halves of its number. What number that is depends on the segment size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SegmentName {
    /// Its timeline.
    pub timeline: TimelineId,
    /// Digits 9 to 16.
    pub log: u32,
    /// Digits 17 to 24.
    pub segment: u32,
}

impl SegmentName {
    /// Segment `number`, counted from the beginning of the WAL.
    pub fn from_number(timeline: TimelineId, number: u64, size: SegmentSize) -> Self {
        let half = |value: u64| u32::try_from(value).unwrap_or(u32::MAX);
        let per_log = size.segments_per_log();
        Self { timeline, log: half(number / per_log), segment: half(number % per_log) }
    }

    /// The segment that holds the byte at `position`.
    pub fn containing(timeline: TimelineId, position: Lsn, size: SegmentSize) -> Self {
        Self::from_number(timeline, position.get() / size.bytes(), size)
    }

    /// Its number, counted from the beginning of the WAL.
    pub fn number(&self, size: SegmentSize) -> u64 {
        u64::from(self.log) * size.segments_per_log() + u64::from(self.segment)
    }

    /// Its first byte.
    pub fn start(&self, size: SegmentSize) -> Lsn {
        Lsn::new(self.number(size).saturating_mul(size.bytes()))
    }

    /// The position `offset` bytes behind its first.
    pub fn position(&self, offset: u64, size: SegmentSize) -> Lsn {
        Lsn::new(self.start(size).get().saturating_add(offset))
    }

    /// The byte after its last.
    pub fn end(&self, size: SegmentSize) -> Lsn {
        Lsn::new(self.number(size).saturating_add(1).saturating_mul(size.bytes()))
    }

    /// The segment after it on the same timeline.
    #[must_use]
    pub fn next(&self, size: SegmentSize) -> Self {
        Self::from_number(self.timeline, self.number(size) + 1, size)
    }

    /// The same segment on another timeline.
    #[must_use]
    pub const fn with_timeline(&self, timeline: TimelineId) -> Self {
        Self { timeline, ..*self }
    }

    /// The first 16 digits, shared with at most 4 GiB of other WAL.
    pub fn directory(&self) -> String {
        format!("{:08X}{:08X}", self.timeline.get(), self.log)
    }

    /// Whether a cluster with segments of this size has such a segment.
    pub fn is_valid_for(&self, size: SegmentSize) -> bool {
        u64::from(self.segment) < size.segments_per_log()
    }
}

impl fmt::Display for SegmentName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{:08X}{:08X}{:08X}", self.timeline.get(), self.log, self.segment))
    }
}

impl FromStr for SegmentName {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text.parse()? {
            WalName::Segment(name) => Ok(name),
            _ => Err(Error::usage(format!("\"{text}\" is not the name of a WAL segment"))),
        }
    }
}

/// The name of a file that PostgreSQL archives or asks for (R4).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum WalName {
    /// A timeline's history.
    History(TimelineId),
    /// A segment.
    Segment(SegmentName),
    /// The last, unfinished segment of a timeline that a promotion ended.
    Partial(SegmentName),
    /// A backup history file.
    BackupHistory {
        /// The segment in which the backup starts.
        segment: SegmentName,
        /// Where in that segment, bytes.
        offset: u32,
    },
}

impl WalName {
    /// The segment that the file belongs to; histories belong to none.
    pub const fn segment(&self) -> Option<SegmentName> {
        match self {
            Self::History(_) => None,
            Self::Segment(segment) | Self::Partial(segment) | Self::BackupHistory { segment, .. } => {
                Some(*segment)
            }
        }
    }

    /// The timeline that the file belongs to.
    pub fn timeline(&self) -> TimelineId {
        match self {
            Self::History(timeline) => *timeline,
            Self::Segment(segment) | Self::Partial(segment) | Self::BackupHistory { segment, .. } => {
                segment.timeline
            }
        }
    }
}

impl fmt::Display for WalName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::History(timeline) => write!(f, "{:08X}.history", timeline.get()),
            Self::Segment(segment) => write!(f, "{segment}"),
            Self::Partial(segment) => write!(f, "{segment}.partial"),
            Self::BackupHistory { segment, offset } => write!(f, "{segment}.{offset:08X}.backup"),
        }
    }
}

/// Eight upper-case hex digits.
fn word(text: &str) -> Option<u32> {
    let fits = text.len() == 8 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'A'..=b'F'));
    fits.then(|| u32::from_str_radix(text, 16).ok()).flatten()
}

fn segment(text: &str) -> Option<SegmentName> {
    let part = |range: std::ops::Range<usize>| word(text.get(range)?);
    let timeline = TimelineId::new(part(0..8)?).ok()?;
    (text.len() == 24).then_some(SegmentName { timeline, log: part(8..16)?, segment: part(16..24)? })
}

fn parse(text: &str) -> Option<WalName> {
    let mut parts = text.split('.');
    match (parts.next()?, parts.next(), parts.next(), parts.next()) {
        (name, None, None, None) => segment(name).map(WalName::Segment),
        (name, Some("partial"), None, None) => segment(name).map(WalName::Partial),
        (name, Some("history"), None, None) => Some(WalName::History(TimelineId::new(word(name)?).ok()?)),
        (name, Some(offset), Some("backup"), None) => {
            Some(WalName::BackupHistory { segment: segment(name)?, offset: word(offset)? })
        }
        _ => None,
    }
}

impl FromStr for WalName {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        parse(text).ok_or_else(|| Error::usage(format!("\"{text}\" is not the name of a WAL file")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip() {
        for text in [
            "000000010000000A000000FF",
            "FFFFFFFF0000000A000000FF.partial",
            "000000010000000A000000FF.00000028.backup",
            "0000000A.history",
        ] {
            assert_eq!(text.parse::<WalName>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn what_is_no_name_is_named() {
        for text in [
            "",
            ".",
            "x",
            "000000010000000a000000ff",
            "00000000000000010000000A",
            "000000010000000A000000FF0",
            "000000010000000A000000F",
            "00000001.history.x",
            "+0000001.history",
            "000000010000000A000000FF.28.backup",
            "000000010000000A000000FF.partial.gz",
            "é00000010000000A000000F",
            "../000000010000000A000000FF",
        ] {
            let error = text.parse::<WalName>().unwrap_err().to_string();
            assert_eq!(error, format!("\"{text}\" is not the name of a WAL file"));
        }
    }

    #[test]
    fn segments_count_through_logs_of_any_size() {
        let timeline = TimelineId::new(3).unwrap();
        for (bytes, last) in [(1 << 20, 4095), (16 << 20, 255), (1 << 30, 3)] {
            let size = SegmentSize::new(bytes).unwrap();
            let name = SegmentName { timeline, log: 7, segment: last };
            assert!(name.is_valid_for(size));
            assert!(!SegmentName { segment: last + 1, ..name }.is_valid_for(size));
            let next = name.next(size);
            assert_eq!((next.log, next.segment), (8, 0));
            assert_eq!(SegmentName::containing(timeline, name.start(size), size), name);
            assert_eq!(SegmentName::containing(timeline, name.end(size), size), next);
        }
    }
}
