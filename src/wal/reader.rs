//! The one reader of WAL records: page by page, from record to record, as recovery reads them (xlogreader.c).

use std::fmt;

use super::links::Links;
use super::page::PageHeader;
use crate::postgres::{Lsn, Major, SegmentSize, WAL_PAGE_SIZE};

/// XLP_FIRST_IS_OVERWRITE_CONTRECORD: the record that the page before it left open was lost in a crash.
const OVERWRITES: u16 = 8;

/// Bytes of a record's own header (xlogrecord.h, XLogRecord).
pub(super) const RECORD_HEADER: usize = 24;
/// Where in it the checksum lies, of the record's other bytes: of what follows the header, then of the header before it.
pub(super) const CHECKSUM: std::ops::Range<usize> = 20..24;

/// Resource managers (rmgrlist.h), as byte 17 of the header, and a record of theirs (pg_control.h), as byte 16.
pub(super) const XLOG: u8 = 0;
pub(super) const XLOG_MASK: u8 = 0xF0;
const XLOG_SWITCH: u8 = 0x40;

/// A record that is there as a whole, and begins in the WAL that was fed.
#[derive(Debug, Clone, Copy)]
pub struct ReadRecord<'a> {
    /// Where it begins.
    pub start: Lsn,
    /// Where it ends, rounded up to 8 bytes.
    pub end: Lsn,
    /// Its first bytes: the header, and as much of the rest as was asked for.
    pub bytes: &'a [u8],
    /// The version that wrote it.
    pub major: Major,
}

/// What hears of records.
pub trait WalVisitor {
    /// How many bytes are wanted of a record with this header, header included.
    fn wants(&self, header: &[u8; RECORD_HEADER]) -> usize;
    /// A whole record. `None` if its data is malformed.
    fn record(&mut self, record: &ReadRecord<'_>) -> Option<()>;
}

/// Hears nothing: for callers that only check.
#[derive(Debug, Clone, Copy)]
pub struct NoVisitor;

impl WalVisitor for NoVisitor {
    fn wants(&self, _: &[u8; RECORD_HEADER]) -> usize {
        RECORD_HEADER
    }

    fn record(&mut self, _: &ReadRecord<'_>) -> Option<()> {
        Some(())
    }
}

/// Why no record can be read behind a position.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WalBreak {
    /// Of the page or record that is to blame.
    pub at: Lsn,
    why: &'static str,
}

impl fmt::Display for WalBreak {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {}", self.why, self.at)
    }
}

/// Reads WAL page by page. Checks addresses, lengths and the link to the record before; checksums if asked to. Stops
/// where recovery would.
#[derive(Debug, Clone)]
pub struct WalReader {
    size: SegmentSize,
    /// Where the next bytes lie.
    position: Lsn,
    /// What ends behind this is not there.
    limit: Lsn,
    /// Known from the first page on.
    version: Option<(u16, Major)>,
    /// Of the first page, and of the last.
    first_timeline: u32,
    timeline: u32,
    state: State,
    /// The record that is being read.
    open: Option<Open>,
    /// Its bytes that are wanted.
    kept: Vec<u8>,
    /// The beginning of the record before, if that was seen.
    previous: Option<Lsn>,
    /// What the first record that begins in what was fed says of the one before it, and whether that is settled.
    first_link: Option<Lsn>,
    is_first_settled: bool,
    checks: bool,
    end: Lsn,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// More records may come.
    Records,
    /// Nothing more comes in this segment.
    Switched,
    /// Nothing more was written.
    Ended,
    Broken(WalBreak),
}

#[derive(Debug, Clone, Copy)]
struct Open {
    /// Where it begins; not known if it began before the first page.
    start: Option<Lsn>,
    /// Bytes still to come.
    left: usize,
    /// How many of its bytes are to be kept.
    wanted: usize,
    /// CRC-32C of what has come of it behind its header.
    checksum: u32,
}

impl WalReader {
    /// A reader for WAL from `start` on, the beginning of a page.
    pub const fn new(start: Lsn, size: SegmentSize) -> Self {
        Self {
            size,
            position: start,
            limit: Lsn::new(u64::MAX),
            version: None,
            first_timeline: 0,
            timeline: 0,
            state: State::Records,
            open: None,
            kept: Vec::new(),
            previous: None,
            first_link: None,
            is_first_settled: false,
            checks: false,
            end: start,
        }
    }

    /// The same reader, checking each record's CRC-32C, and that timelines do not go back.
    #[must_use]
    pub const fn checking(mut self) -> Self {
        self.checks = true;
        self
    }

    /// The same reader for WAL that ends at `limit`, with zeros to the end of the page: a record that they complete is
    /// not there.
    #[must_use]
    pub const fn until(mut self, limit: Lsn) -> Self {
        self.limit = limit;
        self
    }

    /// Where the next bytes have to lie.
    pub const fn position(&self) -> Lsn {
        self.position
    }

    /// The end of the last whole record, rounded up to 8 bytes; the end of the segment if a switch ended it.
    pub const fn end(&self) -> Lsn {
        self.end
    }

    /// Where the last whole record begins, of those that begin in what was fed.
    pub const fn last_start(&self) -> Option<Lsn> {
        self.previous
    }

    /// How what was fed, one segment, is linked to its neighbours.
    pub fn links(&self) -> Links {
        let begun = self.open.and_then(|open| open.start).or(self.previous);
        let last = match self.state {
            State::Broken(_) => None,
            State::Records | State::Switched | State::Ended => self.version.map(|_| begun),
        };
        Links::new(self.first_link, last, (self.first_timeline, self.timeline))
    }

    /// Why reading stopped before the end of what was fed; not if nothing more was written there.
    pub const fn broken(&self) -> Option<WalBreak> {
        match self.state {
            State::Broken(found) => Some(found),
            _ => None,
        }
    }

    /// Whether what was fed ends within a record.
    pub const fn is_within_record(&self) -> bool {
        self.open.is_some() && matches!(self.state, State::Records)
    }

    /// Whether what was fed ends where a segment does.
    pub fn is_at_segment_end(&self) -> bool {
        self.position == self.position.segment_start(self.size)
    }

    /// The header of the record that what was fed ends within, as much of it as is there; `None` if there is no such
    /// record, or if it began before what was fed.
    pub(super) fn open_header(&self) -> Option<&[u8]> {
        let open = self.open.filter(|_| self.state == State::Records)?;
        open.start.map(|_| &self.kept[..self.kept.len().min(RECORD_HEADER)])
    }

    /// Read the next `bytes`: whole pages, of one segment or of several that follow each other.
    pub fn feed(&mut self, bytes: &[u8], visitor: &mut impl WalVisitor) {
        for page in bytes.chunks(WAL_PAGE_SIZE) {
            let start = self.position;
            self.position = advance(start, page.len());
            let begins_segment = start == start.segment_start(self.size);
            match self.state {
                State::Switched if begins_segment => self.state = State::Records,
                State::Ended if begins_segment && page.iter().any(|byte| *byte != 0) => {
                    let why = "no record was written, and the next segment goes on,";
                    self.state = State::Broken(WalBreak { at: self.end, why });
                }
                _ => {}
            }
            if self.state == State::Records
                && let Err(found) = self.page(start, page, visitor)
            {
                self.state = State::Broken(found);
            }
        }
    }

    fn page(&mut self, start: Lsn, page: &[u8], visitor: &mut impl WalVisitor) -> Result<(), WalBreak> {
        let broken = |why| WalBreak { at: start, why };
        let foreign = || broken("the page does not belong to this WAL");
        let header = PageHeader::parse(page).map_err(|_| foreign())?;
        if header.magic == 0 && page.iter().take(header.header_len()).all(|byte| *byte == 0) {
            self.state = State::Ended;
            return if self.open.is_none() { Ok(()) } else { Err(broken("a record is cut short")) };
        }
        self.begin_page(start, page.len(), &header)?;
        let major = self.version.map(|(_, major)| major).ok_or_else(foreign)?;

        let mut offset = header.header_len();
        while offset < WAL_PAGE_SIZE {
            let rest = page.get(offset..).unwrap_or_default();
            let at = advance(start, offset);
            let open = match self.open.take() {
                Some(open) => Some(open),
                None => self.begin_record(at, rest)?,
            };
            let Some(mut open) = open else {
                self.state = State::Ended;
                return Ok(());
            };
            let taken = self.take(&mut open, rest, visitor)?;
            if open.left > 0 {
                self.open = Some(open);
                return Ok(());
            }
            offset = (offset + taken).next_multiple_of(8);
            self.complete(&open, advance(start, offset), major, visitor)?;
            if self.state != State::Records {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Check that a page follows the one before it.
    fn begin_page(&mut self, start: Lsn, len: usize, header: &PageHeader) -> Result<(), WalBreak> {
        let broken = |why| Err(WalBreak { at: start, why });
        let is_first = self.version.is_none();
        if is_first {
            self.version = Major::from_wal_magic(header.magic).map(|major| (header.magic, major));
            self.first_timeline = header.timeline;
        }
        let same_version = self.version.is_some_and(|(magic, _)| magic == header.magic);
        if len != WAL_PAGE_SIZE || header.address != start || !same_version {
            return broken("the page does not belong to this WAL");
        }
        if self.checks && header.timeline < self.timeline {
            return broken("the page is of an older timeline than the one before it,");
        }
        self.timeline = header.timeline;
        if header.info & OVERWRITES != 0 {
            // What follows does not link to the record that was lost.
            self.is_first_settled = true;
        }
        let left = usize::try_from(header.remaining).unwrap_or(usize::MAX);
        match &self.open {
            Some(open) if header.continues() && open.left == left => {}
            Some(_) if !header.continues() && header.info & OVERWRITES != 0 => self.open = None,
            None if !header.continues() => {}
            None if is_first => self.open = Some(Open { start: None, left, wanted: 0, checksum: 0 }),
            _ => return broken("the page does not go on where the one before it ends,"),
        }
        Ok(())
    }

    /// The record that begins at `start`, with `rest`; `None` if nothing more was written.
    fn begin_record(&mut self, start: Lsn, rest: &[u8]) -> Result<Option<Open>, WalBreak> {
        // Records begin at multiples of 8, as pages end.
        let length = rest.first_chunk().map_or(0, |length| u32::from_le_bytes(*length));
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        self.kept.clear();
        match length {
            0 => Ok(None),
            1..RECORD_HEADER => Err(WalBreak { at: start, why: "a record is too short to be one" }),
            _ => Ok(Some(Open { start: Some(start), left: length, wanted: RECORD_HEADER, checksum: 0 })),
        }
    }

    /// Take what belongs to the open record from the beginning of `bytes`, keeping what is wanted; how much that was.
    fn take(&mut self, open: &mut Open, bytes: &[u8], visitor: &impl WalVisitor) -> Result<usize, WalBreak> {
        let bytes = bytes.get(..open.left).unwrap_or(bytes);
        open.left -= bytes.len();
        let Some(start) = open.start else { return Ok(bytes.len()) };
        let of_header = RECORD_HEADER.saturating_sub(self.kept.len()).min(bytes.len());
        let (header, mut data) = bytes.split_at(of_header);
        if !header.is_empty() {
            self.kept.extend_from_slice(header);
            if let Ok(header) = <[u8; RECORD_HEADER]>::try_from(self.kept.as_slice()) {
                self.check_link(start, &header)?;
                open.wanted = visitor.wants(&header);
            }
        }
        if self.checks {
            open.checksum = crc32c::crc32c_append(open.checksum, data);
        }
        data = &data[..data.len().min(open.wanted.saturating_sub(self.kept.len()))];
        self.kept.extend_from_slice(data);
        Ok(bytes.len())
    }

    fn check_link(&mut self, start: Lsn, header: &[u8; RECORD_HEADER]) -> Result<(), WalBreak> {
        let link = header[8..].first_chunk().map_or(0, |link| u64::from_le_bytes(*link));
        let link = Lsn::new(link);
        if !std::mem::replace(&mut self.is_first_settled, true) {
            self.first_link = Some(link);
        }
        if self.previous.map_or(link >= start, |previous| previous != link) {
            return Err(WalBreak { at: start, why: "a record does not follow the one before it (link)" });
        }
        Ok(())
    }

    /// The open record is there as a whole; it ends at `end`.
    fn complete(
        &mut self,
        open: &Open,
        end: Lsn,
        major: Major,
        visitor: &mut impl WalVisitor,
    ) -> Result<(), WalBreak> {
        if end > self.limit {
            return Err(WalBreak { at: open.start.unwrap_or(self.end), why: "a record is cut short" });
        }
        let Some(start) = open.start else {
            self.end = end;
            return Ok(());
        };
        let broken = |why| WalBreak { at: start, why };
        let short = || broken("a record is too short to be one");
        let header: &[u8; RECORD_HEADER] = self.kept.first_chunk().ok_or_else(short)?;
        if self.checks && checksum(open.checksum, header) != header[CHECKSUM] {
            return Err(broken("a record is damaged (CRC-32C)"));
        }
        self.previous = Some(start);
        self.end = end;
        if header[17] == XLOG && header[16] & XLOG_MASK == XLOG_SWITCH {
            self.state = State::Switched;
            self.end = Lsn::new(start.segment_start(self.size).get().saturating_add(self.size.bytes()));
        }
        let record = ReadRecord { start, end, bytes: &self.kept, major };
        visitor.record(&record).ok_or_else(|| broken("a record's data is malformed"))
    }
}

/// A record's checksum as stored, from that of what follows its header (XLogInsertRecord).
pub(super) fn checksum(of_data: u32, header: &[u8; RECORD_HEADER]) -> [u8; 4] {
    crc32c::crc32c_append(of_data, &header[..CHECKSUM.start]).to_le_bytes()
}

/// WAL does not reach the end of 64 bits.
fn advance(position: Lsn, bytes: usize) -> Lsn {
    Lsn::new(position.get().saturating_add(bytes as u64))
}

#[cfg(test)]
pub(super) mod tests;
