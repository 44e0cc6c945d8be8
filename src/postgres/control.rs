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
    /// 0 if data pages have no checksums.
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
    /// Corrupt if it is too short, its checksum does not hold or its values make no sense; Server if an
    /// unknown version made it, or one built with other block sizes.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        Reader { bytes }.control_file().context("pg_control")
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
        // 17 and 18 put their new fields where there was padding or at the end; 19 makes the copy of the
        // checkpoint, which all that follows lies behind, 8 bytes longer. The checksum lies at the end and so
        // proves the layout, too.
        let (shift, checksum) = match known.map(Major::get) {
            Some(..=17) => (0, 288),
            Some(18) => (0, 292),
            _ => (8, 300),
        };
        let holds = self.checksum_holds(checksum);
        if !holds && (known.is_some_and(|major| major.get() <= 18) || !self.checksum_holds_anywhere()) {
            self.array::<4>(checksum)?;
            return Err(Error::corrupt("its checksum does not hold")
                .hint("was it read while being written? try again"));
        }
        let Some(major) = known.filter(|_| holds) else {
            return Err(Error::server(format!(
                "made by a PostgreSQL version that this program does not know \
                 (catalog version {catalog_version})"
            ))
            .hint("is there a newer release of walproof for that version?"));
        };

        let block_sizes = [(216, PAGE_SIZE, "data"), (224, WAL_PAGE_SIZE, "WAL")];
        for (offset, supported, kind) in block_sizes {
            let found = self.u32(offset + shift)?;
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
            min_recovery_point: self.lsn(136 + shift)?,
            min_recovery_timeline: self.u32(144 + shift)?,
            max_connections: self.u32(180 + shift)?,
            max_worker_processes: self.u32(184 + shift)?,
            max_wal_senders: self.u32(188 + shift)?,
            max_prepared_transactions: self.u32(192 + shift)?,
            max_locks_per_transaction: self.u32(196 + shift)?,
            segment_size: SegmentSize::new(self.u32(228 + shift)?)?,
            data_checksum_version: self.u32(252 + shift)?,
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

    fn file(catalog: u32, shift: usize, checksum: usize) -> Vec<u8> {
        let mut bytes = vec![0; 8192];
        for (offset, value) in
            [(0, 7), (4, 1), (8, 1300), (12, catalog), (16, 6), (32, 0x28), (40, 0x20), (48, 3)]
        {
            put(&mut bytes, offset, value);
        }
        for (offset, value) in [
            (136, 0x99),
            (144, 2),
            (180, 100),
            (184, 8),
            (188, 10),
            (192, 5),
            (196, 64),
            (216, 8192),
            (220, 131_072),
            (224, 8192),
            (228, 16 << 20),
            (252, 1),
        ] {
            put(&mut bytes, offset + shift, value);
        }
        seal(&mut bytes, checksum);
        bytes
    }

    #[test]
    fn every_version_parses() {
        for (major, catalog, shift, checksum) in [
            (13, 202_007_201, 0, 288),
            (15, 202_209_061, 0, 288),
            (17, 202_406_281, 0, 288),
            (18, 202_506_291, 0, 292),
            (19, 202_605_131, 8, 300),
        ] {
            let control = ControlFile::parse(&file(catalog, shift, checksum)).unwrap();
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
        let mut bytes = file(202_209_061, 0, 288);
        bytes[100] ^= 1;
        let error = ControlFile::parse(&bytes).unwrap_err();
        assert_eq!(error.kind(), Kind::Corrupt);
        assert_eq!(error.hint_text(), Some("was it read while being written? try again"));
    }

    #[test]
    fn unknown_versions_and_layouts_are_named() {
        for (catalog, checksum) in [(202_209_060, 288), (202_701_011, 304), (202_605_131, 308)] {
            let error = ControlFile::parse(&file(catalog, 0, checksum)).unwrap_err();
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
            let mut bytes = file(202_209_061, 0, 288);
            put(&mut bytes, offset, value);
            seal(&mut bytes, 288);
            assert_eq!(ControlFile::parse(&bytes).unwrap_err().kind(), kind);
        }
    }

    #[test]
    fn short_files_are_corrupt() {
        let bytes = file(202_506_291, 0, 292);
        for length in 0..296 {
            assert_eq!(ControlFile::parse(&bytes[..length]).unwrap_err().kind(), Kind::Corrupt);
        }
        ControlFile::parse(&bytes[..296]).unwrap();
    }

    #[test]
    fn no_value_makes_it_panic() {
        let bytes = file(202_605_131, 8, 300);
        for offset in 0..75 {
            for value in [0, 1, 0x7FFF_FFFF, u32::MAX] {
                let mut bytes = bytes.clone();
                put(&mut bytes, offset * 4, value);
                let _ = ControlFile::parse(&bytes);
                seal(&mut bytes, 300);
                let _ = ControlFile::parse(&bytes);
            }
        }
    }
}
