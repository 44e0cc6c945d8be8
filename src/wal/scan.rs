//! What a stretch of WAL holds that recovery can aim at: ends of transactions and restore points.

use super::links::Links;
use super::reader::{RECORD_HEADER, ReadRecord, WalReader, WalVisitor, XLOG, XLOG_MASK};
use crate::postgres::{Lsn, Major, PgTime, SegmentSize};

/// Bytes kept of records that matter: room for all headers and what is needed of the main data.
const HEAD: usize = 1024;

/// Resource managers (rmgrlist.h) and their records (pg_control.h, xact.h), as bytes 17 and 16 of the header.
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
    /// How it is linked to its neighbours, if it is one segment.
    pub links: Links,
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

/// Reads WAL and notes what recovery can aim at. Stops where recovery would, and says so.
#[derive(Debug, Clone)]
pub struct WalScanner {
    reader: WalReader,
    found: Found,
}

#[derive(Debug, Clone)]
struct Found {
    collects: bool,
    summary: WalSummary,
}

impl WalScanner {
    /// A scanner for WAL from `start` on, the beginning of a page.
    pub const fn new(start: Lsn, size: SegmentSize) -> Self {
        let summary = WalSummary {
            first_time: None,
            last_time: None,
            min_xid: None,
            max_xid: None,
            end: start,
            last_start: None,
            links: Links::UNKNOWN,
            commits: 0,
            restore_points: Vec::new(),
            transactions: Vec::new(),
            complete: true,
        };
        Self { reader: WalReader::new(start, size), found: Found { collects: false, summary } }
    }

    /// The same scanner, filling [`WalSummary::transactions`].
    #[must_use]
    pub const fn collecting(mut self) -> Self {
        self.found.collects = true;
        self
    }

    /// The same scanner, see [`WalReader::checking`].
    #[must_use]
    pub fn checking(self) -> Self {
        Self { reader: self.reader.checking(), ..self }
    }

    /// The same scanner, see [`WalReader::until`].
    #[must_use]
    pub fn until(self, limit: Lsn) -> Self {
        Self { reader: self.reader.until(limit), ..self }
    }

    /// Read the next `bytes`: whole pages, of one segment or of several that follow each other.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.reader.feed(bytes, &mut self.found);
    }

    /// What was found.
    pub fn finish(self) -> WalSummary {
        let reader = self.reader;
        let mut summary = self.found.summary;
        (summary.end, summary.last_start) = (reader.end(), reader.last_start());
        summary.links = reader.links();
        summary.complete = reader.broken().is_none();
        if reader.is_within_record() {
            // It goes on in the next segment.
            if reader.is_at_segment_end() {
                summary.end = reader.position();
            } else {
                summary.complete = false;
            }
        }
        summary
    }
}

impl WalVisitor for Found {
    fn wants(&self, header: &[u8; RECORD_HEADER]) -> usize {
        if matters(header) { HEAD } else { RECORD_HEADER }
    }

    fn record(&mut self, record: &ReadRecord<'_>) -> Option<()> {
        let header: &[u8; RECORD_HEADER] = record.bytes.first_chunk()?;
        if !matters(header) {
            return Some(());
        }
        if header[17] == XLOG {
            let data = main_data(record)?;
            let time = self.time(data)?;
            // xl_restore_point: the time, then 64 bytes that the name and a zero begin.
            let name = data.get(8..72)?.split(|byte| *byte == 0).next()?;
            let name = String::from_utf8_lossy(name).into_owned();
            self.summary.restore_points.push(RestorePoint { name, time, lsn: record.end });
            return Some(());
        }
        let committed = match header[16] & XACT_MASK {
            XACT_COMMIT | XACT_COMMIT_PREPARED => true,
            XACT_ABORT | XACT_ABORT_PREPARED => false,
            _ => return Some(()),
        };
        let time = self.time(main_data(record)?)?;
        let xid = u32::from_le_bytes(*header[4..].first_chunk()?);
        self.transaction(TransactionEnd { xid, time, end: record.end, committed });
        Some(())
    }
}

impl Found {
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
}

/// As much of the main data as was kept (DecodeXLogRecord in xlogreader.c): behind headers of any number and order, and
/// behind what belongs to blocks.
fn main_data<'a>(record: &ReadRecord<'a>) -> Option<&'a [u8]> {
    let mut fields = Fields(record.bytes.get(RECORD_HEADER..)?);
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
                of_blocks = of_blocks.checked_add(skip_block(record.major, &mut fields)?)?;
                continue;
            }
            _ => return None,
        };
        let data = fields.0.get(of_blocks..)?;
        return Some(data.get(..length).unwrap_or(data));
    }
}

/// Skip the header of a block reference behind its id. How many bytes the block has ahead of the main data.
fn skip_block(major: Major, fields: &mut Fields<'_>) -> Option<usize> {
    /// BKPBLOCK_HAS_IMAGE, BKPBLOCK_SAME_REL, BKPIMAGE_HAS_HOLE.
    const HAS_IMAGE: u8 = 0x10;
    const SAME_RELATION: u8 = 0x80;
    const HAS_HOLE: u8 = 0x01;
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

/// Whether more than its header is of interest of a record.
fn matters(header: &[u8; RECORD_HEADER]) -> bool {
    header[17] == XACT || header[17] == XLOG && header[16] & XLOG_MASK == XLOG_RESTORE_POINT
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

#[cfg(test)]
mod tests;
