//! What a stretch of WAL holds that recovery can aim at: ends of transactions and restore points.

use super::lsn::Lsn;
use super::segment_size::SegmentSize;
use super::time::PgTime;
use super::version::Major;
use super::wal_page::{PageHeader, WAL_PAGE_SIZE};

/// XLP_FIRST_IS_OVERWRITE_CONTRECORD: the record that the page before it left open was lost in a crash.
const OVERWRITES: u16 = 8;

/// Bytes of a record's own header (xlogrecord.h, XLogRecord).
const RECORD_HEADER: usize = 24;
/// Bytes kept of records that matter: room for all headers and what is needed of the main data.
const HEAD: usize = 1024;

/// Resource managers (rmgrlist.h) and their records (pg_control.h, xact.h), as bytes 17 and 16 of the header.
const XLOG: u8 = 0;
const XLOG_MASK: u8 = 0xF0;
const XLOG_SWITCH: u8 = 0x40;
const XLOG_RESTORE_POINT: u8 = 0x70;
const XACT: u8 = 1;
const XACT_MASK: u8 = 0x70;
const XACT_COMMIT: u8 = 0x00;
const XACT_ABORT: u8 = 0x20;
const XACT_COMMIT_PREPARED: u8 = 0x30;
const XACT_ABORT_PREPARED: u8 = 0x40;

/// What a [`WalScanner`] found. Only records that end in the WAL that was fed count.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WalSummary {
    /// The earliest time that recovery_target_time is compared with (getRecordTimestamp in xlogrecovery.c):
    /// of ends of transactions and of restore points.
    pub first_time: Option<PgTime>,
    /// The latest such time. Not always that of the last record: times are taken a moment before records are
    /// placed.
    pub last_time: Option<PgTime>,
    /// The smallest id of an ended transaction, compared as a number: if ids wrapped around, smallest and
    /// largest span more than there was. Prepared transactions are not counted in, see
    /// [`TransactionEnd::xid`].
    pub min_xid: Option<u32>,
    /// The largest id of an ended transaction.
    pub max_xid: Option<u32>,
    /// The end of the last whole record, rounded up to 8 bytes; the end of what was fed if a record goes on
    /// behind that; the end of the segment if a switch ended it.
    pub end: Lsn,
    /// Where the last whole record begins, of those that begin in what was fed.
    pub last_start: Option<Lsn>,
    /// Committed transactions.
    pub commits: u32,
    /// Restore points, in the order of the WAL.
    pub restore_points: Vec<RestorePoint>,
    /// All ends of transactions, in the order of the WAL; empty unless asked for with
    /// [`WalScanner::collecting`].
    pub transactions: Vec<TransactionEnd>,
    /// Whether all that was fed made sense. WAL that ends in zeros does, unless within a record.
    pub complete: bool,
}

/// What pg_create_restore_point wrote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RestorePoint {
    /// Its name; not unique.
    pub name: String,
    /// When it was made.
    pub time: PgTime,
    /// The end of its record, which pg_create_restore_point returned.
    pub lsn: Lsn,
}

/// The commit or abort of a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TransactionEnd {
    /// The id in the record's header: 0 for a transaction without one and, mostly, for a prepared one.
    pub xid: u32,
    /// When it ended.
    pub time: PgTime,
    /// The end of the record.
    pub end: Lsn,
    /// Whether it was a commit.
    pub committed: bool,
}

/// Reads WAL page by page, hopping from record to record. Checks what costs nothing (addresses, lengths, the
/// link to the record before) and no checksums of records; stops where something makes no sense, and says so.
#[derive(Debug, Clone)]
pub struct WalScanner {
    size: SegmentSize,
    /// Where the next bytes lie.
    position: Lsn,
    /// What ends behind this is not there.
    limit: Lsn,
    /// Known from the first page on.
    version: Option<(u16, Major)>,
    state: State,
    /// The record that is being read.
    record: Option<Record>,
    /// Of that record the header and, if it matters, what follows.
    head: Vec<u8>,
    /// The beginning of the record before, if that was seen.
    previous: Option<Lsn>,
    collects: bool,
    summary: WalSummary,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// More records may come.
    Records,
    /// Nothing more comes in this segment.
    Switched,
    /// Nothing more comes, or nothing that makes sense.
    Ended,
}

#[derive(Debug, Clone, Copy)]
struct Record {
    /// Where it begins; not known if it began before the first page.
    start: Option<Lsn>,
    /// Bytes still to come.
    left: usize,
    /// How many of its bytes are to be kept.
    wanted: usize,
}

impl WalScanner {
    /// A scanner for WAL from `start` on, the beginning of a page.
    pub const fn new(start: Lsn, size: SegmentSize) -> Self {
        Self {
            size,
            position: start,
            limit: Lsn::new(u64::MAX),
            version: None,
            state: State::Records,
            record: None,
            head: Vec::new(),
            previous: None,
            collects: false,
            summary: WalSummary {
                first_time: None,
                last_time: None,
                min_xid: None,
                max_xid: None,
                end: start,
                last_start: None,
                commits: 0,
                restore_points: Vec::new(),
                transactions: Vec::new(),
                complete: true,
            },
        }
    }

    /// The same scanner, filling [`WalSummary::transactions`].
    #[must_use]
    pub const fn collecting(mut self) -> Self {
        self.collects = true;
        self
    }

    /// The same scanner for WAL that ends at `limit`, with zeros to the end of the page: a record that they complete is
    /// none.
    #[must_use]
    pub const fn until(mut self, limit: Lsn) -> Self {
        self.limit = limit;
        self
    }

    /// Read the next `bytes`: whole pages, of one segment or of several that follow each other.
    pub fn feed(&mut self, bytes: &[u8]) {
        for page in bytes.chunks(WAL_PAGE_SIZE) {
            let start = self.position;
            self.position = advance(start, page.len());
            if self.state == State::Switched && start == start.segment_start(self.size) {
                self.state = State::Records;
            }
            if self.state == State::Records && self.page(start, page).is_none() {
                self.summary.complete = false;
                self.state = State::Ended;
            }
        }
    }

    /// What was found.
    pub fn finish(mut self) -> WalSummary {
        if self.record.is_some() && self.state == State::Records {
            if self.position == self.position.segment_start(self.size) {
                self.summary.end = self.position;
            } else {
                self.summary.complete = false;
            }
        }
        self.summary
    }

    /// `None` if it makes no sense.
    fn page(&mut self, start: Lsn, page: &[u8]) -> Option<()> {
        if page.len() != WAL_PAGE_SIZE {
            return None;
        }
        let header = PageHeader::parse(page).ok()?;
        if header.magic == 0 && page.iter().take(header.header_len()).all(|byte| *byte == 0) {
            self.state = State::Ended;
            return self.record.is_none().then_some(());
        }
        let is_first = self.version.is_none();
        if is_first {
            self.version = Major::from_wal_magic(header.magic).map(|major| (header.magic, major));
        }
        if header.address != start || self.version.is_none_or(|(magic, _)| magic != header.magic) {
            return None;
        }
        let left = usize::try_from(header.remaining).ok()?;
        match &self.record {
            Some(record) if header.continues() && record.left == left => {}
            Some(_) if !header.continues() && header.info & OVERWRITES != 0 => self.record = None,
            None if !header.continues() => {}
            None if is_first => self.record = Some(Record { start: None, left, wanted: 0 }),
            _ => return None,
        }

        let mut offset = header.header_len();
        while offset < WAL_PAGE_SIZE {
            let rest = page.get(offset..)?;
            let mut record = if let Some(record) = self.record.take() {
                record
            } else {
                let length = u32::from_le_bytes(*rest.first_chunk()?);
                if length == 0 {
                    self.state = State::Ended;
                    return Some(());
                }
                self.head.clear();
                Record::new(advance(start, offset), usize::try_from(length).ok()?)?
            };
            let taken = record.take(rest, &mut self.head);
            if record.left > 0 {
                self.record = Some(record);
                return Some(());
            }
            offset = (offset + taken).next_multiple_of(8);
            let head = std::mem::take(&mut self.head);
            self.complete(record.start, &head, advance(start, offset))?;
            self.head = head;
            if self.state != State::Records {
                return Some(());
            }
        }
        Some(())
    }

    /// The record from `start` to `end` that begins with `head` is there as a whole. `None` if it makes no
    /// sense.
    fn complete(&mut self, start: Option<Lsn>, head: &[u8], end: Lsn) -> Option<()> {
        if end > self.limit {
            return None;
        }
        let Some(start) = start else {
            self.summary.end = end;
            return Some(());
        };
        let header: &[u8; RECORD_HEADER] = head.first_chunk()?;
        let xid = u32::from_le_bytes(*header[4..].first_chunk()?);
        let link = Lsn::new(u64::from_le_bytes(*header[8..].first_chunk()?));
        if self.previous.map_or(link >= start, |previous| previous != link) {
            return None;
        }
        self.previous = Some(start);
        self.summary.last_start = Some(start);
        self.summary.end = end;
        match (header[17], header[16]) {
            (XLOG, info) if info & XLOG_MASK == XLOG_SWITCH => {
                self.state = State::Switched;
                let segment_end = start.segment_start(self.size).checked_add(self.size.bytes());
                self.summary.end = segment_end?;
            }
            (XLOG, info) if info & XLOG_MASK == XLOG_RESTORE_POINT => {
                let data = self.main_data(head)?;
                let time = self.time(data)?;
                // xl_restore_point: the time, then 64 bytes that the name and a zero begin.
                let name = data.get(8..72)?.split(|byte| *byte == 0).next()?;
                let name = String::from_utf8_lossy(name).into_owned();
                self.summary.restore_points.push(RestorePoint { name, time, lsn: end });
            }
            (XACT, info) => {
                let committed = match info & XACT_MASK {
                    XACT_COMMIT | XACT_COMMIT_PREPARED => true,
                    XACT_ABORT | XACT_ABORT_PREPARED => false,
                    _ => return Some(()),
                };
                let data = self.main_data(head)?;
                let time = self.time(data)?;
                self.transaction(TransactionEnd { xid, time, end, committed });
            }
            _ => {}
        }
        Some(())
    }

    fn transaction(&mut self, end: TransactionEnd) {
        let summary = &mut self.summary;
        if end.committed {
            summary.commits = summary.commits.saturating_add(1);
        }
        if end.xid != 0 {
            summary.min_xid = Some(summary.min_xid.map_or(end.xid, |xid| xid.min(end.xid)));
            summary.max_xid = summary.max_xid.max(Some(end.xid));
        }
        if self.collects {
            summary.transactions.push(end);
        }
    }

    /// The instant that the main data begins with, after taking note of it.
    fn time(&mut self, data: &[u8]) -> Option<PgTime> {
        let time = PgTime::from_postgres_micros(i64::from_le_bytes(*data.first_chunk()?));
        let summary = &mut self.summary;
        summary.first_time = Some(summary.first_time.map_or(time, |first| first.min(time)));
        summary.last_time = summary.last_time.max(Some(time));
        Some(time)
    }

    /// As much of the main data as lies in `head` (DecodeXLogRecord in xlogreader.c): behind headers of any
    /// number and order, and behind what belongs to blocks.
    fn main_data<'a>(&self, head: &'a [u8]) -> Option<&'a [u8]> {
        let mut fields = Fields(head.get(RECORD_HEADER..)?);
        let mut of_blocks = 0_usize;
        loop {
            let length = match fields.byte()? {
                255 => fields.byte()?.into(),
                254 => usize::try_from(u32::from_le_bytes(fields.array()?)).ok()?,
                253 => {
                    fields.array::<2>()?;
                    continue;
                }
                252 => {
                    fields.array::<4>()?;
                    continue;
                }
                0..=32 => {
                    of_blocks = of_blocks.checked_add(self.block(&mut fields)?)?;
                    continue;
                }
                _ => return None,
            };
            let data = fields.0.get(of_blocks..)?;
            return Some(data.get(..length).unwrap_or(data));
        }
    }

    /// Skip the header of a block reference behind its id. How many bytes the block has ahead of the main
    /// data.
    fn block(&self, fields: &mut Fields<'_>) -> Option<usize> {
        /// BKPBLOCK_HAS_IMAGE, BKPBLOCK_SAME_REL, BKPIMAGE_HAS_HOLE.
        const HAS_IMAGE: u8 = 0x10;
        const SAME_RELATION: u8 = 0x80;
        const HAS_HOLE: u8 = 0x01;
        let (_, major) = self.version?;
        // BKPIMAGE_IS_COMPRESSED; since 15 one bit for each method.
        let compressed = if major.get() < 15 { 0x02 } else { 0x1C };

        let flags = fields.byte()?;
        let mut bytes = usize::from(u16::from_le_bytes(fields.array()?));
        if flags & HAS_IMAGE != 0 {
            bytes += usize::from(u16::from_le_bytes(fields.array()?));
            let [_, _, image] = fields.array()?;
            if image & HAS_HOLE != 0 && image & compressed != 0 {
                fields.array::<2>()?;
            }
        }
        if flags & SAME_RELATION == 0 {
            fields.array::<12>()?;
        }
        fields.array::<4>()?;
        Some(bytes)
    }
}

impl Record {
    /// The record of `length` bytes at `start`; `None` if that is no length.
    fn new(start: Lsn, length: usize) -> Option<Self> {
        (length >= RECORD_HEADER).then_some(Self { start: Some(start), left: length, wanted: RECORD_HEADER })
    }

    /// Take what belongs to the record from the beginning of `bytes`, keeping what is wanted in `head`; how
    /// much that was.
    fn take(&mut self, bytes: &[u8], head: &mut Vec<u8>) -> usize {
        let bytes = bytes.get(..self.left).unwrap_or(bytes);
        self.left -= bytes.len();
        let rest = self.keep(bytes, head);
        if self.wanted == RECORD_HEADER && head.len() == RECORD_HEADER && matters(head) {
            self.wanted = HEAD;
            self.keep(rest, head);
        }
        bytes.len()
    }

    /// Keep as much as is wanted; the rest.
    fn keep<'a>(&self, bytes: &'a [u8], head: &mut Vec<u8>) -> &'a [u8] {
        let (kept, rest) = bytes.split_at(bytes.len().min(self.wanted.saturating_sub(head.len())));
        head.extend_from_slice(kept);
        rest
    }
}

/// Whether more than its header is of interest of a record.
fn matters(head: &[u8]) -> bool {
    matches!(head.get(16..18), Some(&[info, manager])
        if manager == XACT || manager == XLOG && info & XLOG_MASK == XLOG_RESTORE_POINT)
}

struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn byte(&mut self) -> Option<u8> {
        self.array().map(|[byte]| byte)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (field, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*field)
    }
}

/// WAL does not reach the end of 64 bits.
fn advance(position: Lsn, bytes: usize) -> Lsn {
    Lsn::new(position.get().saturating_add(bytes as u64))
}

#[cfg(test)]
mod tests;
