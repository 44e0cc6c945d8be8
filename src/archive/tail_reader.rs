//! The tail's bytes: the flushed part of the segment that PostgreSQL still writes to, read beside the server.
//!
//! Bytes before the flush LSN are never written with other content on the same timeline; a physical walsender reads
//! them in the same way. Bytes behind it are never looked at.

use std::fs::File;
use std::os::unix::fs::FileExt;

use super::ready::PgWal;
use crate::disk::{FileId, ReadBuffer};
use crate::error::{Error, Result, ResultExt};
use crate::postgres::{ControlFile, Major, PgTime, SegmentName, SegmentSize, WAL_PAGE_SIZE};
use crate::wal::{PageHeader, WalScanner};

/// Flushed bytes of a segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TailSlice {
    /// The bytes that were asked for.
    pub bytes: Vec<u8>,
    /// The latest commit, abort or restore point in the segment up to their end.
    pub last_time: Option<PgTime>,
}

/// Reads the flushed part of one segment, again and again while it grows.
#[derive(Debug)]
pub struct TailReader {
    pg_wal: PgWal,
    segment: SegmentName,
    size: SegmentSize,
    major: Major,
    system_identifier: u64,
    /// Has seen the whole pages before `scanned`.
    scanner: WalScanner,
    scanned: u64,
}

impl TailReader {
    /// Of `segment` of the cluster with this control file.
    pub fn new(pg_wal: PgWal, segment: SegmentName, control: &ControlFile) -> Self {
        let size = control.segment_size;
        Self {
            pg_wal,
            segment,
            size,
            major: control.major,
            system_identifier: control.system_identifier,
            scanner: WalScanner::new(segment.start(size), size),
            scanned: 0,
        }
    }

    /// The segment.
    pub const fn segment(&self) -> SegmentName {
        self.segment
    }

    /// The bytes from `start` to before `end`, counted from the start of the segment; `end` lies at or before the
    /// flush LSN. Corrupt if a page is not what it must be there: the file was recycled or damaged meanwhile.
    pub fn read(&mut self, start: u32, end: u32) -> Result<TailSlice> {
        let page = WAL_PAGE_SIZE as u64;
        let from = u64::from(start).min(self.scanned) / page * page;
        let mut buffer = ReadBuffer::default();
        let bytes = self.read_pages(from, u64::from(end), &mut buffer)?;
        let whole = u64::from(end) / page * page;
        let part = |from_byte: u64, to_byte: u64| {
            let index = |byte: u64| usize::try_from(byte.saturating_sub(from)).unwrap_or(usize::MAX);
            bytes.get(index(from_byte)..index(to_byte)).unwrap_or_default()
        };
        if whole > self.scanned {
            self.scanner.feed(part(self.scanned, whole));
            self.scanned = whole;
        }
        let mut scanner = self.scanner.clone().until(self.segment.position(u64::from(end), self.size));
        let mut last = part(whole, u64::from(end)).to_vec();
        if !last.is_empty() {
            last.resize(WAL_PAGE_SIZE, 0);
            scanner.feed(&last);
        }
        let slice = part(u64::from(start), u64::from(end)).to_vec();
        Ok(TailSlice { bytes: slice, last_time: scanner.finish().last_time })
    }

    fn read_pages<'a>(&self, from: u64, end: u64, buffer: &'a mut ReadBuffer) -> Result<&'a [u8]> {
        let path = self.pg_wal.path().join(self.segment.to_string());
        let failed = |verb: &str, cause: &std::io::Error| Error::io(verb, &path, cause);
        let file = File::open(&path).map_err(|cause| failed("open", &cause))?;
        let bytes = buffer.take(usize::try_from(end.saturating_sub(from)).unwrap_or(0));
        file.read_exact_at(bytes, from).map_err(|cause| failed("read", &cause))?;
        for (number, page) in bytes.chunks(WAL_PAGE_SIZE).enumerate() {
            let offset = from + (number * WAL_PAGE_SIZE) as u64;
            self.check_page(offset, page)
                .with_context(|| format!("the tail of {} at byte {offset}", self.segment))?;
        }
        // A file that was recycled has another name now, or another file has this one.
        let opened = file.metadata().map_err(|cause| failed("examine", &cause))?;
        let named = FileId::at(&path).map_err(|cause| failed("examine", &cause))?;
        if FileId::of(&opened) == named {
            return Ok(bytes);
        }
        Err(Error::corrupt(format!("{} was replaced while it was read", path.display())))
    }

    fn check_page(&self, offset: u64, page: &[u8]) -> Result<()> {
        if page.len() < 24 || (offset == 0 && page.len() < 40) {
            // The header itself is not flushed as a whole yet; the next read sees it.
            return Ok(());
        }
        let header = PageHeader::parse(page)?;
        let expected = self.segment.start(self.size).get() + offset;
        let fits = header.address.get() == expected
            && Major::from_wal_magic(header.magic) == Some(self.major)
            && header.timeline <= self.segment.timeline.get()
            && header.long.is_none_or(|long| long.system_identifier == self.system_identifier)
            && (offset > 0 || header.long.is_some());
        if fits {
            return Ok(());
        }
        Err(Error::corrupt(format!("the page there says that it is at {}", header.address))
            .hint("was the file recycled, or does cluster.conninfo belong to another cluster than cluster.data_dir?"))
    }
}
