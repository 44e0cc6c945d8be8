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
#[derive(Debug)]
pub struct WalScanner {
    size: SegmentSize,
    /// Where the next bytes lie.
    position: Lsn,
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
mod tests {
    use super::*;

    const SIZE: u32 = 1 << 20;
    const MAGIC: u16 = 0xD110;

    /// Lays records over pages as PostgreSQL does.
    struct Writer {
        start: u64,
        bytes: Vec<u8>,
        previous: u64,
    }

    impl Writer {
        fn new(start: u64) -> Self {
            Self { start, bytes: Vec::new(), previous: 0 }
        }

        fn position(&self) -> u64 {
            self.start + self.bytes.len() as u64
        }

        fn header(&mut self, remaining: usize, mut info: u16) {
            let address = self.position();
            let long = address.is_multiple_of(u64::from(SIZE));
            info |= u16::from(remaining > 0) | u16::from(long) << 1;
            self.bytes.extend(MAGIC.to_le_bytes());
            self.bytes.extend(info.to_le_bytes());
            self.bytes.extend(1_u32.to_le_bytes());
            self.bytes.extend(address.to_le_bytes());
            self.bytes.extend((remaining as u64).to_le_bytes());
            if long {
                self.bytes.extend([9; 16]);
            }
        }

        fn begin_page(&mut self) {
            if self.bytes.len().is_multiple_of(WAL_PAGE_SIZE) {
                self.header(0, 0);
            }
        }

        /// The end of the record.
        fn record(&mut self, manager: u8, info: u8, xid: u32, rest: &[u8]) -> Lsn {
            self.begin_page();
            let start = self.position();
            let mut record = Vec::new();
            record.extend(u32::try_from(24 + rest.len()).unwrap().to_le_bytes());
            record.extend(xid.to_le_bytes());
            record.extend(self.previous.to_le_bytes());
            record.extend([info, manager, 0, 0, 1, 2, 3, 4]);
            record.extend(rest);
            let mut left = &record[..];
            while !left.is_empty() {
                if self.bytes.len().is_multiple_of(WAL_PAGE_SIZE) {
                    self.header(left.len(), 0);
                }
                let room = WAL_PAGE_SIZE - self.bytes.len() % WAL_PAGE_SIZE;
                let (now, later) = left.split_at(left.len().min(room));
                self.bytes.extend(now);
                left = later;
            }
            self.bytes.resize(self.bytes.len().next_multiple_of(8), 0);
            self.previous = start;
            Lsn::new(self.position())
        }

        fn filler(&mut self, bytes: usize) -> Lsn {
            self.record(10, 0, 5, &vec![0xEE; bytes])
        }

        fn commit(&mut self, info: u8, xid: u32, time: i64) -> Lsn {
            let mut rest = vec![255, 12];
            rest.extend(time.to_le_bytes());
            rest.extend([7; 4]);
            self.record(XACT, info, xid, &rest)
        }

        fn restore_point(&mut self, name: &str, time: i64) -> Lsn {
            let mut rest = vec![255, 72];
            rest.extend(time.to_le_bytes());
            rest.extend(name.as_bytes());
            rest.resize(74, 0);
            self.record(XLOG, XLOG_RESTORE_POINT, 0, &rest)
        }

        fn pad_page(&mut self) {
            self.bytes.resize(self.bytes.len().next_multiple_of(WAL_PAGE_SIZE), 0);
        }

        fn pad_segment(&mut self) {
            self.bytes.resize(self.bytes.len().next_multiple_of(SIZE as usize), 0);
        }
    }

    fn size() -> SegmentSize {
        SegmentSize::new(SIZE).unwrap()
    }

    fn scan(start: u64, bytes: &[u8]) -> WalSummary {
        let mut whole = WalScanner::new(Lsn::new(start), size()).collecting();
        whole.feed(bytes);
        let mut sliced = WalScanner::new(Lsn::new(start), size()).collecting();
        bytes.chunks(3 * WAL_PAGE_SIZE).for_each(|slice| sliced.feed(slice));
        let whole = whole.finish();
        assert_eq!(whole, sliced.finish());
        whole
    }

    fn time(micros: i64) -> PgTime {
        PgTime::from_postgres_micros(micros)
    }

    #[test]
    fn ends_of_transactions_and_restore_points_are_found() {
        let start = 3 << 20;
        let mut writer = Writer::new(start);
        writer.filler(20_000);
        let first = writer.commit(0x80, 700, 5_000);
        let second = writer.commit(XACT_ABORT, 699, 4_000);
        writer.commit(0x10, 698, 1);
        writer.commit(0x50, 698, 1);
        let point = writer.restore_point("before", 4_500);
        let third = writer.commit(XACT_COMMIT_PREPARED, 0, 6_000);
        let fourth = writer.commit(XACT_ABORT_PREPARED, 0, 5_500);
        writer.pad_segment();
        let summary = scan(start, &writer.bytes);
        let end = |xid, micros, end, committed| TransactionEnd { xid, time: time(micros), end, committed };
        let expected = WalSummary {
            first_time: Some(time(4_000)),
            last_time: Some(time(6_000)),
            min_xid: Some(699),
            max_xid: Some(700),
            end: fourth,
            commits: 2,
            restore_points: vec![RestorePoint { name: "before".into(), time: time(4_500), lsn: point }],
            transactions: vec![
                end(700, 5_000, first, true),
                end(699, 4_000, second, false),
                end(0, 6_000, third, true),
                end(0, 5_500, fourth, false),
            ],
            complete: true,
        };
        assert_eq!(summary, expected);

        let mut scanner = WalScanner::new(Lsn::new(start), size());
        scanner.feed(&writer.bytes);
        assert_eq!(scanner.finish(), WalSummary { transactions: Vec::new(), ..expected });
    }

    #[test]
    fn a_record_may_be_split_anywhere() {
        for gap in (0..160).step_by(8) {
            let mut writer = Writer::new(0);
            writer.begin_page();
            writer.filler(WAL_PAGE_SIZE - 40 - 24 - gap);
            let lsn = writer.restore_point("split", 7);
            writer.commit(0, 700, 8);
            writer.pad_page();
            let summary = scan(0, &writer.bytes);
            assert_eq!(summary.restore_points, [RestorePoint { name: "split".into(), time: time(7), lsn }]);
            assert_eq!((summary.commits, summary.complete), (1, true));
        }
    }

    #[test]
    fn a_record_may_go_on_in_the_next_segment() {
        let mut writer = Writer::new(0);
        writer.commit(0, 700, 8);
        let before = writer.filler(SIZE as usize / 2);
        writer.filler(SIZE as usize * 2);
        let last = writer.commit(0, 701, 9);
        writer.pad_segment();
        let segments: Vec<&[u8]> = writer.bytes.chunks(SIZE as usize).collect();
        assert_eq!(segments.len(), 3);
        let ends = [1, 2].map(|count| Lsn::new(count * u64::from(SIZE)));

        let found = |start, bytes| {
            let summary = scan(start, bytes);
            (summary.end, summary.commits, summary.complete)
        };
        assert_eq!(found(0, segments[0]), (ends[0], 1, true));
        assert_eq!(found(ends[0].get(), segments[1]), (ends[1], 0, true));
        assert_eq!(found(ends[1].get(), segments[2]), (last, 1, true));
        assert_eq!(found(0, &writer.bytes), (last, 2, true));
        // What was fed ends within a record.
        assert_eq!(found(0, &segments[0][..SIZE as usize - WAL_PAGE_SIZE]), (before, 1, false));
    }

    #[test]
    fn a_switch_ends_a_segment() {
        let mut writer = Writer::new(0);
        writer.commit(0, 700, 8);
        writer.record(XLOG, XLOG_SWITCH, 0, &[]);
        writer.pad_segment();
        let summary = scan(0, &writer.bytes);
        assert_eq!((summary.end, summary.commits, summary.complete), (Lsn::new(SIZE.into()), 1, true));
        let last = writer.commit(0, 701, 9);
        writer.pad_page();
        let summary = scan(0, &writer.bytes);
        assert_eq!((summary.end, summary.commits, summary.complete), (last, 2, true));
    }

    #[test]
    fn a_record_that_a_crash_cut_is_passed_over() {
        let mut writer = Writer::new(0);
        let whole = writer.commit(0, 700, 8);
        let previous = writer.previous;
        writer.filler(20_000);
        writer.bytes.truncate(2 * WAL_PAGE_SIZE);
        let cut = writer.bytes.len();
        writer.header(0, OVERWRITES);
        writer.previous = previous;
        let last = writer.commit(0, 701, 9);
        writer.pad_page();
        let summary = scan(0, &writer.bytes);
        assert_eq!((summary.end, summary.commits, summary.complete), (last, 2, true));
        // Without the flag, and with nothing behind the cut.
        writer.bytes[cut + 2] = 0;
        let summary = scan(0, &writer.bytes);
        assert_eq!((summary.end, summary.commits, summary.complete), (whole, 1, false));
        writer.bytes.truncate(cut);
        writer.bytes.resize(cut + WAL_PAGE_SIZE, 0);
        let summary = scan(0, &writer.bytes);
        assert_eq!((summary.end, summary.commits, summary.complete), (whole, 1, false));
    }

    #[test]
    fn main_data_is_found_behind_any_headers() {
        let mut rest = vec![253, 1, 0, 252, 2, 0, 0, 0];
        // A block with 3 bytes of data and 5 of a compressed image with a hole, and one of the same relation.
        rest.extend([0, 0x30, 3, 0, 5, 0, 0, 0, 0x05, 9, 9]);
        rest.extend([8; 12 + 4]);
        rest.extend([1, 0xA0, 2, 0, 8, 8, 8, 8]);
        rest.extend([254, 12, 0, 0, 0]);
        rest.extend([6; 3 + 5 + 2]);
        rest.extend(77_i64.to_le_bytes());
        rest.extend([0; 4]);
        let mut writer = Writer::new(0);
        writer.record(XACT, XACT_COMMIT, 700, &rest);
        writer.pad_page();
        let summary = scan(0, &writer.bytes);
        assert_eq!((summary.last_time, summary.complete), (Some(time(77)), true));
    }

    #[test]
    fn a_broken_link_stops_the_scan() {
        let mut writer = Writer::new(0);
        let end = writer.commit(0, 700, 8);
        writer.previous += 8;
        writer.commit(0, 701, 9);
        writer.pad_page();
        let summary = scan(0, &writer.bytes);
        assert_eq!((summary.end, summary.commits, summary.complete), (end, 1, false));
    }

    #[test]
    fn no_bytes_make_it_panic() {
        let mut state = 1_u64;
        let mut random = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as usize
        };
        let start = u64::MAX - 2 * u64::from(SIZE) + 1;
        for first in [0, start] {
            let mut writer = Writer::new(first);
            for count in 0..60 {
                writer.commit(0, 700 + count, 8);
                writer.filler(random() % 1000);
                writer.restore_point("x", 9);
            }
            writer.pad_page();
            for _ in 0..2000 {
                let mut bytes = writer.bytes.clone();
                for _ in 0..random() % 4 {
                    let offset = random() % bytes.len();
                    bytes[offset] = random().to_le_bytes()[0];
                }
                bytes.truncate(random() % (bytes.len() * 2));
                scan(first, &bytes);
            }
        }
    }
}
