//! Whole records out of WAL, and where their bytes lie: for the few kinds that a drill reads or rewrites.

use std::ops::Range;

use super::lsn::Lsn;
use super::wal_page::{PageHeader, WAL_PAGE_SIZE};

/// Bytes of a record's own header (xlogrecord.h, XLogRecord).
const RECORD_HEADER: usize = 24;
/// Where in it the checksum of the record lies.
const CHECKSUM: Range<usize> = 20..24;
/// XLP_FIRST_IS_OVERWRITE_CONTRECORD: the record that the page before it left open was lost in a crash.
const OVERWRITES: u16 = 8;

/// Resource managers (rmgrlist.h) and their records.
const XLOG: u8 = 0;
const XLOG_SWITCH: u8 = 0x40;
const TABLESPACE: u8 = 5;
const TABLESPACE_CREATE: u8 = 0x00;
const LOGICAL_MESSAGE: u8 = 21;

/// A record that is there as a whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WalRecord {
    /// Where it begins.
    pub start: Lsn,
    /// Where it ends, rounded up to 8 bytes.
    pub end: Lsn,
    /// Header and all that follows.
    bytes: Vec<u8>,
    /// Where these bytes lie in the WAL that was read.
    pieces: Vec<Range<usize>>,
}

/// Records of a stretch of WAL.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct WalRecords {
    /// Creations of tablespaces and logical messages, in order.
    pub found: Vec<WalRecord>,
    /// Whether the WAL ends within a record that is, or could be, one of them.
    pub cut_short: bool,
}

/// What `pg_logical_emit_message` wrote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogicalMessage {
    /// Its prefix.
    pub prefix: String,
    /// Its content.
    pub content: Vec<u8>,
}

/// A `CREATE TABLESPACE`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TablespaceCreation {
    /// Its oid.
    pub oid: u32,
    /// Where it was created; empty for one in the data directory.
    pub location: Vec<u8>,
}

impl WalRecords {
    /// Read `wal`: whole pages from `start` on, of one segment or of several that follow each other. Where it makes no
    /// sense reading ends, as replay would.
    pub fn read(start: Lsn, segment_size: u64, wal: &[u8]) -> Self {
        let mut reader = Reader { wal, start, segment_size, records: Self::default() };
        // Nothing behind what makes no sense is replayed.
        let _ = reader.read();
        reader.records
    }
}

struct Reader<'a> {
    wal: &'a [u8],
    start: Lsn,
    segment_size: u64,
    records: WalRecords,
}

/// A record of which bytes are still to come.
struct Open {
    record: WalRecord,
    left: usize,
    /// Whether it may be one that is looked for; the bytes of others are not kept.
    wanted: bool,
}

impl Reader<'_> {
    fn at(&self, offset: usize) -> Lsn {
        Lsn::new(self.start.get() + offset as u64)
    }

    fn read(&mut self) -> Option<()> {
        let mut open: Option<Open> = None;
        // Of the record that began before all that is read.
        let mut skip = 0_usize;
        let mut page_at = 0;
        while page_at < self.wal.len() {
            let page = self.wal.get(page_at..page_at + WAL_PAGE_SIZE)?;
            let header = PageHeader::parse(page).ok()?;
            if header.address != self.at(page_at) {
                break;
            }
            let remaining = usize::try_from(header.remaining).ok()?;
            match &open {
                Some(_) if !header.continues() && header.info & OVERWRITES != 0 => open = None,
                Some(record) if header.continues() && record.left == remaining => {}
                None if header.continues() && (page_at == 0 || skip == remaining) => skip = remaining,
                None if !header.continues() && skip == 0 => {}
                _ => return None,
            }
            let mut at = page_at + header.header_len();
            let end = page_at + WAL_PAGE_SIZE;
            if skip > 0 {
                let taken = skip.min(end - at);
                skip -= taken;
                at = (at + taken).next_multiple_of(8);
            }
            while at < end && skip == 0 {
                let mut record = match open.take() {
                    Some(record) => record,
                    None => match self.begin(at)? {
                        Some(record) => record,
                        None => return Some(()),
                    },
                };
                let taken = record.take(self.wal, at..end);
                if record.left > 0 {
                    open = Some(record);
                    break;
                }
                at = (at + taken).next_multiple_of(8);
                record.record.end = self.at(at);
                if is_switch(&record.record) {
                    let size = usize::try_from(self.segment_size).ok()?;
                    page_at = (page_at / size + 1) * size;
                    break;
                }
                if record.wanted {
                    self.records.found.push(record.record);
                }
            }
            page_at = if page_at >= end { page_at } else { end };
        }
        self.records.cut_short = open.is_some_and(|record| record.wanted);
        Some(())
    }

    /// The record that begins at `at`; `None` inside if nothing more was written.
    #[expect(clippy::option_option, reason = "the outer one says that it makes no sense")]
    fn begin(&self, at: usize) -> Option<Option<Open>> {
        let length = u32::from_le_bytes(*self.wal.get(at..)?.first_chunk()?);
        let length = usize::try_from(length).ok()?;
        if length == 0 {
            return Some(None);
        }
        if length < RECORD_HEADER {
            return None;
        }
        let start = self.at(at);
        let record = WalRecord { start, end: start, bytes: Vec::new(), pieces: Vec::new() };
        Some(Some(Open { record, left: length, wanted: true }))
    }
}

fn is_switch(record: &WalRecord) -> bool {
    let kind = record.bytes.get(17).zip(record.bytes.get(16));
    kind.is_some_and(|(manager, info)| *manager == XLOG && info & 0xF0 == XLOG_SWITCH)
}

impl Open {
    /// Take what belongs to the record from the beginning of `page`; how much that was.
    fn take(&mut self, wal: &[u8], page: Range<usize>) -> usize {
        let taken = self.left.min(page.len());
        self.left -= taken;
        if self.wanted {
            let piece = page.start..page.start + taken;
            self.record.bytes.extend_from_slice(&wal[piece.clone()]);
            self.record.pieces.push(piece);
            let kind = self.record.bytes.get(17).zip(self.record.bytes.get(16));
            self.wanted = kind.is_none_or(|(manager, info)| match *manager {
                TABLESPACE => info & 0xF0 == TABLESPACE_CREATE,
                LOGICAL_MESSAGE => true,
                _ => false,
            });
            if !self.wanted {
                self.record.bytes.truncate(RECORD_HEADER);
            }
        }
        taken
    }
}

impl WalRecord {
    /// Where its main data lies in its bytes. Records of these kinds have no blocks.
    fn data(&self) -> Option<Range<usize>> {
        let mut at = RECORD_HEADER;
        loop {
            let (skip, length) = match self.bytes.get(at)? {
                // XLR_BLOCK_ID_TOPLEVEL_XID, _ORIGIN, _DATA_LONG, _DATA_SHORT.
                252 => (5, None),
                253 => (3, None),
                254 => (5, Some(u32::from_le_bytes(*self.bytes.get(at + 1..)?.first_chunk()?))),
                255 => (2, Some(u32::from(*self.bytes.get(at + 1)?))),
                _ => return None,
            };
            at += skip;
            if let Some(length) = length {
                let end = at.checked_add(usize::try_from(length).ok()?)?;
                return (end <= self.bytes.len()).then_some(at..end);
            }
        }
    }

    /// As the creation of a tablespace (xl_tblspc_create_rec), if it is one.
    pub fn tablespace(&self) -> Option<TablespaceCreation> {
        let data = self.bytes.get(self.data().filter(|_| self.bytes[17] == TABLESPACE)?)?;
        let (oid, location) = data.split_first_chunk()?;
        let location = location.split(|byte| *byte == 0).next()?.to_vec();
        Some(TablespaceCreation { oid: u32::from_le_bytes(*oid), location })
    }

    /// As a logical message (xl_logical_message), if it is one.
    pub fn message(&self) -> Option<LogicalMessage> {
        let data = self.bytes.get(self.data().filter(|_| self.bytes[17] == LOGICAL_MESSAGE)?)?;
        let length = |at: usize| usize::try_from(u64::from_le_bytes(*data.get(at..)?.first_chunk()?)).ok();
        let (prefix, content) = (length(8)?, length(16)?);
        let prefix_end = 24_usize.checked_add(prefix)?;
        let text = data.get(24..prefix_end.checked_sub(1)?)?;
        let content = data.get(prefix_end..prefix_end.checked_add(content)?)?.to_vec();
        Some(LogicalMessage { prefix: String::from_utf8_lossy(text).into_owned(), content })
    }

    /// Write the record into `wal`, of which it was read, with another location of the tablespace that it creates; its
    /// checksum follows. `None`, and nothing written, if that location is longer.
    pub fn move_tablespace(&self, wal: &mut [u8], location: &[u8]) -> Option<()> {
        let old = self.tablespace()?.location;
        if location.len() > old.len() {
            return None;
        }
        let data = self.data()?;
        let mut bytes = self.bytes.clone();
        let place = &mut bytes[data][4..4 + old.len()];
        place.fill(0);
        place[..location.len()].copy_from_slice(location);
        // CRC-32C of what follows the header, then of the header before the checksum (XLogInsertRecord).
        let checksum = crc32c::crc32c(&bytes[RECORD_HEADER..]);
        let checksum = crc32c::crc32c_append(checksum, &bytes[..CHECKSUM.start]);
        bytes[CHECKSUM].copy_from_slice(&checksum.to_le_bytes());
        let mut rest = bytes.as_slice();
        for piece in &self.pieces {
            let (now, later) = rest.split_at_checked(piece.len())?;
            wal.get_mut(piece.clone())?.copy_from_slice(now);
            rest = later;
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEGMENT: u64 = 1 << 20;
    const START: u64 = 5 << 20;

    /// A segment that holds these records one after the other, as PostgreSQL lays them out.
    fn segments(records: &[Vec<u8>], count: usize) -> Vec<u8> {
        let mut wal = Vec::new();
        let mut todo: Vec<u8> = Vec::new();
        let mut records = records.iter();
        let total = count * usize::try_from(SEGMENT).unwrap();
        while wal.len() < total {
            let long = wal.len().is_multiple_of(usize::try_from(SEGMENT).unwrap());
            let info = u16::from(!todo.is_empty()) | if long { 2 } else { 0 };
            let mut page = Vec::new();
            page.extend(0xD110_u16.to_le_bytes());
            page.extend(info.to_le_bytes());
            page.extend(1_u32.to_le_bytes());
            page.extend((START + wal.len() as u64).to_le_bytes());
            page.extend(u32::try_from(todo.len()).unwrap().to_le_bytes());
            page.resize(if long { 40 } else { 24 }, 0);
            while page.len() < WAL_PAGE_SIZE {
                if todo.is_empty() {
                    let Some(record) = records.next() else { break };
                    todo.clone_from(record);
                }
                let taken = todo.len().min(WAL_PAGE_SIZE - page.len());
                page.extend(todo.drain(..taken));
                page.resize(page.len().next_multiple_of(8), 0);
            }
            page.resize(WAL_PAGE_SIZE, 0);
            wal.extend(page);
        }
        wal
    }

    fn record(manager: u8, data: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; RECORD_HEADER];
        if data.len() < 256 {
            bytes.extend([255, u8::try_from(data.len()).unwrap()]);
        } else {
            bytes.push(254);
            bytes.extend(u32::try_from(data.len()).unwrap().to_le_bytes());
        }
        bytes.extend(data);
        let length = u32::try_from(bytes.len()).unwrap();
        bytes[..4].copy_from_slice(&length.to_le_bytes());
        bytes[17] = manager;
        let sum = crc32c::crc32c_append(crc32c::crc32c(&bytes[RECORD_HEADER..]), &bytes[..20]);
        bytes[CHECKSUM].copy_from_slice(&sum.to_le_bytes());
        bytes
    }

    fn tablespace(oid: u32, location: &str) -> Vec<u8> {
        record(TABLESPACE, &[&oid.to_le_bytes(), location.as_bytes(), &[0]].concat())
    }

    fn message(prefix: &str, content: &str) -> Vec<u8> {
        let lengths = [prefix.len() as u64 + 1, content.len() as u64];
        let head: Vec<u8> = [5_u64].iter().chain(&lengths).flat_map(|number| number.to_le_bytes()).collect();
        record(LOGICAL_MESSAGE, &[&head, prefix.as_bytes(), &[0], content.as_bytes()].concat())
    }

    #[test]
    fn messages_and_tablespaces_are_found_among_other_records() {
        let noise = record(10, &[7; 5000]);
        let wal = segments(
            &[
                noise.clone(),
                message("walproof", "beat"),
                noise.clone(),
                tablespace(16_400, "/srv/ts"),
                noise,
            ],
            1,
        );
        let records = WalRecords::read(Lsn::new(START), SEGMENT, &wal);
        let [beat, space] = records.found.as_slice() else { panic!("{records:?}") };
        let expected = LogicalMessage { prefix: "walproof".into(), content: b"beat".to_vec() };
        assert_eq!((beat.message(), beat.tablespace()), (Some(expected), None));
        assert_eq!(space.tablespace().unwrap().location, b"/srv/ts");
        assert!(!records.cut_short && beat.start < beat.end && beat.end <= space.start);
    }

    #[test]
    fn a_moved_tablespace_has_its_checksum_wherever_the_record_lies() {
        // Behind records of every length, so that it crosses pages at each of its bytes.
        for length in (0..400).step_by(8) {
            let space = tablespace(16_400, "/srv/tablespaces/one");
            let wal = segments(&[record(10, &vec![1; 7800 + length]), space], 1);
            let records = WalRecords::read(Lsn::new(START), SEGMENT, &wal);
            let mut moved = wal.clone();
            records.found[0].move_tablespace(&mut moved, b"ab").unwrap();
            let again = WalRecords::read(Lsn::new(START), SEGMENT, &moved);
            assert_eq!(again.found[0].tablespace().unwrap().location, b"ab", "{length}");
            let bytes = &again.found[0].bytes;
            let sum = crc32c::crc32c_append(crc32c::crc32c(&bytes[RECORD_HEADER..]), &bytes[..20]);
            assert_eq!(bytes[CHECKSUM], sum.to_le_bytes());
            assert!(records.found[0].move_tablespace(&mut moved, &[b'x'; 99]).is_none());
        }
    }

    #[test]
    fn a_record_that_goes_on_in_the_next_segment_is_cut_short_without_it() {
        let size = usize::try_from(SEGMENT).unwrap();
        let pages = size / WAL_PAGE_SIZE;
        let room = size - pages * 24 - 16;
        let noise = record(10, &vec![1; room - RECORD_HEADER - 5 - 32]);
        let wal = segments(&[noise, tablespace(16_400, "/srv/tablespaces/one")], 2);
        let first = WalRecords::read(Lsn::new(START), SEGMENT, &wal[..size]);
        assert!(first.cut_short && first.found.is_empty());
        let both = WalRecords::read(Lsn::new(START), SEGMENT, &wal);
        let mut moved = wal.clone();
        both.found[0].move_tablespace(&mut moved, b"ab").unwrap();
        assert!(moved[..size] != wal[..size] && moved[size..] != wal[size..]);
        // What begins before the WAL that is read is left alone.
        let second = WalRecords::read(Lsn::new(START + SEGMENT), SEGMENT, &wal[size..]);
        assert_eq!(second, WalRecords::default());
    }

    #[test]
    fn nonsense_ends_it() {
        let mut wal = segments(&[message("a", "b")], 1);
        WalRecords::read(Lsn::new(START), SEGMENT, &[0; WAL_PAGE_SIZE]);
        WalRecords::read(Lsn::new(START), SEGMENT, &wal[..100]);
        for at in 0..200 {
            for value in [0, 1, 0xFF] {
                let before = std::mem::replace(&mut wal[at], value);
                for record in WalRecords::read(Lsn::new(START), SEGMENT, &wal).found {
                    let _ = (record.message(), record.tablespace());
                }
                wal[at] = before;
            }
        }
    }
}
