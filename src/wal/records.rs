//! Whole records out of WAL, and where their bytes lie: for the few kinds that a drill reads or rewrites.

use std::ops::Range;

use super::reader::{CHECKSUM, RECORD_HEADER, ReadRecord, WalReader, WalVisitor, checksum};
use crate::postgres::{Lsn, SegmentSize, WAL_PAGE_SIZE};

/// Resource managers (rmgrlist.h) and their records.
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
    /// Read `wal`: whole pages from `start` on, of one segment or of several that follow each other. Where it is broken
    /// reading ends, as replay would.
    pub fn read(start: Lsn, size: SegmentSize, wal: &[u8]) -> Self {
        let mut reader = WalReader::new(start, size);
        let mut records = Self::default();
        reader.feed(wal, &mut records);
        records.cut_short = reader.open_header().is_some_and(may_be_wanted);
        records
    }
}

impl WalVisitor for WalRecords {
    fn wants(&self, header: &[u8; RECORD_HEADER]) -> usize {
        if may_be_wanted(header) { usize::MAX } else { RECORD_HEADER }
    }

    fn record(&mut self, record: &ReadRecord<'_>) -> Option<()> {
        if may_be_wanted(record.bytes) {
            let bytes = record.bytes.to_vec();
            self.found.push(WalRecord { start: record.start, end: record.end, bytes });
        }
        Some(())
    }
}

/// Whether the record that begins with `header`, or with more than that if it is shorter, is looked for.
fn may_be_wanted(header: &[u8]) -> bool {
    let kind = header.get(17).zip(header.get(16));
    kind.is_none_or(|(manager, info)| match *manager {
        TABLESPACE => info & 0xF0 == TABLESPACE_CREATE,
        LOGICAL_MESSAGE => true,
        _ => false,
    })
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

    /// Write the record into `wal`, which begins at `start` and of which it was read, with another location of the
    /// tablespace that it creates; its checksum follows. `None`, and nothing written, if that location is longer.
    pub fn move_tablespace(
        &self,
        (start, size): (Lsn, SegmentSize),
        wal: &mut [u8],
        location: &[u8],
    ) -> Option<()> {
        let old = self.tablespace()?.location;
        if location.len() > old.len() {
            return None;
        }
        let data = self.data()?;
        let mut bytes = self.bytes.clone();
        let place = &mut bytes[data][4..4 + old.len()];
        place.fill(0);
        place[..location.len()].copy_from_slice(location);
        let sum = checksum(crc32c::crc32c(&bytes[RECORD_HEADER..]), bytes.first_chunk()?);
        bytes[CHECKSUM].copy_from_slice(&sum);
        let mut rest = bytes.as_slice();
        for piece in self.pieces(start, size)? {
            let (now, later) = rest.split_at_checked(piece.len())?;
            wal.get_mut(piece)?.copy_from_slice(now);
            rest = later;
        }
        Some(())
    }

    /// Where its bytes lie in WAL that begins at `start`: between the headers of pages.
    fn pieces(&self, start: Lsn, size: SegmentSize) -> Option<Vec<Range<usize>>> {
        let mut at = usize::try_from(self.start.offset_from(start)).ok()?;
        let mut left = self.bytes.len();
        let mut pieces = Vec::new();
        while left > 0 {
            let taken = left.min(WAL_PAGE_SIZE - at % WAL_PAGE_SIZE);
            pieces.push(at..at + taken);
            (at, left) = (at + taken, left - taken);
            if at % WAL_PAGE_SIZE == 0 {
                let page = start.checked_add(at as u64)?;
                at += if page == page.segment_start(size) { 40 } else { 24 };
            }
        }
        Some(pieces)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wal::{reader::NoVisitor, writer::SIZE, writer::Writer, writer::size};

    const START: u64 = 5 << 20;

    type Record = (u8, Vec<u8>);

    /// Segments that hold these records one after the other, as PostgreSQL lays them out.
    fn segments(records: &[Record], count: usize) -> Vec<u8> {
        let mut writer = Writer::new(START);
        for (manager, rest) in records {
            writer.record(*manager, 0, 0, rest);
        }
        writer.bytes.resize(count * SIZE as usize, 0);
        writer.bytes
    }

    fn read(start: u64, wal: &[u8]) -> WalRecords {
        WalRecords::read(Lsn::new(start), size(), wal)
    }

    fn record(manager: u8, data: &[u8]) -> Record {
        let mut bytes = Vec::new();
        if data.len() < 256 {
            bytes.extend([255, u8::try_from(data.len()).unwrap()]);
        } else {
            bytes.push(254);
            bytes.extend(u32::try_from(data.len()).unwrap().to_le_bytes());
        }
        bytes.extend(data);
        (manager, bytes)
    }

    fn tablespace(oid: u32, location: &str) -> Record {
        record(TABLESPACE, &[&oid.to_le_bytes(), location.as_bytes(), &[0]].concat())
    }

    fn message(prefix: &str, content: &str) -> Record {
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
        let records = read(START, &wal);
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
            let records = read(START, &wal);
            let mut moved = wal.clone();
            records.found[0].move_tablespace((Lsn::new(START), size()), &mut moved, b"ab").unwrap();
            let again = read(START, &moved);
            assert_eq!(again.found[0].tablespace().unwrap().location, b"ab", "{length}");
            let bytes = &again.found[0].bytes;
            let sum = crc32c::crc32c_append(crc32c::crc32c(&bytes[RECORD_HEADER..]), &bytes[..20]);
            assert_eq!(bytes[CHECKSUM], sum.to_le_bytes());
            let mut checker = WalReader::new(Lsn::new(START), size()).checking();
            checker.feed(&moved, &mut NoVisitor);
            assert_eq!(checker.broken(), None);
            assert!(
                records.found[0]
                    .move_tablespace((Lsn::new(START), size()), &mut moved, &[b'x'; 99])
                    .is_none()
            );
        }
    }

    #[test]
    fn a_record_that_goes_on_in_the_next_segment_is_cut_short_without_it() {
        let segment = SIZE as usize;
        let pages = segment / WAL_PAGE_SIZE;
        let room = segment - pages * 24 - 16;
        let noise = record(10, &vec![1; room - RECORD_HEADER - 5 - 32]);
        let wal = segments(&[noise, tablespace(16_400, "/srv/tablespaces/one")], 2);
        let first = read(START, &wal[..segment]);
        assert!(first.cut_short && first.found.is_empty());
        let both = read(START, &wal);
        let mut moved = wal.clone();
        both.found[0].move_tablespace((Lsn::new(START), size()), &mut moved, b"ab").unwrap();
        assert!(moved[..segment] != wal[..segment] && moved[segment..] != wal[segment..]);
        // What begins before the WAL that is read is left alone.
        let second = read(START + u64::from(SIZE), &wal[segment..]);
        assert_eq!(second, WalRecords::default());
    }

    #[test]
    fn nonsense_ends_it() {
        let mut wal = segments(&[message("a", "b")], 1);
        read(START, &[0; WAL_PAGE_SIZE]);
        read(START, &wal[..100]);
        for at in 0..200 {
            for value in [0, 1, 0xFF] {
                let before = std::mem::replace(&mut wal[at], value);
                for record in read(START, &wal).found {
                    let _ = (record.message(), record.tablespace());
                }
                wal[at] = before;
            }
        }
    }
}
