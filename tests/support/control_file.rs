//! `global/pg_control` of majors 13 to 19.
//!
//! The struct ends in a CRC-32C over all before it; the file is padded with zeros to 8192 bytes. Up to 18 only the versions
//! and the offset of the CRC differ. 19 moved what lies behind the copy of the checkpoint.

use super::fabricate::{MIB, SYSTEM_IDENTIFIER, Version, put};

/// The fields that walproof or PostgreSQL's tools look at. The rest is zero.
#[derive(Debug, Clone)]
pub struct ControlFile {
    pub version: Version,
    pub system_identifier: u64,
    /// `DBState`: 1 = shut down, 6 = in production.
    pub state: u32,
    pub checkpoint: u64,
    pub redo: u64,
    pub timeline: u32,
    pub segment_size: u32,
    pub checksums: bool,
}

impl ControlFile {
    /// A cluster in production on timeline 1 with segments of 16 MiB and page checksums.
    #[track_caller]
    pub fn new(major: u32) -> Self {
        Self {
            version: Version::of(major),
            system_identifier: SYSTEM_IDENTIFIER,
            state: 6,
            checkpoint: 0x0100_0060,
            redo: 0x0100_0028,
            timeline: 1,
            segment_size: 16 * MIB,
            checksums: true,
        }
    }

    pub fn system_identifier(mut self, identifier: u64) -> Self {
        self.system_identifier = identifier;
        self
    }

    pub fn segment_size(mut self, bytes: u32) -> Self {
        self.segment_size = bytes;
        self
    }

    pub fn timeline(mut self, timeline: u32) -> Self {
        self.timeline = timeline;
        self
    }

    pub fn checksums(mut self, on: bool) -> Self {
        self.checksums = on;
        self
    }

    pub fn state(mut self, state: u32) -> Self {
        self.state = state;
        self
    }

    pub fn redo(mut self, redo: u64) -> Self {
        self.redo = redo;
        self.checkpoint = redo + 0x38;
        self
    }

    fn crc_offset(&self) -> usize {
        match self.version.major {
            ..18 => 288,
            18 => 292,
            19.. => 308,
        }
    }

    /// The 8192 bytes of the file.
    pub fn bytes(&self) -> Vec<u8> {
        let mut file = vec![0; 8192];
        put(&mut file, 0, self.system_identifier.to_le_bytes());
        put(&mut file, 8, self.version.control.to_le_bytes());
        put(&mut file, 12, self.version.catalog.to_le_bytes());
        put(&mut file, 16, self.state.to_le_bytes());
        put(&mut file, 32, self.checkpoint.to_le_bytes());
        // The copy of the last checkpoint: redo, ThisTimeLineID, PrevTimeLineID, fullPageWrites.
        put(&mut file, 40, self.redo.to_le_bytes());
        put(&mut file, 48, self.timeline.to_le_bytes());
        put(&mut file, 52, self.timeline.to_le_bytes());
        put(&mut file, 56, [1]);
        let moved = if self.version.major >= 19 { 8 } else { 0 };
        // max_connections, max_worker_processes, max_wal_senders, max_prepared_xacts, max_locks_per_xact.
        for (offset, value) in [(180, 100_u32), (184, 8), (188, 10), (192, 0), (196, 64)] {
            put(&mut file, offset + moved, value.to_le_bytes());
        }
        put(&mut file, 204 + moved, 8_u32.to_le_bytes());
        put(&mut file, 208 + moved, 1_234_567.0_f64.to_le_bytes());
        put(&mut file, 216 + moved, 8192_u32.to_le_bytes());
        put(&mut file, 220 + moved, 131_072_u32.to_le_bytes());
        let mut offset = 224 + moved;
        if self.version.major >= 19 {
            // Pages of an SLRU segment.
            put(&mut file, offset, 32_u32.to_le_bytes());
            offset += 4;
        }
        // WAL blocks and segments, nameDataLen, indexMaxKeys, toast_max_chunk_size, loblksize.
        for value in [8192, self.segment_size, 64, 32, 1996, 2048] {
            put(&mut file, offset, value.to_le_bytes());
            offset += 4;
        }
        put(&mut file, offset, [1]);
        // 19 keeps what initdb was told, too.
        for step in 1..=(if self.version.major >= 19 { 2 } else { 1 }) {
            put(&mut file, offset + 4 * step, u32::from(self.checksums).to_le_bytes());
        }
        let crc = crc32c::crc32c(&file[..self.crc_offset()]);
        put(&mut file, self.crc_offset(), crc.to_le_bytes());
        file
    }

    /// As a reader sees it who came in the middle of a write: the CRC does not hold.
    pub fn torn(&self) -> Vec<u8> {
        let mut file = self.bytes();
        file[32] ^= 0x40;
        file
    }
}
