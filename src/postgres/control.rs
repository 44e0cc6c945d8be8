//! The file `global/pg_control`.

use super::lsn::Lsn;
use super::page::{PAGE_SIZE, WAL_PAGE_SIZE};
use super::segment_size::SegmentSize;
use super::timeline::TimelineId;
use super::version::Major;
use crate::error::{Error, Result, ResultExt as _};

/// What this program needs of pg_control (pg_control.h, ControlFileData).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ControlFile {
    /// Made by initdb, shared by all copies of the cluster.
    pub system_identifier: u64,
    /// Layout of this file.
    pub control_version: u32,
    /// Layout of the system catalogs; tells the major version.
    pub catalog_version: u32,
    /// The major version of the cluster.
    pub major: Major,
    /// DBState: 1 shut down, 2 shut down in recovery, 4 and 5 in recovery, 6 in production.
    pub state: u32,
    /// The last checkpoint record.
    pub checkpoint: Lsn,
    /// Where replay from that checkpoint begins.
    pub redo: Lsn,
    /// The timeline of the last checkpoint.
    pub timeline: TimelineId,
    /// A cluster in recovery is not consistent before this; 0 if it is not in recovery.
    pub min_recovery_point: Lsn,
    /// The timeline of that position; 0 if the cluster is not in recovery.
    pub min_recovery_timeline: u32,
    /// Bytes of a WAL segment.
    pub segment_size: SegmentSize,
    /// See [`has_page_checksums`](Self::has_page_checksums).
    pub data_checksum_version: u32,
    /// A server that recovers with less of this than the primary had does not start; so with the next four.
    pub max_connections: u32,
    /// See [`max_connections`](Self::max_connections).
    pub max_worker_processes: u32,
    /// See [`max_connections`](Self::max_connections).
    pub max_wal_senders: u32,
    /// See [`max_connections`](Self::max_connections).
    pub max_prepared_transactions: u32,
    /// See [`max_connections`](Self::max_connections).
    pub max_locks_per_transaction: u32,
}

/// Where the checksum may lie in versions whose layout is not known.
const CHECKSUM_SEARCH: std::ops::Range<usize> = 200..512;

impl ControlFile {
    /// Parse the file, little-endian.
    ///
    /// Corrupt if it is too short, or its checksum or its values are wrong; Server if an unknown
    /// version made it, or one built with other block sizes.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        Reader { bytes }.control_file().context("pg_control")
    }

    /// Whether every data page has a checksum that holds. 0 means that none has; anything but 1 means that they are being
    /// turned on or off (storage/checksum.h of 19), so that some pages have none.
    pub const fn has_page_checksums(&self) -> bool {
        self.data_checksum_version == 1
    }
}

/// Offsets of the fields that did not always lie where they do now.
struct Layout {
    min_recovery_point: usize,
    /// The other limits that a standby needs follow it.
    max_connections: usize,
    block_size: usize,
    wal_block_size: usize,
    segment_size: usize,
    data_checksum_version: usize,
    /// Of the file's own checksum.
    checksum: usize,
}

impl Layout {
    /// 17 and 18 put their new fields where there was padding or at the end. 19 makes the copy of the checkpoint 8 bytes
    /// longer, and has the size of SLRU segments ahead of the WAL block size and another field ahead of
    /// `data_checksum_version`.
    const fn of(major: u16) -> Self {
        let checksum = match major {
            ..=17 => 288,
            18 => 292,
            19.. => 308,
        };
        if major <= 18 {
            return Self {
                min_recovery_point: 136,
                max_connections: 180,
                block_size: 216,
                wal_block_size: 224,
                segment_size: 228,
                data_checksum_version: 252,
                checksum,
            };
        }
        Self {
            min_recovery_point: 144,
            max_connections: 188,
            block_size: 224,
            wal_block_size: 236,
            segment_size: 240,
            data_checksum_version: 268,
            checksum,
        }
    }
}

struct Reader<'a> {
    bytes: &'a [u8],
}

impl Reader<'_> {
    fn array<const N: usize>(&self, offset: usize) -> Result<[u8; N]> {
        let field = self.bytes.get(offset..).and_then(<[u8]>::first_chunk);
        field.copied().ok_or_else(|| {
            Error::corrupt(format!("{} bytes are too few", self.bytes.len()))
                .hint("was the file copied only in part?")
        })
    }

    fn u32(&self, offset: usize) -> Result<u32> {
        self.array(offset).map(u32::from_le_bytes)
    }

    fn lsn(&self, offset: usize) -> Result<Lsn> {
        Ok(Lsn::new(u64::from_le_bytes(self.array(offset)?)))
    }

    fn checksum_holds(&self, offset: usize) -> bool {
        let expected = self.bytes.get(..offset).map(crc32c::crc32c);
        expected.is_some() && expected == self.u32(offset).ok()
    }

    fn control_file(&self) -> Result<ControlFile> {
        let catalog_version = self.u32(12)?;
        let known = Major::from_catalog_version(catalog_version);
        let layout = Layout::of(known.map_or(u16::MAX, Major::get));
        // It lies at the end, and so proves the layout, too.
        let holds = self.checksum_holds(layout.checksum);
        if !holds && (known.is_some_and(|major| major.get() <= 18) || !self.checksum_holds_anywhere()) {
            self.array::<4>(layout.checksum)?;
            return Err(
                Error::corrupt("its checksum is wrong").hint("was it read while being written? try again")
            );
        }
        let Some(major) = known.filter(|_| holds) else {
            return Err(Error::server(format!(
                "made by a PostgreSQL version that this program does not know \
                 (catalog version {catalog_version})"
            ))
            .hint("is there a newer release of walproof for that version?"));
        };

        let block_sizes =
            [(layout.block_size, PAGE_SIZE, "data"), (layout.wal_block_size, WAL_PAGE_SIZE, "WAL")];
        for (offset, supported, kind) in block_sizes {
            let found = self.u32(offset)?;
            if usize::try_from(found) != Ok(supported) {
                return Err(Error::server(format!(
                    "{kind} blocks have {found} bytes; only 8 kB blocks are supported"
                )));
            }
        }
        Ok(ControlFile {
            system_identifier: u64::from_le_bytes(self.array(0)?),
            control_version: self.u32(8)?,
            catalog_version,
            major,
            state: self.u32(16)?,
            checkpoint: self.lsn(32)?,
            redo: self.lsn(40)?,
            timeline: TimelineId::new(self.u32(48)?).map_err(|error| Error::corrupt(error.to_string()))?,
            min_recovery_point: self.lsn(layout.min_recovery_point)?,
            min_recovery_timeline: self.u32(layout.min_recovery_point + 8)?,
            max_connections: self.u32(layout.max_connections)?,
            max_worker_processes: self.u32(layout.max_connections + 4)?,
            max_wal_senders: self.u32(layout.max_connections + 8)?,
            max_prepared_transactions: self.u32(layout.max_connections + 12)?,
            max_locks_per_transaction: self.u32(layout.max_connections + 16)?,
            segment_size: SegmentSize::new(self.u32(layout.segment_size)?)?,
            data_checksum_version: self.u32(layout.data_checksum_version)?,
        })
    }

    fn checksum_holds_anywhere(&self) -> bool {
        CHECKSUM_SEARCH.step_by(4).any(|offset| self.checksum_holds(offset))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;

    fn put(bytes: &mut [u8], offset: usize, value: u32) {
        bytes[offset..offset + 4].copy_from_slice(&value.to_le_bytes());
    }

    fn seal(bytes: &mut [u8], checksum: usize) {
        let value = crc32c::crc32c(&bytes[..checksum]);
        put(bytes, checksum, value);
    }

    fn file(catalog: u32, major: u16) -> Vec<u8> {
        let mut bytes = vec![0; 8192];
        let layout = Layout::of(major);
        for (offset, value) in [
            (0, 7),
            (4, 1),
            (8, 1300),
            (12, catalog),
            (16, 6),
            (32, 0x28),
            (40, 0x20),
            (48, 3),
            (layout.min_recovery_point, 0x99),
            (layout.min_recovery_point + 8, 2),
            (layout.block_size, 8192),
            (layout.block_size + 4, 131_072),
            (layout.wal_block_size, 8192),
            (layout.segment_size, 16 << 20),
            (layout.data_checksum_version, 1),
        ] {
            put(&mut bytes, offset, value);
        }
        for (index, value) in [100, 8, 10, 5, 64].into_iter().enumerate() {
            put(&mut bytes, layout.max_connections + 4 * index, value);
        }
        seal(&mut bytes, layout.checksum);
        bytes
    }

    #[test]
    fn every_version_parses() {
        for (major, catalog) in
            [(13, 202_007_201), (15, 202_209_061), (17, 202_406_281), (18, 202_506_291), (19, 202_610_061)]
        {
            let control = ControlFile::parse(&file(catalog, major)).unwrap();
            assert!(control.has_page_checksums());
            let expected = ControlFile {
                system_identifier: 1 << 32 | 7,
                control_version: 1300,
                catalog_version: catalog,
                major: Major::from_number(major).unwrap(),
                state: 6,
                checkpoint: Lsn::new(0x28),
                redo: Lsn::new(0x20),
                timeline: TimelineId::new(3).unwrap(),
                min_recovery_point: Lsn::new(0x99),
                min_recovery_timeline: 2,
                segment_size: SegmentSize::new(16 << 20).unwrap(),
                data_checksum_version: 1,
                max_connections: 100,
                max_worker_processes: 8,
                max_wal_senders: 10,
                max_prepared_transactions: 5,
                max_locks_per_transaction: 64,
            };
            assert_eq!(control, expected);
        }
    }

    #[test]
    fn a_torn_file_is_corrupt() {
        let mut bytes = file(202_209_061, 15);
        bytes[100] ^= 1;
        let error = ControlFile::parse(&bytes).unwrap_err();
        assert_eq!(error.kind(), Kind::Corrupt);
        assert_eq!(error.hint_text(), Some("was it read while being written? try again"));
    }

    #[test]
    fn unknown_versions_and_layouts_are_named() {
        for (catalog, checksum) in [(202_209_060, 288), (202_701_011, 304), (202_610_061, 312)] {
            let mut bytes = file(catalog, 15);
            seal(&mut bytes, checksum);
            let error = ControlFile::parse(&bytes).unwrap_err();
            assert_eq!(error.kind(), Kind::Server);
            assert!(error.to_string().contains(&catalog.to_string()), "{error}");
        }
    }

    #[test]
    fn other_blocks_and_timeline_0_are_refused() {
        for (offset, value, kind) in [
            (216, 16384, Kind::Server),
            (224, 16384, Kind::Server),
            (48, 0, Kind::Corrupt),
            (228, 7, Kind::Corrupt),
        ] {
            let mut bytes = file(202_209_061, 15);
            put(&mut bytes, offset, value);
            seal(&mut bytes, 288);
            assert_eq!(ControlFile::parse(&bytes).unwrap_err().kind(), kind);
        }
    }

    #[test]
    fn short_files_are_corrupt() {
        let bytes = file(202_506_291, 18);
        for length in 0..296 {
            assert_eq!(ControlFile::parse(&bytes[..length]).unwrap_err().kind(), Kind::Corrupt);
        }
        ControlFile::parse(&bytes[..296]).unwrap();
    }

    #[test]
    fn no_value_makes_it_panic() {
        let bytes = file(202_610_061, 19);
        for offset in 0..77 {
            for value in [0, 1, 0x7FFF_FFFF, u32::MAX] {
                let mut bytes = bytes.clone();
                put(&mut bytes, offset * 4, value);
                let _ = ControlFile::parse(&bytes);
                seal(&mut bytes, 308);
                let _ = ControlFile::parse(&bytes);
            }
        }
    }
}
