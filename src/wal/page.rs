//! Headers of WAL pages.

use crate::error::{Error, Result};
use crate::postgres::Lsn;

/// XLP_FIRST_IS_CONTRECORD: the page begins within a record.
const CONTINUES: u16 = 1;
/// XLP_LONG_HEADER: the header has the fields of [`LongHeader`].
const LONG: u16 = 2;
/// XLP_ALL_FLAGS: those two, XLP_BKP_REMOVABLE and XLP_FIRST_IS_OVERWRITE_CONTRECORD.
const KNOWN: u16 = 15;

/// The header that every WAL page begins with, little-endian (xlog_internal.h, XLogPageHeaderData).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageHeader {
    /// Tells the major version, see [`Major::from_wal_magic`](crate::postgres::Major::from_wal_magic).
    pub magic: u16,
    /// Flag bits.
    pub info: u16,
    /// The timeline that wrote the page; after a switch of timelines older than the one in the file's name.
    pub timeline: u32,
    /// Where in the WAL the page begins.
    pub address: Lsn,
    /// Bytes still missing of the record that the page begins within; 0 if it begins with a new one.
    pub remaining: u32,
    /// What the first page of a segment says in addition.
    pub long: Option<LongHeader>,
}

/// The rest of the header on the first page of a segment (xlog_internal.h, XLogLongPageHeaderData).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LongHeader {
    /// The cluster that wrote it, as in pg_control.
    pub system_identifier: u64,
    /// Bytes of a segment.
    pub segment_size: u32,
    /// Bytes of a WAL page.
    pub block_size: u32,
}

impl PageHeader {
    /// The header at the beginning of `page`; what comes after it is not looked at, nor whether the magic is
    /// known.
    ///
    /// Corrupt if the page is too short for its header or has flags that no version sets.
    pub fn parse(page: &[u8]) -> Result<Self> {
        let short =
            || Error::corrupt(format!("a WAL page of {} bytes is too short for its header", page.len()));
        let head: &[u8; 20] = page.first_chunk().ok_or_else(short)?;
        let info = u16::from_le_bytes([head[2], head[3]]);
        if info & !KNOWN != 0 {
            return Err(Error::corrupt(format!("a WAL page has the unknown flags {info:#06X}")));
        }
        let long = (info & LONG != 0).then(|| LongHeader::parse(page).ok_or_else(short)).transpose()?;
        Ok(Self {
            magic: u16::from_le_bytes([head[0], head[1]]),
            info,
            timeline: u32::from_le_bytes([head[4], head[5], head[6], head[7]]),
            address: Lsn::new(u64::from_le_bytes([
                head[8], head[9], head[10], head[11], head[12], head[13], head[14], head[15],
            ])),
            remaining: u32::from_le_bytes([head[16], head[17], head[18], head[19]]),
            long,
        })
    }

    /// Bytes of the header: 24, or 40 on the first page of a segment.
    pub const fn header_len(&self) -> usize {
        if self.info & LONG == 0 { 24 } else { 40 }
    }

    /// Whether the page begins with the rest of a record of the page before it.
    pub const fn continues(&self) -> bool {
        self.info & CONTINUES != 0
    }
}

impl LongHeader {
    fn parse(page: &[u8]) -> Option<Self> {
        let (identifier, rest) = page.get(24..40)?.split_first_chunk()?;
        let (segment, rest) = rest.split_first_chunk()?;
        let (block, _) = rest.split_first_chunk()?;
        Some(Self {
            system_identifier: u64::from_le_bytes(*identifier),
            segment_size: u32::from_le_bytes(*segment),
            block_size: u32::from_le_bytes(*block),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_header_parses() {
        let mut page = Vec::new();
        page.extend(0xD110_u16.to_le_bytes());
        page.extend(3_u16.to_le_bytes());
        page.extend(2_u32.to_le_bytes());
        page.extend(0x0A00_0000_u64.to_le_bytes());
        page.extend(77_u32.to_le_bytes());
        page.extend([0; 4]);
        page.extend(7_300_000_000_000_000_001_u64.to_le_bytes());
        page.extend((16_u32 << 20).to_le_bytes());
        page.extend(8192_u32.to_le_bytes());
        let header = PageHeader::parse(&page).unwrap();
        let long = LongHeader {
            system_identifier: 7_300_000_000_000_000_001,
            segment_size: 16 << 20,
            block_size: 8192,
        };
        let expected = PageHeader {
            magic: 0xD110,
            info: 3,
            timeline: 2,
            address: Lsn::new(0x0A00_0000),
            remaining: 77,
            long: Some(long),
        };
        assert_eq!(header, expected);
        assert!(header.continues());
        assert_eq!(header.header_len(), 40);
    }

    #[test]
    fn short_pages_and_unknown_flags_are_refused() {
        let mut page = [0; 40];
        page[2] = 2;
        for length in 0..40 {
            PageHeader::parse(&page[..length]).unwrap_err();
        }
        page[2] = 16;
        PageHeader::parse(&page).unwrap_err();
        page[2] = 0;
        assert_eq!(PageHeader::parse(&page[..24]).unwrap().header_len(), 24);
    }
}
