//! Files of PostgreSQL made byte by byte, for tests that need no server or a file no server would write.
//!
//! The segments hold valid records: `pg_waldump` reads them. Layouts: see [`super::wal_file`] and
//! [`super::control_file`].

pub use super::control_file::ControlFile;
pub use super::data_dir::FakeDataDir;
pub use super::wal_file::WalFile;

/// What differs between the majors in the files that the rig fabricates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Version {
    pub major: u32,
    pub wal_magic: u16,
    pub control: u32,
    pub catalog: u32,
}

/// The majors of PostgreSQL that the rig can fabricate files of.
pub const VERSIONS: [Version; 7] = [
    Version { major: 13, wal_magic: 0xD106, control: 1300, catalog: 202_007_201 },
    Version { major: 14, wal_magic: 0xD10D, control: 1300, catalog: 202_107_181 },
    Version { major: 15, wal_magic: 0xD110, control: 1300, catalog: 202_209_061 },
    Version { major: 16, wal_magic: 0xD113, control: 1300, catalog: 202_307_071 },
    Version { major: 17, wal_magic: 0xD116, control: 1700, catalog: 202_406_281 },
    Version { major: 18, wal_magic: 0xD118, control: 1800, catalog: 202_506_291 },
    Version { major: 19, wal_magic: 0xD122, control: 1905, catalog: 202_610_061 },
];

impl Version {
    #[track_caller]
    pub fn of(major: u32) -> Self {
        let known = VERSIONS.into_iter().find(|version| version.major == major);
        known.unwrap_or_else(|| panic!("the rig fabricates PostgreSQL 13 to 19, not {major}"))
    }
}

pub const MIB: u32 = 1024 * 1024;

/// A system identifier for tests that need one and do not care which.
pub const SYSTEM_IDENTIFIER: u64 = 7_312_345_678_901_234_567;

/// The text of a history file: where each earlier timeline was left, e.g. `[(1, 0x5000000)]`.
pub fn history(switches: &[(u32, u64)]) -> String {
    let line = |&(timeline, switch): &(u32, u64)| {
        format!("{timeline}\t{}\tno recovery target specified\n", lsn(switch))
    };
    switches.iter().map(line).collect()
}

/// An LSN as PostgreSQL prints it.
pub fn lsn(value: u64) -> String {
    format!("{:X}/{:X}", value >> 32, value & 0xFFFF_FFFF)
}

/// Put little-endian or raw bytes at an offset.
pub(super) fn put(target: &mut [u8], offset: usize, bytes: impl AsRef<[u8]>) {
    let bytes = bytes.as_ref();
    target[offset..offset + bytes.len()].copy_from_slice(bytes);
}
