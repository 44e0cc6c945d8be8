//! Whether a file is the WAL segment that its name claims (R3).

use super::page::PageHeader;
use crate::error::{Error, Result};
use crate::postgres::{Lsn, Major, SegmentName, SegmentSize, WAL_PAGE_SIZE};

/// What may follow the valid pages of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SegmentContent {
    /// Only zeros: a finished segment.
    Full,
    /// Anything, mostly pages of the segment whose file was recycled: one that is still written, or a
    /// `.partial`.
    Partial,
}

/// A segment that passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CheckedSegment {
    /// The major version that wrote it.
    pub major: Major,
    /// The end of its last valid page.
    pub valid_end: Lsn,
    /// The timeline that wrote its first page; an ancestor's if a promotion began within the segment.
    pub first_page_timeline: u32,
}

/// Checks a segment that is fed slice by slice, by its page headers; records are not looked at.
#[derive(Debug)]
pub struct SegmentChecker {
    name: SegmentName,
    size: SegmentSize,
    system_identifier: u64,
    content: SegmentContent,
    /// Bytes fed.
    length: u64,
    /// Of the first page.
    first: Option<FirstPage>,
    /// Bytes up to the end of the last valid page.
    valid: u64,
    /// What the next page has to be.
    expects: Expects,
}

#[derive(Debug, Clone, Copy)]
struct FirstPage {
    major: Major,
    magic: u16,
    timeline: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Expects {
    Valid,
    Zeros,
    Anything,
}

const ZEROS: [u8; WAL_PAGE_SIZE] = [0; WAL_PAGE_SIZE];

impl SegmentChecker {
    /// A checker for the segment `name` of the cluster `system_identifier`.
    pub const fn new(
        name: SegmentName,
        size: SegmentSize,
        system_identifier: u64,
        content: SegmentContent,
    ) -> Self {
        Self {
            name,
            size,
            system_identifier,
            content,
            length: 0,
            first: None,
            valid: 0,
            expects: Expects::Valid,
        }
    }

    /// Check the next `bytes`: whole pages, unless the file ends within a page, which is an error.
    ///
    /// Corrupt if the file is not what its name claims, Server if another cluster or an unknown version wrote
    /// it. After an error the checker is of no more use.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<()> {
        let (pages, rest) = bytes.as_chunks::<WAL_PAGE_SIZE>();
        for page in pages {
            if self.length < self.size.bytes() {
                self.page(page)?;
            }
            self.length = self.length.saturating_add(WAL_PAGE_SIZE as u64);
        }
        self.length = self.length.saturating_add(rest.len() as u64);
        if !rest.is_empty() || self.length > self.size.bytes() {
            return Err(self.wrong_length());
        }
        Ok(())
    }

    /// What was found, once all was fed. Corrupt if that was not a whole segment.
    pub fn finish(self) -> Result<CheckedSegment> {
        match self.first {
            Some(first) if self.length == self.size.bytes() => Ok(CheckedSegment {
                major: first.major,
                valid_end: self.position(self.valid),
                first_page_timeline: first.timeline,
            }),
            _ => Err(self.wrong_length()),
        }
    }

    fn page(&mut self, page: &[u8; WAL_PAGE_SIZE]) -> Result<()> {
        match self.expects {
            Expects::Anything => return Ok(()),
            Expects::Zeros if *page == ZEROS => return Ok(()),
            Expects::Zeros => return Err(self.stale()),
            Expects::Valid => {}
        }
        let Some(first) = self.first else {
            self.first = Some(self.first_page(page)?);
            self.valid = WAL_PAGE_SIZE as u64;
            return Ok(());
        };
        let expected = self.position(self.length);
        let valid = PageHeader::parse(page)
            .is_ok_and(|header| header.magic == first.magic && header.address == expected);
        if valid {
            self.valid = self.length + WAL_PAGE_SIZE as u64;
        } else if self.content == SegmentContent::Partial {
            self.expects = Expects::Anything;
        } else if *page == ZEROS {
            self.expects = Expects::Zeros;
        } else {
            return Err(self.stale());
        }
        Ok(())
    }

    fn first_page(&self, page: &[u8; WAL_PAGE_SIZE]) -> Result<FirstPage> {
        let name = self.name;
        if *page == ZEROS {
            return Err(Error::corrupt(format!("segment {name} is all zeros"))
                .hint("was the file damaged or preallocated by a file system snapshot?"));
        }
        let no_wal = || {
            Error::corrupt(format!("segment {name} does not begin like a WAL segment"))
                .hint("is the file damaged, or compressed or encrypted by another tool?")
        };
        let header = PageHeader::parse(page).map_err(|_| no_wal())?;
        let long = header.long.ok_or_else(no_wal)?;
        let start = self.position(0);
        let major = Major::from_wal_magic(header.magic);
        if header.address != start {
            // Neither magic nor address: chance made the flags look right.
            return Err(if major.is_none() {
                no_wal()
            } else {
                Error::corrupt(format!(
                    "segment {name} holds the WAL from {} on, its name says {start}",
                    header.address
                ))
                .hint("was the file renamed, or is it a recycled one that was never written?")
            });
        }
        let Some(major) = major else {
            return Err(Error::server(format!(
                "segment {name} was made by a PostgreSQL version that this program does not know \
                 (WAL page magic {:04X})",
                header.magic
            ))
            .hint("is there a newer release of walproof for that version?"));
        };
        if long.system_identifier != self.system_identifier {
            return Err(Error::server(format!(
                "segment {name} belongs to the cluster with system identifier {}, this one is {}",
                long.system_identifier, self.system_identifier
            ))
            .hint("do two clusters share one configuration or repository?"));
        }
        if u64::from(long.segment_size) != self.size.bytes() {
            return Err(Error::corrupt(format!(
                "segment {name} says that segments have {} bytes, in this cluster they have {}",
                long.segment_size,
                self.size.bytes()
            ))
            .hint("was the segment size changed with pg_resetwal?"));
        }
        if usize::try_from(long.block_size) != Ok(WAL_PAGE_SIZE) {
            return Err(Error::server(format!(
                "segment {name} has WAL blocks of {} bytes; only 8 kB blocks are supported",
                long.block_size
            )));
        }
        if header.timeline > name.timeline.get() {
            return Err(Error::corrupt(format!(
                "segment {name} begins on timeline {}, later than its name says",
                header.timeline
            ))
            .hint("was the file renamed?"));
        }
        Ok(FirstPage { major, magic: header.magic, timeline: header.timeline })
    }

    fn position(&self, offset: u64) -> Lsn {
        self.name.position(offset, self.size)
    }

    fn stale(&self) -> Error {
        let position = self.position(self.length);
        Error::corrupt(format!(
            "segment {} holds stale pages: it is not finished (page at {position})",
            self.name
        ))
        .hint("is something other than archive_command handing over files of pg_wal, or is the disk failing?")
    }

    fn wrong_length(&self) -> Error {
        let (found, size) = (self.length, self.size.bytes());
        let found = if found > size { "more".to_owned() } else { found.to_string() };
        Error::corrupt(format!("segment {} has {found} bytes instead of {size}", self.name))
            .hint("was the file copied only in part, or is it being written?")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;
    use crate::postgres::{TimelineId, noise::noise};

    const SIZE: u32 = 1 << 20;
    const SYSTEM: u64 = 7_300_000_000_000_000_001;

    fn name() -> SegmentName {
        SegmentName { timeline: TimelineId::new(2).unwrap(), log: 1, segment: 3 }
    }

    /// The segment above with `pages` valid pages and zeros.
    fn segment(pages: usize) -> Vec<u8> {
        let size = SegmentSize::new(SIZE).unwrap();
        let mut bytes = vec![0; SIZE as usize];
        for (index, page) in bytes.chunks_mut(WAL_PAGE_SIZE).take(pages).enumerate() {
            let address = name().start(size).get() + (index * WAL_PAGE_SIZE) as u64;
            page.fill(0xAB);
            page[..2].copy_from_slice(&0xD110_u16.to_le_bytes());
            page[2..4].copy_from_slice(&(if index == 0 { 2_u16 } else { 0 }).to_le_bytes());
            page[4..8].copy_from_slice(&1_u32.to_le_bytes());
            page[8..16].copy_from_slice(&address.to_le_bytes());
            if index == 0 {
                page[24..32].copy_from_slice(&SYSTEM.to_le_bytes());
                page[32..36].copy_from_slice(&SIZE.to_le_bytes());
                page[36..40].copy_from_slice(&8192_u32.to_le_bytes());
            }
        }
        bytes
    }

    fn check_in(slices: usize, bytes: &[u8], content: SegmentContent) -> Result<CheckedSegment> {
        let size = SegmentSize::new(SIZE).unwrap();
        let mut checker = SegmentChecker::new(name(), size, SYSTEM, content);
        bytes.chunks(slices).try_for_each(|slice| checker.feed(slice))?;
        checker.finish()
    }

    fn check(bytes: &[u8], content: SegmentContent) -> Result<CheckedSegment> {
        let whole = check_in(bytes.len().max(1), bytes, content);
        let sliced = check_in(3 * WAL_PAGE_SIZE, bytes, content);
        assert_eq!(whole.is_ok(), sliced.is_ok());
        if let (Ok(whole), Ok(sliced)) = (&whole, &sliced) {
            assert_eq!(whole, sliced);
        }
        whole
    }

    #[test]
    fn a_finished_segment_passes() {
        for pages in [1, 5, 128] {
            let checked = check(&segment(pages), SegmentContent::Full).unwrap();
            let end = (1 << 32) + 3 * u64::from(SIZE) + (pages * WAL_PAGE_SIZE) as u64;
            assert_eq!(checked.valid_end, Lsn::new(end));
            assert_eq!(checked.first_page_timeline, 1);
            assert_eq!(checked.major.get(), 15);
        }
    }

    #[test]
    fn stale_pages_pass_only_in_partial_segments() {
        for stale in [3, 50] {
            let mut bytes = segment(3);
            bytes[stale * WAL_PAGE_SIZE..(stale + 1) * WAL_PAGE_SIZE]
                .copy_from_slice(&segment(9)[8 * 8192..9 * 8192]);
            let error = check(&bytes, SegmentContent::Full).unwrap_err();
            assert!(error.to_string().contains("holds stale pages: it is not finished"), "{error}");
            let checked = check(&bytes, SegmentContent::Partial).unwrap();
            assert_eq!(checked.valid_end, Lsn::new((1 << 32) + 3 * u64::from(SIZE) + 3 * 8192));
        }
        let mut bytes = segment(3);
        bytes[SIZE as usize - 1] = 1;
        check(&bytes, SegmentContent::Full).unwrap_err();
        check(&bytes, SegmentContent::Partial).unwrap();
    }

    #[test]
    fn what_the_first_page_must_say() {
        for (offset, byte, kind, text) in [
            (0, 0xFF, Kind::Server, "does not know (WAL page magic D1FF)"),
            (2, 0, Kind::Corrupt, "does not begin like a WAL segment"),
            (3, 1, Kind::Corrupt, "does not begin like a WAL segment"),
            (4, 3, Kind::Corrupt, "begins on timeline 3"),
            (12, 9, Kind::Corrupt, "holds the WAL from 9/300000 on"),
            (24, 0, Kind::Server, "this one is 7300000000000000001"),
            (34, 0x20, Kind::Corrupt, "says that segments have 2097152 bytes"),
            (37, 0x40, Kind::Server, "WAL blocks of 16384 bytes"),
        ] {
            let mut bytes = segment(4);
            bytes[offset] = byte;
            let error = check(&bytes, SegmentContent::Partial).unwrap_err();
            assert_eq!(error.kind(), kind, "{error}");
            assert!(error.to_string().contains(text), "{error}");
        }
        let error = check(&segment(0), SegmentContent::Full).unwrap_err();
        assert_eq!(error.to_string(), "segment 000000020000000100000003 is all zeros");
    }

    #[test]
    fn the_length_must_be_exact() {
        let bytes = segment(4);
        let mut longer = bytes.clone();
        longer.extend([0; 8192]);
        for wrong in
            [&bytes[..0], &bytes[..1], &bytes[..8192], &bytes[..8193], &longer, &longer[..=SIZE as usize]]
        {
            let error = check(wrong, SegmentContent::Full).unwrap_err();
            assert!(error.to_string().contains("bytes instead of 1048576"), "{error}");
        }
    }

    #[test]
    fn no_bytes_make_it_panic() {
        let mut random = noise();
        let good = segment(6);
        for _ in 0..300 {
            let mut bytes = good.clone();
            for _ in 0..random() % 6 {
                bytes[random() % 50_000] = random().to_le_bytes()[0];
            }
            bytes.truncate(random() % (SIZE as usize * 2));
            let _ = check(&bytes, SegmentContent::Full);
            let _ = check(&bytes, SegmentContent::Partial);
        }
    }
}
