//! For tests: WAL as PostgreSQL lays it out, record after record.

use crate::postgres::{Lsn, SegmentSize, WAL_PAGE_SIZE};

/// Bytes of its segments.
pub(crate) const SIZE: u32 = 1 << 20;
const MAGIC: u16 = 0xD110;

pub(crate) fn size() -> SegmentSize {
    SegmentSize::new(SIZE).unwrap()
}

/// Lays records over pages as PostgreSQL does.
pub(crate) struct Writer {
    pub(crate) start: u64,
    pub(crate) bytes: Vec<u8>,
    /// Of its pages.
    pub(crate) timeline: u32,
    /// Where the last record begins.
    pub(crate) previous: u64,
}

impl Writer {
    pub(crate) fn new(start: u64) -> Self {
        Self { start, bytes: Vec::new(), timeline: 1, previous: 0 }
    }

    pub(crate) fn position(&self) -> u64 {
        self.start + self.bytes.len() as u64
    }

    pub(crate) fn header(&mut self, remaining: usize, mut info: u16) {
        let address = self.position();
        let long = address.is_multiple_of(u64::from(SIZE));
        info |= u16::from(remaining > 0) | u16::from(long) << 1;
        self.bytes.extend(MAGIC.to_le_bytes());
        self.bytes.extend(info.to_le_bytes());
        self.bytes.extend(self.timeline.to_le_bytes());
        self.bytes.extend(address.to_le_bytes());
        self.bytes.extend((remaining as u64).to_le_bytes());
        if long {
            self.bytes.extend([9; 16]);
        }
    }

    pub(crate) fn begin_page(&mut self) {
        if self.bytes.len().is_multiple_of(WAL_PAGE_SIZE) {
            self.header(0, 0);
        }
    }

    /// The end of the record.
    pub(crate) fn record(&mut self, manager: u8, info: u8, xid: u32, rest: &[u8]) -> Lsn {
        self.begin_page();
        let start = self.position();
        let mut record = Vec::new();
        record.extend(u32::try_from(24 + rest.len()).unwrap().to_le_bytes());
        record.extend(xid.to_le_bytes());
        record.extend(self.previous.to_le_bytes());
        record.extend([info, manager, 0, 0]);
        let checksum = crc32c::crc32c_append(crc32c::crc32c(rest), &record);
        record.extend(checksum.to_le_bytes());
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

    pub(crate) fn filler(&mut self, bytes: usize) -> Lsn {
        self.record(10, 0, 5, &vec![0xEE; bytes])
    }

    pub(crate) fn commit(&mut self, info: u8, xid: u32, time: i64) -> Lsn {
        let mut rest = vec![255, 12];
        rest.extend(time.to_le_bytes());
        rest.extend([7; 4]);
        self.record(1, info, xid, &rest)
    }

    pub(crate) fn restore_point(&mut self, name: &str, time: i64) -> Lsn {
        let mut rest = vec![255, 72];
        rest.extend(time.to_le_bytes());
        rest.extend(name.as_bytes());
        rest.resize(74, 0);
        self.record(0, 0x70, 0, &rest)
    }

    pub(crate) fn pad_page(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(WAL_PAGE_SIZE), 0);
    }

    pub(crate) fn pad_segment(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(SIZE as usize), 0);
    }
}
